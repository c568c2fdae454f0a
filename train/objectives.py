"""What a training step minimises."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .config import LossWeights


def draw_timesteps(count: int, total: int, noisiest: float, generator: torch.Generator) -> Tensor:
    """Timesteps (count,): with probability `noisiest` the last one, else uniform over all `total`."""
    options = {"generator": generator, "device": generator.device}
    uniform = torch.randint(total, (count,), **options)
    return torch.where(torch.rand(count, **options) < noisiest, total - 1, uniform)


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


def losses(prediction: Tensor, wanted: Tensor, probability: Tensor, mask: Tensor, weights: LossWeights) -> dict:
    """Parts of the loss and their weighted sum `total` (LGVI, equation 3, with a dice term and `inside` added).

    prediction, wanted: (B, C, T, H, W); probability, mask: (B, 1, T, pH, pW) with p mask pixels per latent pixel.
    `inside` weighs the error where the region is both true and found, so that it teaches filling, not deleting.
    """
    error = (prediction.float() - wanted) ** 2
    found = (mask > 0.5) & (probability > 0.5)
    scale = mask.shape[-1] // prediction.shape[-1]
    found = F.pixel_unshuffle(found.float().transpose(1, 2), scale).transpose(1, 2)  # (B, p * p, T, H, W)
    found = found.repeat(1, error.shape[1] // found.shape[1], 1, 1, 1)
    likely = probability.clamp(1e-6, 1 - 1e-6)
    overlap = (probability * mask).flatten(1).sum(1)
    sizes = probability.flatten(1).sum(1) + mask.flatten(1).sum(1)
    parts = {
        "diffusion": error.mean(),
        "inside": (error * found).sum() / found.numel(),
        "mask": -torch.where(mask > 0.5, likely, 1 - likely).log().mean(),
        "dice": (1 - (2 * overlap + 1) / (sizes + 1)).mean(),
    }
    parts["total"] = sum(getattr(weights, name) * value for name, value in parts.items())
    return parts
