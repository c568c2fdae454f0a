"""Drawn clips with exact truth: moving objects on muted textures, and a request to remove some of them.

Lengths are pixels. Every size, speed and margin below holds for a frame of 64 pixels and grows with the frame.
"""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from .synthetic_textures import draw_background
from .synthetic_words import COLORS, KINDS, SHAPES, SIZES, pick, say

RGB = {
    "red": (0.86, 0.14, 0.14), "green": (0.14, 0.68, 0.20), "blue": (0.14, 0.28, 0.88),
    "yellow": (0.92, 0.84, 0.14), "purple": (0.60, 0.18, 0.74), "white": (0.93, 0.93, 0.93),
}
RADIUS = {"small": (4.5, 6.0), "large": (8.5, 10.5)}
MAX_SPEED = 1.8  # pixels a frame and axis; long clips are slower, their objects have to stay inside
MARGIN = 5.0  # pixels by which a position must be won
GAP = 2.5  # pixels between objects' edges, and to the border: soft edges stay clear of each other
OVERLAP = 3.0  # pixels by which objects may overlap in the hard set
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
    kind: str  # "attributes", "position", "several", "none" or "shape"
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
    background, grain, still = draw_background(texture_rng, frames, height, width, scale, held_out, objects)

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
    if kind == "shape":
        color, size = _any(rng, COLORS), _any(rng, SIZES)
        return [(SHAPES[i], color, size) for i in rng.permutation(len(SHAPES))[:count]]
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
