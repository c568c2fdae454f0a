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
    keep_outside: bool = True,
) -> Callable[..., np.ndarray]:
    """A function of frames (T, H, W, 3) uint8, mask (T, H, W) bool and prompt that fills the mask as the prompt says,
    and if it is given one more picture (H, W, 3), with that as a keyframe in the place of the first frame.

    The clip is one window; outside of the mask its frames stay as they are if `keep_outside`. steps, guidance: None for
    what the checkpoint recommends. Raises `InputError` for a checkpoint of another family.
    """
    checkpoint = standalone.load(checkpoint, device, None, fills=True)
    settings = {"steps": steps, "guidance_scale": guidance, "seed": seed, "dilate": 0, "feather": 0}
    settings["keep_outside"] = keep_outside

    def filled(frames: np.ndarray, mask: np.ndarray, prompt: str, keyframe: np.ndarray | None = None) -> np.ndarray:
        whole = {"window": max(2, len(frames)), "overlap": 0, "cross_cuts": True}
        given = {} if keyframe is None else {0: keyframe}
        return fill(
            frames, prompt, mask=mask, keyframes=given, checkpoint=checkpoint, device=device, **settings, **whole
        ).frames

    return filled
