"""Where a clip jumps from one scene to another; needs no learned weights and nothing beside torch."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import InputError

WIDTH = 64  # pixels of the longer side that frames are looked at with
BLOCK, REACH = 8, 6  # of those pixels: what is looked for in the frame before, and how far from its place
BINS = 8
OTHER_COLOURS = 0.23  # Hellinger distance of colour histograms, of 1
UNEXPLAINED = 0.44  # share of a frame's contrast that the frame before, moved block by block, does not explain


def cuts(frames: np.ndarray) -> list[int]:
    """The first frame of every scene but the clip's first.

    frames: uint8 (T, H, W, 3). A cut changes the colours and leaves a frame that cannot be put together from the one
    before: a pan keeps the one, a change of light the other. What is over after one frame is a flash, and no cut. Slow
    fades are not found. Raises `InputError` for frames that are not uint8 (T, H, W, 3).
    """
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8:
        raise InputError(f"frames are {frames.dtype} {frames.shape}; expected uint8 (T, H, W, 3)")
    found, before = [], None
    for place in range(len(frames)):
        frame = _small(frames[place])
        if before is not None and _differ(before, frame):
            if place + 1 < len(frames) and not _differ(before, _small(frames[place + 1])):
                continue
            found.append(place)
        before = frame
    return found


def _differ(before: Tensor, frame: Tensor) -> bool:
    return colour_change(before, frame) > OTHER_COLOURS and unexplained(before, frame) > UNEXPLAINED


def colour_change(before: Tensor, frame: Tensor) -> float:
    """Hellinger distance of the colour histograms of (H, W, 3) in [0, 255], 0 (the same) to 1 (none in common)."""
    first, second = _histogram(before), _histogram(frame)
    return float((1 - (first * second).sqrt().sum()).clamp_min(0).sqrt())


def unexplained(before: Tensor, frame: Tensor) -> float:
    """How far blocks of a frame (H, W, 3) are from the likest around their place in the one before, of its contrast.

    Light and contrast of the two are evened out.
    """
    before, frame = _even(before), _even(frame)
    height, width = frame.shape[1:]
    moved = F.pad(before[None], (REACH,) * 4, mode="replicate")[0].unfold(1, height, 1).unfold(2, width, 1)
    off = (moved - frame[:, None, None]).abs().mean(dim=0).flatten(0, 1)
    best = F.avg_pool2d(off, BLOCK, ceil_mode=True).amin(dim=0)
    return float(best.mean() / frame.abs().mean().clamp_min(1e-6))


def _histogram(frame: Tensor) -> Tensor:
    """The share of pixels of each colour, (BINS ** 3,)."""
    red, green, blue = (frame * (BINS / 256)).long().unbind(dim=-1)
    counts = torch.bincount(((red * BINS + green) * BINS + blue).flatten(), minlength=BINS**3)
    return counts.double() / counts.sum()


def _even(frame: Tensor) -> Tensor:
    """(3, H, W), of mean 0 and deviation 1 over all channels."""
    frame = frame.permute(2, 0, 1)
    return (frame - frame.mean()) / frame.std(correction=0).clamp_min(1)


def _small(frame: np.ndarray) -> Tensor:
    """Float (h, w, 3) in [0, 255]."""
    pixels = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None]
    scale = WIDTH / max(frame.shape[:2])
    if scale < 1:
        size = [max(1, round(side * scale)) for side in frame.shape[:2]]
        pixels = F.interpolate(pixels, size, mode="bilinear", antialias=True)
    return pixels[0].permute(1, 2, 0).float()
