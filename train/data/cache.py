"""Latents and text features on disk, so that what is not trained need not encode the same pixels and words again.

    <folder>/cache.json                  fingerprints of the autoencoder and the text encoder: their configs and weights
    <folder>/latents/ab/<hash>.safetensors   posterior mean and deviation of one frame at one size and side, float16
    <folder>/text/ab/<hash>.safetensors      text features of one sentence, float16

A frame's file also holds the size and the time of the picture that it was made from: when the picture has changed,
that is said and the frame is made anew. Values are rounded to float16 before their first use too, so that a run sees
the same numbers whether they come from the disk or not. It pays where the same frames come again. Files are moved into
place when they are whole, and several processes may write the same one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lgvi_core.errors import InputError

from ..config import TrainConfig
from .sources import Key

log = logging.getLogger(__name__)

PIXELS_AT_ONCE = 1 << 21  # that are encoded together


class LatentFiles:
    """The tensors of a cache's folder, by key."""

    def __init__(self, folder: Path):
        self.folder = folder

    def path(self, key: Key, kind: str = "latents") -> Path:
        name = hashlib.sha256(key.identity.encode()).hexdigest()
        return self.folder / kind / name[:2] / f"{name}.safetensors"

    def read(self, key: Key, kind: str = "latents") -> Tensor | None:
        """The tensor, or None where there is none or what it was made from has changed."""
        path = self.path(key, kind)
        if not path.is_file():
            return None
        try:
            with safe_open(path, "pt") as file:
                if file.metadata()["stamp"] == key.stamp:
                    return file.get_tensor("values")
        except SafetensorError as error:
            raise InputError(f"{path} is damaged: delete it, and it is made anew ({error})") from None
        log.warning("%s has changed since its latents were cached; they are made anew", key.identity)
        return None

    def clip(self, keys: list[Key]) -> Tensor | None:
        """The moments of a clip's frames (T, 2, C, h, w), or None if one is missing."""
        frames = []
        for key in keys:
            frames.append(self.read(key))
            if frames[-1] is None:
                return None
        return torch.stack(frames)

    def write(self, key: Key, values: Tensor, kind: str = "latents") -> None:
        path = self.path(key, kind)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({"values": values.contiguous().cpu()}, temporary, {"stamp": key.stamp, "made from": key.identity})
            os.replace(temporary, path)
        except (OSError, SafetensorError) as error:
            raise InputError(f"the cache cannot write {path} ({error}): make room, or set cache=null") from None
        finally:
            temporary.unlink(missing_ok=True)


class Cache:
    """Latents and text features of batches: encoded, or with a `folder` from the disk where they are there.

    Raises `InputError` where the folder is of another autoencoder or text encoder.
    """

    def __init__(self, folder: str | Path | None, autoencoder: nn.Module, text_encoder: nn.Module, config: TrainConfig):
        self.autoencoder = autoencoder
        self.text_encoder = None if config.train_text_encoder else text_encoder
        self.files = None if folder is None else LatentFiles(Path(folder))
        self.texts: dict[str, Tensor] = {}
        if self.files is not None:
            _check(Path(folder), {"autoencoder": autoencoder, "text_encoder": self.text_encoder})

    @torch.no_grad()
    def latents(self, batch: dict, generators: list[torch.Generator]) -> tuple[Tensor, Tensor]:
        """Condition and clean latents (B, C, T, h, w), drawn from the posterior by each sample's own CPU generator.

        They are on the autoencoder's device, or, as it has no weights, on the batch's.
        """
        moments = batch["moments"] if "moments" in batch else self._encoded(batch)  # (B, 2, T, 2, C, h, w)
        device = _device(self.autoencoder) or batch["mask"].device
        moments = moments.to(device, torch.float32)
        mean, deviation = moments.unbind(3)  # (B, 2, T, C, h, w)
        if deviation.any():
            noise = [torch.randn(mean.shape[1:], generator=generator) for generator in generators]
            mean = mean + deviation * torch.stack(noise).to(device)
        condition, clean = mean.transpose(2, 3).unbind(1)
        return condition, clean

    def _encoded(self, batch: dict) -> Tensor:
        """The moments of a batch's pixels; with a cache, those in it have precedence, and the others go into it."""
        moments = torch.stack([self._moments(batch[name]) for name in ("frames", "clean")], dim=1)
        if self.files is None or not batch.get("keys"):
            return moments
        moments = moments.half()
        for sample, keys in zip(moments, batch["keys"]):
            for frames, own in zip(sample, keys):
                for values, key in zip(frames, own):
                    known = self.files.read(Key(*key))
                    if known is None:
                        self.files.write(Key(*key), values)
                    else:
                        values.copy_(known)
        return moments

    def _moments(self, frames: Tensor) -> Tensor:
        """Posterior mean and deviation (B, T, 2, C, h, w) of uint8 frames (B, T, H, W, 3)."""
        frames = frames.to(_device(self.autoencoder) or frames.device, non_blocking=True)
        pictures = frames.flatten(0, 1)
        at_once = max(1, PIXELS_AT_ONCE // (frames.shape[2] * frames.shape[3]))
        parts = [self.autoencoder.moments(_signed(part)) for part in pictures.split(at_once)]
        moments = torch.stack([torch.cat(part) for part in zip(*parts)], dim=1)
        return moments.unflatten(0, frames.shape[:2])

    @torch.no_grad()
    def text(self, batch: dict) -> Tensor | None:
        """Features (B, N, D) of the batch's sentences, on the text encoder's device; None where that is trained."""
        if self.text_encoder is None:
            return None
        sentences = batch["sentence"]
        if self.files is None:
            return self.text_encoder.encode(sentences)
        return torch.stack([self._text(sentence) for sentence in sentences]).to(_device(self.text_encoder)).float()

    def _text(self, sentence: str) -> Tensor:
        if sentence not in self.texts:
            key = Key(sentence, "")
            features = self.files.read(key, "text")
            if features is None:
                features = self.text_encoder.encode([sentence])[0].half().cpu()
                self.files.write(key, features, "text")
            self.texts[sentence] = features
        return self.texts[sentence]


def _signed(frames: Tensor) -> Tensor:
    """uint8 frames (N, H, W, 3) as pixels (N, 3, H, W) in [-1, 1]."""
    return frames.permute(0, 3, 1, 2).float() / 127.5 - 1


def _device(module: nn.Module) -> torch.device | None:
    weight = next(module.parameters(), None)
    return None if weight is None else weight.device


def _check(folder: Path, parts: dict[str, nn.Module | None]) -> None:
    """Compare the folder's fingerprints with those of the parts, and write those that it has not."""
    path = folder / "cache.json"
    known = json.loads(path.read_text()) if path.is_file() else {}
    now = {name: fingerprint(part) for name, part in parts.items() if part is not None}
    for name, value in now.items():
        if known.get(name, value) != value:
            raise InputError(
                f"the cache {folder} was made with another {name.replace('_', ' ')} ({known[name][:12]}, now "
                f"{value[:12]}): give another folder as `cache`, or delete this one"
            )
    folder.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(known | now, indent=1))
    os.replace(temporary, path)


def fingerprint(module: nn.Module) -> str:
    """A hash of a module's config, weights and, of a text encoder, tokenizer."""
    about = [module.config, getattr(module, "tokenizer_files", None)]
    digest = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode())
    for name, weight in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        digest.update(weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
