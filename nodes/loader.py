"""A checkpoint to MODEL, CLIP and VAE."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import folder_paths
import torch
from comfy_api.latest import io

from ..lgvi_core import checkpoints
from ..lgvi_core.checkpoints import cococo, llava, native, official_lgvi, request_file, unet_folder
from ..lgvi_core.checkpoints.files import listing, read_json
from ..lgvi_core.errors import InputError
from . import host

logger = logging.getLogger(__name__)

DEMO = "demo (built in)"
DEMO_FILE = Path(checkpoints.__file__).parents[1] / "demo" / "lgvi-demo.safetensors"
FILL_DEMO = "demo that fills (built in)"
FILL_DEMO_FILE = DEMO_FILE.with_name("fill-demo.safetensors")
NO_BASE = "none"
KEY = "lgvi"  # our own kind of model folder: models/lgvi, and `lgvi:` in extra_model_paths.yaml
DTYPES = {
    "default": None,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "fp8_e4m3fn": torch.float8_e4m3fn,
}


def register_folder() -> None:
    """Makes models/lgvi known to the host, beside what extra_model_paths.yaml names."""
    folder_paths.add_model_folder_path(KEY, os.path.join(folder_paths.models_dir, KEY))
    paths, extensions = folder_paths.folder_names_and_paths[KEY]
    folder_paths.folder_names_and_paths[KEY] = (paths, extensions | folder_paths.supported_pt_extensions)


register_folder()


class LoadLGVI(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LGVILoader",
            display_name="Load LGVI",
            category="lgvi",
            description="Loads a video inpainting model that removes by words (LGVI) or fills by a prompt (CoCoCo): a "
            "file or folder of models/lgvi or models/diffusion_models, or the small demo that comes with this pack.",
            search_aliases=["lgvi", "cococo", "load checkpoint", "video inpainting model", "remove object", "fill"],
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    options=list(choices()),
                    default=DEMO,
                    tooltip="A .safetensors file saved by lgvi, the public LGVI folder (with unet, vae, text_encoder), "
                    "a folder with its U-Net alone, or the folder of CoCoCo's model_0.pth to model_3.pth; put it in "
                    "models/lgvi.",
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=list(DTYPES),
                    default="default",
                    advanced=True,
                    tooltip="How the MODEL's weights are kept. default: what suits the device; fp8_e4m3fn takes the "
                    "least memory and changes the result a little.",
                ),
                io.Combo.Input(
                    "base",
                    options=[NO_BASE, *folder_paths.get_filename_list("checkpoints")],
                    default=NO_BASE,
                    optional=True,
                    tooltip="For CoCoCo's folder alone: Stable Diffusion 1.5 for inpainting, of models/checkpoints. "
                    "none: it is in the folder too.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="For Video Inpaint Sampler, core's samplers, LoRA loaders and patches."),
                io.Clip.Output(tooltip="The text encoder. A checkpoint without one says so when this is used."),
                io.Vae.Output(tooltip="The autoencoder. A checkpoint without one says so when this is used."),
            ],
        )

    @classmethod
    def validate_inputs(cls, checkpoint=None):
        if checkpoint is None:  # comes from another node
            return True
        try:
            resolve(checkpoint)
        except InputError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, checkpoint=None, weight_dtype=None, base=NO_BASE):
        if checkpoint is None or base is None:  # comes from another node, so the file is not known yet
            return float("nan")  # equal to nothing
        return state_of(resolve(checkpoint), resolve_base(base))

    @classmethod
    def execute(cls, checkpoint, weight_dtype, base=NO_BASE) -> io.NodeOutput:
        path = resolve(checkpoint)
        loaded = host.load(path, DTYPES[weight_dtype], resolve_base(base))
        sampling = host.lgvi_of(loaded.model).sampling
        steps, guidance = sampling["steps"], sampling["guidance_scale"]
        logger.info("%s is made to be sampled with steps %d and guidance (cfg) %g", checkpoint, steps, guidance)
        clip = loaded.clip or Absent(
            f"{path.name} has no text encoder: use the CLIP of Load CLIP (Stable Diffusion 1.5's CLIP-L, type "
            "stable_diffusion) in place of Load LGVI's"
        )
        vae = loaded.vae or Absent(
            f"{path.name} has no autoencoder: use the VAE of Load VAE (Stable Diffusion 1.5's) in place of Load LGVI's"
        )
        return io.NodeOutput(loaded.model, clip, vae)


class AbsentPart(InputError, AttributeError):
    """A part that the checkpoint does not have was used; to the host it is a missing attribute."""


class Absent:
    """In place of a part that a checkpoint does not have: any use of it raises `AbsentPart`."""

    _message = "the checkpoint does not have this part"

    def __init__(self, message: str):
        self._message = message

    def __getattr__(self, name: str):
        raise AbsentPart(self._message)


def choices() -> dict[str, Path]:
    """What can be loaded, by the name that workflows keep: forward slashes, relative to its model folder."""
    found = {DEMO: DEMO_FILE}
    if FILL_DEMO_FILE.is_file():
        found[FILL_DEMO] = FILL_DEMO_FILE
    for key in (KEY, "diffusion_models"):
        for name in folder_paths.get_filename_list(key):
            file = folder_paths.get_full_path(key, name)
            if file is None:  # deleted since it was listed
                continue
            path, relative = _owner(Path(file), Path(name))
            if not _is_readers(path) if key == KEY else _is_lgvi(path):
                found.setdefault(relative.as_posix(), path)
    return found


def resolve(name: str) -> Path:
    """The path of a choice; `InputError` that says what there is if it is not there."""
    found = choices()
    path = found.get(name.replace("\\", "/"))
    if path is None or not path.exists():
        there = listing([other for other, file in found.items() if file.exists()])
        raise InputError(
            f"there is no LGVI checkpoint {name!r}: put it in {folder_paths.get_folder_paths(KEY)[0]} and press R, or "
            f"choose another. There are: {there}"
        )
    return path


def state_of(*paths: Path | None) -> list[tuple[str, int, int]]:
    """What changes when one of the files at these paths, or in these folders, does."""
    files = [file for path in paths if path for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    stats = [(str(file), file.stat()) for file in files]
    return [(name, stat.st_mtime_ns, stat.st_size) for name, stat in stats]


def resolve_base(name: str) -> Path | None:
    """The path of a file of models/checkpoints, None for none; `InputError` if it is not there."""
    if name == NO_BASE:
        return None
    path = folder_paths.get_full_path("checkpoints", name)
    if path is None:
        raise InputError(f"there is no {name!r} in models/checkpoints: choose another base, and press R if it is new")
    return Path(path)


def _owner(file: Path, name: Path) -> tuple[Path, Path]:
    """The checkpoint that a weight file belongs to: the outermost folder that is one, or the file itself."""
    owner = file, name
    for folder, relative in list(zip(file.parents, name.parents))[:-1]:
        if official_lgvi.matches(folder) or _is_unet(folder) or _is_cococo(folder):
            owner = folder, relative
    return owner


def _is_unet(folder: Path) -> bool:
    config = folder / "config.json"
    return config.is_file() and bool(_blocks(config, config.stat().st_mtime_ns))


def _is_cococo(folder: Path) -> bool:
    """Whether a folder has CoCoCo's shards, some of them at least, under their public names."""
    return any(folder.glob("model_[0-9].pth")) and _is(cococo.matches, folder, folder)


def _is_lgvi(path: Path) -> bool:
    """Whether a file or folder of models/diffusion_models may be LGVI or CoCoCo."""
    if path.is_file():
        return path.suffix == ".safetensors" and _is(native.matches, path, path)
    if _is_cococo(path):
        return True
    config = next(one for one in (path / "unet" / "config.json", path / "config.json") if one.is_file())
    return any("3D" in block for block in _blocks(config, config.stat().st_mtime_ns))


@lru_cache(maxsize=1024)
def _blocks(config: Path, changed: int) -> tuple[str, ...]:
    """The block names in a U-Net's config.json; none if it is no U-Net's. `changed` renews what is remembered."""
    if not unet_folder.matches(config.parent):
        return ()
    return tuple(map(str, read_json(config).get("down_block_types", ["not stated"])))


def is_request_file(path: Path) -> bool:
    """Whether this is a request encoder in one file."""
    return path.suffix == ".safetensors" and path.is_file() and _is(request_file.matches, path, path)


def is_llava(folder: Path) -> bool:
    """Whether a folder is LLaVA's."""
    config = folder / "config.json"
    return config.is_file() and _is(llava.is_base, folder, config)


def _is_readers(path: Path) -> bool:
    """Whether this belongs to what Load Request Reader loads."""
    return is_request_file(path) or path.name == llava.FILE.name or is_llava(path.parent)


def _is(kind: Callable[[Path], bool], path: Path, dated: Path) -> bool:
    """Whether a path is of a kind, asked again only when `dated` has changed: the page asks for the list often."""
    return _found(kind, path, dated.stat().st_mtime_ns)


@lru_cache(maxsize=4096)
def _found(kind: Callable[[Path], bool], path: Path, changed: int) -> bool:
    return kind(path)
