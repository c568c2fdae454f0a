"""Structural similarity (Wang et al. 2004) with the window of the video inpainting papers."""

from __future__ import annotations

import numpy as np
from skimage.metrics import structural_similarity

WINDOW = 65  # pixels a side; a library's default, such as 11 and Gaussian, gives other numbers


def window_for(height: int, width: int) -> int:
    """The papers' window, or the largest odd one that fits a smaller frame."""
    return min(WINDOW, *((side - 1) // 2 * 2 + 1 for side in (height, width)))


def frame_ssim(output: np.ndarray, truth: np.ndarray) -> list[float]:
    """SSIM of each frame in RGB, in float64, with a uniform window; 1 where the two are identical.

    output, truth: (T, H, W, 3) in 0..255.
    """
    options = {"channel_axis": 2, "win_size": window_for(*output.shape[1:3]), "data_range": 255}
    pairs = zip(output.astype(np.float64), truth.astype(np.float64), strict=True)
    return [float(structural_similarity(a, b, **options)) for a, b in pairs]
