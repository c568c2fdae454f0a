"""Writing a safetensors file: the same input gives the same bytes, and a file is whole or not there."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputError
from .files import listing
from .fitting import finite
from .weights import DTYPES

CODES = {dtype: code for code, dtype in DTYPES.items()}


def write_safetensors(
    path: Path, tensors: dict[str, Tensor], metadata: dict[str, str], dtype: torch.dtype | None
) -> None:
    """Writes tensors (as `dtype`, or as they are) and metadata to `path`, in place of what is there.

    The file is written under another name beside it and renamed when complete, so an interruption leaves what was
    there. (safetensors' own writer puts metadata in random order.) Raises `InputError` that names tensors which are
    not finite or of a type not in `DTYPES`, or if the file cannot be written.
    """
    types = {name: dtype or tensor.dtype for name, tensor in tensors.items()}
    refused = [f"{name} ({kind})" for name, kind in types.items() if kind not in CODES]
    if refused:
        raise InputError(f"{path} is not saved: of a type that is none of {', '.join(DTYPES)}: {listing(refused)}")
    broken = [name for name, tensor in tensors.items() if not finite(tensor.detach().to(types[name]))]
    if broken:
        raise InputError(f"{path} is not saved: NaN or infinite values in {len(broken)} tensors: {listing(broken)}")
    if path.is_dir():
        raise InputError(f"{path} is a folder; give a file name")
    if not path.parent.is_dir():
        raise InputError(f"{path} cannot be written: there is no folder {path.parent}")

    names = sorted(tensors, key=lambda name: (-types[name].itemsize, name))  # widest first keeps all aligned
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(_header(names, tensors, types, metadata))
            for name in names:
                value = tensors[name].detach().to("cpu", types[name]).contiguous()
                file.write(value.flatten().view(torch.uint8).numpy())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _header(names: list[str], tensors: dict[str, Tensor], types: dict, metadata: dict[str, str]) -> bytes:
    """Length and JSON, padded to a multiple of eight bytes: https://github.com/huggingface/safetensors#format."""
    header, end = {"__metadata__": metadata}, 0
    for name in names:
        start, end = end, end + tensors[name].numel() * types[name].itemsize
        header[name] = {"dtype": CODES[types[name]], "shape": list(tensors[name].shape), "data_offsets": [start, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
