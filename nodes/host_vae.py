"""A checkpoint's autoencoder as the host's VAE, and its latents as the host's latent format."""

from __future__ import annotations

import comfy.diffusers_convert
import comfy.latent_formats
import comfy.ldm.models.autoencoder
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import torch
from torch import Tensor, nn

from ..lgvi_core.checkpoints import Source
from ..lgvi_core.checkpoints.files import listing
from ..lgvi_core.checkpoints.fitting import empty_autoencoder, read_values
from ..lgvi_core.errors import InputError
from ..lgvi_core.models.autoencoder import SpaceToDepthAutoencoder

STABLE_DIFFUSION = {"channels": 4, "factor": 8, "scaling_factor": 0.18215}


class SpaceToDepthFormat(comfy.latent_formats.LatentFormat):
    """Latents of a `SpaceToDepthAutoencoder`; a preview shows the mean of each square of pixels."""

    def __init__(self, factor: int, scaling_factor: float):
        squares = factor**2
        self.latent_channels = 3 * squares
        self.scale_factor = scaling_factor
        self.spacial_downscale_ratio = factor
        share = 1 / (squares * scaling_factor)
        self.latent_rgb_factors = [
            [share if colour == channel // squares else 0.0 for colour in range(3)] for channel in range(3 * squares)
        ]


class OtherFormat(comfy.latent_formats.LatentFormat):
    """Latents of which nothing is known but channels, size and scale; they have no preview."""

    def __init__(self, channels: int, factor: int, scaling_factor: float):
        self.latent_channels = channels
        self.scale_factor = scaling_factor
        self.spacial_downscale_ratio = factor


def factor(source: Source) -> int:
    """Pixels per latent and axis of the autoencoder that a checkpoint was trained with."""
    config = source.vae_config
    if config is None:
        return STABLE_DIFFUSION["factor"]
    if _kind(source) == "space_to_depth":
        return _space_to_depth(source).factor
    return 2 ** (len(config.get("block_out_channels", (64,))) - 1)


def latent_format(source: Source) -> comfy.latent_formats.LatentFormat:
    """The host's description of a checkpoint's latents; Stable Diffusion 1.5's for a U-Net alone that has as many."""
    config, channels = source.vae_config, source.unet_config.out_channels
    if _kind(source) == "space_to_depth":
        autoencoder = _space_to_depth(source)
        return SpaceToDepthFormat(autoencoder.factor, autoencoder.scaling_factor)
    scale = (config or {}).get("scaling_factor", STABLE_DIFFUSION["scaling_factor"])
    if channels == STABLE_DIFFUSION["channels"] and factor(source) == STABLE_DIFFUSION["factor"]:
        return comfy.latent_formats.SD15(scale)
    return OtherFormat(channels, factor(source), scale if config is not None else 1.0)


def load_vae(source: Source) -> comfy.sd.VAE | None:
    """A checkpoint's autoencoder as the host's VAE, None if it has none.

    Raises `InputError` for a kind, a layout or a number of channels that does not fit, and for damaged weights.
    """
    if source.vae_config is None:
        return None
    kind = _kind(source)
    vae = SpaceToDepthVAE(_space_to_depth(source).factor) if kind == "space_to_depth" else _autoencoder_kl(source)
    if vae.latent_channels != source.unet_config.out_channels:
        raise InputError(
            f"{source.path}: the autoencoder has {vae.latent_channels} latent channels, the U-Net "
            f"{source.unet_config.out_channels}; they are parts of different models"
        )
    return vae


class SpaceToDepthVAE(comfy.sd.VAE):
    """`SpaceToDepthAutoencoder` as a VAE: what is encoded comes back exactly. The host scales the latents."""

    def __init__(self, factor: int):
        super().__init__(sd={"pixel_space_vae": torch.ones(())}, dtype=torch.float32)  # core's own VAE without weights
        self.first_stage_model = SpaceToDepth(factor)
        self.patcher = comfy.model_patcher.ModelPatcher(
            self.first_stage_model, self.device, comfy.model_management.vae_offload_device()
        )
        self.downscale_ratio = self.upscale_ratio = factor
        self.latent_channels = 3 * factor**2
        self.memory_used_encode = lambda shape, dtype: 8 * shape[2] * shape[3] * self.output_channels
        self.memory_used_decode = lambda shape, dtype: 8 * shape[1] * shape[2] * shape[3]


class SpaceToDepth(nn.Module):
    """Pixels (N, 3, H, W) in [-1, 1] and unscaled latents (N, 3 * factor ** 2, H / factor, W / factor)."""

    def __init__(self, factor: int):
        super().__init__()
        self.autoencoder = SpaceToDepthAutoencoder(factor)
        self.scale = nn.Parameter(torch.ones(()), requires_grad=False)  # the host wants a weight to move about

    def encode(self, pixels: Tensor, **_) -> Tensor:
        return self.autoencoder.encode(pixels)

    def decode(self, latents: Tensor, **_) -> Tensor:
        return self.autoencoder.decode(latents)


def _autoencoder_kl(source: Source) -> comfy.sd.VAE:
    config = source.vae_config  # absent settings are as in diffusers
    widths = config.get("block_out_channels", (64,))
    if len(widths) != 4 or config.get("norm_num_groups", 32) != 32:
        raise InputError(
            f"{source.path}: ComfyUI's VAE has 4 levels with norms of 32 groups, this autoencoder {len(widths)} and "
            f"{config.get('norm_num_groups', 32)}: take the U-Net alone, and another VAE from Load VAE"
        )
    channels = config.get("latent_channels", 4)
    ddconfig = {
        "double_z": True,
        "z_channels": channels,
        "resolution": config.get("sample_size", 32),
        "in_channels": config.get("in_channels", 3),
        "out_ch": config.get("out_channels", 3),
        "ch": widths[0],
        "ch_mult": [width // widths[0] for width in widths],
        "num_res_blocks": config.get("layers_per_block", 1),
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    weights = comfy.diffusers_convert.convert_vae_state_dict(read_values(source.vae))
    settings = {"ddconfig": ddconfig, "embed_dim": channels}
    with torch.device("meta"):
        network = comfy.ldm.models.autoencoder.AutoencoderKL(**settings)
    expected, found = ({k: v.shape for k, v in part.items()} for part in (network.state_dict(), weights))
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:  # the host itself only warns
        raise InputError(
            f"{source.path}: the autoencoder's weights do not fit its config ({listing(wrong)}): "
            "download both again, or use Load VAE"
        )
    vae = comfy.sd.VAE(sd=weights, config={"params": settings})
    vae.latent_channels = channels
    return vae


def _kind(source: Source) -> str | None:
    kind = None if source.vae_config is None else source.vae_config.get("kind")
    if source.vae_config is not None and kind not in ("space_to_depth", "autoencoder_kl"):
        raise InputError(
            f"{source.path}: autoencoder kind {kind!r} is not known; known: 'autoencoder_kl', 'space_to_depth'"
        )
    return kind


def _space_to_depth(source: Source) -> SpaceToDepthAutoencoder:
    return empty_autoencoder(source)  # it has no weights to be filled in
