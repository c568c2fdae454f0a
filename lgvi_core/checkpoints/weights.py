"""Weight files: names, shapes and types at once, values when asked for."""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import InputError
from .files import half_downloaded, listing, read_json, recognise

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class Weight:
    """One tensor of a file; `read()` gives its value on the CPU. `dtype` is a plain name if it is none of `DTYPES`."""

    file: Path
    shape: tuple[int, ...]
    dtype: torch.dtype | str
    read: Callable[[], Tensor]


Weights = dict[str, Weight]


def open_weights(path: Path) -> Weights:
    """The tensors of a safetensors or PyTorch file by name, recognised by content. Values stay on the disk.

    Raises `InputError` for a file that is cut off or no weight file, and for a pickle that carries code.
    """
    return open_safetensors(path) if recognise(path) == "safetensors" else open_pickle(path)


def open_safetensors(path: Path) -> Weights:
    try:
        safe_open(path, "pt")  # checks the whole header against the file's size
    except (SafetensorError, OSError) as error:
        raise half_downloaded(path, str(error)) from error
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))

    def weight(entry: dict) -> Weight:
        shape, dtype = tuple(entry["shape"]), DTYPES.get(entry["dtype"], entry["dtype"])
        start, end = (8 + length + offset for offset in entry["data_offsets"])
        return Weight(path, shape, dtype, partial(_read, path, start, end, shape, dtype))

    return {name: weight(entry) for name, entry in header.items() if name != "__metadata__"}


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file; empty if it has none, or is damaged or no safetensors file."""
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError):
        return {}


def _read(path: Path, start: int, end: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor in memory of its own: one mapped to the file is not aligned, and kernels round differently on it."""
    tensor = torch.empty(shape, dtype=dtype, device="cpu")
    with path.open("rb") as file:
        file.seek(start)
        if file.readinto(tensor.flatten().view(torch.uint8).numpy()) != end - start:
            raise half_downloaded(path, "it ended before its last tensor")
    return tensor


def open_pickle(path: Path) -> Weights:
    """The tensors of a PyTorch file, names of nested dicts joined with dots. No code in it is ever run."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        what = f"it asks for {found[1]}" if found else "it holds more than tensors"
        raise InputError(
            f"{path} is refused: {what}, and reading such a pickle can run code hidden in it. "
            "Get these weights as .safetensors, or as a .bin file of tensors alone"
        ) from error
    except Exception as error:  # a damaged archive fails in any way
        said = re.split(r"[.\n]\s", str(error))[0] or type(error).__name__  # what PyTorch guesses behind it is long
        raise half_downloaded(path, f"PyTorch cannot read it ({said})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}; expected tensors by name")
    return {name: _in_memory(path, tensor) for name, tensor in _flat(content)}


def open_folder(folder: Path, stems: tuple[str, ...]) -> Weights:
    """The weights of one part: `stem`.safetensors or `stem`.bin, whole or in the shards that its index names.

    Raises `InputError` if there are none, or a shard is not there.
    """
    for stem in stems:
        for ending in (".safetensors", ".bin"):
            whole, index = folder / (stem + ending), folder / f"{stem}{ending}.index.json"
            if whole.is_file():
                return open_weights(whole)
            if index.is_file():
                return _open_shards(index)
    wanted = " or ".join(f"{stem}.{{safetensors,bin}}" for stem in stems[:2])
    raise half_downloaded(folder, f"it has no weights ({wanted}, whole or with an .index.json)")


def place(weights: Weights) -> str:
    """The file that weights come from, or the folder of their files."""
    files = sorted({weight.file for weight in weights.values()})
    return str(files[0]) if len(files) == 1 else str(files[0].parent)


def _open_shards(index: Path) -> Weights:
    files = read_json(index).get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(file, str) for file in files.values()):
        raise half_downloaded(index, "its weight_map is not a list of files by name")
    shards = sorted(set(files.values()))
    foreign = [shard for shard in shards if Path(shard).name != shard or "\\" in shard]
    if foreign:
        raise InputError(f"{index} points outside its folder: {listing(foreign)}; shards must lie beside it")
    absent = [shard for shard in shards if not (index.parent / shard).is_file()]
    if absent:
        raise half_downloaded(index.parent, f"{index.name} names shards that are not there: {listing(absent)}")
    weights = {}
    for shard in shards:
        weights.update(open_weights(index.parent / shard))
    lost = [name for name in files if name not in weights]
    if lost:
        raise half_downloaded(index.parent, f"{index.name} names weights that its shards lack: {listing(lost)}")
    return weights


def _in_memory(path: Path, tensor: Tensor) -> Weight:
    dtype = tensor.dtype if tensor.dtype in DTYPES.values() else str(tensor.dtype).removeprefix("torch.")
    own = partial(torch.clone, tensor.detach(), memory_format=torch.contiguous_format)  # not mapped, as in `_read`
    return Weight(path, tuple(tensor.shape), dtype, own)


def _flat(content: dict, prefix: str = ""):
    for name, value in content.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, Tensor):
            yield f"{prefix}{name}", value
