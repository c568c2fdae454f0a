"""What a training step minimises."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgvi_core.errors import InputError
from lgvi_core.models import UNetConfig

from .config import Keyframes, TrainConfig
from .data.cache import Cache

MASK_PARTS = ("mask", "dice", "inside", "decibel")  # what needs a mask, found by the decoder or given
MIDDLE_GREY = 127.5  # 0 in [-1, 1]: what is to be filled, in the masked video


@dataclass(frozen=True)
class Losses:
    """Of one pass: `total` is what to minimise, `parts` the unweighted means by name; the rest is by sample, (B,)."""

    total: Tensor
    parts: dict[str, Tensor]
    timesteps: Tensor
    per_sample: Tensor  # diffusion loss

    def detach(self) -> Losses:
        """The same without the graph that it comes from."""
        return replace(self, total=self.total.detach())


class Objective:
    """LGVI's loss (equation 3) of a batch, with the options of the config.

    Timesteps, noise and dropout of a sample come from a generator of its own (`generators`), so that processes, passes
    and device change nothing. Every part is a mean over samples.

    Raises `InputError` for weights that the model cannot follow.
    """

    def __init__(self, config: TrainConfig, parts, device: torch.device):
        self.config, self.device = config, device
        self.text_encoder, unet = parts.model.text_encoder, parts.model.unet
        self.prediction_type = parts.model.scheduler.get("prediction_type", "epsilon")
        self.alphas = noise_schedule(parts.model.scheduler).to(device)
        self.fills = unet.config.is_inpainting
        used = check_losses(config, unet.config)
        self.cache = Cache(config.cache, parts.autoencoder, self.text_encoder, config)
        heads = ("recognition",) if config.recognition.blocks else ()
        self.names = ("diffusion", *used, *heads)  # of all parts that a pass can have
        self.weights = {"recognition": config.recognition.weight}  # of those that `_predict` gives
        self.no_text = None
        if not config.train_text_encoder:
            with torch.no_grad():
                self.no_text = self.text_encoder.encode([""])

    def __call__(self, model: nn.Module, batch: dict, seed: int, step: int) -> Losses:
        """The losses of `batch`, a pass of the loader, under `model`, a `train.model.Model` as accelerate wraps it."""
        config = self.config
        draws = generators(seed, step, batch["positions"])
        tensors = ("frames", "clean", "mask", "owners", "facts", "mentions")
        batch = {k: v.to(self.device, non_blocking=True) if k in tensors else v for k, v in batch.items()}
        if self.fills:
            given = draw_keyframes(draws, batch["mask"].shape[1], config.keyframes).to(self.device)
            batch |= masked_video(batch, given)
        condition, clean = self.cache.latents(batch, draws)
        timesteps = draw_timesteps(draws, len(self.alphas), config.noisiest).to(self.device)
        no_text, no_video = (drop.to(self.device) for drop in draw_dropout(draws, config.dropout))
        noise = torch.stack([torch.randn(clean.shape[1:], generator=g) for g in draws]).to(clean)

        if self.fills:
            mask = F.interpolate(batch["mask"][:, None].to(clean), clean.shape[2:], mode="nearest")
            inputs = {"mask": mask, "masked_video": condition}
        else:
            inputs = {"condition": condition * ~no_video.view(-1, 1, 1, 1, 1)}
        noisy = add_noise(clean, noise, timesteps, self.alphas)
        with_mask = any(name in self.names for name in MASK_PARTS)
        decodes = with_mask and not self.fills
        prediction, probability, extra = self._predict(model, batch, noisy, timesteps, no_text, inputs, decodes)
        if self.fills:
            probability = batch["mask"][:, None]

        error = (prediction.float() - target(self.prediction_type, clean, noise, timesteps, self.alphas)) ** 2
        per_sample = error.flatten(1).mean(1)
        parts = {"diffusion": per_sample * self._signal(timesteps)}
        if with_mask:
            found = mask_losses(error, probability.float(), self._region(batch["mask"], probability), config.loss)
            middle = self._middle(timesteps)
            parts |= {name: value * middle if name in ("mask", "dice") else value for name, value in found.items()}
        parts = {name: value.mean() for name, value in parts.items()}
        total = sum(getattr(config.loss, name) * value for name, value in parts.items())
        for name, value in extra.items():
            total = total + self.weights[name] * value
        parts |= extra
        return Losses(total, {k: v.detach() for k, v in parts.items()}, timesteps, per_sample.detach())

    def _predict(self, model, batch, noisy, timesteps, no_text, inputs, decodes) -> tuple[Tensor, Tensor | None, dict]:
        """The prediction, the mask's probability, and losses beside the diffusion's, by name."""
        text, labels = self._text(batch, no_text), None
        if "owners" in batch and "recognition" in self.names:
            labels = batch["owners"], batch["facts"], batch["mentions"] & ~no_text[:, None]
        prediction, probability, recognition = model(noisy, timesteps, text, inputs, labels, decodes)
        return prediction, probability, {} if recognition is None else {"recognition": recognition}

    def _text(self, batch: dict, no_text: Tensor) -> Tensor:
        """Token ids (B, N) where the text encoder trains, else its features (B, N, D); those of "" where dropped."""
        if self.no_text is not None:
            with torch.no_grad():
                return torch.where(no_text[:, None, None], self.no_text.to(self.device), self.cache.text(batch))
        tokens, empty = (self.text_encoder.tokenize(words).to(self.device) for words in (batch["sentence"], [""]))
        return torch.where(no_text[:, None], empty, tokens)

    def _region(self, mask: Tensor, probability: Tensor) -> Tensor:
        """Bool (B, T, H, W) as the share of each of the decoder's pixels that is true, (B, 1, T, pH, pW)."""
        mask = mask[:, None].float()
        return mask if mask.shape == probability.shape else F.interpolate(mask, probability.shape[2:], mode="area")

    def _signal(self, timesteps: Tensor) -> Tensor | float:
        """Weights (B,) of Min-SNR (arXiv 2303.09556, section 3.4) for the prediction type; 1 without it."""
        gamma = self.config.loss.min_snr
        return 1.0 if gamma is None else min_snr(self.prediction_type, self.alphas[timesteps], gamma)

    def _middle(self, timesteps: Tensor) -> Tensor | float:
        """Weights (B,) of the mask's losses: 4 t (T - t) / T^2 if the config asks for it, else 1."""
        if self.config.loss.mask_weighting == "uniform":
            return 1.0
        t = timesteps / len(self.alphas)
        return 4 * t * (1 - t)


def make_objective(config: TrainConfig, parts, device: torch.device) -> Objective:
    """The objective of a run; raises as `Objective` does."""
    if config.request_encoder is None:
        return Objective(config, parts, device)
    from .talk_objective import TalkObjective  # which is an `Objective`

    return TalkObjective(config, parts, device)


def check_losses(config: TrainConfig, unet: UNetConfig) -> list[str]:
    """The parts of the loss that need a mask and are used; `InputError` for what a U-Net cannot follow."""
    used = [name for name in MASK_PARTS if getattr(config.loss, name)]
    undecoded = [name for name in used if not unet.is_inpainting or name in ("mask", "dice")]
    if undecoded and not unet.has_mask_decoder:
        raise InputError(f"loss.{undecoded[0]} is not 0, but this U-Net has no mask decoder: set it to 0")
    if config.keyframes.probability and not unet.is_inpainting:
        raise InputError("keyframes are for a U-Net that fills, this one removes: set keyframes.probability=0")
    if unet.is_inpainting and (config.cache or config.dropout.video):
        raise InputError("a U-Net that fills is given another masked video each time: set cache=null dropout.video=0")
    if {"inside", "decibel"} & set(used) and unet.out_channels % unet.mask_upscale**2:
        raise InputError("loss.inside and loss.decibel need a latent for each mask pixel at least: set them to 0")
    return used


def generators(seed: int, step: int, positions: Tensor) -> list[torch.Generator]:
    """A CPU generator for each sample, seeded by the run's seed, the step and the sample's place in its batch."""
    return [torch.Generator().manual_seed(mixed(seed, step, int(place))) for place in positions]


def mixed(*numbers: int) -> int:
    """One 64-bit seed that depends on all the numbers."""
    low, high = np.random.SeedSequence(numbers).generate_state(2)
    return int(low) | int(high) << 32


def draw_timesteps(draws: list[torch.Generator], total: int, noisiest: float) -> Tensor:
    """Timesteps (B,): with probability `noisiest` the last one, else uniform over all `total`."""
    uniform = torch.cat([torch.randint(total, (1,), generator=g) for g in draws])
    chance = torch.cat([torch.rand(1, generator=g) for g in draws])
    return torch.where(chance < noisiest, total - 1, uniform)


def draw_keyframes(draws: list[torch.Generator], frames: int, keyframes: Keyframes) -> Tensor:
    """Which frames are given as they should become, bool (B, T)."""
    given = torch.zeros(len(draws), frames, dtype=torch.bool)
    if not keyframes.probability or frames == 1:
        return given
    for row, g in zip(given, draws):
        if torch.rand(1, generator=g) < keyframes.probability:
            count = 1 + int(torch.randint(min(keyframes.most, frames - 1), (1,), generator=g))
            row[torch.randperm(frames, generator=g)[:count] if keyframes.anywhere else 0] = True
    return given


def masked_video(batch: dict, given: Tensor) -> dict[str, Tensor]:
    """The `frames` that a model that fills is shown, float, and its `mask`: grey where the mask is.

    given: bool (B, T), frames that are shown as they should become, without a mask.
    """
    mask = batch["mask"] & ~given[..., None, None]
    frames = torch.where(given[..., None, None, None], batch["clean"], batch["frames"]).float()
    return {"frames": torch.where(mask[..., None], MIDDLE_GREY, frames), "mask": mask}


def draw_dropout(draws: list[torch.Generator], drop) -> tuple[Tensor, Tensor]:
    """Which samples lose text, and which video, bool (B,) each; one draw decides (InstructPix2Pix, section 3.2.1)."""
    chance = torch.cat([torch.rand(1, generator=g) for g in draws])
    no_text = chance < drop.text + drop.both
    return no_text, (chance >= drop.text) & (chance < drop.text + drop.both + drop.video)


def noise_schedule(scheduler_config: dict) -> Tensor:
    """Cumulative alphas (T,) of a scheduler config, zero terminal SNR included."""
    from diffusers import DDPMScheduler

    return DDPMScheduler.from_config(scheduler_config).alphas_cumprod


def add_noise(clean: Tensor, noise: Tensor, timesteps: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """Forward process (DDPM, equation 4). clean, noise: (B, C, T, H, W); timesteps: (B,)."""
    alpha = alphas_cumprod.to(clean)[timesteps].view(-1, 1, 1, 1, 1)
    return alpha.sqrt() * clean + (1 - alpha).sqrt() * noise


def target(prediction_type: str, clean: Tensor, noise: Tensor, timesteps: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """What the model should predict: the noise, the clean latents, or v (Salimans and Ho, equation 11)."""
    if prediction_type == "epsilon":
        return noise
    if prediction_type == "sample":
        return clean
    alpha = alphas_cumprod.to(clean)[timesteps].view(-1, 1, 1, 1, 1)
    return alpha.sqrt() * noise - (1 - alpha).sqrt() * clean


def min_snr(prediction_type: str, alpha: Tensor, gamma: float) -> Tensor:
    """Weights (B,) at cumulative alphas (B,): min(SNR, gamma) over SNR for epsilon, 1 for sample, SNR + 1 for v."""
    snr = alpha / (1 - alpha)
    if prediction_type == "epsilon":
        return (gamma / snr).clamp(max=1)
    least = snr.clamp(max=gamma)
    return least if prediction_type == "sample" else least / (snr + 1)


def mask_losses(error: Tensor, probability: Tensor, mask: Tensor, weights) -> dict[str, Tensor]:
    """What is learnt with the mask decoder, by sample (B,), each only where `weights` is not 0.

    error: (B, C, T, H, W) squared; probability, mask: (B, 1, T, pH, pW) in [0, 1], p mask pixels per latent and axis.
    mask: cross-entropy. dice: one minus Dice's coefficient. inside: the error where the region is both true and found,
    so that it teaches filling, not deleting. decibel: the logarithm of its mean there, 0 where nothing is found.
    """
    parts = {}
    if weights.mask:
        likely = probability.clamp(1e-6, 1 - 1e-6)
        parts["mask"] = -(mask * likely.log() + (1 - mask) * (1 - likely).log()).flatten(1).mean(1)
    if weights.dice:
        overlap = (probability * mask).flatten(1).sum(1)
        sizes = probability.flatten(1).sum(1) + mask.flatten(1).sum(1)
        parts["dice"] = 1 - (2 * overlap + 1) / (sizes + 1)
    if weights.inside or weights.decibel:
        found = (mask > 0.5) & (probability > 0.5)
        scale = mask.shape[-1] // error.shape[-1]
        found = F.pixel_unshuffle(found.float().transpose(1, 2), scale).transpose(1, 2)  # (B, p * p, T, H, W)
        found = found.repeat(1, error.shape[1] // found.shape[1], 1, 1, 1).flatten(1)
        filled = (error.flatten(1) * found).sum(1)
        area = found.sum(1)
        parts["inside"] = filled / found.shape[1]
        parts["decibel"] = torch.where(area > 0, torch.log(filled / area.clamp(min=1) + 3e-3), 0.0)
    return {name: value for name, value in parts.items() if getattr(weights, name)}
