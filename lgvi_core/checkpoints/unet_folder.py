"""A U-Net alone: a folder with config.json and the weights beside it, as diffusers saves one."""

from __future__ import annotations

from pathlib import Path

from ..errors import InputError
from ..models import UNetConfig
from .checkpoint import Source, read_unet_config
from .families import refuse_foreign
from .files import read_json
from .weights import Weights, open_folder

LAYOUT = "a folder with a U-Net alone"
STEMS = ("diffusion_pytorch_model", "diffusion_pytorch_model.fp16")

# What the paper's model was made for, and what its authors sample it with.
TRAINING = {"width": 512, "height": 320, "frames": 24}
SAMPLING = {"steps": 50, "guidance_scale": 3.0, "image_guidance_scale": 1.5, "scheduler": "pndm"}
LICENCE = "not stated in the folder; ask its publisher (parts from Stable Diffusion 1.5: CreativeML OpenRAIL-M)"


def matches(path: Path) -> bool:
    """Whether a folder has a config.json that describes a U-Net."""
    try:
        return {"block_out_channels", "cross_attention_dim"} <= read_json(path / "config.json").keys()
    except InputError:
        return False


def read(path: Path) -> Source:
    """Config and headers; what the folder cannot say is as in the paper, the scheduler Stable Diffusion 1.5's."""
    config, weights = read_unet(path)
    defaults = {"training": dict(TRAINING), "sampling": dict(SAMPLING), "licence": LICENCE}
    return Source(LAYOUT, path, config, weights, **defaults)


def read_unet(folder: Path) -> tuple[UNetConfig, Weights]:
    """Config and weights of a U-Net's folder; `InputError` if it is of another family or cannot be used."""
    public = read_json(folder / "config.json")
    refuse_foreign(folder, public, {})
    weights = open_folder(folder, STEMS)
    refuse_foreign(folder, public, weights)
    return read_unet_config(public, str(folder / "config.json")), weights
