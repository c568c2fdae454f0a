"""Classifier-free guidance with two conditions, words and video, as a weighted sum of passes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ..errors import InputError


@dataclass(frozen=True)
class Pass:
    """One pass of the U-Net: its text (B, N, D), its condition (B, C, T, H, W) or None for zeros, its weight."""

    text: Tensor
    condition: Tensor | None
    weight: float


def guidance_passes(
    text: Tensor, empty_text: Tensor, condition: Tensor | None, guidance_scale: float, image_guidance_scale: float
) -> list[Pass]:
    """The passes whose weighted sum is the guided prediction; the first is always text and video.

    `e = e_uncond + s_text * (e_text - e_video) + s_video * (e_video - e_uncond)` (InstructPix2Pix, arXiv 2211.09800,
    equation 3, as LGVI uses it), sorted by pass. It is linear and its weights sum to 1, so it holds for epsilon,
    v and sample predictions alike. A pass of weight 0 is left out. Guidance is off, one pass of weight 1, unless
    `guidance_scale` (s_text) > 1 and `image_guidance_scale` (s_video) >= 1.

    Without a condition there is no s_video: what is left is classifier-free guidance in two passes, text and
    empty_text (arXiv 2207.12598, equation 6).

    Raises `InputError` for a scale that is not a finite number.
    """
    for name, scale in (("guidance_scale", guidance_scale), ("image_guidance_scale", image_guidance_scale)):
        if not math.isfinite(scale):
            raise InputError(f"{name} is {scale}; it must be a finite number (LGVI uses 3.0 for words, 1.5 for video)")
    if condition is None:
        image_guidance_scale = 1.0
    if guidance_scale <= 1 or image_guidance_scale < 1:
        return [Pass(text, condition, 1.0)]
    passes = [
        Pass(text, condition, guidance_scale),
        Pass(empty_text, condition, image_guidance_scale - guidance_scale),
        Pass(empty_text, None, 1 - image_guidance_scale),
    ]
    return [one for one in passes if one.weight != 0]
