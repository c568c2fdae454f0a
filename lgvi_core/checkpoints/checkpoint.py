"""What a checkpoint is: with its weights, and before they are read."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..errors import InputError
from ..models import InflatedUNet, UNetConfig
from ..models.autoencoder import SpaceToDepthAutoencoder, StableDiffusionAutoencoder
from ..models.text_encoder import TextEncoder
from .weights import Weights

# Stable Diffusion 1.5's scheduler_config.json.
SCHEDULER = {
    "_class_name": "PNDMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "clip_sample": False,
    "prediction_type": "epsilon",
}


@dataclass
class Checkpoint:
    """A model ready to run, and how it wants to be run.

    config: the U-Net's. vae, text_encoder: None where the layout has none. scheduler_config: as in diffusers'
    scheduler_config.json. missing: names of the mask decoder's weights if they were absent; then `unet.mask_decoder`
    and `config.mask_decoder_type` are None. training: `width`, `height` (pixels) and `frames` it was trained at.
    sampling: recommended `steps`, `guidance_scale`, `image_guidance_scale` and `scheduler`. notes: any JSON values.
    """

    config: UNetConfig
    unet: InflatedUNet
    vae: SpaceToDepthAutoencoder | StableDiffusionAutoencoder | None = None
    text_encoder: TextEncoder | None = None
    scheduler_config: dict = field(default_factory=lambda: dict(SCHEDULER))
    missing: tuple[str, ...] = ()
    training: dict = field(default_factory=dict)
    sampling: dict = field(default_factory=dict)
    family: str = "lgvi"
    licence: str = "not stated"
    path: Path | None = None
    notes: dict = field(default_factory=dict)

    def check(self, where: str) -> None:
        """Raises `InputError` that begins with `where` if the parts do not go together."""
        config = self.config
        check_prediction(config, self.scheduler_config, where)
        check_family(config, self.family, where)
        if self.vae is not None and self.vae.latent_channels != config.out_channels:
            raise InputError(
                f"{where}: the autoencoder has {self.vae.latent_channels} latent channels, the U-Net "
                f"{config.out_channels}; they are parts of different models"
            )
        if self.text_encoder is not None:
            width = self.text_encoder.model.config.hidden_size
            if width != config.cross_attention_dim:
                raise InputError(
                    f"{where}: the text encoder gives features of width {width}, the U-Net takes "
                    f"{config.cross_attention_dim}; they are parts of different models"
                )


@dataclass
class Source:
    """A checkpoint on disk whose configs and headers are read, and no weights. Names are the modules' own."""

    layout: str
    path: Path
    unet_config: UNetConfig
    unet: Weights
    vae_config: dict | None = None
    vae: Weights = field(default_factory=dict)
    text_config: dict | None = None
    tokenizer_files: dict[str, str] = field(default_factory=dict)
    text_encoder: Weights = field(default_factory=dict)
    scheduler_config: dict = field(default_factory=lambda: dict(SCHEDULER))
    training: dict = field(default_factory=dict)
    sampling: dict = field(default_factory=dict)
    family: str = "lgvi"
    licence: str = "not stated"
    notes: dict = field(default_factory=dict)


def read_unet_config(public: dict, where: str) -> UNetConfig:
    """A U-Net's config from a public config.json or ours; the `InputError` begins with `where`."""
    try:
        return UNetConfig.from_public(public)
    except (InputError, TypeError, ZeroDivisionError) as error:
        raise InputError(f"{where}: {error}") from error


def check_family(config: UNetConfig, family: str, where: str) -> None:
    """Raises `InputError` if the U-Net's input is not that of its family."""
    if config.is_inpainting != (family == "cococo"):
        kind = "fills a masked region" if config.is_inpainting else "takes a condition video"
        raise InputError(
            f"{where}: the family is {family!r}, but the U-Net, with in_channels {config.in_channels}, {kind}; "
            "'cococo' fills masked regions, 'lgvi' takes a condition"
        )


def check_prediction(config: UNetConfig, scheduler_config: dict, where: str) -> None:
    """Raises `InputError` if the U-Net cannot predict what the scheduler expects."""
    prediction = scheduler_config.get("prediction_type")
    known = ("epsilon", "v_prediction", "sample")
    if prediction not in known:
        raise InputError(f"{where}: prediction_type is {prediction!r}; allowed: {', '.join(known)}")
    if config.gate and prediction != "sample":
        raise InputError(
            f"{where}: the U-Net has gate true, so it predicts the sample, but the scheduler's prediction_type is "
            f"{prediction!r}; it must be 'sample'"
        )
