"""What every pass of a run consists of; it depends on the config and the step alone.

A step draws one kind of batch by the kinds' shares; with buckets, one bucket of it by how many samples are in it.
Samples of a bucket come in shuffled order, each once before any comes again: the batches of that bucket in earlier
steps are counted to know the place in that order. Which frames, words and side of a sample are shown depends on the
seed, the step and its position in the batch.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from lgvi_core.errors import InputError

from ..config import Batches, TrainConfig
from .drawn import Endless
from .frames import shape_of
from .sources import open_source

log = logging.getLogger(__name__)

CLIPS_PER_STEP = 1 << 16  # of the synthetic domain, step n draws the clips n * CLIPS_PER_STEP and on
SHUFFLE, BUCKET, SAMPLE = 1, 2, 3  # apart, so that no two draws share random numbers


@dataclass(frozen=True)
class Bucket:
    """Samples of a source that can stand in one batch; of the synthetic domain, all there are."""

    frames: int
    height: int
    width: int
    samples: np.ndarray | None  # indices into the source


@dataclass(frozen=True)
class Pass:
    """What one process does at once: some positions of a step's batch."""

    step: int
    kind: int
    bucket: Bucket
    positions: tuple[int, ...]
    samples: tuple[int, ...]  # what stands at the positions: indices into the source
    share: float
    last: bool


class Plan:
    """The passes of a config; opens the sources that its batches name.

    Raises `InputError` for sources that cannot be used, and for kinds of batches that no sample is long enough for.
    """

    def __init__(self, config: TrainConfig):
        self.config = config
        self.kinds = config.batches
        names = dict.fromkeys(batch.data for batch in self.kinds)
        self.sources = {name: open_source(name, config.data[name], config.seed) for name in names}
        self.buckets = [self._buckets(i, batch) for i, batch in enumerate(self.kinds)]

    def _buckets(self, kind: int, batch: Batches) -> list[Bucket]:
        source = self.sources[batch.data]
        if isinstance(source, Endless):
            return [Bucket(batch.frames, batch.height, batch.width, None)]
        if batch.kind is not None:
            raise InputError(f"batches[{kind}].kind is {batch.kind!r}; only the synthetic domain has kinds")
        samples: dict[tuple[int, int, int], list[int]] = {}
        short = 0
        for i in range(len(source)):
            shape = shape_of(batch, source.entry(i))
            if shape is None:
                short += 1
            else:
                samples.setdefault(shape, []).append(i)
        if not samples:
            longest = max(source.entry(i).frames for i in range(len(source)))
            raise InputError(
                f"batches[{kind}] wants {batch.frames} frames ({batch.sampling}), but the longest of the {len(source)} "
                f"clips of data.{batch.data} has {longest}: ask for fewer frames, or set buckets: true"
            )
        if short:
            log.warning("data.%s: %d of %d clips are too short for the %d frames of batches[%d] and are left out of it",
                        batch.data, short, len(source), batch.frames, kind)  # fmt: skip
        return [Bucket(*shape, np.array(found)) for shape, found in sorted(samples.items())]

    def summary(self) -> list[str]:
        """A line for each kind of batch: its samples, sizes and how often each sample is seen."""
        seen = Counter(self.kind_of(step) for step in range(self.config.steps))
        lines = []
        for i, (batch, buckets) in enumerate(zip(self.kinds, self.buckets)):
            shapes = ", ".join(f"{b.frames} x {b.width}x{b.height}" for b in buckets)
            line = f"batches[{i}]: {seen[i]} steps of {batch.size} from {batch.data}, frames x size {shapes}"
            if not isinstance(self.sources[batch.data], Endless):
                count = sum(len(bucket.samples) for bucket in buckets)
                line += f"; {count} samples, each seen {seen[i] * batch.size / count:.1f} times"
            lines.append(line)
        return lines

    def kind_of(self, step: int) -> int:
        """Which kind of batch a step sees."""
        shares = np.array([b.share * b.covers(step) for b in self.kinds])
        return int(np.random.default_rng([self.config.seed, step]).choice(len(shares), p=shares / shares.sum()))

    def passes(self, start: int, rank: int, world: int) -> Iterator[Pass]:
        """What process `rank` of `world` does from step `start` on."""
        before = Counter()  # of drawn clips nothing is counted: each has a number of its own
        drawn = all(isinstance(source, Endless) for source in self.sources.values())
        for step in range(start if drawn else 0, self.config.steps):
            kind = self.kind_of(step)
            place = self._bucket_of(kind, step)
            round_number = before[kind, place]
            before[kind, place] += 1
            if step >= start:
                yield from self._of_step(step, kind, place, round_number, rank, world)

    def _bucket_of(self, kind: int, step: int) -> int:
        buckets = self.buckets[kind]
        if len(buckets) == 1:
            return 0
        sizes = np.array([len(bucket.samples) for bucket in buckets])
        return int(np.random.default_rng([self.config.seed, step, BUCKET]).choice(len(sizes), p=sizes / sizes.sum()))

    def _of_step(self, step: int, kind: int, place: int, round_number: int, rank: int, world: int) -> Iterator[Pass]:
        batch, bucket = self.kinds[kind], self.buckets[kind][place]
        own = range(rank, batch.size, world)
        micro = batch.micro or len(own)
        for first in range(0, len(own), micro):
            positions = tuple(own[first : first + micro])
            if bucket.samples is None:
                samples = tuple(step * CLIPS_PER_STEP + position for position in positions)
            else:
                samples = tuple(self._sample(kind, place, round_number * batch.size + p) for p in positions)
            yield Pass(step, kind, bucket, positions, samples, len(positions) / len(own), first + micro >= len(own))

    def _sample(self, kind: int, place: int, number: int) -> int:
        """The `number`-th sample that a bucket gives over the run."""
        samples = self.buckets[kind][place].samples
        epoch, i = divmod(number, len(samples))
        return int(samples[_order(self.config.seed, kind, place, epoch, len(samples))[i]])


@lru_cache(maxsize=64)
def _order(seed: int, kind: int, place: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng([seed, SHUFFLE, kind, place, epoch]).permutation(count)
