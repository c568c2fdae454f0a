"""Samples that ask for nothing: a mask over the background of a clip, which is itself the truth.

Made as VIVID's are (arXiv 2411.15260, section 3.2): the masks of an object of another clip are pasted where none of the
clip's own objects is, and go on along their own path, or stand still on the background and move as it does.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np

from lgvi_core.errors import InputError
from lgvi_core.metrics.flow import dis_flow

from .records import Track, resized_masks
from .regions import boxes_of

CARRIED = 0.5  # share of the masks that the background carries
CELLS = 96  # of the longer side of a frame: how finely places are told apart
SHRUNK = (1.0, 0.7, 0.5, 0.35, 0.25)  # sizes of a mask that are tried, until it fits
DONORS = 20  # tried before a clip is given up
FLOW_AREA = 432 * 240  # pixels that frames are brought to for their flow
AROUND = 9  # pixels beside the mask, at that size, whose flow counts too
ENOUGH = 50  # such pixels; with fewer of them the whole background counts
FITS = 1.5  # pixels by which the flow of what moves together may differ


class Masks(Protocol):
    """What covers an object of a clip."""

    def describe(self) -> tuple[int, int, int]:
        """Frames, height and width."""

    def masks(self, indices: list[int], object_id: int | None) -> list[np.ndarray]:
        """Masks (H, W) bool of some frames."""


class Occupied(Protocol):
    """Where objects of a clip are."""

    def covered(self, indices: list[int]) -> np.ndarray:
        """Masks of some frames, bool (T, H, W)."""


@dataclass(frozen=True)
class Deletion:
    """Masks over the background of `video`, made when they are asked for: in the place of a `Track` of masks.

    own: where the clip's objects are. others: pairs of a clip's name and the masks of an object of it, to be pasted;
    those of `clip` are passed by. Which is taken and where it stands depends on `name` and on the frames asked for.
    """

    name: str
    clip: str
    video: Track
    size: tuple[int, int, int]  # frames, height and width
    own: Sequence[Occupied]
    others: Sequence[tuple[str, Masks]]

    is_video = True  # frames come together

    def __str__(self):
        return f"the background of {self.name}"

    def describe(self) -> tuple[int, int, int]:
        return self.size

    def like(self, other: Track) -> Deletion:
        return self

    def masks(self, indices: list[int], object_id: int | None) -> list[np.ndarray]:
        """Masks (H, W) bool of some frames. Raises `InputError` where nothing fits beside the clip's own objects."""
        rng = np.random.default_rng([zlib.crc32(self.name.encode()), *indices])
        taken = np.zeros((len(indices), *self.size[1:]), bool)
        for one in self.own:
            taken |= one.covered(indices)
        stays = len(indices) > 1 and rng.random() < CARRIED
        for _ in range(DONORS):
            clip, other = self.others[rng.integers(len(self.others))]
            shape = None if clip == self.clip else _shown(rng, other, indices, self.size)
            mask = None if shape is None else pasted(rng, shape[:1] if stays else shape, taken[:1] if stays else taken)
            if mask is not None:
                return list(carried(self.video.frames(indices), mask[0], taken) if stays else mask)
        raise InputError(f"{self.name}: no mask of {DONORS} objects of other clips fits on its background")


def _shown(rng: np.random.Generator, other: Masks, indices: list[int], size: tuple[int, int, int]):
    """An object's masks, at the scale of a clip of `size`, in as many frames that lie as far apart; None where it is
    not seen in the first. What is too short goes back and forth."""
    count, height, width = other.describe()
    places = np.array(indices) - indices[0] + rng.integers(max(1, count - (indices[-1] - indices[0])))
    turn = max(1, 2 * (count - 1))
    places = np.minimum(places % turn, -places % turn) if count > 1 else 0 * places
    masks = other.masks(places.tolist(), None)
    scale = min(size[1] / height, size[2] / width)
    masks = resized_masks(masks, max(1, round(height * scale)), max(1, round(width * scale)))
    return masks if masks[0].any() else None


def pasted(rng: np.random.Generator, shape: np.ndarray, taken: np.ndarray) -> np.ndarray | None:
    """Masks of an object (T, h, w) at a random place of a clip, bool (T, H, W); smaller where else there is no room.

    taken: (T, H, W), what they may not touch in any frame. In the first frame all of the mask is inside the clip. None
    where it fits nowhere.
    """
    for scale in SHRUNK:
        size = [max(1, round(side * scale)) for side in shape.shape[1:]]
        small = resized_masks(list(shape), *size)
        place = _place(rng, small, taken) if small[0].any() else None
        if place is not None:
            return _moved(small, *place, *taken.shape[1:])
    return None


def _place(rng: np.random.Generator, shape: np.ndarray, taken: np.ndarray) -> tuple[int, int] | None:
    """Rows and columns by which the masks are moved. Overlaps at all places come from one correlation."""
    cell = -(-max(taken.shape[1:]) // CELLS)
    shape, taken = _coarse(shape, cell), _coarse(taken, cell)
    size = tuple(a + b for a, b in zip(shape.shape[1:], taken.shape[1:]))
    product = np.fft.rfft2(taken, size) * np.conj(np.fft.rfft2(shape, size))
    overlap = np.fft.irfft2(product.sum(0), size)
    left, top, wide, high = boxes_of(shape[:1])[0].astype(int)
    rows = np.arange(-top, taken.shape[1] - top - high + 1)
    columns = np.arange(-left, taken.shape[2] - left - wide + 1)
    free = np.argwhere(overlap[np.ix_(rows, columns)] < 0.5)
    if not len(free):
        return None
    row, column = free[rng.integers(len(free))]
    return int(rows[row]) * cell, int(columns[column]) * cell


def _coarse(mask: np.ndarray, cell: int) -> np.ndarray:
    """The mask (T, H, W) in squares of `cell` pixels, true where any of their pixels is."""
    padded = np.pad(mask, [(0, 0), *((0, -side % cell) for side in mask.shape[1:])])
    frames, height, width = padded.shape
    return padded.reshape(frames, height // cell, cell, width // cell, cell).any((2, 4))


def _moved(mask: np.ndarray, down: int, right: int, height: int, width: int) -> np.ndarray:
    out = np.zeros((len(mask), height, width), bool)
    rows, columns = (
        slice(max(0, shift), min(side, shift + length))
        for shift, side, length in zip((down, right), (height, width), mask.shape[1:])
    )
    out[:, rows, columns] = mask[:, rows.start - down : rows.stop - down, columns.start - right : columns.stop - right]
    return out


def carried(frames: Sequence[np.ndarray], mask: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """The first frame's mask (H, W) carried on by the background, bool (T, H, W), and hidden by what passes before it.

    frames: (H, W, 3) uint8 each. taken: (T, H, W), where the clip's objects are. From frame to frame the mask is moved,
    turned and scaled as most of the optical flow (OpenCV's DIS) under and around it.
    """
    height, width = mask.shape
    scale = min(1.0, (FLOW_AREA / mask.size) ** 0.5)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = [cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames]
    resize = np.diag([size[0] / width, size[1] / height, 1.0])
    inverse = np.linalg.inv(resize)
    near = np.ones((2 * AROUND + 1,) * 2, np.uint8)
    out, path = np.zeros((len(frames), height, width), np.uint8), np.eye(3)
    out[0] = mask
    for t, (before, frame) in enumerate(zip(small, small[1:])):
        around, objects = (
            cv2.dilate(cv2.resize(part.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST), near) > 0
            for part in (out[t], taken[t] | taken[t + 1])
        )
        behind = around & ~objects
        path = inverse @ _motion(dis_flow(before, frame), behind if behind.sum() > ENOUGH else ~objects) @ resize @ path
        out[t + 1] = cv2.warpAffine(mask.astype(np.uint8), path[:2], (width, height), flags=cv2.INTER_NEAREST)
    return (out > 0) & ~taken


def _motion(flow: np.ndarray, where: np.ndarray) -> np.ndarray:
    """The similarity (3, 3) that most of the flow (H, W, 2) in some pixels is of; their median where there is none."""
    points = np.argwhere(where)[:, ::-1].astype(np.float32)
    found, moved = np.eye(3), flow[where]
    similar = None
    if len(points) >= 3:
        similar, _ = cv2.estimateAffinePartial2D(points, points + moved, ransacReprojThreshold=FITS)
    if similar is not None:
        found[:2] = similar
    elif len(points):
        found[:2, 2] = np.median(moved, axis=0)
    return found
