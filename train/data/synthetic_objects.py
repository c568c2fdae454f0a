"""Objects of the drawn clips: how they look, where they go, how they are painted.

Lengths are pixels. Sizes, speeds and gaps hold for a frame of 64 pixels and grow with the frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RGB = {
    "red": (0.86, 0.14, 0.14), "green": (0.14, 0.68, 0.20), "blue": (0.14, 0.28, 0.88),
    "yellow": (0.92, 0.84, 0.14), "purple": (0.60, 0.18, 0.74), "white": (0.93, 0.93, 0.93),
}
RADIUS = {"small": (4.5, 6.0), "large": (8.5, 10.5)}
MAX_SPEED = 1.8  # pixels a frame and axis; long clips are slower, their objects have to stay inside
GAP = 2.5  # pixels between objects' edges, and to the border: soft edges stay clear of each other
OVERLAP = 3.0  # pixels by which objects may overlap in the hard set
LAYOUTS = 48  # layouts tried at once
OUTLINE = (0.05, 0.05, 0.07)  # colour of the outline, where there is one


@dataclass(frozen=True)
class DrawnObject:
    """One object; `start` and `velocity` are (x, y), `half` is half its width and height, before the tilt."""

    shape: str
    color: str
    size: str
    radius: float
    rgb: tuple[float, float, float]
    half: tuple[float, float]
    thickness: float  # half the width of a cross's bars
    tilt: float  # radians
    softness: float  # width of the antialiased edge
    shading: tuple[float, float]  # change of brightness from the center to the edge, in x and y
    start: tuple[float, float]
    velocity: tuple[float, float]
    outline: float = 0.0  # width of the dark line around it

    def centers(self, frames: int) -> np.ndarray:
        """(T, 2) positions (x, y); the center of the first pixel is (0.5, 0.5)."""
        return np.array(self.start) + np.arange(frames)[:, None] * np.array(self.velocity)


def body(rng, shape: str, color: str, size: str, scale: float, augment: bool) -> dict:
    """Everything about an object but its path."""
    low, high = RADIUS[size]
    radius = scale * (low + (high - low) * rng.random())
    narrow, wide = {"circle": (1, 1), "square": (0.82, 1), "triangle": (0.95, 1.15), "diamond": (1, 1.2),
                    "cross": (0.95, 1.1)}[shape]
    half = radius * (narrow + (wide - narrow) * rng.random())
    flat, bar, tilt, softness, *shading = rng.random(6).tolist()
    jitter = (0.1 if augment else 0.07) * (2 * rng.random(3) - 1)
    return {
        "shape": shape, "color": color, "size": size, "radius": radius,
        "rgb": tuple(np.clip(RGB[color] + jitter, 0, 1).tolist()),
        "half": (half, half * (1 - 0.13 * flat if shape == "triangle" else 1)),
        "thickness": half * (0.28 + 0.14 * bar),
        "tilt": np.deg2rad(8) * (2 * tilt - 1) if augment else 0.0,
        "softness": 0.15 + softness,
        "shading": tuple(0.05 * (2 * s - 1) for s in shading),
    }


def any_of(rng, values: tuple):
    return values[int(rng.random() * len(values))]


def extent(half: tuple[float, float], tilt: float) -> tuple[float, float]:
    """Half the width and height of a box that holds the tilted object, without its soft edge."""
    (x, y), cos, sin = half, np.cos(tilt), abs(np.sin(tilt))
    return x * cos + y * sin, y * cos + x * sin


def paths(rng, halves: np.ndarray, moving: np.ndarray, frames: int, height: int, width: int, scale: float, hard: bool
           ) -> tuple[np.ndarray, np.ndarray] | None:
    """Starts and velocities (N, 2) that keep the objects (N, 2) apart and inside; None if no try succeeds."""
    count = len(halves)
    border = 0.5 * halves if hard else halves + GAP * scale
    room = np.array([width, height]) - 2 * border
    speed = np.minimum(MAX_SPEED * scale, 0.4 * room / max(frames - 1, 1))
    velocity = moving * speed * (2 * rng.random((LAYOUTS, count, 2)) - 1)
    travel = velocity * (frames - 1)
    start = border - np.minimum(travel, 0) + rng.random(travel.shape) * (room - abs(travel))
    centers = start[:, :, None] + velocity[:, :, None] * np.arange(frames)[:, None]  # (layouts, N, T, 2)

    first, second = np.triu_indices(count, 1)
    distance = abs(centers[:, first] - centers[:, second])
    reach = (halves[first] + halves[second])[:, None]
    boxes = (distance - reach).max(-1)
    discs = np.hypot(*np.moveaxis(distance, -1, 0)) - np.hypot(*np.moveaxis(reach, -1, 0))
    apart = np.maximum(boxes, discs).min((1, 2), initial=np.inf)
    valid = np.flatnonzero(apart >= scale * (-OVERLAP if hard else GAP))
    return (start[valid[0]], velocity[valid[0]]) if len(valid) else None


def patches(drawn: DrawnObject, frames: int, height: int, width: int):
    """Yields, per frame, the rows and columns an object covers, what it keeps of what is below, and its paint."""
    centers = drawn.centers(frames)
    reach = int(np.ceil(max(extent(drawn.half, drawn.tilt)) + drawn.outline + drawn.softness)) + 1
    corners = np.floor(centers).astype(int) - reach  # (T, 2)
    offsets = (corners + 0.5 - centers)[..., None] + np.arange(2 * reach + 1)  # (T, 2, P)
    x, y = offsets[:, 0, None, :].astype(np.float32), offsets[:, 1, :, None].astype(np.float32)
    shade = 1 + (drawn.shading[0] * x + drawn.shading[1] * y) / drawn.radius
    if drawn.tilt:
        cos, sin = np.cos(drawn.tilt), np.sin(drawn.tilt)
        x, y = x * cos + y * sin, y * cos - x * sin
    distance = _distance(drawn, x, y)
    alpha = np.clip(0.5 - (distance - drawn.outline) / drawn.softness, 0, 1)  # (T, P, P)
    paint = (alpha * shade)[..., None] * (255 * np.array(drawn.rgb, np.float32))
    if drawn.outline:
        line = alpha * np.clip(0.5 + distance / drawn.softness, 0, 1)
        paint += line[..., None] * (255 * np.array(OUTLINE, np.float32) - paint)
    keep = (1 - alpha)[..., None]
    for t, (left, top) in enumerate(corners.tolist()):
        rows = slice(max(top, 0), min(top + 2 * reach + 1, height))
        cols = slice(max(left, 0), min(left + 2 * reach + 1, width))
        part = t, slice(rows.start - top, rows.stop - top), slice(cols.start - left, cols.stop - left)
        yield t, rows, cols, keep[part], paint[part]


def _distance(drawn: DrawnObject, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Signed distance to the object's edge, negative inside; exact along the sides."""
    (w, h), bar = drawn.half, drawn.thickness
    ax, ay = abs(x), abs(y)
    if drawn.shape == "circle":
        return np.sqrt(x * x + y * y) - w
    if drawn.shape == "square":
        return np.maximum(ax - w, ay - h)
    if drawn.shape == "triangle":
        return np.maximum(y - h, (2 * h * ax - w * (y + h)) / np.hypot(2 * h, w))
    if drawn.shape == "diamond":
        return (h * ax + w * ay - w * h) / np.hypot(w, h)
    return np.minimum(np.maximum(ax - w, ay - bar), np.maximum(ax - bar, ay - h))
