"""Checkpoints on disk: recognised by what is in them, checked before they are read, saved as one file.

    checkpoint = load("lgvi/")              # the public folder, a U-Net's folder, or a file of ours
    save(checkpoint, "lgvi.safetensors", dtype=torch.float16)

There is one module per layout, each with `matches(path)` and `read(path)`, which reads configs and headers only.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from ..errors import InputError
from . import native, official_lgvi, unet_folder
from .checkpoint import SCHEDULER, Checkpoint, Source
from .families import ForeignCheckpoint, refuse_file, refuse_folder
from .files import listing
from .fitting import load_source
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
    "open_source",
    "save",
]

LAYOUTS = (native, official_lgvi, unet_folder)


def load(
    path: str | os.PathLike, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> Checkpoint:
    """The checkpoint at `path`, in eval mode on `device`, every part in `dtype`.

    Without a `dtype` each part keeps the widest type of its weights; only float16 becomes float32 on a CPU.
    Raises `InputError` for a path that is no LGVI checkpoint (`ForeignCheckpoint` if it is recognised as another
    model), and for one that is damaged, incomplete or does not fit its config; only the mask decoder may be absent.
    Names and shapes are checked before any weights are read.
    """
    try:
        device = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {str(device)!r} cannot be used on this computer: {error}") from error
    return load_source(open_source(path), device, dtype)


def save(checkpoint: Checkpoint, path: str | os.PathLike, dtype: torch.dtype | None = None) -> None:
    """Writes a checkpoint as one safetensors file, its weights as `dtype` (float16 to ship it) or as they are.

    The same checkpoint gives the same bytes. What was at `path` stays until the new file is complete. Raises
    `InputError` for weights that are not finite, parts that do not go together, or a path that cannot be written.
    """
    native.save(checkpoint, Path(path).expanduser(), dtype)


def inspect(path: str | os.PathLike) -> Summary:
    """What is at `path`, from configs and headers alone; `InputError` as from `load` where these show the fault."""
    return summarise(open_source(path))


def describe(path: str | os.PathLike) -> str:
    """What is at `path`, as lines for a person; says what it is, too, if it is a known model of another family."""
    try:
        return str(inspect(path))
    except ForeignCheckpoint as foreign:
        return f"Not an LGVI checkpoint: {foreign.path}\n  it is   {foreign.family}\n  hint    {foreign.hint}"


def open_source(path: str | os.PathLike) -> Source:
    """What is at `path`: its configs, and its weights to be read one by one; `InputError` as from `load`.

    No network is built. `fitting` has what checks a source's names and reads its values.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise InputError(f"there is no checkpoint at {path}: no such file or folder")
    for layout in LAYOUTS:
        if layout.matches(path):
            return layout.read(path)
    if path.is_file():
        refuse_file(path)
    inside = [str(entry) for entry in sorted(path.iterdir()) if any(layout.matches(entry) for layout in LAYOUTS)]
    if inside:
        raise InputError(f"{path} is no checkpoint itself; give what is in it: {listing(inside)}")
    refuse_folder(path)
