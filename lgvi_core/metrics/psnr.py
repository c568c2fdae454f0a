"""Peak signal-to-noise ratio, frame by frame."""

from __future__ import annotations

import numpy as np


def frame_psnr(output: np.ndarray, truth: np.ndarray) -> list[float]:
    """PSNR in dB of each frame, 20 log10(255 / sqrt(MSE)); infinite where the two are identical.

    output, truth: (T, H, W, 3) in 0..255. A mean over frames pools those of all clips and leaves the infinite ones
    out, counted apart.
    """
    errors = [np.square(a.astype(np.float64) - b.astype(np.float64)).mean() for a, b in zip(output, truth, strict=True)]
    return [20 * float(np.log10(255 / np.sqrt(error))) if error else float("inf") for error in errors]
