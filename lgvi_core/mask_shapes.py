"""The six shapes that a mask of an object is given to a model in (VIVID-10M, arXiv 2411.15260, section 3.3).

Masks are bool numpy arrays (T, H, W); each frame is reshaped on its own. What is bigger than the object hides its
outline from the model.
"""

from __future__ import annotations

import numpy as np

from . import masks
from .errors import InputError

SHAPES = ("exact", "expand", "hull", "box", "hull_expand", "box_expand")


def reshape(mask: np.ndarray, shape: str, pixels: float = 0.0) -> np.ndarray:
    """The mask in one of `SHAPES`, those that expand grown by a disc of `pixels`; it covers the mask it is made from.

    Raises `InputError` for a shape that is not known, a mask that is not bool (T, H, W), and `pixels` below 0.
    """
    if shape not in SHAPES:
        raise InputError(f"the mask's shape is {shape!r}; allowed: {', '.join(SHAPES)}")
    if mask.ndim != 3 or mask.dtype != bool:
        raise InputError(f"expected a bool mask (T, H, W), got {mask.dtype} {mask.shape}: binarize it first")
    kind, _, grown = shape.partition("_")
    if kind == "hull":
        mask = hull(mask)
    elif kind == "box":
        mask = box(mask)
    return masks.dilate(mask, pixels) if "expand" in (kind, grown) else mask.copy()


def box(mask: np.ndarray) -> np.ndarray:
    """The upright rectangle around all that is true, frame by frame."""
    return _between(mask.any(axis=2))[:, :, None] & _between(mask.any(axis=1))[:, None]


def hull(mask: np.ndarray) -> np.ndarray:
    """The convex hull of the centres of all true pixels, frame by frame."""
    out = mask.copy()
    for frame, filled in zip(mask, out):
        rows = np.flatnonzero(frame.any(axis=1))
        if len(rows) > 1:
            width = frame.shape[1]
            left = frame[rows].argmax(axis=1)
            right = width - 1 - frame[rows, ::-1].argmax(axis=1)
            span = np.arange(rows[0], rows[-1] + 1)
            first = np.ceil(_convex(rows, left)(span) - 1e-6)
            last = np.floor(-_convex(rows, -right)(span) + 1e-6)
            columns = np.arange(width)
            filled[span] = (columns >= first[:, None]) & (columns <= last[:, None])
        elif len(rows):
            columns = np.flatnonzero(frame[rows[0]])
            filled[rows[0], columns[0] : columns[-1] + 1] = True
    return out


def _convex(places: np.ndarray, values: np.ndarray):
    """The greatest convex function below the points (Andrew's monotone chain), by interpolation."""
    kept: list[tuple[int, int]] = []
    for x, y in zip(places.tolist(), values.tolist()):
        while len(kept) > 1:
            (x0, y0), (x1, y1) = kept[-2:]
            if (y1 - y0) * (x - x0) < (y - y0) * (x1 - x0):
                break
            kept.pop()
        kept.append((x, y))
    corners = np.array(kept, float)
    return lambda at: np.interp(at, corners[:, 0], corners[:, 1])


def _between(line: np.ndarray) -> np.ndarray:
    """Everything from the first true value to the last, along the last axis."""
    return np.maximum.accumulate(line, axis=-1) & np.maximum.accumulate(line[..., ::-1], axis=-1)[..., ::-1]
