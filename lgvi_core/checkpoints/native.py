"""Our own layout: one safetensors file with everything in it, configs and tokenizer as JSON in the metadata."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from ..errors import InputError
from .checkpoint import Checkpoint, Source, read_unet_config
from .files import half_downloaded, listing
from .fitting import bare_text_names
from .weights import open_safetensors, read_metadata
from .writing import write_safetensors

FORMAT = "lgvi"
VERSION = 1
FAMILIES = ("lgvi", "cococo")
LAYOUT = "one lgvi safetensors file"

# Prefix of a part's tensors, and where its config is.
CONFIG_OF = {"unet": "unet_config", "vae": "autoencoder_config", "text_encoder": "text_encoder_config"}

# Of what kind each entry of the metadata is, beside format and version; None where a part may be absent.
KINDS = {
    "family": (str,),
    "licence": (str,),
    "unet_config": (dict,),
    "autoencoder_config": (dict, type(None)),
    "text_encoder_config": (dict, type(None)),
    "tokenizer": (dict,),
    "scheduler_config": (dict,),
    "training": (dict,),
    "sampling": (dict,),
    "notes": (dict,),
}


def matches(path: Path) -> bool:
    """Whether a safetensors file says in its metadata that it is ours."""
    return path.is_file() and read_metadata(path).get("format") == FORMAT


def read(path: Path) -> Source:
    """Metadata and header; `InputError` names the entry that cannot be used, or weights that nothing describes."""
    metadata = _parsed(path, read_metadata(path))
    parts = {part: {} for part, config in CONFIG_OF.items() if metadata[config] is not None}
    foreign = []
    for name, weight in open_safetensors(path).items():
        part, _, inner = name.partition(".")
        if part in parts:
            parts[part][inner] = weight
        else:
            foreign.append(name)
    if foreign:
        raise InputError(f"{path} has weights that its metadata does not describe: {listing(foreign)}")
    return Source(
        f"{LAYOUT}, version {metadata['version']}",
        path,
        read_unet_config(metadata["unet_config"], f"{path}: unet_config in its metadata"),
        parts["unet"],
        vae_config=metadata["autoencoder_config"],
        vae=parts.get("vae", {}),
        text_config=metadata["text_encoder_config"],
        tokenizer_files=metadata["tokenizer"],
        text_encoder=bare_text_names(parts.get("text_encoder", {})),
        **{name: metadata[name] for name in ("scheduler_config", "training", "sampling", "family", "licence", "notes")},
    )


def save(checkpoint: Checkpoint, path: Path, dtype: torch.dtype | None) -> None:
    """Writes a checkpoint; `InputError` as from `checkpoints.save`."""
    checkpoint.check(str(path))
    if checkpoint.unet.config != checkpoint.config:
        raise InputError(f"{path}: the checkpoint's config is not its U-Net's: {checkpoint.config}")
    if checkpoint.family not in FAMILIES:
        raise InputError(f"{path}: family is {checkpoint.family!r}; allowed: {', '.join(FAMILIES)}")
    vae, text_encoder = checkpoint.vae, checkpoint.text_encoder
    values = {
        "family": checkpoint.family,
        "licence": checkpoint.licence,
        "unet_config": checkpoint.config.to_dict(),
        "autoencoder_config": None if vae is None else vae.config,
        "text_encoder_config": None if text_encoder is None else text_encoder.config,
        "tokenizer": {} if text_encoder is None else text_encoder.tokenizer_files,
        "scheduler_config": checkpoint.scheduler_config,
        "training": checkpoint.training,
        "sampling": checkpoint.sampling,
        "notes": checkpoint.notes,
    }
    metadata = {"format": FORMAT, "version": str(VERSION)}
    for name, value in values.items():
        _check_kind(path, name, value)
        metadata[name] = value if KINDS[name] == (str,) else json.dumps(value, ensure_ascii=False)
    tensors = {f"unet.{name}": value for name, value in checkpoint.unet.state_dict().items()}
    if hasattr(vae, "vae"):
        tensors |= {f"vae.{name}": value for name, value in vae.vae.state_dict().items()}
    if text_encoder is not None:
        bare = bare_text_names(text_encoder.model.state_dict())
        tensors |= {f"text_encoder.text_model.{name}": value for name, value in bare.items()}
    write_safetensors(path, tensors, metadata, dtype)


def _parsed(path: Path, metadata: dict[str, str]) -> dict:
    """Metadata as values; `InputError` for another version or family, or an entry that is absent or of a wrong kind."""
    version = metadata.get("version", "none")
    if not version.isdecimal() or not 1 <= int(version) <= VERSION:
        raise InputError(
            f"{path} has version {version} of the lgvi checkpoint format; this program reads up to {VERSION}. "
            "Update lgvi, or save the checkpoint with the older one"
        )
    parsed = {"version": version}
    for name, kinds in KINDS.items():
        try:
            parsed[name] = metadata[name] if kinds == (str,) else json.loads(metadata[name])
        except (KeyError, ValueError) as error:
            raise half_downloaded(path, f"{name} in its metadata cannot be read ({error})") from error
        _check_kind(path, name, parsed[name])
    if parsed["family"] not in FAMILIES:
        raise InputError(f"{path} is of the family {parsed['family']!r}; this program reads: {', '.join(FAMILIES)}")
    return parsed


def _check_kind(path: Path, name: str, value) -> None:
    if not isinstance(value, KINDS[name]):
        raise InputError(f"{path}: {name} of the metadata is {value!r}; expected {KINDS[name][0].__name__}")
