"""Was the right object removed, and nothing else? For clips whose truth is known.

Frames are (T, H, W, 3) in 0..255, masks (T, H, W) bool.
"""

from __future__ import annotations

import numpy as np


def squared_error(frames: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
    """Mean squared error in 0..255 inside the mask, over the clip."""
    return float(((frames[mask].astype(np.float32) - truth[mask].astype(np.float32)) ** 2).mean())


def removed(output: np.ndarray, source: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> bool:
    """Whether the error inside the target's mask is under a quarter of the untouched source's."""
    return squared_error(output, truth, mask) < 0.25 * squared_error(source, truth, mask)


def damaged(output: np.ndarray, source: np.ndarray, background: np.ndarray, mask: np.ndarray) -> bool:
    """Whether an object lost more than a quarter of its contrast against the background behind it."""

    def contrast(frames):
        return np.abs(frames[mask].astype(np.float32) - background[mask].astype(np.float32)).mean()

    return bool(contrast(output) < 0.75 * contrast(source))


def mask_iou(found: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union over the whole clip; 1 where both are empty."""
    union = (found | truth).sum()
    return float((found & truth).sum() / union) if union else 1.0


def psnr(output: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """PSNR in dB, inside the mask where one is given; infinite for identical frames."""
    mask = np.ones(output.shape[:-1], bool) if mask is None else mask
    error = squared_error(output, truth, mask)
    return float("inf") if error == 0 else 10 * float(np.log10(255**2 / error))
