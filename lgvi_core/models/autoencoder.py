"""Autoencoders between pixels and latents: Stable Diffusion's, and a lossless one for small models.

Each has `encode(pixels, generator)`, `moments(pixels)` (mean and standard deviation of what `encode` draws from) and
`decode(latents)` on (N, C, H, W), pixels in [-1, 1], latents already scaled, and `factor` (pixels per latent and axis),
`latent_channels` and `config`, which `autoencoder_from_config` takes back.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError


class SpaceToDepthAutoencoder(nn.Module):
    """Moves each `factor` x `factor` square of pixels into channels; loses nothing and has no weights."""

    def __init__(self, factor: int = 4, scaling_factor: float = 1.0):
        super().__init__()
        self.factor = factor
        self.scaling_factor = scaling_factor
        self.latent_channels = 3 * factor**2
        self.config = {"kind": "space_to_depth", "factor": factor, "scaling_factor": scaling_factor}

    def encode(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return F.pixel_unshuffle(pixels, self.factor) * self.scaling_factor

    def moments(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        latents = self.encode(pixels)
        return latents, torch.zeros_like(latents)

    def decode(self, latents: Tensor) -> Tensor:
        return F.pixel_shuffle(latents / self.scaling_factor, self.factor)


class StableDiffusionAutoencoder(nn.Module):
    """diffusers' AutoencoderKL. Encoding samples the posterior, as LGVI does; decoding clamps nothing."""

    def __init__(self, config: dict):
        super().__init__()
        from diffusers import AutoencoderKL

        self.config = {"kind": "autoencoder_kl", **config}
        self.vae = AutoencoderKL.from_config(config)
        self.factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        self.scaling_factor = self.vae.config.scaling_factor
        self.latent_channels = self.vae.config.latent_channels

    def encode(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self.vae.encode(pixels).latent_dist.sample(generator) * self.scaling_factor

    def moments(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        posterior = self.vae.encode(pixels.to(self.vae.dtype)).latent_dist
        return posterior.mean * self.scaling_factor, posterior.std * self.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        return self.vae.decode(latents / self.scaling_factor).sample


def autoencoder_from_config(config: dict) -> nn.Module:
    """The autoencoder that a config dict names; `InputError` for a kind that is not known."""
    kinds = {"space_to_depth": lambda c: SpaceToDepthAutoencoder(**c), "autoencoder_kl": StableDiffusionAutoencoder}
    config = dict(config)
    kind = config.pop("kind", None)
    if kind not in kinds:
        raise InputError(f"autoencoder kind {kind!r} is not known; known: {sorted(kinds)}")
    return kinds[kind](config)
