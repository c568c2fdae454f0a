"""Drawn clips with exact truth: moving objects on muted textures, and a request to remove some of them.

Lengths are pixels. Every size, speed and margin below holds for a frame of 64 pixels and grows with the frame.
"""

import io
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from .synthetic_objects import OUTLINE, DrawnObject, any_of, body, extent, patches, paths
from .synthetic_textures import draw_background
from .synthetic_words import COLORS, KINDS, SHAPES, SIZES, pick, say

MARGIN = 5.0  # pixels by which a position must be won


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
         hard: bool = False, augment: bool = False, scale: float | None = None, kind: str | None = None,
         outline: float = 0.0) -> Clip:
    """Draw clip `index` of the set that `seed`, `held_out` and `hard` name; the same arguments give the same bytes.

    `held_out` draws textures from ranges training leaves out. `hard` has one to four objects that may overlap and
    cross the border, else two or three stand apart. `augment` tilts the objects, varies their colors more and gives
    some clips the marks of JPEG or blur. `scale` is the size of the drawing, by default min(height, width) / 64.
    `kind` asks for one kind of sentence. `outline` pixels around every object are painted dark, on a lighter
    background. Raises ValueError for what cannot be drawn.
    """
    scale = min(height, width) / 64 if scale is None else scale
    _check(seed, index, frames, height, width, scale, kind, outline)
    rng, texture_rng, damage_rng = _streams(seed, index, held_out, hard)
    objects, targets, sentence, kind = _scene(rng, frames, height, width, scale, hard, augment, kind, outline * scale)
    ways = {"held_out": held_out, "damage": damage_rng if augment else None}
    painted = paint(objects, targets, texture_rng, frames, height, width, scale, **ways)
    return Clip(**painted, objects=objects, targets=targets, sentence=sentence, kind=kind)


def paint(objects: tuple[DrawnObject, ...], targets: tuple[int, ...], texture_rng: np.random.Generator, frames: int,
          height: int, width: int, scale: float, held_out: bool, damage: np.random.Generator | None) -> dict:
    """The pictures and masks of a `Clip`, and whether it is still; `damage` draws marks of JPEG and blur."""
    background, grain, still = draw_background(texture_rng, frames, height, width, scale, held_out, seen(objects))
    painted, clean = background.copy(), background.copy()
    object_masks = np.zeros((len(objects), frames, height, width), bool)
    reach = np.zeros((frames, height, width), bool)
    for i, drawn in enumerate(objects):
        for t, rows, cols, keep, colours in patches(drawn, frames, height, width):
            spots = (painted,) if i in targets else (painted, clean)
            for spot in spots:
                region = spot[t, rows, cols]
                region *= keep
                region += colours
            if i in targets:
                reach[t, rows, cols] |= keep[..., 0] < 1
            inside = keep[..., 0] <= 0.5
            object_masks[:i, t, rows, cols] &= ~inside
            object_masks[i, t, rows, cols] = inside

    painted, clean, background = (quantise(clip, grain) for clip in (painted, clean, background))
    if damage is not None:
        painted, clean, background = _damage(damage, painted, clean, background, reach)
    mask = object_masks[list(targets)].any(0)
    parts = {"frames": painted, "clean": clean, "background": background, "mask": mask, "object_masks": object_masks}
    return {**parts, "still": still}


def sentences(seed: int, count: int) -> list[str]:
    """The sentences of the first `count` training clips of `seed`, without drawing them."""
    settings = 8, 64, 64, 1.0, False, False, None, 0.0
    return [_scene(_streams(seed, i, False, False)[0], *settings)[2] for i in range(count)]


def seen(objects: tuple[DrawnObject, ...]) -> tuple[DrawnObject, ...]:
    """What the background has to contrast with: the objects, and their outline."""
    return objects + tuple(replace(drawn, rgb=OUTLINE) for drawn in objects[:1] if drawn.outline)


def _check(seed, index, frames, height, width, scale, kind, outline) -> None:
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
    if not 0 <= outline <= 3:
        raise ValueError(f"outline must be from 0 to 3 pixels of a frame of 64, got {outline}")


def _streams(seed: int, index: int, held_out: bool, hard: bool) -> list[np.random.Generator]:
    """Random numbers for the scene, the background and the damage: one never shifts another."""
    return [np.random.default_rng((seed, index, held_out, hard, stream)) for stream in range(3)]


# The scene: objects, their paths, and a sentence that fits them. Nothing is rendered until all three agree.


def _scene(rng, frames, height, width, scale, hard, augment, kind, outline):
    drawn_kind = pick(rng, KINDS)
    kind = kind or drawn_kind
    if hard:
        count = int(rng.integers(2 if kind == "position" else 1, 5))
    else:
        count = 3 if rng.random() < (0.7 if kind == "several" else 0.5) else 2
    moving = rng.random((count, 1)) < 0.75
    while True:
        looks = draw_looks(rng, count, kind)
        objects = place(rng, looks, moving, frames, height, width, scale, hard, augment, outline)
        if objects is None:
            continue
        centers = np.stack([drawn.centers(frames) for drawn in objects])
        said = say(rng, kind, looks, centers, MARGIN * scale)
        if said is not None:
            return objects, *said, kind


def place(rng, looks, moving, frames, height, width, scale, hard=False, augment=False, outline=0.0
          ) -> tuple[DrawnObject, ...] | None:
    """Objects of these looks on paths that keep them apart and inside; None where no path tried does."""
    bodies = [body(rng, *look, scale, augment) for look in looks]
    halves = np.array([extent(made["half"], made["tilt"]) for made in bodies]) + outline
    found = paths(rng, halves, moving, frames, height, width, scale, hard)
    if found is None:
        return None
    return tuple(
        DrawnObject(**made, start=tuple(start), velocity=tuple(velocity), outline=outline)
        for made, start, velocity in zip(bodies, *(path.tolist() for path in found))
    )


def draw_looks(rng, count: int, kind: str) -> list[tuple[str, str, str]]:
    """Shape, color and size of each object; the others often share some of the first one's."""
    if kind == "shape":
        color, size = any_of(rng, COLORS), any_of(rng, SIZES)
        return [(SHAPES[i], color, size) for i in rng.permutation(len(SHAPES))[:count]]
    twins = 0.35 if kind == "position" else 0.15
    sharing = {(True, False): 0.3, (False, True): 0.25, (True, True): twins, (False, False): 0.2}
    first = any_of(rng, SHAPES), any_of(rng, COLORS), any_of(rng, SIZES)
    looks = [first]
    for _ in range(count - 1):
        same_shape, same_color = pick(rng, sharing)
        shape = first[0] if same_shape else any_of(rng, SHAPES)
        color = first[1] if same_color else any_of(rng, COLORS)
        looks.append((shape, color, any_of(rng, SIZES)))
    order = rng.permutation(count)
    return [looks[i] for i in order]


def quantise(clip: np.ndarray, grain: np.ndarray | float) -> np.ndarray:
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
    return quantise((1 - 2 * share) * wide[:, :, 1:-1] + share * (wide[:, :, :-2] + wide[:, :, 2:]), np.float32(0))
