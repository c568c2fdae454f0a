"""Batches of several kinds, mixed by whole batches; what stands in step n depends on the config and n alone."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from lgvi_core.errors import InputError

from ..config import TrainConfig
from . import labels
from .cache import LatentFiles
from .dialogues import Dialogue, in_mirror, plain
from .drawn import Endless
from .frames import choose
from .plan import CLIPS_PER_STEP, SAMPLE, Pass, Plan
from .sources import FileSource, Key
from .synthetic_talk_source import TalkSource
from .words import mirrored

DRAWN = ("synthetic", "synthetic_fill", "synthetic_talk")  # kinds of data whose clips come with labels
__all__ = ["CLIPS_PER_STEP", "Clips", "Passes", "loader"]


def loader(config: TrainConfig, start: int, rank: int = 0, world: int = 1, pin: bool = False) -> DataLoader:
    """The passes of process `rank` of `world` from step `start` on, as dicts:

    step, kind (index into config.batches), share (the pass's part of the process's samples in the step), last (the
    last pass of the step); positions int64 (B,), the places of the samples in the step's batch; frames, clean uint8
    (B, T, H, W, 3); mask bool (B, T, H, W); sentence, name lists of str; broken, a list of (name, reason) of the
    samples that could not be read and are missing from the rest. With `config.recognition.blocks` also `owners`,
    `facts` and `mentions` of `labels`. With `config.request_encoder` a list `dialogue` of `dialogues.Dialogue`, the
    batch's `only`, and `owners` and `facts` where its sight trains. With `config.cache`, `keys` of samples on disk, and
    where all their latents are cached, `moments` (B, 2, T, 2, C, h, w) in place of frames and clean, but for the first
    step; see `cache`.

    Raises `InputError` where the sources or their batches are wrong, and where `world` does not divide a batch's size.
    """
    for i, batch in enumerate(config.batches):
        if batch.size % world:
            raise InputError(f"batches[{i}].size is {batch.size}; {world} processes must divide it")
        if config.recognition.blocks and config.data[batch.data].get("kind") not in DRAWN:
            raise InputError(
                f"recognition.blocks needs drawn clips alone, batches[{i}] is of data.{batch.data}: set "
                "recognition.blocks=[]"
            )
    plan = Plan(config)
    if config.request_encoder is not None:
        _check_talk(plan)
    drawn = all(isinstance(source, Endless) for source in plan.sources.values())
    return DataLoader(
        Clips(plan, start),
        sampler=Passes(plan, start, rank, world),
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=config.workers,
        pin_memory=pin,
        prefetch_factor=(4 if drawn else 2) if config.workers else None,
        worker_init_fn=_start_worker,
    )


def _check_talk(plan: Plan) -> None:
    """Raises `InputError` for batches that a request encoder cannot learn from."""
    for i, batch in enumerate(plan.kinds):
        source = plan.sources[batch.data]
        if isinstance(source, Endless) and not isinstance(source, TalkSource):
            raise InputError(
                f"batches[{i}] is of data.{batch.data}, where nobody says anything: a request_encoder learns from "
                "drawn clips of the kind synthetic_talk"
            )
        if batch.only == "sight" and not isinstance(source, TalkSource):
            raise InputError(f"batches[{i}].only is 'sight', but what data.{batch.data} shows is not known")


class Passes(Sampler):
    """The passes of one process, in order."""

    def __init__(self, plan: Plan, start: int, rank: int, world: int):
        self.plan, self.start, self.rank, self.world = plan, start, rank, world

    def __iter__(self):
        return self.plan.passes(self.start, self.rank, self.world)


class Clips(Dataset):
    """Passes with their pixels, asked for by `Pass`."""

    def __init__(self, plan: Plan, start: int):
        self.plan, self.start = plan, start
        self.config = plan.config
        self.cache = None if self.config.cache is None else LatentFiles(Path(self.config.cache))

    def __getitem__(self, wanted: Pass) -> dict:
        source = self.plan.sources[self.plan.kinds[wanted.kind].data]
        if isinstance(source, Endless):
            samples, broken = [self._drawn(source, wanted, *at) for at in zip(wanted.positions, wanted.samples)], []
        else:
            samples, broken = self._read(source, wanted)
        about = {name: getattr(wanted, name) for name in ("step", "kind", "share", "last")}
        if self.config.request_encoder is not None:
            about["only"] = self.plan.kinds[wanted.kind].only
        return {**about, "broken": broken, **_together(samples, wanted)}

    def _drawn(self, source: Endless, wanted: Pass, position: int, index: int) -> dict:
        batch, bucket = self.plan.kinds[wanted.kind], wanted.bucket
        clip = source.draw(index, bucket.frames, bucket.height, bucket.width, batch.kind)
        sample = {"positions": position, "name": f"{batch.data}:{index}", "sentence": clip.sentence}
        sample |= {name: getattr(clip, name) for name in ("frames", "clean", "mask")}
        if self.config.recognition.blocks:
            sample |= labels.of(clip, self.config.recognition.cells)
        language = self.config.request_encoder
        if language is not None:
            sample["dialogue"] = clip.dialogue
            if language.sight:
                sample["owners"] = labels.owners(clip.object_masks[:, :1], language.sight_cells)
                sample["facts"] = labels.facts(clip)
        return sample

    def _read(self, source: FileSource, wanted: Pass) -> tuple[list[dict], list[tuple[str, str]]]:
        """The samples of a pass that can be read, and (name, reason) of those that cannot."""
        shown, samples, broken = [], [], []
        for position, index in zip(wanted.positions, wanted.samples):
            try:
                shown.append(self._shown(source, wanted, position, index))
            except OSError as error:  # a file is gone
                broken.append((f"{source.name}:{source.entry(index).name}", str(error)))
        moments = self._moments(shown) if wanted.step != self.start else None
        for i, clip in enumerate(shown):
            place = clip.index, clip.at, wanted.bucket.height, wanted.bucket.width
            try:
                pixels = source.load(*place)._asdict() if moments is None else {"mask": source.masks(*place)}
            except (InputError, OSError) as error:
                broken.append((clip.name, str(error)))
                continue
            sample = {"positions": clip.position, "name": clip.name, "sentence": clip.sentence}
            sample |= {name: part[:, :, ::-1] if clip.flipped else part for name, part in pixels.items()}
            if clip.dialogue is not None:
                sample["dialogue"] = clip.dialogue
            if self.cache is not None:
                sample["keys"] = clip.keys
            if moments is not None:
                sample["moments"] = moments[i]
            samples.append(sample)
        return samples, broken

    def _shown(self, source: FileSource, wanted: Pass, position: int, index: int) -> Shown:
        batch, bucket, entry = self.plan.kinds[wanted.kind], wanted.bucket, source.entry(index)
        rng = np.random.default_rng([self.config.seed, wanted.step, SAMPLE, position])
        sentence = entry.captions[int(rng.integers(len(entry.captions)))]
        at = choose(batch, bucket.frames, entry.frames, rng)
        turned = mirrored(sentence) if source.flip and rng.random() < 0.5 else None
        dialogue = None
        if self.config.request_encoder is not None:
            known = source.dialogues.get(entry.name) or (plain(sentence),)
            dialogue = known[int(rng.integers(len(known)))]
            reflected = turned and in_mirror(dialogue)
            turned, dialogue = (turned, reflected) if reflected else (None, dialogue)
        flipped, keys = turned is not None, None
        if self.cache is not None:
            keys = source.keys(index, at, bucket.height, bucket.width, flipped)
        return Shown(position, index, f"{source.name}:{entry.name}", turned or sentence, at, flipped, keys, dialogue)

    def _moments(self, shown: list[Shown]) -> list[torch.Tensor] | None:
        """The cached moments of each sample (2, T, 2, C, h, w), unless some are not cached."""
        if self.cache is None:
            return None
        moments = []
        for clip in shown:
            both = [self.cache.clip(keys) for keys in clip.keys]
            if any(part is None for part in both):
                return None
            moments.append(torch.stack(both))
        return moments


class Shown(NamedTuple):
    """What is shown of a sample: its words, frames and side, and with a cache the keys of its pixels."""

    position: int
    index: int
    name: str
    sentence: str
    at: list[int]
    flipped: bool
    keys: tuple[list[Key], list[Key]] | None
    dialogue: Dialogue | None


def _together(samples: list[dict], wanted: Pass) -> dict:
    """Samples as one batch: arrays stacked, the rest in lists; without samples, tensors of no clips."""
    if not samples:
        size = wanted.bucket.frames, wanted.bucket.height, wanted.bucket.width
        pixels = torch.empty(0, *size, 3, dtype=torch.uint8)
        empty = {"positions": torch.empty(0, dtype=torch.int64), "name": [], "sentence": [], "keys": []}
        return empty | {"frames": pixels, "clean": pixels.clone(), "mask": torch.empty(0, *size, dtype=torch.bool)}
    batch = {"positions": torch.tensor([sample.pop("positions") for sample in samples])}
    for name, first in samples[0].items():
        parts = [sample[name] for sample in samples]
        if isinstance(first, np.ndarray):
            parts = torch.from_numpy(np.stack(parts))
        elif isinstance(first, torch.Tensor):
            parts = torch.stack(parts)
        batch[name] = parts
    return batch


def _as_it_is(batch: dict) -> dict:
    return batch


def _start_worker(_):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    cv2.setNumThreads(0)
