"""Background preservation (BP): what an edit changed where it should not (VIVID, arXiv 2411.15260, section 5.1)."""

from __future__ import annotations

import numpy as np


def background_change(output: np.ndarray, source: np.ndarray, mask: np.ndarray) -> float | None:
    """Mean absolute difference to the source outside the mask, in 0..255; None where the mask covers everything.

    output, source: (T, H, W, 3) in 0..255. mask: (T, H, W) bool.
    """
    outside = ~mask
    if not outside.any():
        return None
    return float(np.abs(output[outside].astype(np.float32) - source[outside].astype(np.float32)).mean(dtype=np.float64))
