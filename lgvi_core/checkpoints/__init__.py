"""Checkpoints on disk: recognised by what is in them, checked before they are read, saved as one file.

    checkpoint = load("lgvi/")              # a public folder, LGVI's or CoCoCo's, a U-Net's folder, or a file of ours
    checkpoint = load("cococo/", base="sd-v1-5-inpainting.safetensors")
    save(checkpoint, "lgvi.safetensors", dtype=torch.float16)
    encoder = load_request_encoder("lgvi-i/", base="llava-1.5-7b-hf/")      # what reads requests, beside LGVI-I's U-Net

There is one module per layout, each with `matches(path)` and `read(path)`, which reads configs and headers only.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from ..errors import InputError
from . import cococo, native, official_lgvi, unet_folder
from .checkpoint import SCHEDULER, Checkpoint, Source
from .families import ForeignCheckpoint, refuse_file, refuse_folder
from .files import listing
from .fitting import load_source, usable_device
from .llava import load_request_encoder
from .summary import Summary, summarise

__all__ = [
    "SCHEDULER",
    "Checkpoint",
    "ForeignCheckpoint",
    "Source",
    "Summary",
    "describe",
    "inspect",
    "load",
    "load_request_encoder",
    "open_source",
    "save",
]

LAYOUTS = (native, cococo, official_lgvi, unet_folder)
Pathlike = str | os.PathLike


def load(
    path: Pathlike,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    base: Pathlike | None = None,
) -> Checkpoint:
    """The checkpoint at `path`, in eval mode on `device`, every part in `dtype`.

    base: for CoCoCo's shards, where Stable Diffusion 1.5 for inpainting is if not in their folder. Without a `dtype`
    each part keeps the widest type of its weights; only float16 becomes float32 on a CPU.
    Raises `InputError` for a path that is no LGVI checkpoint (`ForeignCheckpoint` if it is recognised as another
    model), and for one that is damaged, incomplete or does not fit its config; only the mask decoder may be absent.
    Names and shapes are checked before any weights are read.
    """
    return load_source(open_source(path, base), usable_device(device), dtype)


def save(checkpoint: Checkpoint, path: Pathlike, dtype: torch.dtype | None = None) -> None:
    """Writes a checkpoint as one safetensors file, its weights as `dtype` (float16 to ship it) or as they are.

    The same checkpoint gives the same bytes. What was at `path` stays until the new file is complete. Raises
    `InputError` for weights that are not finite, parts that do not go together, or a path that cannot be written.
    """
    native.save(checkpoint, Path(path).expanduser(), dtype)


def inspect(path: Pathlike, base: Pathlike | None = None) -> Summary:
    """What is at `path`, from configs and headers alone; `InputError` as from `load` where these show the fault."""
    return summarise(open_source(path, base))


def describe(path: Pathlike, base: Pathlike | None = None) -> str:
    """What is at `path`, as lines for a person; says what it is, too, if it is a known model of another family."""
    try:
        return str(inspect(path, base))
    except ForeignCheckpoint as foreign:
        return f"Not an LGVI checkpoint: {foreign.path}\n  it is   {foreign.family}\n  hint    {foreign.hint}"


def open_source(path: Pathlike, base: Pathlike | None = None) -> Source:
    """What is at `path`: its configs, and its weights to be read one by one; `InputError` as from `load`.

    No network is built. `fitting` has what checks a source's names and reads its values.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise InputError(f"there is no checkpoint at {path}: no such file or folder")
    for layout in LAYOUTS:
        if layout.matches(path):
            if base is None:
                return layout.read(path)
            if layout is cococo:
                return cococo.read(path, Path(base).expanduser())
            raise InputError(f"{path} is whole, it takes no base; a base is for the folder of CoCoCo's shards")
    if path.is_file():
        refuse_file(path)
    inside = [str(entry) for entry in sorted(path.iterdir()) if any(layout.matches(entry) for layout in LAYOUTS)]
    if inside:
        raise InputError(f"{path} is no checkpoint itself; give what is in it: {listing(inside)}")
    refuse_folder(path)
