"""Stable Diffusion 1.5 and InstructPix2Pix (MagicBrush) folders as diffusers saves them: what LGVI is trained from.

No layout of `checkpoints.load`: they edit no video. They are read as a U-Net without LGVI's additions that computes the
same.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputError
from .checkpoint import Source, read_unet_config
from .families import ForeignCheckpoint, refuse_foreign
from .files import read_json
from .official_lgvi import read_parts
from .unet_folder import STEMS
from .weights import Weight, Weights, open_folder, place

FAMILIES = ("InstructPix2Pix", "Stable Diffusion")

# Flags of a flat U-Net's config that have one possible value here, beside those of an inflated one.
FIXED = {
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "transformer_layers_per_block": 1,
    "resnet_out_scale_factor": 1.0,
    "time_embedding_type": "positional",
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "attention_type": "default",
    "addition_embed_type_num_heads": 64,
}


def read(path: Path) -> Source:
    """Configs and headers of a folder with unet, vae, text_encoder, tokenizer and scheduler in it.

    Its first convolution is as `with_condition` says. Raises `InputError` for a folder of another family, or without
    the parts that are needed.
    """
    folder = path / "unet"
    if not (folder / "config.json").is_file():
        raise InputError(f"{path} has no unet/config.json; give the whole folder, with its vae and text encoder")
    public = read_json(folder / "config.json")
    weights = open_folder(folder, STEMS)
    family = family_of(folder, public, weights)
    source = Source(f"{family} (diffusers layout)", path, inflated_config(public, folder / "config.json"), weights)
    read_parts(source)
    if source.vae_config is None or source.text_config is None:
        raise InputError(f"{path} must have vae, text_encoder and tokenizer folders beside unet")
    return with_condition(source)


def with_condition(source: Source) -> Source:
    """A source of Stable Diffusion or InstructPix2Pix whose first convolution takes LGVI's condition.

    A U-Net of four input channels gets a `condition_conv_in` of zeros. One of eight was trained on the video's latents
    before scaling; LGVI gives it scaled ones, so that part of its first convolution is divided by the scale.
    """
    weights = source.unet
    first = weights.get("conv_in.weight")
    if first is None:
        raise InputError(f"{place(weights)} has no conv_in.weight: it is no U-Net that LGVI can start from")
    if source.unet_config.adds_condition:
        return replace(source, unet={**weights, **zeros_like(first, "condition_conv_in")})
    scale = source.vae_config.get("scaling_factor", 0.18215)
    return replace(
        source,
        unet={**weights, "conv_in.weight": for_scaled_condition(first, scale)},
        notes={"condition": f"conv_in's weights of the video divided by {scale:g}: LGVI's latents are scaled"},
    )


def family_of(folder: Path, public: dict, weights: Weights) -> str:
    """The family that config and weights are of; `ForeignCheckpoint` if it is none that training starts from."""
    try:
        refuse_foreign(folder, public, weights)
    except ForeignCheckpoint as foreign:
        if foreign.family not in FAMILIES:
            raise
        return foreign.family
    raise InputError(f"{folder} is neither Stable Diffusion nor InstructPix2Pix")


def inflated_config(public: dict, where: Path):
    """LGVI's config of a flat U-Net: the inflated names of its blocks, no temporal attention and no mask decoder."""
    known = {name: value for name, value in public.items() if name not in FIXED or value != FIXED[name]}
    for name in ("down_block_types", "up_block_types"):
        if isinstance(public.get(name), list):
            known[name] = [str(kind).replace("2D", "3D") for kind in public[name]]
    return read_unet_config({**known, "temp_attn": False, "mask_decoder_type": None}, str(where))


def zeros_like(first: Weight, name: str) -> Weights:
    """A convolution of zeros of the shape of `first`."""

    def zeros(*shape):
        return replace(first, shape=shape, read=lambda: torch.zeros(shape))

    return {f"{name}.weight": zeros(*first.shape), f"{name}.bias": zeros(first.shape[0])}


def for_scaled_condition(first: Weight, scale: float) -> Weight:
    """The first convolution with the second half of its input channels divided by `scale`."""

    def read() -> Tensor:
        noisy, condition = first.read().float().chunk(2, dim=1)
        return torch.cat([noisy, condition / scale], dim=1)

    return replace(first, read=read)
