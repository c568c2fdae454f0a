"""From noise to latents: one loop over a diffusers scheduler."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError
from .guidance import Pass, guidance_passes
from .schedulers import set_steps

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Denoised:
    """Latents (B, C, T, H, W) in float32 and, where one was asked for, the mask (B, 1, T, pH, pW) in [0, 1]."""

    latents: Tensor
    mask: Tensor | None


@torch.no_grad()
def denoise(
    # model and its input
    unet: torch.nn.Module,
    latents: Tensor,
    text: Tensor,
    empty_text: Tensor,
    condition: Tensor | None,
    # sampling parameters
    scheduler,
    steps: int,
    guidance_scale: float = 3.0,
    image_guidance_scale: float = 1.5,
    generator: torch.Generator | None = None,
    callback: Callable[[dict], None] | None = None,
    mask_steps: int = 0,
    batch_passes: bool | None = None,
    # input of the inpainting family
    mask: Tensor | None = None,
    masked_video: Tensor | None = None,
) -> Denoised:
    """Denoises `latents` under text and condition video with three-way guidance (LGVI, arXiv 2401.10226).

    latents: Gaussian noise (B, C, T, H, W) of unit variance. condition: latents of the same shape. text: (B, N, D);
    empty_text: (B, N', D), the encoded "" for LGVI, zeros for LGVI-I. All are moved to the U-Net's device; the U-Net
    runs in its own dtype, the scheduler in float32. `scheduler` is any diffusers scheduler (`make_scheduler`);
    `generator` is for schedulers that add noise.

    A U-Net that fills a region (CoCoCo, arXiv 2403.12035) takes `mask` (B, 1, T, H, W), 1 = fill, and `masked_video`,
    latents of the video whose masked pixels are zero, in every pass, and None as its condition. empty_text is then
    the encoded negative prompt, and image_guidance_scale has no meaning.

    mask_steps: how many of the model's calls, evenly spaced, also run the mask decoder, in the pass of text and
    video; the mask is their mean. 0: no mask. batch_passes: the passes of a step as one batch, one by one, or, with
    None, one by one on the CPU (as fast, a third of the memory) and elsewhere as a batch until memory runs out.

    `callback` gets a dict after each step: `i` of `steps` model calls, `timestep`, `latents`, the guided `prediction`,
    `denoised` (the scheduler's estimate of the end, None where it has none). What it raises ends the call.

    Raises `InputError` for input that does not fit, `FloatingPointError` for NaN or infinity on the way.
    """
    inputs = {"condition": condition, "mask": mask, "masked_video": masked_video}
    inputs = {name: value for name, value in inputs.items() if value is not None}
    _check(unet, latents, text, empty_text, inputs, mask_steps, batch_passes)
    device = next(unet.parameters()).device
    text, empty_text = text.to(device, unet.dtype), empty_text.to(device, unet.dtype)
    inputs = {name: value.to(device, unet.dtype) for name, value in inputs.items()}
    passes = guidance_passes(text, empty_text, inputs.pop("condition", None), guidance_scale, image_guidance_scale)
    guided = _Guided(unet, passes, inputs, device, batch_passes)
    set_steps(scheduler, steps, device)
    noise = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}

    calls = len(scheduler.timesteps)  # more than `steps` where a scheduler looks twice
    mask_steps = min(mask_steps, calls)
    mask_at = {(2 * k + 1) * calls // (2 * mask_steps) for k in range(mask_steps)}
    masks = []

    x = latents.to(device, torch.float32) * scheduler.init_noise_sigma
    for i, t in enumerate(scheduler.timesteps):
        prediction, mask = guided(scheduler.scale_model_input(x, t), t, i in mask_at)
        if mask is not None:
            masks.append(mask)
        stepped = scheduler.step(prediction, t, x, **noise)
        x = stepped.prev_sample
        for name, value in (("the model", prediction), (type(scheduler).__name__, x)):
            if not value.isfinite().all():
                where = f"at step {i + 1} of {calls} in {unet.dtype}"
                raise FloatingPointError(f"{name} gave NaN or infinity {where}: try --dtype float32")
        if callback is not None:
            end = getattr(stepped, "pred_original_sample", None)
            callback({"i": i, "steps": calls, "timestep": t, "latents": x, "prediction": prediction, "denoised": end})
    return Denoised(x, torch.stack(masks).mean(dim=0) if masks else None)


def batch_by_default(device: torch.device) -> bool:
    """One batch pays where there is more arithmetic to be had; on a CPU it only takes memory."""
    return device.type != "cpu"


class _Guided:
    """The U-Net under guidance: the weighted sum of its passes. What depends on text and condition alone is kept.

    fixed: inputs that all passes share, by name.
    """

    def __init__(self, unet, passes: list[Pass], fixed: dict[str, Tensor], device, batch: bool | None):
        self.unet = unet
        self.passes = passes
        self.fixed = fixed
        self.may_fall_back = batch is None
        batchable = len(passes) > 1 and len({one.text.shape[1] for one in passes}) == 1
        self.batched = batchable and (batch_by_default(device) if batch is None else batch)
        self.caches = [{} for _ in passes]

    def __call__(self, x: Tensor, timestep: Tensor, with_mask: bool) -> tuple[Tensor, Tensor | None]:
        """Guided prediction (B, C, T, H, W) and the first pass's mask, both float32."""
        x = x.to(self.unet.dtype)
        if self.batched:
            try:
                return self._batch(x, timestep, with_mask)
            except torch.OutOfMemoryError:
                if not self.may_fall_back:
                    raise
            logger.warning("not enough memory for %d passes as one batch: going on one by one", len(self.passes))
            self.batched = False
            self.caches = [{} for _ in self.passes]
            torch.cuda.empty_cache()
        return self._one_by_one(x, timestep, with_mask)

    def _batch(self, x, timestep, with_mask):
        count = len(self.passes)
        text = torch.cat([one.text for one in self.passes])
        condition = None
        if any(one.condition is not None for one in self.passes):
            rows = [torch.zeros_like(x) if one.condition is None else one.condition for one in self.passes]
            condition = torch.cat(rows)
        rows, mask = self._run(x.repeat(count, 1, 1, 1, 1), timestep, text, condition, with_mask, self.caches[0])
        total = sum(one.weight * part for one, part in zip(self.passes, rows.chunk(count)))
        return total, None if mask is None else mask.chunk(count)[0]

    def _one_by_one(self, x, timestep, with_mask):
        total, first_mask = 0, None
        for one, cache in zip(self.passes, self.caches):
            first = with_mask and one is self.passes[0]
            prediction, mask = self._run(x, timestep, one.text, one.condition, first, cache)
            total = total + one.weight * prediction
            first_mask = mask if first else first_mask
        return total, first_mask

    def _run(self, x, timestep, text, condition, with_mask, cache):
        fixed = {name: value.repeat(len(x) // len(value), 1, 1, 1, 1) for name, value in self.fixed.items()}
        out = self.unet(x, timestep, text, condition, return_mask=with_mask, cache=cache, **fixed)
        prediction, mask = out if with_mask else (out, None)
        return prediction.float(), None if mask is None else mask.float()


def _check(unet, latents, text, empty_text, inputs, mask_steps, batch_passes):
    if list(inputs) not in (["condition"], ["mask", "masked_video"]):
        raise InputError(
            f"beside the noise there is {' and '.join(inputs) or 'nothing'}; expected a condition, or, for a U-Net "
            "that fills a region, mask and masked_video"
        )
    for name, value in inputs.items():
        if latents.ndim != 5 or value.shape != latents.shape and name != "mask":
            raise InputError(
                f"latents are {tuple(latents.shape)} and the {name} is {tuple(value.shape)}; "
                "both must be (batch, channels, frames, height, width), the same"
            )
    for name, value in (("text", text), ("empty_text", empty_text)):
        if value.ndim != 3 or value.shape[0] != latents.shape[0] or value.shape[2] != text.shape[-1]:
            raise InputError(
                f"{name} is {tuple(value.shape)}; expected ({latents.shape[0]}, tokens, {text.shape[-1]}): "
                "one row for each clip of the latents, empty_text as wide as text"
            )
    for name, value in {"latents": latents, "text": text, "empty_text": empty_text, **inputs}.items():
        if not value.isfinite().all():
            raise InputError(f"{name} has NaN or infinity in it")
    if batch_passes and empty_text.shape[1] != text.shape[1]:
        raise InputError(
            f"text has {text.shape[1]} tokens and empty_text {empty_text.shape[1]}: "
            "passes of unequal length cannot be one batch; leave batch_passes at None or False"
        )
    if mask_steps < 0:
        raise InputError(f"mask_steps is {mask_steps}; it must be 0 (no mask) or the number of steps to read it at")
    if mask_steps and unet.mask_decoder is None:
        raise InputError("mask_steps asks for a mask, but this checkpoint has no mask decoder: leave mask_steps at 0")
