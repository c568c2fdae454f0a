"""A checkpoint that fills, as a function of frames, mask and prompt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from lgvi_core import standalone
from lgvi_core.checkpoints import Checkpoint
from lgvi_core.inpaint import fill


def of_checkpoint(
    checkpoint: Path | Checkpoint,
    steps: int | None = None,
    guidance: float | None = None,
    device: str | None = None,
    seed: int = 0,
) -> Callable[[np.ndarray, np.ndarray, str], np.ndarray]:
    """A function of frames (T, H, W, 3) uint8, mask (T, H, W) bool and prompt that fills the mask as the prompt says.

    The clip is one window; outside of the mask its frames stay as they are. steps, guidance: None for what the
    checkpoint recommends. Raises `InputError` for a checkpoint of another family.
    """
    checkpoint = standalone.load(checkpoint, device, None, fills=True)
    settings = {"steps": steps, "guidance_scale": guidance, "seed": seed, "dilate": 0, "feather": 0}

    def filled(frames: np.ndarray, mask: np.ndarray, prompt: str) -> np.ndarray:
        window = {"window": max(2, len(frames)), "overlap": 0}
        return fill(frames, prompt, mask=mask, checkpoint=checkpoint, device=device, **settings, **window).frames

    return filled
