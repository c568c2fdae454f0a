"""What every source gives: entries to plan with, samples to load."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Entry(NamedTuple):
    """What is known of a sample before its pixels are read; height and width are pixels."""

    name: str
    frames: int
    height: int
    width: int
    captions: tuple[str, ...]


class Sample(NamedTuple):
    """Frames of a video, the same without what is to be removed, and where that is."""

    frames: np.ndarray  # (T, H, W, 3) uint8
    clean: np.ndarray  # (T, H, W, 3) uint8
    mask: np.ndarray  # (T, H, W) bool
