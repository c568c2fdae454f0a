"""Tells what stands in a filled region: a small classifier of drawn things, trained on drawn clips.

    python -m train.evaluation.fill_judge

trains it anew (about a minute on one CPU core) and writes it beside this file, its accuracy on held-out clips in the
file's metadata.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
from functools import cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm import tqdm

from ..data.synthetic_fill import FillClip, draw_fill
from ..data.synthetic_objects import RGB
from ..data.synthetic_words import COLORS, SHAPES, SIZES

log = logging.getLogger(__name__)

FILE = Path(__file__).with_name("fill_judge.safetensors")
SIDE = 32  # pixels of a crop, of a frame of 64
ZOOMED = 7  # pixels that the second, closer view of a crop leaves out on every side
SLACK = 2  # pixels by which a thing may stand beside the middle
CLASSES = {"shape": (*SHAPES, "other", "nothing"), "color": (*COLORS, "nothing"), "size": (*SIZES, "nothing")}
SEED = 9_107_335  # of the clips it learns from, and one more for those it is tested on
OPEN = -100  # the label of what is not said


class Verdict(NamedTuple):
    """What stands there: an entry of `CLASSES` each, for the clip as a whole and for each frame."""

    clip: tuple[str, str, str]  # shape, color, size
    frames: tuple[tuple[str, str, str], ...]


class Judge(nn.Module):
    """Crops (N, 3, 32, 32) in [0, 1] to the logits of all classes (N, 17): those of shape, color and size in a row."""

    def __init__(self):
        super().__init__()
        widths = (6, 16, 32, 48, 48)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(a, b, 3, 1 if i == 0 else 2, 1) for i, (a, b) in enumerate(zip(widths, widths[1:]))
        )
        self.hidden = nn.Linear(48 * 16, 64)
        self.out = nn.Linear(64, sum(map(len, CLASSES.values())))

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        middle = crops[..., ZOOMED:-ZOOMED, ZOOMED:-ZOOMED]  # small things, seen closer
        x = torch.cat([crops, F.interpolate(middle, (SIDE, SIDE), mode="bilinear")], dim=1) * 2 - 1
        for convolution in self.convolutions:
            x = F.relu(convolution(x))
        return self.out(F.relu(self.hidden(x.flatten(1))))

    @torch.inference_mode()
    def verdict(self, frames: np.ndarray, centers: np.ndarray) -> Verdict:
        """frames (T, H, W, 3) uint8; centers (T, 2), where the middle (x, y) of the thing should be, in pixels."""
        logits = self(_tensor(crops_of(frames, centers, SIDE)))
        return Verdict(_names(logits.mean(0, keepdim=True))[0], tuple(_names(logits)))


@cache
def load(path: Path = FILE) -> Judge:
    """The judge of a file that this module has written."""
    judge = Judge()
    judge.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    return judge.eval()


def accuracy(path: Path = FILE) -> dict[str, float]:
    """Its share of right answers on held-out clips, as its file says."""
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["accuracy"])


def crops_of(frames: np.ndarray, centers: np.ndarray, side: int) -> np.ndarray:
    """What is around each center, (T, side, side, 3) uint8, at the scale of a frame of 64; the rim repeats the edge."""
    scale = min(frames.shape[1:3]) / 64
    crops = np.empty((len(frames), side, side, 3), np.uint8)
    for crop, frame, (x, y) in zip(crops, frames, centers):
        middle = np.round(np.array([x, y])) if scale == 1 else np.array([x, y])  # whole pixels stay sharp
        left, top = middle + (1 - side) * scale / 2 - 0.5
        matrix = np.array([[scale, 0, left], [0, scale, top]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        crop[:] = cv2.warpAffine(frame, matrix, (side, side), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return crops


def _tensor(crops: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255


def _names(logits: torch.Tensor) -> list[tuple[str, str, str]]:
    parts = logits.split([len(names) for names in CLASSES.values()], dim=1)
    found = [part.argmax(1).tolist() for part in parts]
    return [tuple(names[i] for names, i in zip(CLASSES.values(), row)) for row in zip(*found)]


# Training


def train(steps: int = 1800, clips: int = 10_000, batch: int = 64) -> Judge:
    """Learn from single frames of drawn clips, blurred, noisy and shifted."""
    torch.manual_seed(SEED)
    crops, labels = examples(SEED, clips, held_out=False)
    judge = Judge().train()
    optimizer = torch.optim.AdamW(judge.parameters(), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, steps)
    for _ in tqdm(range(steps), unit="step"):
        chosen = torch.randint(len(crops), (batch,))
        loss = _loss(judge(_varied(crops[chosen])), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return judge.eval()


def examples(seed: int, clips: int, held_out: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Crops (N, 3, SIDE + 2 SLACK, same) in [0, 1] and labels (N, 3): an outline on some, some broken on purpose."""
    crops, labels = [], []
    for i in tqdm(range(clips), unit="clip"):
        clip = draw_fill(seed, i, 1, held_out=held_out, kinds={"instance": 1}, outline=1.5 if i % 8 == 0 else 0.0)
        crop, label = crops_of(clip.clean, clip.centers, SIDE + 2 * SLACK)[0], _label(clip)
        if i % 9 == 1 and clip.look is not None:
            crop, label = _broken(np.random.default_rng((seed, i)), crop, clip.look), (len(SHAPES), OPEN, OPEN)
        crops.append(crop)
        labels.append(label)
    return _tensor(np.stack(crops)), torch.tensor(labels)


def _label(clip: FillClip) -> tuple[int, ...]:
    look = clip.look or ("nothing",) * len(CLASSES)
    return tuple(names.index(value) for names, value in zip(CLASSES.values(), look))


def _broken(rng: np.random.Generator, crop: np.ndarray, look) -> np.ndarray:
    """No shape that has a name: blots with three to six arms, over the thing that stands there."""
    y, x = np.mgrid[: len(crop), : len(crop)] - (len(crop) - 1) / 2
    radius = np.hypot(x, y)
    arms, phase, depth = rng.integers(3, 7), 2 * np.pi * rng.random(), 0.3 + 0.3 * rng.random()
    size = 8 + 5 * rng.random()
    blot = radius < size * (1 + depth * np.cos(arms * np.arctan2(y, x) + phase)) * (1 + 0.3 * np.cos(np.arctan2(y, x)))
    crop = crop.copy()
    crop[blot] = 255 * np.array(RGB[look[1]])
    return crop


def _varied(crops: torch.Tensor) -> torch.Tensor:
    left, top = torch.randint(2 * SLACK + 1, (2,)).tolist()
    crops = crops[..., top : top + SIDE, left : left + SIDE]
    crops = crops.flip(-1) if torch.rand(()) < 0.5 else crops
    if torch.rand(()) < 0.5:
        share = 0.15 * float(torch.rand(()))
        line = torch.tensor([share, 1 - 2 * share, share])
        kernel = torch.outer(line, line).expand(3, 1, 3, 3)
        crops = F.conv2d(F.pad(crops, (1, 1, 1, 1), "replicate"), kernel, groups=3)
    noise = 0.04 * torch.rand(len(crops), 1, 1, 1) * torch.randn_like(crops)
    brightness = 1 + 0.1 * (torch.rand(len(crops), 1, 1, 1) - 0.5)
    return (crops * brightness + noise).clamp(0, 1)


def _loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    parts = logits.split([len(names) for names in CLASSES.values()], dim=1)
    return sum(F.cross_entropy(part, labels[:, i], ignore_index=OPEN) for i, part in enumerate(parts))


@torch.inference_mode()
def test(judge: Judge, clips: int) -> dict[str, float]:
    """Its share of right answers on `clips` held-out frames, in the middle of the crop."""
    crops, labels = examples(SEED + 1, clips, held_out=True)
    logits = judge(crops[..., SLACK:-SLACK, SLACK:-SLACK])
    result = {}
    for i, (name, part) in enumerate(zip(CLASSES, logits.split([len(n) for n in CLASSES.values()], dim=1))):
        said = labels[:, i] != OPEN
        result[name] = round((part.argmax(1) == labels[:, i])[said].float().mean().item(), 4)
    return result


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m train.evaluation.fill_judge", description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=FILE)
    parser.add_argument("--steps", type=int, default=1800)
    parser.add_argument("--clips", type=int, default=10_000)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    judge = train(options.steps, options.clips)
    found = test(judge, 2000)
    weights = {name: value.half().contiguous() for name, value in judge.state_dict().items()}
    temporary = options.output.with_name(f".{options.output.name}.{os.getpid()}")
    save_file(
        weights, temporary, {"accuracy": json.dumps(found), "clips": "2000 held-out frames", "licence": "Apache-2.0"}
    )
    os.replace(temporary, options.output)
    log.info("right on held-out clips: %s; written to %s", found, options.output)


if __name__ == "__main__":
    main()
