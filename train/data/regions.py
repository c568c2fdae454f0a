"""Regions to fill, made from where objects are: random shapes over their boxes, and the six shapes of their masks.

Instance-aware region selection of CoCoCo (arXiv 2403.12035): the region covers an object in every frame, and the
caption is the object's name.
"""

from __future__ import annotations

import numpy as np

from lgvi_core import mask_shapes

SHAPES = (*mask_shapes.SHAPES, "random")
WAVES = 4  # of a random shape's rim
ARTICLES = ("a", "an", "the", "some", "two", "three", "many", "several")


def random_shape(rng: np.random.Generator, boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """A random shape that covers the box of each frame and moves and grows with it, bool (T, height, width).

    boxes: (T, 4) of x, y, width, height in pixels; NaN where there is none, and the frame stays empty. The shape is
    a rounded box with a wavy rim, the same in all frames.
    """
    corner = 2 + 6 * rng.random()  # 2: an ellipse; more: nearer to a rectangle
    heights, phases = 0.08 * rng.random(WAVES), 2 * np.pi * rng.random(WAVES)
    spread = 1.0 + 0.15 * rng.random()
    out = np.zeros((len(boxes), height, width), bool)
    for frame, (x, y, wide, high) in zip(out, boxes):
        if np.isnan(x):
            continue
        across = ((np.arange(width) + 0.5 - x) / max(wide, 1) * 2 - 1).astype(np.float32)
        down = ((np.arange(height) + 0.5 - y) / max(high, 1) * 2 - 1).astype(np.float32)[:, None]
        angle = np.arctan2(down, across)
        rim = sum(h * (1 + np.cos((k + 1) * angle + phase)) for k, (h, phase) in enumerate(zip(heights, phases)))
        size = (abs(across) ** corner + abs(down) ** corner) ** (1 / corner)
        frame[:] = size <= 2 ** (1 / corner) * (spread + rim)
    return out


def moving_box(rng: np.random.Generator, frames: int, height: int, width: int) -> np.ndarray:
    """A box that crosses the frame in a straight line, (T, 4) of x, y, width, height: for random masks."""
    size = np.array([width, height]) * (0.15 + 0.3 * rng.random(2))
    ends = rng.random((2, 2)) * ([width, height] - size)
    reach = min(1.0, 0.03 * frames)  # slower where the clip is short
    places = ends[0] + np.linspace(0, reach, frames)[:, None] * (ends[1] - ends[0])
    return np.hstack([places, np.broadcast_to(size, places.shape)])


def shaped(rng: np.random.Generator, mask: np.ndarray, shape: str, largest: float) -> np.ndarray:
    """An object's mask (T, H, W) in one of `SHAPES`; what expands does so by up to `largest` pixels."""
    if shape == "random":
        return random_shape(rng, boxes_of(mask), *mask.shape[1:]) | mask
    return mask_shapes.reshape(mask, shape, largest * rng.random())


def boxes_of(mask: np.ndarray) -> np.ndarray:
    """The box around the mask of each frame, (T, 4) of x, y, width, height; NaN where it is empty."""
    boxes = np.full((len(mask), 4), np.nan)
    for box, frame in zip(boxes, mask):
        rows, columns = np.flatnonzero(frame.any(axis=1)), np.flatnonzero(frame.any(axis=0))
        if len(rows):
            box[:] = columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]
    return boxes


def caption(label: str) -> str:
    """What a region's caption is, from the name of the object: "a dog", "an old car"; an article of its own stays."""
    words = label.strip().split()
    if not words or words[0].lower() in ARTICLES:
        return " ".join(words)
    return f"{'an' if words[0][0].lower() in 'aeiou' else 'a'} {' '.join(words)}"

