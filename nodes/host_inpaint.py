"""The mask in the host's CONDITIONING, for a MODEL that fills one (Stable Diffusion for inpainting, CoCoCo)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..lgvi_core.errors import InputError


def mask_of(given: dict) -> Tensor:
    """The mask among what the host gives `extra_conds`; `InputError` if there is none.

    As for core's inpainting models that of InpaintModelConditioning, or else the noise mask of the LATENT.
    """
    mask = given.get("concat_mask")
    mask = given.get("denoise_mask") if mask is None else mask
    if mask is None:
        raise InputError(
            "this MODEL fills a mask, and neither the CONDITIONING nor the LATENT has one: use Video Inpaint Sampler, "
            "or core's InpaintModelConditioning or VAE Encode (for Inpainting)"
        )
    return mask


def mask_like(noise: Tensor, mask: Tensor) -> Tensor:
    """The mask as 0 and 1 in the layout and size of the noise, of one channel.

    noise: (T, C, H, W) or (B, C, T, H, W). mask: (T, H', W'), (T, C, H', W') or (B, C, T, H', W'), to the nearest pixel
    of which what is at least half counts; one frame is for all. Raises `InputError` for another number of frames.
    """
    if mask.ndim == 5:
        mask = mask[:, :1].transpose(1, 2).flatten(0, 1)
    elif mask.ndim == 3:
        mask = mask[:, None]
    mask = F.interpolate(mask[:, :1].round().to(noise), noise.shape[-2:], mode="nearest")
    clips, frames = (1, len(noise)) if noise.ndim == 4 else (noise.shape[0], noise.shape[2])
    if len(mask) not in (1, frames, clips * frames):
        raise InputError(f"the mask in the CONDITIONING has {len(mask)} frames, the LATENT to sample has {frames}")
    mask = mask.repeat(clips * frames // len(mask), 1, 1, 1)
    return mask if noise.ndim == 4 else mask.unflatten(0, (clips, frames)).transpose(1, 2)
