"""What a checkpoint is, in words: for `python -m lgvi_core info`. Reads configs and headers, no weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from ..models import UNetConfig
from .checkpoint import Source, check_family, check_prediction
from .fitting import empty_unet
from .weights import Weights


@dataclass(frozen=True)
class Part:
    """One network: how many values its weights have and of what type they are in the file ("float16")."""

    values: int
    dtype: str


@dataclass(frozen=True)
class Summary:
    """What `inspect` finds. parts: by name, "unet", "vae", "text_encoder", those that are there. size: bytes of the
    weight files. missing: names of absent mask decoder weights. The rest is as in `Checkpoint`."""

    layout: str
    path: Path
    family: str
    size: int
    parts: dict[str, Part]
    config: UNetConfig
    autoencoder: str | None
    prediction_type: str
    training: dict
    sampling: dict
    missing: tuple[str, ...]
    licence: str
    notes: dict

    @property
    def has_mask_decoder(self) -> bool:
        return self.config.has_mask_decoder

    def __str__(self) -> str:
        config, training, sampling = self.config, self.training, self.sampling
        unet = [_words(self.parts["unet"]), _input(config)]
        unet += [name for name, on in (("temporal attention", config.temp_attn), ("gate", config.gate)) if on]
        if config.motion_attention:
            unet.append(f"motion blocks ({', '.join(config.motion_attention)})")
        absent = "none"
        lines = {
            "layout": self.layout,
            "size": f"{self.size / 1e6:,.1f} MB",
            "U-Net": ", ".join(unet),
            "mask decoder": "yes" if config.has_mask_decoder else "no, weights absent" if self.missing else "no",
            "text encoder": _words(self.parts["text_encoder"]) if "text_encoder" in self.parts else absent,
            "autoencoder": self._autoencoder() if self.autoencoder else absent,
            "prediction": self.prediction_type,
            "trained at": f"{_size(training)}, {training.get('frames', 'unknown')} frames",
            "sampling": ", ".join(f"{name} {value}" for name, value in sampling.items()) or "no recommendation",
            "licence": self.licence,
            **{f"note: {name}": str(value) for name, value in self.notes.items()},
        }
        width = max(map(len, lines)) + 2
        rows = [f"  {name:<{width}}{value}" for name, value in lines.items()]
        title = {"lgvi": "LGVI", "cococo": "CoCoCo"}[self.family]
        return "\n".join([f"{title} checkpoint: {self.path}", *rows])

    def _autoencoder(self) -> str:
        return f"{self.autoencoder}, {_words(self.parts['vae'])}" if "vae" in self.parts else self.autoencoder


def summarise(source: Source) -> Summary:
    """The summary of a source whose U-Net fits; `InputError` if names, shapes or the prediction type do not."""
    unet, missing = empty_unet(source)
    check_prediction(unet.config, source.scheduler_config, str(source.path))
    check_family(unet.config, source.family, str(source.path))
    weights = {"unet": source.unet, "vae": source.vae, "text_encoder": source.text_encoder}
    files = {weight.file for part in weights.values() for weight in part.values()}
    return Summary(
        layout=source.layout,
        path=source.path,
        family=source.family,
        size=sum(file.stat().st_size for file in files),
        parts={name: _part(part) for name, part in weights.items() if part},
        config=unet.config,
        autoencoder=source.vae_config and _kind(source.vae_config),
        prediction_type=source.scheduler_config["prediction_type"],
        training=source.training,
        sampling=source.sampling,
        missing=missing,
        licence=source.licence,
        notes=source.notes,
    )


def _input(config: UNetConfig) -> str:
    if config.is_inpainting:
        return "mask and masked video"
    return "added condition" if config.adds_condition else "concatenated condition"


def _kind(config: dict) -> str:
    if config.get("kind") == "space_to_depth":
        return f"space to depth, {config.get('factor')} pixels per latent and axis, no weights"
    return str(config.get("kind"))


def _part(weights: Weights) -> Part:
    types = sorted({str(weight.dtype).removeprefix("torch.") for weight in weights.values()})
    return Part(sum(math.prod(weight.shape) for weight in weights.values()), " and ".join(types))


def _words(part: Part) -> str:
    return f"{part.values / 1e6:,.1f} M values, {part.dtype}"


def _size(training: dict) -> str:
    if {"width", "height"} <= training.keys():
        return f"{training['width']}x{training['height']} pixels"
    return "unknown size"
