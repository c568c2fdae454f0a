"""Watching a run: progress bar, journal, TensorBoard, W&B, the first batch, held-out clips, and a report at the end.

In the output folder: `config.json`, `log.jsonl` (see `train.watching.journal`), `tensorboard/`, `first-batch.png`,
`samples-NNNNNN.png`, `log.png`, `report.html`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import sys
import time
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor, nn
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from .config import TrainConfig
from .held_out import HeldOut, means
from .report import write_report
from .talk_held_out import TalkHeldOut
from .watching import curves, journal, pictures, trackers
from .watching.environment import environment
from .watching.pictures import Row

log = logging.getLogger(__name__)

BINS = 10  # parts of the noise schedule whose loss is told apart
MEMORY = 0.9  # of a bin's running mean, from one line of the journal to the next
FIRST = 8  # samples in the picture of the first batch


class Watcher:
    """Sees a run's steps and writes what a person wants to know of them; does nothing but where `main`.

    A run that goes on from step `start` drops from the journal what it does again. Raises `InputError` for trackers
    that are not installed and for held-out clips that are not there, before anything is written.
    """

    def __init__(self, config: TrainConfig, output: Path, start: int, main: bool = True):
        self.main = main
        if not main:
            return
        trackers.check(config)
        self.config, self.output, self.start = config, Path(output), start
        self.held_out = open_held_out(config) if config.watch.samples else None
        self.output.mkdir(parents=True, exist_ok=True)
        plain = dataclasses.asdict(config)
        journal.write_whole(self.output / "config.json", json.dumps(plain, indent=1) + "\n")
        self.journal = journal.Journal(self.output / journal.NAME, start)
        self.trackers = trackers.open_all(config, plain, self.output, start)
        self.clock = Clock(self.journal.records)
        self.bins = Bins(config.scheduler.get("num_train_timesteps", 1000), self.journal.records)
        self.window: list[dict[str, float]] = []
        self.rates: dict[str, float] = {}
        self.reported: set[str] = set()
        self.done = start
        state = PartialState()
        self.journal.write({"step": start, "environment": environment(state.device, state.num_processes)})
        self.context = contextlib.ExitStack()
        self.context.enter_context(logging_redirect_tqdm())
        often = 0.5 if sys.stderr.isatty() else 30.0  # seconds; a file needs no more
        self.bar = self.context.enter_context(tqdm(total=config.steps, initial=start, unit="step", mininterval=often))

    def first_batch(self, batch: dict) -> None:
        """Draw what the model sees first: `first-batch.png`. A run that goes on keeps the picture it has."""
        path = self.output / "first-batch.png" if self.main else None
        if path is None or (self.start and path.exists()) or not len(batch["sentence"]):
            return
        titles, rows = batch_rows(batch)
        self._picture("first batch", path, titles, rows, self.start)

    def step(
        self,
        step: int,
        losses: dict[str, float],
        rates: dict[str, float],
        timesteps: Tensor,
        per_sample: Tensor,
        samples: int,
        broken: list[tuple[str, str]],
    ) -> None:
        """Once for each step of the optimiser, `step` from 0.

        losses: `total` and its parts. rates: learning rates by group. timesteps, per_sample: (B,), where each sample
        was on the schedule and its diffusion loss. samples: how many the step saw. broken: (name, reason) of those
        that could not be read.
        """
        if not self.main:
            return
        self.done = step + 1
        self.window.append(losses)
        self.rates = rates
        self.clock.samples += samples
        self.bins.add(timesteps, per_sample)
        if broken:
            self._broken(step, broken)
        self.bar.update()
        if step % self.config.watch.log_every == 0 or self.done == self.config.steps:
            self._write_losses(step)

    def due(self, step: int) -> bool:
        """Whether held-out clips are to be looked at after `step` steps."""
        return self.main and self.held_out is not None and step % self.config.watch.sample_every == 0

    def hold_out(self, step: int, model: nn.Module, objective, autoencoder: nn.Module) -> float:
        """The held-out loss (lower is better) after `step` steps; writes measures and `samples-NNNNNN.png`."""
        began = time.monotonic()
        found, rows = self.held_out.run(model, autoencoder)
        self._pause(time.monotonic() - began)
        path = self.output / f"samples-{step:06d}.png"
        self._picture("samples", path, self.held_out.titles, rows, step)
        self.journal.write({"step": step, "held_out": found, "picture": path.name})
        self._scalars({f"held_out/{name}": value for name, value in found.items()}, step)
        log.info("step %d, held out: %s", step, ", ".join(f"{name} {value:.4g}" for name, value in found.items()))
        return found["loss"]

    def message(self, text: str) -> None:
        """Log a line and keep it for the report."""
        if self.main:
            log.info("%s", text)
            self.journal.write({"step": self.done, "message": text})

    def close(self, finished: bool) -> None:
        """End of the run, or of this part of it: the last losses, `log.png` and `report.html`."""
        if not self.main:
            return
        if self.window:
            self._write_losses(self.done - 1)
        self.journal.write({"step": self.done, "finished": finished, "seconds": self.clock.seconds()})
        self.journal.close()
        self.context.close()
        for tracker in self.trackers:
            tracker.close()
        curves.save(self.journal.records, self.output / "log.png")
        log.info("wrote %s", write_report(self.output))

    def _write_losses(self, step: int) -> None:
        rate = self.clock.lap()
        bins = self.bins.means()
        losses = means(self.window)
        self.window = []
        record = losses | {"step": step, "rates": self.rates, "samples": self.clock.samples, "per_second": rate}
        self.journal.write(record | {"seconds": self.clock.seconds(), "bins": bins})
        shown = {f"loss/{name}": value for name, value in losses.items()} | {"samples_per_second": rate}
        shown |= {f"rate/{name}": value for name, value in self.rates.items()}
        shown |= {f"timesteps/{i}": value for i, value in enumerate(bins) if value is not None}
        self._scalars(shown, step)
        short = {name: f"{losses[name]:.3g}" for name in ("total", "diffusion", "mask") if name in losses}
        self.bar.set_postfix(
            short | {"rate": f"{max(self.rates.values()):.1e}", "samples/s": f"{rate:.3g}"}, refresh=False
        )

    def _pause(self, seconds: float) -> None:
        """So much of the time was no training: it does not count for speed and time left."""
        self.clock.lapped += seconds
        self.bar.start_t += seconds
        self.bar.last_print_t += seconds

    def _broken(self, step: int, broken: list[tuple[str, str]]) -> None:
        self.journal.write({"step": step, "broken": broken})
        for name, reason in broken:
            if name not in self.reported:
                log.warning("step %d: %s is left out: %s", step, name, reason)
        self.reported |= {name for name, _ in broken}

    def _scalars(self, values: dict[str, float], step: int) -> None:
        for tracker in self.trackers:
            tracker.scalars(values, step)

    def _picture(self, name: str, path: Path, titles: list[str], rows: list[Row], step: int) -> None:
        if not rows:
            return
        picture = pictures.sheet(titles, rows)
        pictures.save(picture, path)
        for tracker in self.trackers:
            tracker.picture(name, np.asarray(picture), step)


class Clock:
    """Seconds and samples of a run, over all its parts."""

    def __init__(self, records: list[dict]):
        last = next((record for record in reversed(records) if "total" in record), {})
        self.samples = last.get("samples", 0)
        self.before = last.get("seconds", 0.0)
        self.began = self.lapped = time.monotonic()
        self.counted = self.samples

    def seconds(self) -> float:
        return self.before + time.monotonic() - self.began

    def lap(self) -> float:
        """Samples per second since the last lap."""
        now = time.monotonic()
        rate = (self.samples - self.counted) / max(now - self.lapped, 1e-9)
        self.lapped, self.counted = now, self.samples
        return rate


class Bins:
    """Running means of the diffusion loss over equal parts of the schedule, from the least noise to the most."""

    def __init__(self, total: int, records: list[dict]):
        self.total = total
        last = next((record for record in reversed(records) if "bins" in record), {})
        self.running: list[float | None] = list(last.get("bins", [None] * BINS))
        self.sums, self.counts = np.zeros(BINS), np.zeros(BINS)

    def add(self, timesteps: Tensor, losses: Tensor) -> None:
        """timesteps, losses: (B,)."""
        places = (timesteps.cpu().numpy() * BINS // self.total).clip(0, BINS - 1)
        np.add.at(self.sums, places, losses.detach().float().cpu().numpy())
        np.add.at(self.counts, places, 1)

    def means(self) -> list[float | None]:
        """The running means with what was added since the last call; None where nothing ever was."""
        for i in np.flatnonzero(self.counts):
            now, before = float(self.sums[i] / self.counts[i]), self.running[i]
            self.running[i] = now if before is None else MEMORY * before + (1 - MEMORY) * now
        self.sums[:], self.counts[:] = 0, 0
        return list(self.running)


def open_held_out(config: TrainConfig) -> HeldOut | TalkHeldOut:
    """What measures a model of the config on held-out clips; raises as `HeldOut` does."""
    return HeldOut(config) if config.request_encoder is None else TalkHeldOut(config)


def batch_rows(batch: dict) -> tuple[list[str], list[Row]]:
    """Titles and rows that show a pass of the loader: first, middle and last frame, the mask, the clean frame."""
    frames, clean, mask = (torch.as_tensor(batch[name]).cpu().numpy() for name in ("frames", "clean", "mask"))
    middle = frames.shape[1] // 2
    shown = {"first": 0, "middle": middle, "last": frames.shape[1] - 1}
    shown = {f"{name} frame": t for name, t in shown.items()} if frames.shape[1] > 1 else {"input": 0}
    rows = []
    for i, sentence in enumerate(batch["sentence"][:FIRST]):
        found = [frames[i, t] for t in shown.values()]
        found += [pictures.with_mask(frames[i, middle], mask[i, middle]), clean[i, middle]]
        rows.append(Row(f"{batch['name'][i]}: {sentence}", found))
    return [*shown, "mask", "clean"], rows
