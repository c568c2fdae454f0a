"""Between frames at the source's size and latents at the size the model works at."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import InputError

CHUNK = 8  # frames that go through an autoencoder at a time


@dataclass(frozen=True)
class WorkSize:
    """Pixels the model works at, and the multiple of the autoencoder's factor that this is padded to."""

    width: int
    height: int
    padded_width: int
    padded_height: int


def work_size(width: int, height: int, trained: dict, factor: int, wanted: tuple[int, int] | None = None) -> WorkSize:
    """The size the model works at for a source of `width` x `height`.

    That is `wanted` (width, height) where given; else the source's shape with as many pixels as the checkpoint was
    trained at (`trained`: `width`, `height`; without them its own size). Raises `InputError` for sides too small.
    """
    if wanted is None:
        known = {"width", "height"} <= trained.keys()
        pixels = trained["width"] * trained["height"] if known else width * height
        scale = math.sqrt(pixels / (width * height))
        wanted = (max(factor, round(width * scale)), max(factor, round(height * scale)))
    if min(wanted) < factor:
        raise InputError(f"size is {wanted[0]}x{wanted[1]}; each side must be at least {factor} pixels")
    return WorkSize(*wanted, *(math.ceil(side / factor) * factor for side in wanted))


def to_pixels(frames: list[np.ndarray], size: WorkSize, device) -> Tensor:
    """uint8 frames (H, W, 3) as (T, 3, h, w) in [-1, 1] at the working size, edges repeated into the padding."""
    x = torch.from_numpy(np.stack(frames)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
    if x.shape[-2:] != (size.height, size.width):
        x = F.interpolate(x, (size.height, size.width), mode="bilinear", antialias=True)
    padding = (0, size.padded_width - size.width, 0, size.padded_height - size.height)
    return F.pad(x, padding, mode="replicate") if any(padding) else x


def encode(autoencoder: nn.Module, pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Condition latents (1, C, T, h, w) of pixels (T, 3, H, W); an autoencoder that samples draws from `generator`."""
    dtype = _dtype(autoencoder)
    latents = [autoencoder.encode(part.to(dtype), generator) for part in pixels.split(CHUNK)]
    return torch.cat(latents).transpose(0, 1)[None]


def decode(autoencoder: nn.Module, latents: Tensor, size: WorkSize) -> Tensor:
    """Frames (T, h, w, 3) float32 in [0, 1], cropped to the working size, of latents (1, C, T, h', w')."""
    dtype = _dtype(autoencoder)
    parts = [autoencoder.decode(part.to(dtype)).float() for part in latents[0].transpose(0, 1).split(CHUNK)]
    pixels = torch.cat(parts)[:, :, : size.height, : size.width]
    return ((pixels + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1)


def mask_at_work_size(mask: Tensor, size: WorkSize) -> Tensor:
    """The mask decoder's (1, 1, T, h, w) as soft (T, H, W) at the working size."""
    x = mask[0].transpose(0, 1)
    padded = (size.padded_height, size.padded_width)
    if x.shape[-2:] != padded:
        x = F.interpolate(x, padded, mode="bilinear")
    return x[:, 0, : size.height, : size.width]


def resize_frames(frames: Tensor, height: int, width: int) -> Tensor:
    """Frames (T, h, w, 3) at another size, bilinear."""
    if frames.shape[1:3] == (height, width):
        return frames
    x = F.interpolate(frames.permute(0, 3, 1, 2), (height, width), mode="bilinear", antialias=True)
    return x.permute(0, 2, 3, 1)


def _dtype(autoencoder: nn.Module) -> torch.dtype:
    return next((parameter.dtype for parameter in autoencoder.parameters()), torch.float32)
