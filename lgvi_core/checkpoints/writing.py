"""Writing a safetensors file: the same input gives the same bytes, and a file is whole or not there."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputError
from .files import listing
from .fitting import finite
from .weights import DTYPES

CODES = {dtype: code for code, dtype in DTYPES.items()}
INTEGERS = {torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8"}


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
    layout = {name: (tuple(tensor.shape), types[name]) for name, tensor in tensors.items()}
    write_streamed(path, layout, metadata, lambda name: tensors[name].detach().to("cpu", types[name]))


def write_streamed(
    path: Path,
    layout: dict[str, tuple[tuple[int, ...], torch.dtype]],
    metadata: dict[str, str],
    value: Callable[[str], Tensor],
) -> None:
    """Writes tensors that `value(name)` gives one by one, of the shapes and types in `layout`; else as above.

    Whole numbers may be among them. Whatever `value` raises leaves nothing behind.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder; give a file name")
    if not path.parent.is_dir():
        raise InputError(f"{path} cannot be written: there is no folder {path.parent}")

    names = sorted(layout, key=lambda name: (-layout[name][1].itemsize, name))  # widest first keeps all aligned
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(_header(names, layout, metadata))
            for name in names:
                file.write(value(name).contiguous().flatten().view(torch.uint8).numpy())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _header(names: list[str], layout: dict, metadata: dict[str, str]) -> bytes:
    """Length and JSON, padded to a multiple of eight bytes: https://github.com/huggingface/safetensors#format."""
    header, end = {"__metadata__": metadata}, 0
    for name in names:
        shape, dtype = layout[name]
        start, end = end, end + math.prod(shape) * dtype.itemsize
        code = CODES.get(dtype) or INTEGERS[dtype]
        header[name] = {"dtype": code, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
