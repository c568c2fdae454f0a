"""Which frames of a longer clip a batch takes, and the shapes that clips are sorted into."""

from __future__ import annotations

import math

import numpy as np

from ..config import Batches
from .entries import Entry

SMALLEST = 0.8  # of the pixels that a batch's width and height make


def choose(batch: Batches, count: int, length: int, rng: np.random.Generator) -> list[int]:
    """`count` frames of a clip of `length`, in order, as `batch.sampling` says.

    "first": the first ones. "random": neighbours, from a random frame on. "stride": every `stride`-th, from a random
    frame on. "whole": spread evenly from the first to the last.
    """
    if batch.sampling == "whole":
        return np.linspace(0, length - 1, count).round().astype(int).tolist()
    step = batch.stride if batch.sampling == "stride" else 1
    span = (count - 1) * step + 1
    start = 0 if batch.sampling == "first" else int(rng.integers(length - span + 1))
    return list(range(start, start + span, step))


def shape_of(batch: Batches, entry: Entry) -> tuple[int, int, int] | None:
    """Frames, height and width at which an entry comes in a batch of this kind; None where it is too short for it.

    Without buckets that is what the batch says. With buckets the size is the one nearest to the entry's shape among
    those of 80 to 100 % of the pixels whose sides are multiples of the greatest common divisor of width, height and 64;
    clips too short for `frames` come in the longest of frames / 2, frames / 4, ... that they have.
    """
    step = batch.stride if batch.sampling == "stride" else 1
    frames = batch.frames
    while (frames - 1) * step + 1 > entry.frames:
        if not batch.buckets or frames == 1:
            return None
        frames //= 2
    if not batch.buckets:
        return frames, batch.height, batch.width
    wanted = math.log(entry.width / entry.height)
    sizes = _sizes(batch.width, batch.height)
    height, width = min(sizes, key=lambda size: (abs(math.log(size[1] / size[0]) - wanted), -size[0] * size[1]))
    return frames, height, width


def _sizes(width: int, height: int) -> list[tuple[int, int]]:
    unit = math.gcd(width, height, 64)
    area = width * height // unit**2
    return [
        (high * unit, wide * unit)
        for wide in range(1, area + 1)
        for high in range(math.ceil(SMALLEST * area / wide), area // wide + 1)
    ]
