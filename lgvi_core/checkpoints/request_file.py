"""A whole request encoder as one safetensors file: LLaVA, head and tokenizer, for models too small for a folder.

    save(encoder, "requests.safetensors", dtype=torch.float16)
    encoder = checkpoints.load_request_encoder("requests.safetensors")

Weights have the names of today's transformers; the config, the instruction and the tokenizer are in the metadata. So is
a mark of the U-Net that the encoder was trained to steer: with another one, its words go through CLIP.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputError
from ..models import InflatedUNet, RequestEncoder
from .files import half_downloaded
from .llava_names import HEAD, todays_name
from .weights import Weights, open_safetensors, read_metadata
from .writing import write_safetensors

FORMAT, VERSION = "lgvi request encoder", 1
MARKED = ("conv_in.weight", "conv_out.weight")  # of a U-Net; no training leaves them as they are


def matches(path: Path) -> bool:
    """Whether a safetensors file says in its metadata that it is a request encoder."""
    return path.is_file() and read_metadata(path).get("format") == FORMAT


def read(path: Path) -> dict:
    """The fields of a `llava.LlavaSource`; `InputError` for another version, or metadata that cannot be used."""
    metadata = read_metadata(path)
    if metadata.get("version") != str(VERSION):
        raise InputError(
            f"{path} has version {metadata.get('version', 'none')} of the request encoder's format; this program reads "
            f"{VERSION}. Update lgvi, or train it again"
        )
    try:
        config, prompt = json.loads(metadata["config"]), metadata["system_prompt"]
        tokenizer = base64.b64decode(metadata["tokenizer"], validate=True)
    except (KeyError, ValueError) as error:
        raise half_downloaded(path, f"its metadata cannot be read ({error})") from error
    weights = open_safetensors(path)
    head = {name.removeprefix(HEAD): weights.pop(name) for name in list(weights) if name.startswith(HEAD)}
    if "2.weight" not in head:
        raise half_downloaded(path, "it has no head")
    return {
        "path": path,
        "config": config,
        "weights": weights,
        "head": head,
        "tokenizer_model": tokenizer,
        "system_prompt": prompt,
    }


def save(
    encoder: RequestEncoder,
    path: Path,
    unet: InflatedUNet | None = None,
    dtype: torch.dtype | None = None,
    values: Mapping[str, Tensor] | None = None,
    licence: str = "not stated",
) -> None:
    """Writes a request encoder, its weights as `dtype` or as they are; raises as `writing.write_safetensors`.

    unet: the one it steers, as it will be used. values: in the place of LLaVA's own state (adapters merged into it).
    """
    llava = encoder.llava.state_dict() if values is None else values
    tensors = {todays_name(name): value for name, value in llava.items() if todays_name(name) is not None}
    tensors |= {HEAD + name: value for name, value in encoder.head.state_dict().items()}
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "config": json.dumps(encoder.config),
        "system_prompt": encoder.system_prompt,
        "tokenizer": base64.b64encode(encoder.tokenizer.model).decode(),
        "steers": "" if unet is None else mark(unet.state_dict()),
        "licence": licence,
    }
    write_safetensors(path, tensors, metadata, dtype)


def steers(path: Path, unet: Mapping[str, Tensor] | Weights) -> bool:
    """Whether the encoder in a file was trained to steer the U-Net of these weights (`Source.unet`, or a state)."""
    return steered(path) == mark(unet)


def steered(path: Path) -> str:
    """The mark of the U-Net that the encoder in a file was trained to steer; "" for none."""
    return read_metadata(path).get("steers", "")


def mark(unet: Mapping[str, Tensor] | Weights) -> str:
    """What a U-Net is known by: a hash of its first and last weights in half precision."""
    digest = hashlib.sha256()
    for name in MARKED:
        value = unet[name] if isinstance(unet[name], Tensor) else unet[name].read()
        digest.update(value.detach().to("cpu", torch.float16).contiguous().numpy().tobytes())
    return digest.hexdigest()
