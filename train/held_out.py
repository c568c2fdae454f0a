"""Clips that training does not see: their loss at fixed noise, measures and pictures of what the model makes of them.

For watching a run, cheap and the same every time; `train.evaluate` judges. Nothing here touches the run's random
numbers, so watching changes no weight.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from lgvi_core.conditioning import decode, encode
from lgvi_core.errors import InputError
from lgvi_core.inpaint import RECOMMENDED
from lgvi_core.metrics import removal
from lgvi_core.sampling import denoise, make_scheduler

from .config import TrainConfig
from .data.frames import choose, shape_of
from .data.sources import open_source
from .data.synthetic import Clip, draw
from .objectives import MIDDLE_GREY, add_noise, mask_losses, mixed, noise_schedule, target
from .watching.pictures import Row, with_mask

log = logging.getLogger(__name__)

TITLES = ["input", "found", "result", "truth"]
ROWS = 12  # clips in the picture
SLOWLY_SAMPLED = 8  # clips that are sampled where one takes several steps ...
MOST_STEPS = 20  # ... at most so many
AT_ONCE = 16 * 8 * 64 * 64  # pixels in one pass of the model


@dataclass(frozen=True)
class Held:
    """A held-out clip, `drawn` where the code drew it."""

    number: int
    name: str
    frames: np.ndarray  # (T, H, W, 3) uint8
    clean: np.ndarray  # (T, H, W, 3) uint8
    mask: np.ndarray  # (T, H, W) bool
    sentence: str
    drawn: Clip | None = None


class HeldOut:
    """Measures a model on the held-out clips of `config.watch`; they are read anew each time, so none stays in memory.

    Clips are as the config's longest batches, at the size and length of `training_size` where it is given. The
    synthetic domain draws them with textures that training leaves out; another source gives clips spread over all it
    has. Noise, timestep and frames belong to a clip's number: measurements differ by the model alone.

    Raises `InputError` for a source that cannot be opened or has no clip that is long enough.
    """

    titles = TITLES

    def __init__(self, config: TrainConfig):
        self.config = config
        longest = max(config.batches, key=lambda batch: (batch.frames, batch.width * batch.height))
        self.batch = replace(longest, **config.training_size)
        self.source, self.places = None, list(range(config.watch.samples))
        name, settings = config.watch.data, config.data[config.watch.data]
        if settings["kind"] != "synthetic":
            self.source = open_source(name, settings, config.seed)
            if name in {batch.data for batch in config.batches}:
                log.warning("the held-out clips come from %r, which is trained on too", name)
            there = [i for i in range(len(self.source)) if shape_of(self.batch, self.source.entry(i))]
            if not there:
                span = (self.batch.frames - 1) * (self.batch.stride if self.batch.sampling == "stride" else 1) + 1
                raise InputError(
                    f"watch.data: {name!r} has no clip of {span} frames to hold out, which {self.batch.frames} of them "
                    "span: give one, fewer training_size.frames, or watch.samples=0"
                )
            count = min(config.watch.samples, len(there))
            self.places = [there[i * len(there) // count] for i in range(count)]
        self.count = len(self.places)
        self.sampling = RECOMMENDED | {name: config.sampling[name] for name in RECOMMENDED if name in config.sampling}
        self.steps = min(self.sampling["steps"], MOST_STEPS)

    @torch.no_grad()
    def run(self, model: nn.Module, autoencoder: nn.Module) -> tuple[dict[str, float], list[Row]]:
        """Means over the clips, `loss` among them, and rows of pictures; see `measure` for the rest.

        `loss` is the objective's with the config's weights, but for dropout, weighting by timestep, and what needs more
        of the clip than its pixels. Where sampling takes one step, all clips are sampled; else the first eight.
        """
        device = next(model.unet.parameters()).device
        scheduler = make_scheduler(self.sampling["scheduler"], model.scheduler)
        alphas = noise_schedule(model.scheduler).to(device)
        timesteps = spread_timesteps(self.count, len(alphas), self.config.noisiest, self.config.seed)
        sampled = self.count if self.steps == 1 else min(self.count, SLOWLY_SAMPLED)
        measured, rows = [], []
        with evaluating(model):
            for clips in self._batches():
                clean = self._latents(autoencoder, {clip.number: clip.clean for clip in clips}, device)
                inputs = self._inputs(model, autoencoder, clips, clean)
                text = model.text_encoder.encode([clip.sentence for clip in clips]).to(device)
                noise = torch.stack([self._noise(clip, clean.shape[1:]) for clip in clips]).to(device)
                times = torch.tensor([timesteps[clip.number] for clip in clips], device=device)
                found = self._losses(model, clips, inputs, clean, text, noise, times, alphas)
                n = sum(clip.number < sampled for clip in clips)
                some = {name: part[:n] for name, part in inputs.items()}
                results = self._sample(model, autoencoder, scheduler, some, text[:n], noise[:n]) if n else ()
                for clip, losses, (result, mask) in zip(clips, found, results):
                    losses |= measure(clip, result, mask, fills="mask" in inputs)
                    if len(rows) < ROWS:
                        rows.append(strip(clip, result, mask, losses))
                measured += found
        if device.type == "cuda":
            torch.cuda.empty_cache()
        if not measured:
            raise InputError(f"watch.data: none of the held-out clips of {self.config.watch.data!r} can be read")
        return means(measured), rows

    def _batches(self) -> Iterator[list[Held]]:
        """The clips in order, as many of one shape together as a pass may hold."""
        waiting = []
        for clip in tqdm(self._clips(), "held-out clips", self.count, leave=False, disable=None):
            most = max(1, AT_ONCE // clip.mask.size)
            if waiting and (clip.frames.shape != waiting[0].frames.shape or len(waiting) == most):
                yield waiting
                waiting = []
            waiting.append(clip)
        if waiting:
            yield waiting

    def _clips(self) -> Iterator[Held]:
        data, seed = self.config.watch.data, self.config.seed
        for number, place in enumerate(self.places):
            if self.source is None:
                size = (self.batch.frames, self.batch.height, self.batch.width)
                drawn = draw(seed + 1, place, *size, held_out=True)
                parts = (drawn.frames, drawn.clean, drawn.mask, drawn.sentence, drawn)
                yield Held(number, f"{data}:{place}", *parts)
                continue
            entry = self.source.entry(place)
            frames, *size = shape_of(self.batch, entry)
            chosen = choose(self.batch, frames, entry.frames, np.random.default_rng([seed, number]))
            try:
                sample = self.source.load(place, chosen, *size)
            except (InputError, OSError) as error:
                log.warning("held-out clip %s:%s cannot be read and is left out: %s", data, entry.name, error)
                continue
            yield Held(number, f"{data}:{entry.name}", *sample, entry.captions[0])

    def _autocast(self, device: torch.device):
        kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
        return torch.autocast(device.type, kinds.get(self.config.precision), self.config.precision in kinds)

    def _noise(self, clip: Held, shape) -> Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(mixed(self.config.seed, clip.number)))

    def _inputs(self, model, autoencoder, clips: list[Held], clean: Tensor) -> dict[str, Tensor]:
        """What the U-Net is given of the clips: the condition, or mask and masked video."""
        if not model.unet.config.is_inpainting:
            return {"condition": self._latents(autoencoder, {clip.number: clip.frames for clip in clips}, clean.device)}
        masked = {clip.number: np.where(clip.mask[..., None], MIDDLE_GREY, clip.frames) for clip in clips}
        mask = torch.stack([torch.from_numpy(clip.mask) for clip in clips])[:, None].to(clean)
        mask = F.interpolate(mask, clean.shape[2:], mode="nearest")
        return {"mask": mask, "masked_video": self._latents(autoencoder, masked, clean.device)}

    def _latents(self, autoencoder, videos: dict[int, np.ndarray], device) -> Tensor:
        """Latents (B, C, T, h, w) of videos (T, H, W, 3), by their clips' numbers."""
        latents = []
        for number, frames in videos.items():
            pixels = torch.from_numpy(frames).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
            latents.append(encode(autoencoder, pixels, torch.Generator().manual_seed(number)))
        return torch.cat(latents).float()

    def _losses(self, model, clips, inputs, clean, text, noise, timesteps, alphas) -> list[dict[str, float]]:
        """Loss of each clip at its own timestep."""
        has_mask = model.unet.config.has_mask_decoder
        noisy = add_noise(clean, noise, timesteps, alphas)
        with self._autocast(noise.device):
            prediction = model.unet(noisy, timesteps, text, **inputs, return_mask=has_mask)
        prediction, probability = prediction if has_mask else (prediction, None)
        wanted = target(model.scheduler.get("prediction_type", "epsilon"), clean, noise, timesteps, alphas)
        error = (prediction.float() - wanted) ** 2
        parts = {"diffusion": error.flatten(1).mean(1)}
        if has_mask or "mask" in inputs:
            masks = torch.stack([torch.from_numpy(clip.mask) for clip in clips])[:, None].float().to(noise.device)
            probability = masks if probability is None else probability
            masks = F.interpolate(masks, probability.shape[2:], mode="area")
            parts |= mask_losses(error, probability.float(), masks, self.config.loss)
        parts["loss"] = sum(getattr(self.config.loss, name) * values for name, values in parts.items())
        names = sorted(parts, key="loss".__ne__)
        return [dict(zip(names, row)) for row in torch.stack([parts[name] for name in names], 1).tolist()]

    def _sample(self, model, autoencoder, scheduler, inputs, text, noise):
        """For each clip (frames (T, H, W, 3) uint8, mask (T, H, W) bool or None), as `config.sampling` says."""
        empty = model.text_encoder.encode([""] * len(noise)).to(noise.device)
        scales = (self.sampling["guidance_scale"], self.sampling["image_guidance_scale"])
        generator = torch.Generator().manual_seed(self.config.seed)
        inputs = {"condition": None, **inputs, "mask_steps": int(model.unet.config.has_mask_decoder)}
        condition = inputs.pop("condition")
        given = (model.unet, noise, text, empty, condition, scheduler, self.steps, *scales, generator)
        with self._autocast(noise.device):
            made = denoise(*given, **inputs)
        for i in range(len(noise)):
            result = (decode(autoencoder, made.latents[i : i + 1]) * 255).round().byte().cpu().numpy()
            mask = None
            if made.mask is not None:
                mask = F.interpolate(made.mask[i].transpose(0, 1), result.shape[1:3], mode="bilinear")[:, 0] >= 0.5
                mask = mask.cpu().numpy()
            yield result, mask


def measure(clip: Held, result: np.ndarray, mask: np.ndarray | None, fills: bool = False) -> dict[str, float]:
    """What is right about a result (T, H, W, 3), see `lgvi_core.metrics.removal`; only what the clip has a truth for.

    `empty_where_nothing_matches` for clips without a target; `correct` (removed, nothing else damaged) and `damaged`
    for drawn clips, `removed` for others; `mask_iou`, `psnr_inside` and `psnr_frame` in dB. Of what `fills` the latter.
    """
    if not clip.mask.any():
        return {} if mask is None else {"empty_where_nothing_matches": float(not mask.any())}
    inside, frame = removal.psnr(result, clip.clean, clip.mask), removal.psnr(result, clip.clean)
    quality = {"psnr_inside": inside, "psnr_frame": frame}
    if fills:
        return quality
    removed = removal.removed(result, clip.frames, clip.clean, clip.mask)
    found = {"removed": float(removed)}
    if clip.drawn is not None:
        others = [m for i, m in enumerate(clip.drawn.object_masks) if i not in clip.drawn.targets and m.any()]
        damaged = any(removal.damaged(result, clip.frames, clip.drawn.background, m) for m in others)
        found = {"correct": float(removed and not damaged), "damaged": float(damaged)}
    if mask is not None:
        found["mask_iou"] = removal.mask_iou(mask, clip.mask)
    return found | quality


def strip(clip: Held, result: np.ndarray, mask: np.ndarray | None, measures: dict[str, float]) -> Row:
    """The clip's middle frame: input, found mask, result, truth."""
    middle = len(result) // 2
    found = clip.frames[middle] if mask is None else with_mask(clip.frames[middle], mask[middle])
    numbers = {"mask_iou": "IoU {:.2f}", "psnr_inside": "{:.1f} dB in the mask"}
    said = [text.format(measures[name]) for name, text in numbers.items() if name in measures]
    return Row(
        " · ".join([clip.sentence, *(said or ["nothing matches"])]),
        [clip.frames[middle], found, result[middle], clip.clean[middle]],
    )


def means(rows: list[dict[str, float]]) -> dict[str, float]:
    """Mean of each column over the rows that have it; identical frames, whose PSNR is infinite, do not count."""
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row[name] for row in rows if name in row and row[name] != float("inf")] for name in names}
    return {name: float(np.mean(values)) for name, values in columns.items() if values}


def spread_timesteps(count: int, total: int, noisiest: float, seed: int) -> list[int]:
    """`count` timesteps as training draws them, without the luck: a share at the last one, the others evenly spread."""
    last = round(noisiest * count)
    spread = [int((i + 0.5) * total / max(1, count - last)) for i in range(count - last)] + [total - 1] * last
    return np.random.default_rng(seed).permutation(spread).tolist()


@contextlib.contextmanager
def evaluating(model: nn.Module):
    """The model in eval mode; every module of it gets back the mode that it had."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
