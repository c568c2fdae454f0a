"""One checkpoint file of Stable Diffusion 1.x with LDM's names, as ComfyUI keeps it in models/checkpoints.

    ldm.rename("down_blocks.0.resnets.0.conv1.weight", ldm.unet_modules(levels=4, layers=2))
    source = ldm.read(path)     # U-Net, autoencoder and text encoder under today's names

A table of modules, ours to LDM's, holds both ways; what comes behind a module's name is the same in both.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from ..errors import InputError
from ..models import UNetConfig
from .checkpoint import Source, read_unet_config
from .families import ForeignCheckpoint, refuse_foreign
from .files import listing
from .fitting import bare_text_names
from .official_lgvi import todays_attention
from .weights import Weights, open_weights

LAYOUT = "one Stable Diffusion checkpoint file (LDM names)"
UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer."
FAMILIES = ("a Stable Diffusion checkpoint with LDM names", "Stable Diffusion for inpainting with LDM names")
FIRST = UNET + "input_blocks.0.0.weight"  # of the first convolution
NOT_ENCODING = ("text_projection.weight", "logit_scale")  # of CLIP, beside the encoder's own

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
VAE_RESNET = {"norm1": "norm1", "conv1": "conv1", "norm2": "norm2", "conv2": "conv2", "conv_shortcut": "nin_shortcut"}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def unet_modules(levels: int, layers: int, attends: tuple[bool, ...] | None = None) -> dict[str, str]:
    """Modules of a U-Net, our names to LDM's without `model.diffusion_model.`, for `layers` resnets a down block.

    attends: which levels have attention; None: all but the last, as in Stable Diffusion.
    """
    attends = attends or (True,) * (levels - 1) + (False,)
    stride = layers + 1
    table = {
        "conv_in": "input_blocks.0.0",
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "mid_block.attentions.0": "middle_block.1",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
    }
    resnets = {"mid_block.resnets.0": "middle_block.0", "mid_block.resnets.1": "middle_block.2"}
    for level in range(levels):
        down, up = f"down_blocks.{level}", f"up_blocks.{level}"
        up_attends = attends[levels - 1 - level]
        for i in range(layers):
            place = 1 + stride * level + i
            resnets[f"{down}.resnets.{i}"] = f"input_blocks.{place}.0"
            if attends[level]:
                table[f"{down}.attentions.{i}"] = f"input_blocks.{place}.1"
        for i in range(layers + 1):
            place = stride * level + i
            resnets[f"{up}.resnets.{i}"] = f"output_blocks.{place}.0"
            if up_attends:
                table[f"{up}.attentions.{i}"] = f"output_blocks.{place}.1"
        if level + 1 < levels:
            table[f"{down}.downsamplers.0.conv"] = f"input_blocks.{stride * (level + 1)}.0.op"
            table[f"{up}.upsamplers.0.conv"] = f"output_blocks.{stride * level + layers}.{1 + up_attends}.conv"
    return table | _inside(resnets, RESNET)


def vae_modules(levels: int, layers: int) -> dict[str, str]:
    """Modules of an autoencoder, diffusers' names to LDM's without `first_stage_model.`.

    LDM's attention has 1x1 convolutions where diffusers has linear layers: weights (C, C, 1, 1) for (C, C).
    """
    table = {name: name for name in ("quant_conv", "post_quant_conv")}
    resnets = {}
    for side in ("encoder", "decoder"):
        table |= {f"{side}.{name}": f"{side}.{name}" for name in ("conv_in", "conv_out")}
        table[f"{side}.conv_norm_out"] = f"{side}.norm_out"
        table |= _inside({f"{side}.mid_block.attentions.0": f"{side}.mid.attn_1"}, VAE_ATTENTION)
        resnets |= {f"{side}.mid_block.resnets.{i}": f"{side}.mid.block_{i + 1}" for i in range(2)}
    for level in range(levels):
        down, up = f"encoder.down_blocks.{level}", f"decoder.up_blocks.{level}"
        ldm_down, ldm_up = f"encoder.down.{level}", f"decoder.up.{levels - 1 - level}"
        resnets |= {f"{down}.resnets.{i}": f"{ldm_down}.block.{i}" for i in range(layers)}
        resnets |= {f"{up}.resnets.{i}": f"{ldm_up}.block.{i}" for i in range(layers + 1)}
        if level + 1 < levels:
            table[f"{down}.downsamplers.0.conv"] = f"{ldm_down}.downsample.conv"
            table[f"{up}.upsamplers.0.conv"] = f"{ldm_up}.upsample.conv"
    return table | _inside(resnets, VAE_RESNET)


def inverse(modules: Mapping[str, str]) -> dict[str, str]:
    """The table the other way."""
    return {theirs: ours for ours, theirs in modules.items()}


def rename(name: str, modules: Mapping[str, str]) -> str | None:
    """A parameter's name with the module it begins with renamed; None if the table does not know that."""
    parts = name.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:cut])
        if module in modules:
            return ".".join([modules[module], *parts[cut:]])
    return None


def is_ldm(weights: Weights) -> bool:
    """Whether weights have LDM's U-Net among them."""
    return FIRST in weights or f"state_dict.{FIRST}" in weights


def read(path: Path) -> Source:
    """Headers of a checkpoint file, its configs told from the shapes; the tokenizer is not in such a file.

    The U-Net's config is that of an image U-Net, without temporal attention and mask decoder. What neither names nor
    shapes tell is Stable Diffusion 1.5's: 8 heads, groups of 32, the latents' scale. Raises `ForeignCheckpoint` for
    another family and `InputError` for names that are not known or a part that is absent.
    """
    weights = {name.removeprefix("state_dict."): weight for name, weight in open_weights(path).items()}
    try:
        refuse_foreign(path, {}, weights)
    except ForeignCheckpoint as foreign:
        if not is_ldm(weights) or foreign.family not in FAMILIES:
            raise
    if not is_ldm(weights):
        raise InputError(f"{path} has no {FIRST}: it is no Stable Diffusion checkpoint with LDM names")
    parts = {prefix: _below(weights, prefix) for prefix in (UNET, VAE, TEXT)}
    absent = [prefix + "*" for prefix, part in parts.items() if not part]
    if absent:
        raise InputError(f"{path} has no {listing(absent)}: it is no whole checkpoint of Stable Diffusion 1.5")
    unet = _read_unet(path, parts[UNET])
    vae = _read_vae(path, parts[VAE])
    text = {name: weight for name, weight in bare_text_names(parts[TEXT]).items() if name not in NOT_ENCODING}
    return Source(
        LAYOUT,
        path,
        unet_config(unet, str(path)),
        unet,
        vae_config=vae_config(vae, str(path)),
        vae=vae,
        text_config=text_config(text, str(path)),
        text_encoder=text,
        family="stable diffusion",
    )


def unet_config(weights: Weights, where: str) -> UNetConfig:
    """Config of an image U-Net from its weights' shapes; heads and groups are Stable Diffusion 1.5's."""
    levels = _count(r"down_blocks\.(\d+)\.resnets", weights)
    attends = ["CrossAttn" * (f"down_blocks.{i}.attentions.0.norm.weight" in weights) for i in range(levels)]
    attention = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    config = {
        "in_channels": _shape(weights, "conv_in.weight", where)[1],
        "out_channels": _shape(weights, "conv_out.weight", where)[0],
        "block_out_channels": _widths(weights, "down_blocks", levels, where),
        "down_block_types": tuple(kind + "DownBlock3D" for kind in attends),
        "up_block_types": tuple(kind + "UpBlock3D" for kind in reversed(attends)),
        "layers_per_block": _count(r"down_blocks\.0\.resnets\.(\d+)", weights),
        "cross_attention_dim": _shape(weights, attention, where)[1],
        "temp_attn": False,
        "mask_decoder_type": None,
    }
    return read_unet_config(config, where)


def vae_config(weights: Weights, where: str) -> dict:
    """Config of diffusers' AutoencoderKL from its weights' shapes, at Stable Diffusion 1.x' scale."""
    levels = _count(r"encoder\.down_blocks\.(\d+)", weights)
    return {
        "kind": "autoencoder_kl",
        "block_out_channels": list(_widths(weights, "encoder.down_blocks", levels, where)),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "layers_per_block": _count(r"encoder\.down_blocks\.0\.resnets\.(\d+)", weights),
        "latent_channels": _shape(weights, "post_quant_conv.weight", where)[0],
        "scaling_factor": 0.18215,
    }


def text_config(weights: Weights, where: str) -> dict:
    """Config of CLIP's text encoder from its weights' shapes: heads of 64, as in every size of CLIP."""
    tokens, width = _shape(weights, "embeddings.token_embedding.weight", where)
    return {
        "vocab_size": tokens,
        "hidden_size": width,
        "intermediate_size": _shape(weights, "encoder.layers.0.mlp.fc1.weight", where)[0],
        "num_hidden_layers": _count(r"encoder\.layers\.(\d+)", weights),
        "num_attention_heads": max(1, width // 64),
        "max_position_embeddings": _shape(weights, "embeddings.position_embedding.weight", where)[0],
        "hidden_act": "quick_gelu",
        "bos_token_id": tokens - 2,
        "eos_token_id": tokens - 1,
        "pad_token_id": tokens - 1,
    }


def _read_unet(path: Path, weights: Weights) -> Weights:
    resnets = {int(found[1]) for name in weights if (found := re.match(r"input_blocks\.(\d+)\.0\.in_layers\.", name))}
    levels = 1 + sum(name.endswith(".op.weight") for name in weights)
    layers = len(resnets) // levels
    attends = tuple(f"input_blocks.{1 + (layers + 1) * i}.1.norm.weight" in weights for i in range(levels))
    return _renamed(path, UNET, weights, unet_modules(levels, layers, attends))


def _read_vae(path: Path, weights: Weights) -> Weights:
    levels = _count(r"encoder\.down\.(\d+)\.block", weights)
    layers = _count(r"encoder\.down\.0\.block\.(\d+)", weights)
    renamed = _renamed(path, VAE, weights, vae_modules(levels, layers))
    return dict(todays_attention(name, weight) for name, weight in renamed.items())


def _renamed(path: Path, prefix: str, weights: Weights, modules: dict[str, str]) -> Weights:
    table = inverse(modules)
    names = {name: rename(name, table) for name in weights}
    unknown = [prefix + name for name, ours in names.items() if ours is None]
    if unknown:
        raise InputError(f"{path} has weights that Stable Diffusion 1.5 has not: {listing(unknown)}")
    return {names[name]: weight for name, weight in weights.items()}


def _inside(modules: dict[str, str], inner: dict[str, str]) -> dict[str, str]:
    return {f"{ours}.{a}": f"{theirs}.{b}" for ours, theirs in modules.items() for a, b in inner.items()}


def _below(weights: Weights, prefix: str) -> Weights:
    return {name.removeprefix(prefix): weight for name, weight in weights.items() if name.startswith(prefix)}


def _count(pattern: str, weights: Weights) -> int:
    """One more than the largest number that the pattern finds at a name's start."""
    return 1 + max((int(found[1]) for name in weights if (found := re.match(pattern, name))), default=-1)


def _widths(weights: Weights, blocks: str, levels: int, where: str) -> tuple[int, ...]:
    return tuple(_shape(weights, f"{blocks}.{i}.resnets.0.conv1.weight", where)[0] for i in range(levels))


def _shape(weights: Weights, name: str, where: str) -> tuple[int, ...]:
    if name not in weights:
        raise InputError(f"{where} has no {name} (by today's name): it is not whole, or not of Stable Diffusion 1.x")
    return weights[name].shape
