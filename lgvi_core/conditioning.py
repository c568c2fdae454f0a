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


def to_pixels(images: list[np.ndarray], size: WorkSize, device) -> Tensor:
    """Frames (H, W, 3) as (T, 3, h, w) in [-1, 1] at the working size, edges repeated into the padding.

    images: uint8, or float in [0, 1]. One at a time is held at its own size in float.
    """
    pixels = torch.cat([_to_pixels(image, size, device) for image in images])
    return pixels.contiguous(memory_format=torch.channels_last)


def _to_pixels(image: np.ndarray, size: WorkSize, device) -> Tensor:
    half = 127.5 if image.dtype == np.uint8 else 0.5
    x = torch.tensor(image, device=device).permute(2, 0, 1)[None].float() / half - 1
    if x.shape[-2:] != (size.height, size.width):
        x = F.interpolate(x, (size.height, size.width), mode="bilinear", antialias=True)
    padding = (0, size.padded_width - size.width, 0, size.padded_height - size.height)
    return F.pad(x, padding, mode="replicate") if any(padding) else x


def holes_at_work_size(holes: list[np.ndarray], size: WorkSize, device) -> Tensor:
    """What is to be filled, bool (H, W) each, as 0 and 1 (T, 1, h, w) at the working size; edges go on as `to_pixels`'.

    To the nearest pixel, as the family is trained; a mask too thin to be met so becomes all that it touches.
    """
    hole = torch.cat([_shrunk(torch.from_numpy(hole)[None, None], size.height, size.width) for hole in holes])
    padding = (0, size.padded_width - size.width, 0, size.padded_height - size.height)
    return F.pad(hole, padding, mode="replicate").to(device)


def holes_of_latents(hole: Tensor, height: int, width: int) -> Tensor:
    """What is to be filled (T, 1, H, W) as the mask (1, 1, T, h, w) of latents, 0 and 1, nearest as above."""
    return torch.cat([_shrunk(frame[None], height, width) for frame in hole]).transpose(0, 1)[None]


def _shrunk(hole: Tensor, height: int, width: int) -> Tensor:
    hole = hole.float()
    nearest = F.interpolate(hole, (height, width), mode="nearest")
    return nearest if nearest.any() or not hole.any() else F.adaptive_max_pool2d(hole, (height, width))


def to_bytes(image: np.ndarray) -> np.ndarray:
    """A frame as uint8; float, nominally in [0, 1], to the nearest of 256 values."""
    return image if image.dtype == np.uint8 else (image.clip(0, 1) * 255).round().astype(np.uint8)


def encode(autoencoder: nn.Module, pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Condition latents (1, C, T, h, w) of pixels (T, 3, H, W); an autoencoder that samples draws from `generator`."""
    dtype = _dtype(autoencoder)
    latents = [autoencoder.encode(part.to(dtype), generator) for part in pixels.split(CHUNK)]
    return torch.cat(latents).transpose(0, 1)[None]


def decode(autoencoder: nn.Module, latents: Tensor) -> Tensor:
    """Frames (T, H, W, 3) float32 in [0, 1] of latents (1, C, T, h, w)."""
    dtype = _dtype(autoencoder)
    parts = [autoencoder.decode(part.to(dtype)).float() for part in latents[0].transpose(0, 1).split(CHUNK)]
    return ((torch.cat(parts) + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1)


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
