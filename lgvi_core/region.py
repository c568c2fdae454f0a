"""A region of the frame that somebody marked: a box, brush strokes, or both, in fractions of the frame."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np

from . import masks
from .errors import InputError

Box = tuple[float, float, float, float]
FARTHEST = 2.0  # a hand may slip off the frame; a number beyond this is a pixel, not a fraction
EXAMPLE = '{"box": [0.25, 0.25, 0.5, 0.5]}'


@dataclass(frozen=True)
class Stroke:
    """A line of the brush: its width in fractions of the frame's shorter side, its points (x, y) in fractions."""

    width: float
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Region:
    """A box (x, y, width, height) in fractions of the frame's width and height, and strokes; neither: no region."""

    box: Box | None = None
    strokes: tuple[Stroke, ...] = ()

    def __bool__(self) -> bool:
        return self.box is not None or bool(self.strokes)

    def mask(self, height: int, width: int) -> np.ndarray:
        """The region at a size in pixels, bool (height, width); a box covers one pixel at least."""
        mask = np.zeros((height, width), bool)
        if self.box:
            x, y, box_width, box_height = self.box
            mask[_span(y, box_height, height), _span(x, box_width, width)] = True
        for stroke in self.strokes:
            _paint(mask, stroke)
        return mask


def parse(text: str) -> Region:
    """The region in a JSON text, `{"box": [x, y, width, height], "strokes": [{"width": w, "points": [[x, y], ...]}]}`.

    All numbers are fractions of the frame; either key may be absent or null, the empty text is no region. A box that
    sticks out of the frame is cut at its edge. Raises `InputError` for any other text and for a box without area or
    outside of the frame.
    """
    if not text.strip():
        return Region()
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the region {_short(text)} is not JSON ({error}); write it like {EXAMPLE}") from error
    if not isinstance(data, dict) or not data.keys() <= {"box", "strokes"}:
        raise InputError(f"the region {_short(text)} must have the keys box and strokes only, like {EXAMPLE}")
    box, strokes = data.get("box"), data.get("strokes") or ()
    if not isinstance(strokes, (list, tuple)):
        raise InputError(f"the region's strokes are {_short(strokes)}; give a list of strokes")
    return Region(None if box is None else check_box(box), tuple(_stroke(stroke) for stroke in strokes))


def check_box(box: Sequence[float]) -> Box:
    """A box (x, y, width, height) in fractions, cut at the frame's edges; `InputError` if nothing is left of it."""
    x, y, width, height = _numbers(box, 4, "box", "[x, y, width, height]")
    if width <= 0 or height <= 0:
        raise InputError(f"the region's box {_short(box)} has no area; width and height must be above 0")
    left, top, right, bottom = (min(max(edge, 0.0), 1.0) for edge in (x, y, x + width, y + height))
    if left >= right or top >= bottom:
        raise InputError(f"the region's box {_short(box)} lies outside of the frame, which goes from 0 to 1")
    return left, top, right - left, bottom - top


def from_pixels(box: dict, height: int, width: int) -> Region:
    """The region of a box in pixels, {"x", "y", "width", "height"}, in a frame of that size; errors as `parse`."""
    if not isinstance(box, dict) or not {"x", "y", "width", "height"} <= box.keys():
        raise InputError(f'the bounding box is {_short(box)}; give {{"x", "y", "width", "height"}} in pixels')
    values = [box[key] for key in ("x", "y", "width", "height")]
    if not all(_is_number(value) for value in values):
        raise InputError(f"the bounding box {_short(box)} must have numbers of pixels")
    left, top = max(values[0], 0), max(values[1], 0)
    right, bottom = min(values[0] + values[2], width), min(values[1] + values[3], height)
    if left >= right or top >= bottom:
        raise InputError(f"the bounding box {_short(box)} covers nothing of a frame of {width}x{height} pixels")
    return Region((left / width, top / height, (right - left) / width, (bottom - top) / height))


def joined(size: tuple[int, int, int], region: Region, boxes=None, mask=None) -> np.ndarray:
    """All that is marked in a clip of `size` (frames, height, width) as one mask of it, float32 in [0, 1].

    boxes: in pixels as `from_pixels` takes them, one or a list for all frames, or a list per frame; or None. mask: as
    `masks.as_mask` takes it, or None. Raises `InputError` for what does not fit the clip.
    """
    marked = np.zeros(size, np.float32) if mask is None else np.array(masks.as_mask(mask, *size))
    drawn = region.mask(*size[1:])
    for frame, found in zip(marked, _per_frame(boxes, len(marked))):
        for part in [drawn, *(from_pixels(box, *size[1:]).mask(*size[1:]) for box in found)]:
            np.maximum(frame, part, out=frame)
    return marked


def bounds(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """The box (x, y, width, height) in pixels around all that is true in a mask (height, width); None if nothing is."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    x, y = int(columns[0]), int(rows[0])
    return x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1


def _per_frame(boxes, count: int) -> list[list[dict]]:
    boxes = [[boxes]] if isinstance(boxes, dict) else boxes or [[]]
    if isinstance(boxes, list) and isinstance(boxes[0], dict):
        boxes = [boxes]
    if not isinstance(boxes, list) or not all(isinstance(found, list) for found in boxes):
        raise InputError(f"the bounding box is {_short(boxes)}; give a box, a list of boxes, or a list for each frame")
    if len(boxes) not in (1, count):
        raise InputError(f"there are bounding boxes for {len(boxes)} frames but {count} frames: give as many, or one")
    return boxes * count if len(boxes) == 1 else boxes


def _span(start: float, length: float, size: int) -> slice:
    """The pixels of a row of `size` that a span in fractions covers, rounded to whole ones, one at least."""
    first = min(math.floor(start * size + 0.5), size - 1)
    return slice(first, max(first + 1, math.floor((start + length) * size + 0.5)))


def _paint(mask: np.ndarray, stroke: Stroke) -> None:
    """Set the pixels whose centre is within half the stroke's width of its line, and those that the line crosses."""
    height, width = mask.shape
    radius = max(math.sqrt(0.5), stroke.width * min(height, width) / 2)
    points = [(x * width - 0.5, y * height - 0.5) for x, y in stroke.points]
    for (x0, y0), (x1, y1) in zip(points, points[1:] or points):
        rows = slice(max(0, math.floor(min(y0, y1) - radius)), max(0, math.ceil(max(y0, y1) + radius) + 1))
        columns = slice(max(0, math.floor(min(x0, x1) - radius)), max(0, math.ceil(max(x0, x1) + radius) + 1))
        part = mask[rows, columns]
        y, x = np.ogrid[rows.start : rows.start + part.shape[0], columns.start : columns.start + part.shape[1]]
        dx, dy = x1 - x0, y1 - y0
        along = ((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy or 1.0)
        along = along.clip(0, 1)
        part |= np.hypot(x - x0 - along * dx, y - y0 - along * dy) <= radius


def _stroke(stroke) -> Stroke:
    points = stroke.get("points") if isinstance(stroke, dict) else None
    if not isinstance(points, list) or not points:
        raise InputError(f'a stroke of the region is {_short(stroke)}; give {{"width": w, "points": [[x, y], ...]}}')
    (width,) = _numbers([stroke.get("width")], 1, "stroke width", "a fraction of the frame's shorter side")
    if width <= 0:
        raise InputError(f"a stroke of the region has the width {width}; it must be above 0")
    return Stroke(width, tuple(_numbers(point, 2, "stroke point", "[x, y]") for point in points))


def _numbers(values, count: int, name: str, wanted: str) -> tuple[float, ...]:
    if not isinstance(values, (list, tuple)) or len(values) != count or not all(_is_number(v) for v in values):
        raise InputError(f"the region's {name} is {_short(values)}; give {wanted} as numbers")
    if not all(abs(value) <= FARTHEST for value in values):
        raise InputError(f"the region's {name} is {_short(values)}; give fractions of the frame (0 to 1), not pixels")
    return tuple(float(value) for value in values)


def _is_number(value) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and -1e9 < value < 1e9


def _short(value) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
