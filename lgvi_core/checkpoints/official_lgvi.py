"""The public LGVI folder: unet, vae, text_encoder, tokenizer and scheduler, as diffusers lays them out.

LGVI-I's has a folder llava beside them, which `llava` reads.
"""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from pathlib import Path

from ..errors import InputError
from ..models.text_encoder import read_tokenizer
from ..sampling.schedulers import SCHEDULERS
from .checkpoint import SCHEDULER, Source
from .files import half_downloaded, read_json
from .fitting import bare_text_names
from .llava import FILE as LANGUAGE_MODEL
from .unet_folder import LICENCE, SAMPLING, STEMS, TRAINING, read_unet
from .weights import Weight, Weights, open_folder

log = logging.getLogger(__name__)

LAYOUT = "the public LGVI folder (diffusers layout)"
TEXT_STEMS = ("model", "pytorch_model", "model.fp16", "pytorch_model.fp16")

# The autoencoder's attention as diffusers named it before version 0.16.
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def matches(path: Path) -> bool:
    """Whether a folder has a U-Net's folder with a config in it."""
    return (path / "unet" / "config.json").is_file()


def read(path: Path) -> Source:
    """Configs and headers. The folders other than unet may be absent; a scheduler config then is Stable Diffusion's."""
    config, weights = read_unet(path / "unet")
    source = Source(LAYOUT, path, config, weights, licence=LICENCE)
    read_parts(source)
    names = {kind: name for name, (kind, *_) in SCHEDULERS.items()}
    scheduler = names.get(str(source.scheduler_config["_class_name"]), SAMPLING["scheduler"])
    source.training = dict(TRAINING)
    source.sampling = {**SAMPLING, "scheduler": scheduler}
    if (path / LANGUAGE_MODEL).is_file():
        source.notes["language model"] = f"{LANGUAGE_MODEL.as_posix()}, read by load_request_encoder over LLaVA-1.5-7B"
    return source


def read_parts(source: Source) -> None:
    """Sets what a diffusers folder has beside the U-Net: scheduler, vae, and text encoder with its tokenizer."""
    path = source.path
    source.scheduler_config = read_scheduler(path / "scheduler")
    if (path / "vae").is_dir():
        source.vae_config, source.vae = read_autoencoder(path / "vae")
    if (path / "text_encoder").is_dir():
        if (path / "tokenizer").is_dir():
            source.text_config, source.text_encoder = read_text_encoder(path / "text_encoder")
            source.tokenizer_files = read_tokenizer(path / "tokenizer")
        else:
            log.warning("%s has a text_encoder folder but no tokenizer folder: the text encoder is left out", path)


def read_scheduler(folder: Path) -> dict:
    """The scheduler's config; Stable Diffusion 1.5's if the folder is absent."""
    if not folder.is_dir():
        return dict(SCHEDULER)
    config = read_json(folder / "scheduler_config.json")
    return {"_class_name": SCHEDULER["_class_name"], "prediction_type": SCHEDULER["prediction_type"], **config}


def read_autoencoder(folder: Path) -> tuple[dict, Weights]:
    config = read_part_config(folder)
    if config.get("_class_name", "AutoencoderKL") != "AutoencoderKL":
        raise InputError(f"{folder / 'config.json'} describes {config['_class_name']}; allowed: AutoencoderKL")
    config = {name: value for name, value in config.items() if not name.startswith("_")}
    weights = dict(todays_attention(name, weight) for name, weight in open_folder(folder, STEMS).items())
    return {"kind": "autoencoder_kl", **config}, weights


def todays_attention(name: str, weight: Weight) -> tuple[str, Weight]:
    """A weight of the autoencoder under today's name and shape: old attention had other names and 1x1 convolutions."""
    found = re.fullmatch(r"(.*\.attentions\.\d+\.)(query|key|value|proj_attn)(\.\w+)", name)
    if found:
        name = found[1] + OLD_ATTENTION[found[2]] + found[3]
    if re.search(r"\.attentions\.\d+\.to_\w+(\.0)?\.weight$", name) and weight.shape[2:] == (1, 1):
        shape = weight.shape[:2]
        weight = replace(weight, shape=shape, read=lambda read=weight.read: read().reshape(shape))
    return name, weight


def read_text_encoder(folder: Path) -> tuple[dict, Weights]:
    config = read_part_config(folder)
    if config.get("model_type", "clip_text_model") != "clip_text_model":
        raise InputError(f"{folder / 'config.json'} describes {config['model_type']}; allowed: clip_text_model")
    config = {name: value for name, value in config.items() if not name.startswith("_")}
    return config, bare_text_names(open_folder(folder, TEXT_STEMS))


def read_part_config(folder: Path) -> dict:
    if not (folder / "config.json").is_file():
        raise half_downloaded(folder, "it has no config.json")
    return read_json(folder / "config.json")
