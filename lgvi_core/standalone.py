"""A loaded checkpoint as the model that edits: its own autoencoder and text encoder, diffusers' schedulers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from . import checkpoints
from .checkpoints import Checkpoint
from .conditioning import decode, encode
from .editing import MASK_STEPS, Windows
from .errors import InputError
from .models import UNetConfig
from .sampling import denoise
from .sampling.schedulers import make_scheduler, set_steps

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Standalone:
    """The `editing.Model` of a checkpoint for one request; sampling parameters as in `sampling.denoise`.

    text, empty_text: (1, N, D); of a checkpoint that fills, of prompt and negative prompt. windows, frames: of the clip
    (None: not known), for what `callback` is told.
    """

    checkpoint: Checkpoint
    text: Tensor
    empty_text: Tensor
    steps: int
    guidance_scale: float
    image_guidance_scale: float
    scheduler: str
    batch_passes: bool | None
    windows: Windows
    frames: int | None
    callback: Callable[[dict], None] | None

    def __post_init__(self):
        set_steps(make_scheduler(self.scheduler, self.checkpoint.scheduler_config), self.steps)  # checks the two

    @property
    def device(self) -> torch.device:
        return self.text.device

    def encode(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        return encode(self.checkpoint.vae, pixels, generator)

    def denoise(self, number, noise, condition, generator, find_mask, hole=None):
        windows = None if self.frames is None else self.windows.count(self.frames)
        known = {"window": number, "windows": windows}
        reads_mask = find_mask and self.checkpoint.config.has_mask_decoder
        denoised = denoise(
            self.checkpoint.unet,
            noise,
            self.text,
            self.empty_text,
            condition if hole is None else None,
            make_scheduler(self.scheduler, self.checkpoint.scheduler_config),
            self.steps,
            self.guidance_scale,
            self.image_guidance_scale,
            generator=generator,
            callback=None if self.callback is None else lambda step: self.callback(step | known),
            mask_steps=MASK_STEPS if reads_mask else 0,
            batch_passes=self.batch_passes,
            mask=hole,
            masked_video=None if hole is None else condition,
        )
        return denoised.latents, denoised.mask

    def decode(self, latents: Tensor) -> Tensor:
        return decode(self.checkpoint.vae, latents)


def load(
    checkpoint, device: str | None, dtype: str | None, base=None, fills: bool | None = None, words: bool = True
) -> Checkpoint:
    """The whole checkpoint at a path, or as it is if it is loaded; device and dtype None: CUDA and float16 if there is.

    base: as in `checkpoints.load`. fills: whether it has to be one that fills a region, or one that does not.
    words: whether it has to read some; else it may be without a text encoder.
    Raises `InputError` for a device or type that is not to be had, for a U-Net alone, and for the other family.
    """
    device = str(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"device {device!r} was asked for, but torch finds no CUDA here; use --device cpu")
    dtype = dtype or ("float16" if device.startswith("cuda") else "float32")
    if dtype not in DTYPES:
        raise InputError(f"dtype {dtype!r} is not known; choose one of {', '.join(DTYPES)}")
    if not isinstance(checkpoint, Checkpoint):
        if fills is not None:
            _check_family(checkpoint, checkpoints.open_source(checkpoint, base).unet_config, fills)
        checkpoint = checkpoints.load(checkpoint, device, DTYPES[dtype], base)
    elif fills is not None:
        _check_family(checkpoint.path, checkpoint.config, fills)
    for name, part in (("autoencoder", checkpoint.vae), ("text encoder", checkpoint.text_encoder)):
        if part is None and (words or name != "text encoder"):
            path = checkpoint.path or "the checkpoint"
            raise InputError(f"{path} has no {name}: give a whole checkpoint, not the U-Net alone")
    return checkpoint


def _check_family(path, config: UNetConfig, fills: bool) -> None:
    path = path or "the checkpoint"
    if config.is_inpainting and not fills:
        raise InputError(f"{path} fills a mask by a prompt, it removes nothing by words: use fill, with a mask")
    if fills and not config.is_inpainting:
        raise InputError(
            f"{path} removes what words name, it fills nothing: use remove, or give a checkpoint of the CoCoCo family"
        )
