"""Drawn clips with exact truth: moving objects on muted textures, and a request to remove some of them.

Lengths are pixels. Every size, speed and margin below holds for a frame of 64 pixels and grows with the frame.
"""

import io
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from train.data.synthetic_words import COLORS, KINDS, SHAPES, SIZES, pick, say

RGB = {
    "red": (0.86, 0.14, 0.14), "green": (0.14, 0.68, 0.20), "blue": (0.14, 0.28, 0.88),
    "yellow": (0.92, 0.84, 0.14), "purple": (0.60, 0.18, 0.74), "white": (0.93, 0.93, 0.93),
}
RADIUS = {"small": (4.5, 6.0), "large": (8.5, 10.5)}
MAX_SPEED = 1.8  # pixels a frame and axis; long clips are slower, their objects have to stay inside
MAX_PAN = 1.2  # pixels a frame and axis
MARGIN = 5.0  # pixels by which a position must be won
GAP = 2.5  # pixels between objects' edges, and to the border: soft edges stay clear of each other
OVERLAP = 3.0  # pixels by which objects may overlap in the hard set
MIN_CONTRAST = 0.3  # distance in RGB of an object's color from the background's
LAYOUTS = 48  # layouts tried at once


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

    def centers(self, frames: int) -> np.ndarray:
        """(T, 2) positions (x, y); the center of the first pixel is (0.5, 0.5)."""
        return np.array(self.start) + np.arange(frames)[:, None] * np.array(self.velocity)


@dataclass(frozen=True)
class Clip:
    """A clip and its truth, see `draw`."""

    frames: np.ndarray  # (T, H, W, 3) uint8, what the user gives
    clean: np.ndarray  # (T, H, W, 3) uint8, the targets removed; equals frames where nothing matches
    background: np.ndarray  # (T, H, W, 3) uint8, all objects removed
    mask: np.ndarray  # (T, H, W) bool, the targets
    object_masks: np.ndarray  # (N, T, H, W) bool, what is visible of each object
    objects: tuple[DrawnObject, ...]  # in the order they are painted
    targets: tuple[int, ...]
    sentence: str
    kind: str  # "attributes", "position", "several" or "none"
    still: bool  # the background does not pan


def draw(seed: int, index: int, frames: int = 8, height: int = 64, width: int = 64, held_out: bool = False,
         hard: bool = False, augment: bool = False, scale: float | None = None, kind: str | None = None) -> Clip:
    """Draw clip `index` of the set that `seed`, `held_out` and `hard` name; the same arguments give the same bytes.

    `held_out` draws textures from ranges training leaves out. `hard` has one to four objects that may overlap and
    cross the border, else two or three stand apart. `augment` tilts the objects, varies their colors more and gives
    some clips the marks of JPEG or blur. `scale` is the size of the drawing, by default min(height, width) / 64.
    `kind` asks for one kind of sentence. Raises ValueError for what cannot be drawn.
    """
    scale = min(height, width) / 64 if scale is None else scale
    _check(seed, index, frames, height, width, scale, kind)
    rng, texture_rng, damage_rng = _streams(seed, index, held_out, hard)
    objects, targets, sentence, kind = _scene(rng, frames, height, width, scale, hard, augment, kind)
    background, grain, still = _background(texture_rng, frames, height, width, scale, held_out, objects)

    painted, clean = background.copy(), background.copy()
    object_masks = np.zeros((len(objects), frames, height, width), bool)
    reach = np.zeros((frames, height, width), bool)
    for i, drawn in enumerate(objects):
        for t, rows, cols, keep, paint in _patches(drawn, frames, height, width):
            spots = (painted,) if i in targets else (painted, clean)
            for spot in spots:
                region = spot[t, rows, cols]
                region *= keep
                region += paint
            if i in targets:
                reach[t, rows, cols] |= keep[..., 0] < 1
            inside = keep[..., 0] <= 0.5
            object_masks[:i, t, rows, cols] &= ~inside
            object_masks[i, t, rows, cols] = inside

    painted, clean, background = (_quantise(clip, grain) for clip in (painted, clean, background))
    if augment:
        painted, clean, background = _damage(damage_rng, painted, clean, background, reach)
    mask = object_masks[list(targets)].any(0)
    return Clip(painted, clean, background, mask, object_masks, objects, targets, sentence, kind, still)


def sentences(seed: int, count: int) -> list[str]:
    """The sentences of the first `count` training clips of `seed`, without drawing them."""
    return [_scene(_streams(seed, i, False, False)[0], 8, 64, 64, 1.0, False, False, None)[2] for i in range(count)]


def _check(seed, index, frames, height, width, scale, kind) -> None:
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index must not be negative, got seed={seed}, index={index}")
    if frames < 1:
        raise ValueError(f"frames must be at least 1, got {frames}")
    if height < 32 or width < 32:
        raise ValueError(f"height and width must be at least 32, got {height}x{width}")
    if not 0 < scale <= min(height, width) / 48:
        raise ValueError(f"scale must be above 0 and at most min(height, width) / 48 for objects to fit, got {scale}")
    if kind is not None and kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")


def _streams(seed: int, index: int, held_out: bool, hard: bool) -> list[np.random.Generator]:
    """Random numbers for the scene, the background and the damage: one never shifts another."""
    return [np.random.default_rng((seed, index, held_out, hard, stream)) for stream in range(3)]


# The scene: objects, their paths, and a sentence that fits them. Nothing is rendered until all three agree.


def _scene(rng, frames, height, width, scale, hard, augment, kind):
    drawn_kind = pick(rng, KINDS)
    kind = kind or drawn_kind
    if hard:
        count = int(rng.integers(2 if kind == "position" else 1, 5))
    else:
        count = 3 if rng.random() < (0.7 if kind == "several" else 0.5) else 2
    moving = rng.random((count, 1)) < 0.75
    while True:
        looks = _looks(rng, count, kind)
        bodies = [_body(rng, *look, scale, augment) for look in looks]
        halves = np.array([_extent(body["half"], body["tilt"]) for body in bodies])
        paths = _paths(rng, halves, moving, frames, height, width, scale, hard)
        if paths is None:
            continue
        objects = tuple(
            DrawnObject(**body, start=tuple(start), velocity=tuple(velocity))
            for body, start, velocity in zip(bodies, *(path.tolist() for path in paths))
        )
        centers = np.stack([drawn.centers(frames) for drawn in objects])
        said = say(rng, kind, looks, centers, MARGIN * scale)
        if said is not None:
            return objects, *said, kind


def _looks(rng, count: int, kind: str) -> list[tuple[str, str, str]]:
    """Shape, color and size of each object; the others often share some of the first one's."""
    twins = 0.35 if kind == "position" else 0.15
    sharing = {(True, False): 0.3, (False, True): 0.25, (True, True): twins, (False, False): 0.2}
    first = _any(rng, SHAPES), _any(rng, COLORS), _any(rng, SIZES)
    looks = [first]
    for _ in range(count - 1):
        same_shape, same_color = pick(rng, sharing)
        shape = first[0] if same_shape else _any(rng, SHAPES)
        color = first[1] if same_color else _any(rng, COLORS)
        looks.append((shape, color, _any(rng, SIZES)))
    order = rng.permutation(count)
    return [looks[i] for i in order]


def _any(rng, values: tuple):
    return values[int(rng.random() * len(values))]


def _body(rng, shape: str, color: str, size: str, scale: float, augment: bool) -> dict:
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


def _extent(half: tuple[float, float], tilt: float) -> tuple[float, float]:
    """Half the width and height of a box that holds the tilted object, without its soft edge."""
    (x, y), cos, sin = half, np.cos(tilt), abs(np.sin(tilt))
    return x * cos + y * sin, y * cos + x * sin


def _paths(rng, halves: np.ndarray, moving: np.ndarray, frames: int, height: int, width: int, scale: float, hard: bool
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


# Painting


def _patches(drawn: DrawnObject, frames: int, height: int, width: int):
    """Yields, per frame, the rows and columns an object covers, what it keeps of what is below, and its paint."""
    centers = drawn.centers(frames)
    reach = int(np.ceil(max(_extent(drawn.half, drawn.tilt)) + drawn.softness)) + 1
    corners = np.floor(centers).astype(int) - reach  # (T, 2)
    offsets = (corners + 0.5 - centers)[..., None] + np.arange(2 * reach + 1)  # (T, 2, P)
    x, y = offsets[:, 0, None, :].astype(np.float32), offsets[:, 1, :, None].astype(np.float32)
    shade = 1 + (drawn.shading[0] * x + drawn.shading[1] * y) / drawn.radius
    if drawn.tilt:
        cos, sin = np.cos(drawn.tilt), np.sin(drawn.tilt)
        x, y = x * cos + y * sin, y * cos - x * sin
    alpha = np.clip(0.5 - _distance(drawn, x, y) / drawn.softness, 0, 1)  # (T, P, P)
    paint = (alpha * shade)[..., None] * (255 * np.array(drawn.rgb, np.float32))
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


def _quantise(clip: np.ndarray, grain: np.ndarray | float) -> np.ndarray:
    return np.clip(clip + (grain + np.float32(0.5)), 0, 255).astype(np.uint8)


# The background


def _background(rng, frames, height, width, scale, held_out, objects) -> tuple[np.ndarray, np.ndarray | float, bool]:
    """The background (T, H, W, 3) from 0 to 255 in float32, the grain to add to it, and whether it stands still."""
    ranges = _Ranges(rng, held_out)
    still = bool(rng.random() < 0.5)
    pan = np.zeros(2) if still else MAX_PAN * scale * (2 * rng.random(2) - 1)
    offsets = np.arange(frames)[:, None] * pan - np.minimum(pan * (frames - 1), 0)  # (T, 2), never negative
    tall, wide = (np.ceil(offsets.max(0))[::-1].astype(int) + (height, width) + (not still)).tolist()

    low, high = _two_colors(ranges, np.array([drawn.rgb for drawn in objects]))
    blend = pick(rng, TEXTURES)(ranges, tall, wide, scale)[..., None]
    canvas = 255 * (low + blend * (high - low)).astype(np.float32)
    if rng.random() < 0.3:
        hues = 1 if rng.random() < 0.5 else 3
        canvas += 255 * ranges.between(0.01, 0.04) * _smooth(rng, tall, wide, ranges.between(3, 24) * scale, hues)
    vignette, follows = rng.random() < 0.3, rng.random() < 0.5
    if vignette and follows:
        canvas *= _vignette(ranges, tall, wide)
    sigma = 0.5 + 2.5 * rng.random() if rng.random() < 0.7 else 0.0
    fixed, channels = rng.random() < 0.5, 1 if rng.random() < 0.5 else 3
    if sigma and fixed:
        canvas += sigma * rng.standard_normal((tall, wide, channels), np.float32)

    view = np.empty((frames, height, width, 3), np.float32)
    for t, (x, y) in enumerate(offsets.tolist()):
        view[t] = canvas if still else _window(canvas, x, y, height, width)
    if vignette and not follows:
        view *= _vignette(ranges, height, width)
    fresh = sigma > 0 and not fixed
    grain = sigma * rng.standard_normal((frames, height, width, channels), np.float32) if fresh else np.float32(0)
    return view, grain, still


class _Ranges:
    """Draws textures' parameters: training leaves out two bands of every range, held-out clips use only those."""

    def __init__(self, rng: np.random.Generator, held_out: bool):
        self.rng, self.held_out = rng, held_out

    def between(self, low: float, high: float) -> float:
        if self.held_out:
            part = 0.2 * self.rng.random()
            part += 0.25 if part < 0.1 else 0.55  # 0.25 to 0.35, 0.65 to 0.75
        else:
            part = 0.8 * self.rng.random()
            part += 0.1 * (part >= 0.25) + 0.1 * (part >= 0.55)
        return low + (high - low) * part


def _two_colors(ranges: _Ranges, objects: np.ndarray) -> np.ndarray:
    """Two muted colors (2, 3); none of the objects' (N, 3) comes near them or a blend of them."""
    while True:
        level, contrast = ranges.between(0.15, 0.75), ranges.between(0.05, 0.35)
        if ranges.rng.random() < 0.5:
            contrast = -contrast
        tints = ranges.rng.standard_normal((2, 3))
        tints[1] = 0.6 * tints[0] + 0.4 * tints[1]
        tints -= tints.mean(1, keepdims=True)
        tints *= ranges.between(0.0, 0.14) / np.linalg.norm(tints, axis=1).max()
        colors = np.clip(tints + [[level], [level + contrast]], 0.06, 0.8)
        line = colors[1] - colors[0]
        nearest = np.clip((objects - colors[0]) @ line / (line @ line), 0, 1)[:, None] * line + colors[0]
        if (((objects - nearest) ** 2).sum(1) >= MIN_CONTRAST**2).all():
            return colors


def _noise(ranges: _Ranges, height: int, width: int, scale: float) -> np.ndarray:
    field = _smooth(ranges.rng, height, width, ranges.between(8, 34) * scale, 1)
    if ranges.rng.random() < 0.5:
        share = ranges.between(0.15, 0.5)
        field = (1 - share) * field + share * _smooth(ranges.rng, height, width, ranges.between(2.5, 8) * scale, 1)
    return np.clip(0.5 + 0.25 * field[..., 0], 0, 1)


def _stripes(ranges: _Ranges, height: int, width: int, scale: float) -> np.ndarray:
    period, angle, phase = ranges.between(5, 26) * scale, ranges.between(0, np.pi), ranges.rng.random()
    x, y = _axes(height, width, angle)
    return 0.5 + 0.5 * _wave(ranges, x / period + phase, period)


def _checks(ranges: _Ranges, height: int, width: int, scale: float) -> np.ndarray:
    period, phases = ranges.between(7, 32) * scale, ranges.rng.random(2)
    angle = ranges.between(0, np.pi / 2) if ranges.rng.random() < 0.4 else 0.0
    x, y = _axes(height, width, angle)
    return 0.5 + 0.5 * _wave(ranges, x / period + phases[0], period) * _wave(ranges, y / period + phases[1], period)


def _linear(ranges: _Ranges, height: int, width: int, scale: float) -> np.ndarray:
    x, _ = _axes(height, width, ranges.between(0, 2 * np.pi))
    return np.clip(0.5 + x / (ranges.between(0.7, 1.6) * max(height, width)), 0, 1)


def _radial(ranges: _Ranges, height: int, width: int, scale: float) -> np.ndarray:
    x, y = _axes(height, width, 0.0)
    x, y = x - width * ranges.between(-0.5, 0.5), y - height * ranges.between(-0.5, 0.5)
    return np.clip(np.sqrt(x * x + y * y) / (ranges.between(0.5, 1.2) * max(height, width)), 0, 1)


TEXTURES = {_noise: 34, _stripes: 22, _checks: 18, _linear: 13, _radial: 13}


def _axes(height: int, width: int, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of the pixels from the middle of the canvas, turned by `angle`."""
    x = np.arange(width, dtype=np.float32) - width / 2
    y = np.arange(height, dtype=np.float32)[:, None] - height / 2
    cos, sin = float(np.cos(angle)), float(np.sin(angle))
    return x * cos + y * sin, y * cos - x * sin


def _wave(ranges: _Ranges, cycles: np.ndarray, period: float) -> np.ndarray:
    """A sine from -1 to 1, or in half of the draws a square wave whose edges are about a pixel wide."""
    wave = np.sin(2 * np.pi * cycles)
    return wave if ranges.rng.random() < 0.5 else np.clip(wave * period / np.pi, -1, 1)


def _smooth(rng: np.random.Generator, height: int, width: int, step: float, channels: int) -> np.ndarray:
    """(H, W, C) noise of unit variance: a cubic B-spline over random knots `step` pixels apart."""
    rows, cols = _spline(height, step, rng.random()), _spline(width, step, rng.random())
    knots = rng.standard_normal((channels, rows.shape[1], cols.shape[1]), np.float32)
    return (rows @ knots @ cols.T).transpose(1, 2, 0) / 0.48


def _spline(size: int, step: float, phase: float) -> np.ndarray:
    """(size, knots) weights of the uniform cubic B-spline."""
    place = np.arange(size) / step + phase
    knot = place.astype(int)
    f = place - knot
    weights = np.zeros((size, knot[-1] + 4), np.float32)
    near = np.stack([(1 - f) ** 3, 3 * f**3 - 6 * f**2 + 4, 1 + 3 * f + 3 * f**2 - 3 * f**3, f**3], 1) / 6
    weights[np.arange(size)[:, None], knot[:, None] + np.arange(4)] = near
    return weights


def _vignette(ranges: _Ranges, height: int, width: int) -> np.ndarray:
    x, y = _axes(height, width, 0.0)
    return (1 - ranges.between(0.1, 0.45) * (x * x / width**2 + y * y / height**2) * 2)[..., None]


def _window(canvas: np.ndarray, x: float, y: float, height: int, width: int) -> np.ndarray:
    """The bilinear view of `canvas` whose first pixel lies at (x, y)."""
    left, top = int(x), int(y)
    view = canvas[top:top + height + 1, left:left + width + 1]
    view = view[:-1] + np.float32(y - top) * (view[1:] - view[:-1])
    return view[:, :-1] + np.float32(x - left) * (view[:, 1:] - view[:, :-1])


# Damage


def _damage(rng, painted, clean, background, reach) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """JPEG in 15 % of the clips, blur in 10 %; `clean` stays equal to `painted` away from the targets' `reach`."""
    chance, strength = rng.random(2)
    if chance >= 0.25:
        return painted, clean, background
    clips = painted, clean, background
    if chance < 0.15:
        painted, clean, background = (_jpeg(clip, int(60 + 36 * strength)) for clip in clips)
    else:
        painted, clean, background = (_blur(clip, 0.05 + 0.2 * strength) for clip in clips)
    for _ in range(2):
        grown = np.pad(reach, ((0, 0), (1, 1), (1, 1)))
        reach = grown[:, :-2, 1:-1] | grown[:, 2:, 1:-1] | grown[:, 1:-1, :-2] | grown[:, 1:-1, 2:] | reach
    return painted, np.where(reach[..., None], clean, painted), background


def _jpeg(clip: np.ndarray, quality: int) -> np.ndarray:
    frames = []
    for frame in clip:
        file = io.BytesIO()
        Image.fromarray(frame).save(file, "JPEG", quality=quality)
        frames.append(np.asarray(Image.open(file)))
    return np.stack(frames)


def _blur(clip: np.ndarray, share: float) -> np.ndarray:
    """Each pixel takes `share` from either neighbor, along the rows and then the columns."""
    wide = np.pad(clip.astype(np.float32), ((0, 0), (1, 1), (1, 1), (0, 0)), "edge")
    wide = (1 - 2 * share) * wide[:, 1:-1] + share * (wide[:, :-2] + wide[:, 2:])
    return _quantise((1 - 2 * share) * wide[:, :, 1:-1] + share * (wide[:, :, :-2] + wide[:, :, 2:]), np.float32(0))


class SyntheticClips(torch.utils.data.Dataset):
    """The first `length` clips of a set, see `draw`.

    An item is a dict: frames and clean (T, H, W, 3) uint8, mask (T, H, W) bool, sentence str.
    """

    def __init__(self, seed: int, length: int, frames: int = 8, height: int = 64, width: int = 64,
                 held_out: bool = False, hard: bool = False, augment: bool = False):
        self.seed, self.length = seed, length
        self.options = {"frames": frames, "height": height, "width": width, "held_out": held_out, "hard": hard,
                        "augment": augment}

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < self.length:
            raise IndexError(f"index must be from 0 to {self.length - 1}, got {index}")
        clip = draw(self.seed, index, **self.options)
        item = {name: torch.from_numpy(getattr(clip, name)) for name in ("frames", "clean", "mask")}
        return {**item, "sentence": clip.sentence}
