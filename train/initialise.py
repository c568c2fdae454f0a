"""What a run starts from: a model of single images (Stable Diffusion 1.5, the same for inpainting, InstructPix2Pix,
MagicBrush), a checkpoint of LGVI or CoCoCo, or nothing.

What the checkpoint and the config's U-Net share is loaded; the rest is new, and starts so that the U-Net computes what
it did before (LGVI, section 5.1: whole U-Net from MagicBrush, temporal attention with an output of zero; CoCoCo: whole
U-Net from Stable Diffusion for inpainting, motion blocks with an output of zero). Only where AnimateDiff's motion
modules are the motion blocks' first weights, as in CoCoCo, clips move from the start.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from lgvi_core.checkpoints import (
    ForeignCheckpoint,
    Source,
    animatediff,
    cococo,
    ldm,
    open_source,
    stable_diffusion,
)
from lgvi_core.checkpoints.checkpoint import check_prediction
from lgvi_core.checkpoints.files import listing
from lgvi_core.checkpoints.fitting import empty_autoencoder, empty_text_encoder, empty_unet, load_source
from lgvi_core.errors import InputError
from lgvi_core.models import InflatedUNet, UNetConfig
from lgvi_core.models.attention import explicit_product, scaled_dot_product
from lgvi_core.models.autoencoder import autoencoder_from_config
from lgvi_core.models.blocks import start_at_zero
from lgvi_core.models.text_encoder import TextEncoder

from .config import TrainConfig
from .data import synthetic_fill_words
from .data.synthetic import sentences
from .tokenizer import train_clip_tokenizer

# Folders in diffusers' layout to start from, as Hugging Face names them.
PLACES = (
    "to remove: MagicBrush, vinesmsuic/magicbrush-jul7; InstructPix2Pix, timbrooks/instruct-pix2pix; or Stable "
    "Diffusion 1.5, stable-diffusion-v1-5/stable-diffusion-v1-5; to fill: the same for inpainting, "
    "stable-diffusion-v1-5/stable-diffusion-inpainting"
)
MOTION_MODULES = "AnimateDiff's for Stable Diffusion 1.5: mm_sd_v15_v2.ckpt of guoyww/animatediff"
# What an addition to a pretrained U-Net ends in: it starts at zero, as temporal attention does by itself.
ENDS = re.compile(r"(^condition_conv_in|^coordinate_conv_in|^text_embedding\.linear_2|lan_cross_attn\.to_out\.0)$")
FEW_TOKENS = 256


@dataclass
class Start:
    """The networks of a run, its noise schedule (a scheduler's config), and lines that tell where they come from."""

    unet: InflatedUNet
    autoencoder: nn.Module
    text_encoder: TextEncoder
    scheduler: dict
    report: list[str]


def start(config: TrainConfig, weights: bool = True) -> Start:
    """The networks that `config` asks for, in float32 on the CPU; what is new in them depends on the seed alone.

    Without `weights` they are on the meta device, made from configs and headers alone, and everything is checked that
    can be so. Raises `InputError` for a checkpoint that is not there, of another family or damaged, and for names and
    shapes that do not fit the config.
    """
    torch.manual_seed(config.seed)
    device = torch.device("cpu" if weights else "meta")
    return _from_nothing(config, device) if config.initialise is None else _from_checkpoint(config, device)


def quickest_product(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Attention written out where that is faster, on a CPU with few tokens, else PyTorch's own."""
    few = q.device.type == "cpu" and max(q.shape[1], k.shape[1]) <= FEW_TOKENS
    return (explicit_product if few else scaled_dot_product)(q, k, v, heads)


def _from_nothing(config: TrainConfig, device: torch.device) -> Start:
    absent = [part for part in ("unet", "autoencoder", "text_encoder", "scheduler") if not getattr(config, part)]
    if absent:
        raise InputError(f"the config has neither initialise nor {', '.join(absent)}: give a checkpoint or these parts")
    if "hidden_size" not in config.text_encoder:
        raise InputError("text_encoder.hidden_size is missing: the width of the text features")
    fills = any(settings.get("kind") == "synthetic_fill" for settings in config.data.values())
    said = (synthetic_fill_words.examples if fills else sentences)(config.seed, config.tokenizer_sentences)
    files = train_clip_tokenizer(said, config.tokenizer_merges)
    size = len(json.loads(files["vocab.json"]))
    special = {"bos_token_id": size - 2, "eos_token_id": size - 1, "pad_token_id": size - 1}
    with device:
        text_encoder = TextEncoder({**config.text_encoder, "vocab_size": size, **special}, files)
        # With CLIP's own 0.02, what a word is drowns in what its neighbours are: small models read late or never.
        nn.init.normal_(text_encoder.model.get_input_embeddings().weight)
        unet_config = {**config.unet, "cross_attention_dim": config.text_encoder["hidden_size"]}
        unet = InflatedUNet(UNetConfig.from_public(unet_config), attention=quickest_product)
        autoencoder = autoencoder_from_config(config.autoencoder).eval().requires_grad_(False)
    check_prediction(unet.config, config.scheduler, "the config's scheduler")
    report = [
        f"U-Net: new, {millions(unet.state_dict())}",
        f"text encoder: new, {millions(text_encoder.state_dict())}, a vocabulary of {size}",
        f"autoencoder: {config.autoencoder['kind']}",
    ]
    return Start(unet, autoencoder, text_encoder, config.scheduler, report)


def _from_checkpoint(config: TrainConfig, device: torch.device) -> Start:
    path = Path(config.initialise).expanduser()
    source = _open(path)
    for part, given in (("autoencoder", source.vae_config), ("text_encoder", source.text_config)):
        _agree(part, getattr(config, part), given, path)
    scheduler = {**source.scheduler_config, **config.scheduler}
    before, _ = empty_unet(source)
    wanted = wanted_config(source, config.unet)
    if wanted.is_inpainting != before.config.is_inpainting:
        kind, other = ("fills", "removes") if wanted.is_inpainting else ("removes", "fills")
        raise InputError(f"initialise: {path} {other}; a model that {kind} cannot be trained from it")
    check_prediction(wanted, scheduler, f"initialise {path} with the config's scheduler")
    with device:
        unet = InflatedUNet(wanted, attention=quickest_product)
    if device.type == "meta":
        values, autoencoder, text_encoder = before.state_dict(), empty_autoencoder(source), empty_text_encoder(source)
    else:
        loaded = load_source(source, device, torch.float32)
        values, autoencoder, text_encoder = loaded.unet.state_dict(), loaded.vae, loaded.text_encoder
    values = with_condition(values, wanted)
    new = _check_shapes(unet, values, path)
    if config.initialise_motion is not None and any(".motion_modules." in name for name in values):
        raise InputError(f"initialise_motion: {path} has motion blocks of its own; leave initialise_motion out")
    if config.lora is not None and new:
        raise InputError(
            f"lora trains adapters alone, but {path} has no weights for {modules_of(new)}: switch these off under "
            "`unet`, or train the whole first"
        )
    expected = unet.state_dict()
    shared = {name: value for name, value in values.items() if name in expected}
    left = [name for name in values if name not in expected]
    for name, module in unet.named_modules():
        if ENDS.search(name) and f"{name}.weight" in new:
            start_at_zero(module)
    if device.type != "meta":
        unet.load_state_dict(shared, strict=False)
    motion = [] if config.initialise_motion is None else _with_motion(unet, config.initialise_motion)
    report = [
        f"{source.layout}: {path}",
        f"U-Net: {len(shared)} tensors loaded, {millions(shared)}",
        *(f"U-Net: {name} is {now}, not {was}" for name, was, now in _differences(source.unet_config, wanted)),
        *([f"U-Net: new: {modules_of(new)}, {millions({n: expected[n] for n in new})}"] if new else []),
        *([f"U-Net: left over in the checkpoint: {modules_of(left)}"] if left else []),
        *motion,
        *(f"note: {name}: {note}" for name, note in source.notes.items()),
        f"autoencoder: {source.vae_config['kind']}, {millions(autoencoder.state_dict())} loaded",
        f"text encoder: {millions(text_encoder.state_dict())} loaded",
    ]
    return Start(unet, autoencoder.eval().requires_grad_(False), text_encoder, scheduler, report)


def _open(path: Path) -> Source:
    """What is at `path`, with an autoencoder and a text encoder."""
    if not path.exists():
        raise InputError(f"initialise: there is nothing at {path}. Get a folder or file first ({PLACES}), or train one")
    try:
        source = open_source(path)
    except ForeignCheckpoint as foreign:
        if foreign.family not in IMAGE_MODELS:
            raise
        source = IMAGE_MODELS[foreign.family](path)
    parts = {"autoencoder": source.vae_config, "text encoder with its tokenizer": source.text_config}
    absent = [part for part, given in parts.items() if given is None]
    if absent:
        raise InputError(f"initialise: {path} has no {' and no '.join(absent)}; give a checkpoint with every part")
    return source


def _inpainting_folder(path: Path) -> Source:
    return replace(cococo.read_diffusers(path), layout=f"{INPAINTING} (diffusers layout)", family="cococo")


def _file(path: Path) -> Source:
    """One file with LDM's names; the tokenizer is in a folder beside it."""
    source = cococo.read_file(path, path.parent)
    if source.unet_config.is_inpainting:
        return replace(source, family="cococo")
    return replace(stable_diffusion.with_condition(source), family="lgvi")


INPAINTING = "Stable Diffusion for inpainting"
# Models of single images, by family, and what reads them; what they lack of a model of videos is `ADDITIONS`.
IMAGE_MODELS = {
    **dict.fromkeys(stable_diffusion.FAMILIES, stable_diffusion.read),
    **dict.fromkeys(ldm.FAMILIES, _file),
    INPAINTING: _inpainting_folder,
}
ADDITIONS = {
    "lgvi": {"temp_attn": True, "mask_decoder_type": "MaskDecoder"},
    "cococo": {"frame_norm": True, "motion_attention": list(cococo.MOTION)},
}


def fills(path: Path) -> bool:
    """Whether what is at a path fills a mask, rather than removes by words; raises as `start` does."""
    return _open(path).unet_config.is_inpainting


def wanted_config(source: Source, changes: dict) -> UNetConfig:
    """The U-Net's config of a run: the checkpoint's, to a model of images its family's additions, and `changes`."""
    fields = source.unet_config.to_dict()
    if source.layout.startswith((*stable_diffusion.FAMILIES, ldm.LAYOUT)):
        fields |= ADDITIONS[source.family]
    try:
        return UNetConfig.from_public(fields | changes)
    except (InputError, TypeError) as error:
        raise InputError(f"unet, as the config changes {source.path}: {error}") from None


def _with_motion(unet: InflatedUNet, path: str) -> list[str]:
    """Puts AnimateDiff's motion modules into new motion blocks; lines that say what is from there."""
    if not Path(path).expanduser().exists():
        raise InputError(f"initialise_motion: there is nothing at {path}. Get {MOTION_MODULES}, or leave it out")
    return [f"motion: {line}" for line in animatediff.start_from(unet, path)]


def with_condition(values: dict[str, Tensor], wanted: UNetConfig) -> dict[str, Tensor]:
    """A U-Net's weights with the condition entering as `wanted` says; conv([x, c]) = conv_x(x) + conv_c(c).

    Added to concatenated: one convolution over both, the biases summed. Concatenated to added: two convolutions, the
    bias in the first.
    """
    values, first = dict(values), values["conv_in.weight"]
    has_two = "condition_conv_in.weight" in values
    if has_two and not wanted.adds_condition:
        values["conv_in.weight"] = torch.cat([first, values.pop("condition_conv_in.weight")], dim=1)
        values["conv_in.bias"] = values["conv_in.bias"] + values.pop("condition_conv_in.bias")
    elif not has_two and wanted.adds_condition:
        values["conv_in.weight"], values["condition_conv_in.weight"] = first.clone().chunk(2, dim=1)
        values["condition_conv_in.bias"] = torch.zeros_like(values["conv_in.bias"])
    return values


def _check_shapes(unet: InflatedUNet, values: Mapping[str, Tensor], path: Path) -> list[str]:
    """Names that are new; `InputError` names what is of another shape."""
    expected = unet.state_dict()
    other = [
        f"{name} is {tuple(values[name].shape)}, expected {tuple(value.shape)}"
        for name, value in expected.items()
        if name in values and values[name].shape != value.shape
    ]
    if other:
        raise InputError(
            f"initialise: {path} does not fit the config's unet; {len(other)} tensors of another shape: "
            f"{listing(other, 4)}. Under `unet` leave sizes as the checkpoint has them"
        )
    return [name for name in expected if name not in values]


def _agree(part: str, wanted: dict, given: dict, path: Path) -> None:
    """Raises `InputError` if the config states another part than the checkpoint has."""
    other = {name: value for name, value in wanted.items() if given.get(name, value) != value}
    if other:
        listed = ", ".join(f"{part}.{name} is {value!r}, not {given[name]!r}" for name, value in other.items())
        raise InputError(f"initialise: the {part} comes from {path}, and the config differs: {listed}")


def _differences(was: UNetConfig, now: UNetConfig):
    before, after = was.to_dict(), now.to_dict()
    return [(name, before[name], after[name]) for name in before if before[name] != after[name]]


def modules_of(names: list[str]) -> str:
    """Parameter names in few words: the modules they are in, and how often motion blocks and parts of transformers."""
    found: dict[str, set] = {}
    for name in names:
        motion = re.match(r"(.*\.(motion_modules)\.\d+)\.", name)
        inside = motion or re.match(r"(.*\.transformer_blocks\.\d+)\.(\w+)\.", name)
        module, place = (inside[2], inside[1]) if inside else (name.split(".")[0], "")
        found.setdefault(module, set()).add(place)
    return listing([f"{name} ({len(places)} times)" if places != {""} else name for name, places in found.items()])


def millions(values: Mapping[str, Tensor]) -> str:
    return f"{sum(value.numel() for value in values.values()) / 1e6:,.2f} M values"
