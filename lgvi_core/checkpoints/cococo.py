"""CoCoCo: the public shards model_0.pth to model_3.pth, or one file, over Stable Diffusion 1.5 for inpainting."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from ..errors import InputError
from ..models.text_encoder import read_tokenizer
from . import ldm
from .checkpoint import Source
from .families import ForeignCheckpoint, refuse_foreign
from .files import half_downloaded, listing, read_json
from .official_lgvi import read_parts
from .stable_diffusion import inflated_config
from .unet_folder import STEMS
from .weights import Weights, open_folder, open_weights

LAYOUT = "CoCoCo's shards"
SHARD_ENDINGS = (".pth", ".pt", ".safetensors")
BASE_ENDINGS = (".safetensors", ".ckpt")
SHARDS = 4
NUMBERED = re.compile(r"model_(\d+)")  # a public shard's name, without its ending
MOTION = ("temporal", "temporal", "global", "text")

# What the public code samples with; the paper's guidance scale is 14, that of the weights' page 10.
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "linear",
    "steps_offset": 1,
    "clip_sample": False,
    "set_alpha_to_one": True,
    "prediction_type": "epsilon",
}
TRAINING = {"width": 384, "height": 256, "frames": 16}
SAMPLING = {"steps": 50, "guidance_scale": 10.0, "scheduler": "ddim"}
LICENCE = "not stated in the folder; ask its publisher (parts from Stable Diffusion 1.5: CreativeML OpenRAIL-M)"

BASE_FAMILIES = ("Stable Diffusion", "Stable Diffusion for inpainting")
WANTED = (
    "put Stable Diffusion 1.5 for inpainting there too, as a diffusers folder (with unet/config.json) or as one "
    "checkpoint file (.safetensors or .ckpt), or give its path as base"
)


def matches(path: Path) -> bool:
    """Whether a folder has weight files with CoCoCo's motion blocks in it, or a file has all of them.

    A public shard that is damaged counts by its name: reading it says what is wrong.
    """
    opened, damaged = _opened(path, SHARD_ENDINGS)
    if path.is_file():
        return not NUMBERED.fullmatch(path.stem) and any(map(is_cococo, opened.values()))
    return any(map(is_cococo, opened.values())) or any(NUMBERED.fullmatch(file.stem) for file in damaged)


def is_cococo(weights: Weights) -> bool:
    """Whether names are CoCoCo's: motion blocks with more than AnimateDiff's two attentions."""
    return any("motion_modules." in name and ".attention_blocks.2." in name for name in weights)


def read(path: Path, base: Path | None = None) -> Source:
    """Configs and headers. The base is at `base`, or is what the folder holds: a diffusers folder or a checkpoint file.

    Where the base is one file, the tokenizer is a folder `tokenizer` beside the shards or beside the base.
    Raises `InputError` for a shard that is damaged or absent, and for a base that is absent or of another kind.
    """
    shards, folder = read_shards(path), path if path.is_dir() else path.parent
    found = base or find_base(folder, path)
    source = read_diffusers(found) if found.is_dir() else read_file(found, folder)
    config = source.unet_config
    if not config.is_inpainting:
        raise InputError(
            f"{found} takes {config.in_channels} channels: it is Stable Diffusion, not Stable Diffusion for inpainting "
            "(9 channels), which CoCoCo needs as its base"
        )
    return replace(
        source,
        layout=f"{LAYOUT} over {found.name} ({source.layout})",
        path=path,
        unet_config=replace(config, frame_norm=True, motion_attention=MOTION),
        unet=source.unet | shards,
        scheduler_config=dict(SCHEDULER),
        training=dict(TRAINING),
        sampling=dict(SAMPLING),
        family="cococo",
        licence=LICENCE,
    )


def read_shards(path: Path) -> Weights:
    """The weights of all shards in a folder, or of one file, by their names in the U-Net.

    Shards are known by what is in them. Where they are numbered as the public ones, `InputError` names those absent.
    Position tables are computed and left out.
    """
    opened, damaged = _opened(path, SHARD_ENDINGS)
    for file, error in damaged.items():
        if NUMBERED.fullmatch(file.stem):
            raise error
    numbers = {int(found[1]) for file in opened if (found := NUMBERED.fullmatch(file.stem))}
    last = max(SHARDS - 1, *numbers) if numbers else -1
    absent = [f"model_{number}.pth" for number in range(last + 1) if number not in numbers]
    if absent:
        raise half_downloaded(path, f"CoCoCo's shards are model_0.pth to model_{last}.pth; absent: {listing(absent)}")
    weights = {}
    for file, content in opened.items():
        if NUMBERED.fullmatch(file.stem) or is_cococo(content):
            named = {bare_name(name): weight for name, weight in content.items()}
            weights |= {name: weight for name, weight in named.items() if "pe" not in name.split(".")}
    return weights


def find_base(folder: Path, motion: Path) -> Path:
    """Where in a folder Stable Diffusion is: the folder itself, a folder in it, or a checkpoint file.

    motion: the folder or file whose base it is to be; errors name it.
    """
    found = [one for one in (folder, *sorted(folder.iterdir())) if (one / "unet" / "config.json").is_file()]
    if not found:
        opened, damaged = _opened(folder, BASE_ENDINGS)
        found = [file for file, weights in opened.items() if ldm.is_ldm(weights)]
        if not found and damaged:
            raise next(iter(damaged.values()))
    if not found:
        raise InputError(f"{motion} holds CoCoCo's weights without the model they stand on: {WANTED}")
    if len(found) > 1:
        names = listing([str(one) for one in found])
        raise InputError(f"{folder} holds more than one model that CoCoCo could stand on ({names}): give one as base")
    return found[0]


def read_diffusers(folder: Path) -> Source:
    """Stable Diffusion as diffusers lays it out, its parts as in LGVI's folder."""
    config_file = folder / "unet" / "config.json"
    if not config_file.is_file():
        raise InputError(f"{folder} has no unet/config.json: give the whole folder of Stable Diffusion 1.5 inpainting")
    weights = open_folder(folder / "unet", STEMS)
    try:
        refuse_foreign(folder, read_json(config_file), weights)
    except ForeignCheckpoint as foreign:
        if foreign.family not in BASE_FAMILIES:
            raise
    config = inflated_config(read_json(config_file), config_file)
    source = Source("diffusers layout", folder, config, weights)
    read_parts(source)
    if source.vae_config is None or source.text_config is None:
        raise InputError(f"{folder} must have vae, text_encoder and tokenizer folders beside unet")
    return source


def read_file(path: Path, beside: Path) -> Source:
    """Stable Diffusion as one file; the tokenizer from a folder `tokenizer` in `beside` or beside the file."""
    if not path.is_file():
        raise InputError(f"there is no Stable Diffusion 1.5 for inpainting at {path}: no such file or folder")
    source = ldm.read(path)
    for folder in (beside, path.parent):
        if (folder / "tokenizer").is_dir():
            source.tokenizer_files = read_tokenizer(folder / "tokenizer")
            break
    return source


def bare_name(name: str) -> str:
    """A parameter's name without what training put before it."""
    return re.sub(r"^(state_dict\.)?(module\.)?", "", name)


def _opened(path: Path, endings: tuple[str, ...]) -> tuple[dict[Path, Weights], dict[Path, InputError]]:
    """The weights in a file or a folder's files, and what is wrong with those that cannot be read."""
    opened, damaged = {}, {}
    for file in [path] if path.is_file() else sorted(path.iterdir()):
        if file.suffix in endings and file.is_file():
            try:
                opened[file] = open_weights(file)
            except InputError as error:
                damaged[file] = error
    return opened, damaged
