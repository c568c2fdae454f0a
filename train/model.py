"""The parts that train together, and what is made of them."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lgvi_core.checkpoints import Checkpoint
from lgvi_core.errors import InputError
from lgvi_core.inpaint import LANGUAGE_MODEL
from lgvi_core.models import InflatedUNet
from lgvi_core.models.text_encoder import TextEncoder

from . import initialise, lora
from .config import TrainConfig
from .recognition import Recognition


class Model(nn.Module):
    """U-Net, text encoder and heads, with the noise schedule they are for (`scheduler`, a scheduler's config).

    A text encoder that does not train is an attribute like any other: no part of what is wrapped, sharded or saved.
    """

    def __init__(
        self,
        unet: InflatedUNet,
        text_encoder: TextEncoder,
        recognition: Recognition | None = None,
        scheduler: dict | None = None,
    ):
        super().__init__()
        self.unet = unet
        self.recognition = recognition
        self.scheduler = scheduler
        if any(p.requires_grad for p in text_encoder.parameters()):
            self.text_encoder = text_encoder
        else:
            object.__setattr__(self, "text_encoder", text_encoder.eval())

    def forward(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        text: Tensor,
        inputs: dict[str, Tensor],
        labels: tuple[Tensor, Tensor, Tensor] | None = None,
        with_mask: bool = True,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The prediction (B, C, T, h, w), the mask's probability (B, 1, T, ph, pw), the loss of the heads.

        text: token ids (B, N), or features (B, N, D). inputs: the U-Net's condition, or its mask and masked_video.
        labels: owners, facts and mentions of `train.recognition`. The mask is None without `with_mask`, the loss
        without labels.
        """
        if text.ndim == 2:
            text = self.text_encoder(text)
        watching = contextlib.nullcontext() if labels is None else self.recognition.watch(self.unet)
        with watching as outputs:
            prediction = self.unet(noisy, timesteps, text, **inputs, return_mask=with_mask)
        prediction, probability = prediction if with_mask else (prediction, None)
        return prediction, probability, None if labels is None else self.recognition(outputs, text, *labels)


@dataclass
class Parts:
    """What a run is made of; `report` has lines on what was loaded and what is new."""

    model: Model
    autoencoder: nn.Module
    report: list[str]


def build(config: TrainConfig, weights: bool = True) -> Parts:
    """Model and autoencoder as the config says, on the CPU; what is new depends on the seed alone.

    Without `weights` they are made from configs and headers alone, on the meta device.

    Raises `InputError` for a config whose parts do not go together.
    """
    if config.lora is not None and (config.train_text_encoder or config.trainable):
        raise InputError("lora trains its adapters alone: leave out train_text_encoder and trainable")
    torch.manual_seed(config.seed)
    start = initialise.start(config, weights)
    unet = start.unet
    unet.gradient_checkpointing = config.gradient_checkpointing
    if config.request_encoder is not None:
        from .talk_model import with_language  # whose model is a `Model`

        return with_language(config, start, weights)
    choose_trainable(unet, config)
    start.text_encoder.requires_grad_(config.train_text_encoder)
    start.autoencoder.eval().requires_grad_(False)
    recognition = Recognition(unet, config.recognition.blocks) if config.recognition.blocks else None
    return Parts(Model(unet, start.text_encoder, recognition, start.scheduler), start.autoencoder, start.report)


def choose_trainable(unet: InflatedUNet, config: TrainConfig) -> None:
    """Has those parameters of the U-Net require gradients that the config trains, or adds adapters to it."""
    if config.lora is not None:
        lora.add(unet, config.lora)
    elif config.trainable:
        names = [name for name, _ in unet.named_parameters()]
        chosen = {name for name in names if re.search(config.trainable, name)}
        if not chosen:
            raise InputError(f"trainable is {config.trainable!r}, which matches none of the U-Net's parameters")
        for name, parameter in unet.named_parameters():
            parameter.requires_grad_(name in chosen)


def checkpoint_of(model: Model, autoencoder: nn.Module, config: TrainConfig) -> Checkpoint:
    """The trained parts as a checkpoint that `lgvi_core` loads."""
    return Checkpoint(
        config=model.unet.config,
        unet=model.unet,
        vae=autoencoder,
        text_encoder=model.text_encoder,
        scheduler_config=model.scheduler,
        training=config.training_size,
        sampling=config.sampling,
        licence=config.licence,
        family="cococo" if model.unet.config.is_inpainting else "lgvi",
        notes={} if config.request_encoder is None else {LANGUAGE_MODEL: "trained with it, and written beside it"},
    )
