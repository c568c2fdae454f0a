"""E_warp: how much of a clip's change from frame to frame its motion does not explain (Lai et al. 2018)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from .flow import Flow, dis_flow


@dataclass(frozen=True)
class Motion:
    """From one frame to the next: `flow` (H, W, 2) forward, and where the next frame shows the same things (H, W)."""

    flow: np.ndarray
    seen: np.ndarray


def motions(frames: np.ndarray, flow: Flow = dis_flow) -> list[Motion]:
    """The motion of each pair of consecutive frames (T, H, W, 3) uint8."""
    found = []
    for now, following in zip(frames, frames[1:]):
        forward, backward = flow(now, following), flow(following, now)
        found.append(Motion(forward, ~occluded(forward, backward)))
    return found


def occluded(forward: np.ndarray, backward: np.ndarray) -> np.ndarray:
    """Where a frame's things are hidden in the next one, or at the rim of what moves; flows (H, W, 2).

    The two flows must cancel, |fw + bw|^2 <= 0.01 (|fw|^2 + |bw|^2) + 0.5, and the flow's slope be small,
    |grad fw|^2 <= 0.01 |fw|^2 + 0.002.
    """
    back = warp(backward, forward)
    length = np.square(forward).sum(-1)
    disagree = np.square(forward + back).sum(-1) > 0.01 * (length + np.square(back).sum(-1)) + 0.5
    across, down = np.zeros_like(forward), np.zeros_like(forward)
    across[:, :-1] = np.diff(forward, axis=1)
    down[:-1] = np.diff(forward, axis=0)
    return disagree | ((np.square(across) + np.square(down)).sum(-1) > 0.01 * length + 0.002)


def warp(image: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """`image` (H, W, C) float32 read where `flow` (H, W, 2) points, bilinear; the border goes on outside."""
    height, width = flow.shape[:2]
    rows, columns = np.indices((height, width), np.float32)
    places = np.stack([columns + flow[..., 0], rows + flow[..., 1]], axis=-1)
    grid = torch.from_numpy(2 * places / np.float32([max(1, width - 1), max(1, height - 1)]) - 1)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
    read = F.grid_sample(pixels, grid[None], padding_mode="border", align_corners=True)
    return read[0].permute(1, 2, 0).numpy()


def warping_error(output: np.ndarray, found: list[Motion]) -> float | None:
    """E_warp of a clip times 100: the mean over its pairs of the squared error in [0, 1] of what is seen in both.

    output: (T, H, W, 3) in 0..255; found: `motions` of the input clip. A pair with nothing seen in both counts as 0.
    None for a single frame.
    """
    if not found:
        return None
    errors = []
    frames = output.astype(np.float32) / 255
    for now, following, motion in zip(frames[:-1], frames[1:], found, strict=True):
        difference = (warp(following, motion.flow) - now)[motion.seen]
        errors.append(np.square(difference).mean(dtype=np.float64) if difference.size else 0.0)
    return 100 * float(np.mean(errors))
