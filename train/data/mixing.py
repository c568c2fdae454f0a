"""Batches of several kinds, mixed by whole batches; which clips stand in step n depends on the seed and n alone."""

from __future__ import annotations

import signal

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ..config import Batches
from . import labels
from .synthetic import draw

CLIPS_PER_STEP = 1 << 16  # step n draws the clips n * CLIPS_PER_STEP and on


class DrawnClips(Dataset):
    """Training clips of the drawn domain, asked for by (kind of batch, index)."""

    def __init__(self, seed: int, kinds: tuple[Batches, ...], cells: int | None):
        self.seed = seed
        self.kinds = kinds
        self.cells = cells

    def __getitem__(self, key: tuple[int, int]) -> dict:
        kind, index = key
        batch = self.kinds[kind]
        clip = draw(self.seed, index, batch.frames, batch.pixels, batch.pixels, augment=True, kind=batch.kind)
        arrays = {name: torch.from_numpy(getattr(clip, name)) for name in ("frames", "clean", "mask")}
        if self.cells:
            arrays["owners"] = torch.from_numpy(labels.owners(clip, self.cells))
            arrays["facts"] = torch.from_numpy(labels.facts(clip))
            arrays["mentions"] = torch.from_numpy(labels.mentions(clip.sentence))
        return {**arrays, "sentence": clip.sentence}


class Schedule:
    """For each step from `start` to `steps`, the keys of its batch."""

    def __init__(self, seed: int, kinds: tuple[Batches, ...], start: int, steps: int):
        self.seed, self.kinds, self.start, self.steps = seed, kinds, start, steps

    def kind_of(self, step: int) -> int:
        """Which kind of batch a step sees."""
        shares = np.array([b.share * b.covers(step) for b in self.kinds])
        return int(np.random.default_rng([self.seed, step]).choice(len(shares), p=shares / shares.sum()))

    def __len__(self):
        return self.steps - self.start

    def __iter__(self):
        for step in range(self.start, self.steps):
            kind = self.kind_of(step)
            yield [(kind, step * CLIPS_PER_STEP + i) for i in range(self.kinds[kind].size)]


def loader(seed: int, kinds, start: int, steps: int, workers: int, pin: bool, cells: int | None = None) -> DataLoader:
    """Batches as dicts: frames, clean (B, T, H, W, 3) uint8, mask (B, T, H, W) bool, sentence list of str.

    With `cells` also `owners`, `facts` and `mentions` of `labels`.
    """
    return DataLoader(
        DrawnClips(seed, kinds, cells),
        batch_sampler=Schedule(seed, kinds, start, steps),
        num_workers=workers,
        pin_memory=pin,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_leave_ctrl_c_to_the_parent,
    )


def _leave_ctrl_c_to_the_parent(_):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
