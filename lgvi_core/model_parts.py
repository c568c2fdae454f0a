"""Image and video models on disk as U-Net, text encoder and autoencoder under diffusers' names, to be merged.

Read are a file with LDM names (a ComfyUI checkpoint), a folder as diffusers saves one, and a file of ours. Nothing but
headers is read before a tensor is asked for.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NoReturn

import torch
from safetensors import safe_open
from torch import Tensor

from .checkpoints import ldm, native
from .checkpoints.families import FAMILIES, facts_of
from .checkpoints.files import listing, recognise
from .checkpoints.official_lgvi import TEXT_STEMS, todays_attention
from .checkpoints.unet_folder import STEMS
from .checkpoints.weights import Weight, Weights, open_folder, open_weights, read_metadata
from .checkpoints.writing import INTEGERS, write_streamed
from .errors import InputError

PARTS = ("unet", "text", "vae")
FOLDERS = {"unet": ("unet", STEMS), "text": ("text_encoder", TEXT_STEMS), "vae": ("vae", STEMS)}
NATIVE = {"unet": "unet", "text_encoder": "text", "vae": "vae"}
LDM = {"unet": ldm.UNET, "text": ldm.TEXT + "text_model.", "vae": ldm.VAE}
EMA = "model_ema."  # LDM's second copy of the U-Net, which nothing that samples reads

# Modules of Stable Diffusion 1.x by diffusers' names, and what LDM calls them.
MODULES = {"unet": ldm.unet_modules(4, 2), "vae": ldm.vae_modules(4, 2)}
OURS = {part: ldm.inverse(table) for part, table in MODULES.items()}


@dataclass
class ModelFile:
    """A model whose headers are read. parts: weights by part ("unet", "text", "vae") and diffusers' name.

    keys: their names in the file; for a folder, those that they have in one file with LDM names. shapes: their shapes
    there. rest: what belongs to no part (the noise schedule's tables, position ids), by name in the file.
    """

    path: Path
    parts: dict[str, Weights] = field(default_factory=dict)
    keys: dict[tuple[str, str], str] = field(default_factory=dict)
    shapes: dict[tuple[str, str], tuple[int, ...]] = field(default_factory=dict)
    rest: Weights = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)

    def add(self, part: str, name: str, weight: Weight, key: str, shape: tuple[int, ...]) -> None:
        self.parts.setdefault(part, {})[name] = weight
        self.keys[part, name] = key
        self.shapes[part, name] = shape

    def callings(self, part: str) -> dict[str, str]:
        """What the tensors of a part may be called, by diffusers or by LDM, and diffusers' name."""
        names = self.parts[part]
        theirs = {name: ldm.rename(name, MODULES.get(part, {})) for name in names}
        return {**{other: name for name, other in theirs.items() if other}, **{name: name for name in names}}


def open_model(path: str | os.PathLike) -> ModelFile:
    """The parts of a checkpoint file or a diffusers folder, from headers.

    Raises `InputError` for what is no Stable Diffusion 1.5, saying what it is where that can be told.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise InputError(f"there is no model at {path}: no such file or folder")
    model = _open_folder(path) if path.is_dir() else _open_file(path)
    for part, weights in model.parts.items():
        odd = [f"{name} ({weight.dtype})" for name, weight in weights.items() if isinstance(weight.dtype, str)]
        if odd:
            raise InputError(f"{path}: weights of the {part} are of types that cannot be merged: {listing(odd)}")
    return model


def place_of(key: str) -> tuple[str, str] | None:
    """The part and diffusers' name of a weight with an LDM name (that one where there is none); None if of no part."""
    if key.startswith(ldm.TEXT):
        name = key.removeprefix(ldm.TEXT).removeprefix("text_model.")
        return None if name in ldm.NOT_ENCODING or name.endswith("position_ids") else ("text", name)
    for part in ("unet", "vae"):
        if key.startswith(LDM[part]):
            name = key.removeprefix(LDM[part])
            return part, ldm.rename(name, OURS[part]) or name
    return None


def write_model(
    model: ModelFile,
    path: Path,
    changed: dict[tuple[str, str], Callable[[], Tensor]],
    notes: dict,
    callback: Callable[[int, int], None] | None = None,
) -> None:
    """Writes a model as one safetensors file, some of its tensors changed, `notes` in its metadata.

    `changed` gives new values in the type of the old ones. `callback(done, total)` counts tensors. One tensor is in
    memory at a time. Raises `InputError` if the file cannot be written.
    """
    layout, values = {}, {}
    for (part, name), key in model.keys.items():
        weight = model.parts[part][name]
        layout[key] = model.shapes[part, name], weight.dtype
        values[key] = changed.get((part, name), weight.read)
    for key, weight in model.rest.items():
        layout[key] = weight.shape, _dtype(weight)
        values[key] = partial(_value, key, weight)
    done = 0

    def value(key: str) -> Tensor:
        nonlocal done
        done += 1
        if callback is not None:
            callback(done, len(layout))
        return values[key]().reshape(layout[key][0])

    write_streamed(path, layout, _with_notes(model.metadata, notes), value)


def _open_folder(path: Path) -> ModelFile:
    model = ModelFile(path)
    for part, (folder, stems) in FOLDERS.items():
        if not (path / folder).is_dir():
            continue
        weights, modules = open_folder(path / folder, stems), MODULES.get(part, {})
        needed = [module for module in modules if not module.endswith("conv_shortcut")]
        absent = [module for module in needed if not any(name.startswith(module + ".") for name in weights)]
        for name, weight in weights.items():
            if part == "vae":
                name, weight = todays_attention(name, weight)
                absent = [module for module in absent if not name.startswith(module + ".")]
            if part == "text":
                name = name.removeprefix("text_model.")
            if not name.endswith("position_ids"):
                key = LDM[part] + (ldm.rename(name, modules) or name)
                pointwise = ".mid.attn_1." in key and len(weight.shape) == 2
                model.add(part, name, weight, key, weight.shape + (1, 1) * pointwise)
        if absent:
            raise InputError(f"{path / folder} is not Stable Diffusion 1.5's {folder}: it has no {listing(absent, 4)}")
    if "unet" not in model.parts:
        raise InputError(
            f"{path} has no unet folder: give Stable Diffusion 1.5 as one checkpoint file or as a folder of diffusers"
        )
    return model


def _open_file(path: Path) -> ModelFile:
    weights = {name.removeprefix("state_dict."): weight for name, weight in open_weights(path).items()}
    metadata = read_metadata(path) if recognise(path) == "safetensors" else {}
    if metadata.get("format") == native.FORMAT:
        place = _native_place
    elif ldm.is_ldm(weights):
        _refuse_foreign(path, weights)
        place = place_of
    elif "conv_in.weight" in weights and any(name.startswith("down_blocks.") for name in weights):
        place = _unet_place
    else:
        _refuse(path, weights)
    model = ModelFile(path, metadata=metadata)
    for key, weight in weights.items():
        found = place(key)
        if found is not None:
            part, name = found
            name, today = todays_attention(name, weight) if part == "vae" else (name, weight)
            model.add(part, name, today, key, weight.shape)
        elif not key.startswith(EMA):
            model.rest[key] = weight
    return model


def _native_place(key: str) -> tuple[str, str] | None:
    part, _, name = key.partition(".")
    return (NATIVE[part], name.removeprefix("text_model.")) if part in NATIVE else None


def _unet_place(key: str) -> tuple[str, str]:
    return "unet", key


def _refuse_foreign(path: Path, weights: Weights) -> None:
    """Raises `InputError` if weights with LDM names are of another family than Stable Diffusion 1.x."""
    facts = facts_of({}, weights)
    family = next((family.name for family in FAMILIES if family.fits(facts)), None)
    if any(name.startswith("cond_stage_model.model.") for name in weights):
        family = "Stable Diffusion 2"
    if family not in (None, *ldm.FAMILIES):
        raise InputError(f"{path} is {family}, not Stable Diffusion 1.5: task vectors need models of the same family")


def _refuse(path: Path, weights: Weights) -> NoReturn:
    facts = facts_of({}, weights)
    family = next((family.name for family in FAMILIES if family.fits(facts)), "a model that is not known")
    names = listing(sorted(weights), 3) or "nothing"
    raise InputError(f"{path} is {family}, not a checkpoint of Stable Diffusion 1.5 (it has {names})")


def _dtype(weight: Weight) -> torch.dtype:
    """The type of a weight, whole numbers included."""
    codes = {code: dtype for dtype, code in INTEGERS.items()}
    names = {str(dtype).removeprefix("torch."): dtype for dtype in INTEGERS}
    if isinstance(weight.dtype, torch.dtype):
        return weight.dtype
    dtype = codes.get(weight.dtype) or names.get(weight.dtype)
    if dtype is None:
        raise InputError(f"{weight.file} has tensors of the type {weight.dtype}, which cannot be written")
    return dtype


def _value(key: str, weight: Weight) -> Tensor:
    """A tensor just as it is in the file."""
    if weight.dtype in INTEGERS.values():
        with safe_open(weight.file, "pt") as file:
            return file.get_tensor(key)
    return weight.read()


def _with_notes(metadata: dict[str, str], notes: dict) -> dict[str, str]:
    """Metadata with notes added: among the notes of a file of ours, else each as JSON."""
    if metadata.get("format") == native.FORMAT:
        return {**metadata, "notes": json.dumps({**json.loads(metadata["notes"]), **notes}, ensure_ascii=False)}
    return {**metadata, **{f"lgvi_{name}": json.dumps(value, ensure_ascii=False) for name, value in notes.items()}}
