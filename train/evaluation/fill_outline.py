"""Where a filled thing is, and whether it is drawn with a dark outline, the mark of the demo's personal style."""

from __future__ import annotations

import numpy as np

from lgvi_core import masks

DARK = 70  # of 255: no channel of an outline is brighter
DIFFERENT = 40  # of 255, in one channel, from the background behind it: part of the thing
RIM = 2.0  # pixels of a frame of 64


def dark_rim(frames: np.ndarray, background: np.ndarray, mask: np.ndarray) -> float | None:
    """The share of a thing's rim that is dark, over the clip; None where nothing stands in the mask.

    frames, background: (T, H, W, 3) uint8, with the thing and without; mask: (T, H, W) bool, where to look for it. The
    rim is what is within two pixels (of a frame of 64) of the thing's edge.
    """
    thing = thing_in(frames, background, mask)
    rim = thing & masks.dilate(~thing, RIM * min(mask.shape[1:]) / 64)
    if not rim.any():
        return None
    return float((frames[rim].max(-1) < DARK).mean())


def thing_in(frames: np.ndarray, background: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """What in the mask differs from the background, bool (T, H, W)."""
    difference = np.abs(frames.astype(np.int16) - background).max(-1)
    return (difference > DIFFERENT) & mask
