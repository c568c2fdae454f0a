"""A checkpoint that fills, as a function of frames, mask and prompt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from lgvi_core import standalone
from lgvi_core.checkpoints import Checkpoint
from lgvi_core.conditioning import decode, encode, resize_frames, to_pixels, work_size
from lgvi_core.editing import RECOMMENDED
from lgvi_core.errors import InputError
from lgvi_core.sampling import denoise
from lgvi_core.sampling.schedulers import make_scheduler
from lgvi_core.sampling.windows import frame_noise


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
    checkpoint = standalone.load(checkpoint, device, None)
    if not checkpoint.config.is_inpainting:
        raise InputError(
            f"{checkpoint.path} removes by words and does not fill a region: give a checkpoint of the CoCoCo family"
        )
    settings = RECOMMENDED | checkpoint.sampling
    settings |= {
        name: value for name, value in {"steps": steps, "guidance_scale": guidance}.items() if value is not None
    }
    device = next(checkpoint.unet.parameters()).device

    def fill(frames: np.ndarray, mask: np.ndarray, prompt: str) -> np.ndarray:
        height, width = mask.shape[1:]
        working = work_size(width, height, checkpoint.training, checkpoint.vae.factor)
        generator = torch.Generator(device).manual_seed(seed)
        pixels = to_pixels(list(frames), working, device)
        hole = torch.from_numpy(mask)[:, None].float().to(device)
        hole = F.interpolate(hole, (working.height, working.width), mode="nearest")
        hole = F.pad(hole, (0, pixels.shape[-1] - working.width, 0, pixels.shape[-2] - working.height))
        masked_video = encode(checkpoint.vae, pixels * (1 - hole), generator)
        noise = frame_noise(0, len(frames), masked_video[0, :, 0].shape, seed)[None]
        denoised = denoise(
            checkpoint.unet, noise,
            text=checkpoint.text_encoder.encode([prompt]), empty_text=checkpoint.text_encoder.encode([""]),
            condition=None, scheduler=make_scheduler(settings["scheduler"], checkpoint.scheduler_config),
            steps=settings["steps"], guidance_scale=settings["guidance_scale"], generator=generator,
            mask=F.interpolate(hole, masked_video.shape[-2:], mode="nearest").transpose(0, 1)[None],
            masked_video=masked_video,
        )  # fmt: skip
        made = decode(checkpoint.vae, denoised.latents)[:, : working.height, : working.width].cpu()
        made = (resize_frames(made, height, width) * 255).round().byte().numpy()
        return np.where(mask[..., None], made, frames)

    return fill
