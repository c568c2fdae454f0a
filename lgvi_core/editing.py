"""A clip through a model that edits, whatever runs the model: windows, the mask, and the result put into the source."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from . import masks
from .conditioning import (
    WorkSize,
    holes_at_work_size,
    holes_of_latents,
    mask_at_work_size,
    resize_frames,
    to_pixels,
)
from .models import UNetConfig
from .sampling.windows import crossfade, frame_noise, sliding

MASK_STEPS = 5  # of a window's steps, at most, at which the mask decoder is read
LGVI_FRAMES, COCOCO_FRAMES = 24, 16  # in a window, where a person does not say
# How LGVI samples, for checkpoints that do not say.
RECOMMENDED = {"steps": 50, "guidance_scale": 3.0, "image_guidance_scale": 1.5, "scheduler": "ddim"}
# How CoCoCo does: the guidance published with its weights (its paper has 14), and none by video.
RECOMMENDED_TO_FILL = {"steps": 50, "guidance_scale": 10.0, "image_guidance_scale": 1.0, "scheduler": "ddim"}

# What is to come where something is deleted: the caption of VIVID's deletion (arXiv 2411.15260, section 3.2).
DELETION = "Remove objects and generate areas that blend with the background."

EMPTY_PROMPT = 'the prompt is empty: what comes there is left to the model ("just the background" clears it)'


def recommended(config: UNetConfig, sampling: dict) -> dict:
    """How to sample: what the checkpoint's own `sampling` says, and where it does not what its family does."""
    of_family = RECOMMENDED_TO_FILL if config.is_inpainting else RECOMMENDED
    return {name: sampling.get(name, value) for name, value in of_family.items()}


class Model(Protocol):
    """The networks of a checkpoint and who runs them. What scale latents are of is the model's own business."""

    device: torch.device  # where it wants pixels

    def encode(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """Latents (1, C, T, h, w) of pixels (T, 3, H, W) in [-1, 1]."""

    def denoise(
        self,
        number: int,
        noise: Tensor,
        condition: Tensor,
        generator: torch.Generator,
        find_mask: bool,
        hole: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Latents (1, C, T, h, w) for a window, the `number`-th from 0 of its clip, and the mask decoder's mask.

        noise: (1, C, T, h, w), Gaussian. hole: for a model that fills, where, (1, 1, T, h, w) of 0 and 1; its condition
        is the video that is grey there. The mask is (1, 1, T, h', w') in [0, 1], the mean over up to `MASK_STEPS`
        steps; None where the checkpoint has no mask decoder, or `find_mask` is false.
        """

    def decode(self, latents: Tensor) -> Tensor:
        """Frames (T, H, W, 3) in [0, 1] of latents (1, C, T, h, w)."""


@dataclass(frozen=True)
class Windows:
    """How a clip is cut: frames in a window, and frames that two windows share."""

    window: int = 24
    overlap: int = 8

    def __post_init__(self):
        sliding((), self.window, self.overlap)  # checks the two

    @classmethod
    def fit(cls, window: int | None, overlap: int | None, best: int) -> Windows:
        """None: `best` frames; and 8 frames shared, at most half of the window."""
        window = best if window is None else window
        return cls(window, min(8, window // 2) if overlap is None else overlap)

    def number(self, start: int) -> int:
        """Which window begins at frame `start`, from 0."""
        return math.ceil(start / (self.window - self.overlap))

    def count(self, frames: int) -> int:
        """How many windows a clip of so many frames makes."""
        return 1 + self.number(max(0, frames - self.window))


@dataclass(frozen=True)
class Edge:
    """What of the model's picture shows: the mask grown by `dilate`, its rim soft over `feather` pixels of the source.

    keep_outside False: the model's picture everywhere. Raises `InputError` for what are no pixels.
    """

    dilate: float
    feather: float
    keep_outside: bool = True

    def __post_init__(self):
        masks.soft_edge(np.zeros((1, 1, 1), bool), self.dilate, self.feather)  # checks the two

    @classmethod
    def fit(cls, mask_pixel: float, dilate: float | None, feather: float | None, keep_outside: bool = True) -> Edge:
        """None: as wide as one of the mask's own pixels, `mask_pixel` of the source's, at least 2; half of it soft."""
        if dilate is None:
            dilate = float(max(2, math.ceil(mask_pixel)))
        return cls(dilate, dilate / 2 if feather is None else feather, keep_outside)


def edit(
    images: Iterable[np.ndarray],
    model: Model,
    working: WorkSize,
    windows: Windows,
    seed: int,
    find_mask: bool,
    holes: Iterable[np.ndarray] | None = None,
) -> Iterator[tuple[Tensor, ...]]:
    """For each image, in order: the model's picture (h, w, 3) and, with `find_mask`, the soft mask (h, w), on the CPU.

    images: (H, W, 3), uint8 or float in [0, 1]. holes: for a model that fills, where in each image, (H, W) bool; one is
    taken behind each image. A window with nothing to fill is not sampled. What comes out is at the working size. No
    more than two windows of images are held.
    """

    def edit_window(start, pairs):
        images = [image for image, _ in pairs]
        hole = None if holes is None else holes_at_work_size([hole for _, hole in pairs], working, model.device)
        pixels = to_pixels(images, working, model.device)
        condition, latents, mask = sample(windows.number(start), start, pixels, model, seed, find_mask, hole)
        edited = crop(model.decode(latents), working)
        if not find_mask:
            return (edited.cpu(),)
        if mask is not None:
            return edited.cpu(), _smooth(mask_at_work_size(mask, working))
        before = crop(model.decode(condition), working)
        return edited.cpu(), _smooth(masks.from_difference(before, edited))

    yield from _frames(zip(images, itertools.repeat(None) if holes is None else holes), edit_window, windows)


def find(
    images: Iterable[np.ndarray], model: Model, working: WorkSize, windows: Windows, seed: int
) -> Iterator[tuple[Tensor]]:
    """For each image, in order: the mask decoder's soft mask (h, w) at the working size, on the CPU; no picture."""

    def find_in_window(start, images):
        pixels = to_pixels(images, working, model.device)
        _, _, mask = sample(windows.number(start), start, pixels, model, seed, find_mask=True)
        return (_smooth(mask_at_work_size(mask, working)),)

    yield from _frames(images, find_in_window, windows)


def mask_of(soft: Tensor, height: int, width: int, threshold: float = 0.5) -> np.ndarray:
    """A frame's soft mask (h, w) as bool (height, width)."""
    return masks.binarize(masks.resize(soft[None].numpy(), height, width), threshold)[0]


def put_into(image: np.ndarray, edited: Tensor, mask: np.ndarray, edge: Edge) -> np.ndarray:
    """The model's picture (h, w, 3) in the source's (H, W, 3), where the bool mask (H, W) and its edge let it show.

    Of the image's own type and size; every pixel that the edge does not reach is the image's own.
    """
    alpha = np.ones(mask.shape, np.float32)
    if edge.keep_outside:
        alpha = masks.soft_edge(mask[None], edge.dilate, edge.feather)[0]
    if not alpha.any():
        return image
    full = resize_frames(edited[None], *mask.shape)[0].numpy()
    return masks.composite(image[None], full[None], alpha[None])[0]


def sample(
    number: int,
    start: int,
    pixels: Tensor,
    model: Model,
    seed: int,
    find_mask: bool = False,
    hole: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """A window's condition, the latents that the model makes of it, (1, C, T, h, w), and its mask as in `Model`.

    number: which window it is; start: its first frame. pixels: (T, 3, H, W) in [-1, 1], padded; hole: (T, 1, H, W), 1 =
    fill. Where there is nothing to fill the latents are the condition.
    """
    generator = torch.Generator(model.device).manual_seed((seed + start) % 2**64)
    condition = model.encode(pixels if hole is None else pixels * (1 - hole), generator)
    noise = frame_noise(start, len(pixels), condition[0, :, 0].shape, seed)[None]
    if hole is None:
        return condition, *model.denoise(number, noise, condition, generator, find_mask)
    if not hole.any():
        return condition, condition, None
    return condition, *model.denoise(
        number, noise, condition, generator, find_mask, holes_of_latents(hole, *condition.shape[-2:])
    )


def crop(frames: Tensor, working: WorkSize) -> Tensor:
    """Frames (T, H, W, C) without the padding of the working size."""
    return frames[:, : working.height, : working.width]


@torch.no_grad()
def _frames(images, run_window, windows: Windows) -> Iterator[tuple[Tensor, ...]]:
    parts = sliding(images, windows.window, windows.overlap)
    for block in crossfade((start, run_window(start, part)) for start, part in parts):
        yield from zip(*block)


def _smooth(soft: Tensor) -> Tensor:
    return torch.from_numpy(masks.smooth_in_time(soft.cpu().numpy()))
