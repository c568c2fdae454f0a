"""Drawn clips with a region to fill: what stood there, what a caption asks for, and the exact truth.

The region moves with what stands in it. Lengths are pixels of a frame of 64 and grow with the frame.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from lgvi_core import masks
from lgvi_core.errors import InputError

from . import synthetic_fill_words as words
from .regions import boxes_of, moving_box, random_shape, shaped
from .synthetic import quantise, seen
from .synthetic_objects import DrawnObject, any_of, body, extent, patches, paths
from .synthetic_textures import draw_background
from .synthetic_words import COLORS, MASKS, SHAPES, SIZES, Look, check_weights, pick

KINDS = {"instance": 0.7, "random": 0.2, "no_text": 0.1}  # CoCoCo (arXiv 2403.12035), section "Data"
TASKS = {"keep": 0.3, "replace": 0.25, "add": 0.2, "delete": 0.25}  # VIVID: three of four samples ask for something
REGIONS = {"exact": 1, "expand": 2, "hull": 1, "box": 1, "hull_expand": 1, "box_expand": 1, "random": 3}
EXPAND = 4.0  # most pixels by which a region grows beyond what it has to cover
DEFAULT = ("circle", "red", "large")  # what a caption leaves open, in clips that are settled
STREAM = 2  # apart from the clips of `synthetic.draw`


@dataclass(frozen=True)
class FillClip:
    """A clip to fill and its truth, see `draw_fill`. Frames are equal to the truth outside of the mask."""

    frames: np.ndarray  # (T, H, W, 3) uint8, with what stood in the region before
    clean: np.ndarray  # (T, H, W, 3) uint8, the truth: what the caption asks for stands there
    background: np.ndarray  # (T, H, W, 3) uint8, without anything
    mask: np.ndarray  # (T, H, W) bool, the region
    object_mask: np.ndarray  # (T, H, W) bool, what was asked for, in the truth; empty where it is nothing
    centers: np.ndarray  # (T, 2) middle of the region's thing, (x, y)
    caption: str
    look: Look | None  # shape, color, size of what stands in the region in the truth
    asked: Look | None  # of it what the caption says; None where it says nothing of it
    task: str  # "keep", "replace", "add", "delete" or "random"
    region: str  # one of `REGIONS`

    @property
    def sentence(self) -> str:
        return self.caption


def draw_fill(seed: int, index: int, frames: int = 8, height: int = 64, width: int = 64, held_out: bool = False,
              kinds: dict = KINDS, tasks: dict = TASKS, regions: dict = REGIONS, variety: float = 1.0,
              outline: float = 0.0, settled: bool = False) -> FillClip:
    """Draw clip `index` of the set that `seed` and `held_out` name; the same arguments give the same bytes.

    One to three objects stand apart; one of them, or a place where none stands, is the region. Tasks, by weight: "keep"
    asks for what is there, "replace" for another shape and color on the same path, "add" for an object where none is,
    "delete" for the background. The region is made from what stood there (or could have), in one of `regions`, and
    grown to cover what is asked for: its shape says nothing of that, but where the two are the same.

    Kinds of clip, by weight: "instance" is all of the above; "random" has a region anywhere, a caption of the whole
    clip and the clip itself as truth; "no_text" has an empty caption. `variety`, from 0 to 1, is how much things asked
    for differ among those of the same look. With `settled` a caption that names something leaves nothing to chance: the
    rest of the look is that of `DEFAULT`, and it stands in the middle of the region. `outline` is as in
    `synthetic.draw`.

    Raises `InputError` for what cannot be drawn.
    """
    _check(seed, index, frames, height, width, variety, kinds=kinds, tasks=tasks, regions=regions)
    scale = min(height, width) / 64
    rng, texture_rng = (np.random.default_rng((seed, index, held_out, STREAM, stream)) for stream in range(2))
    size = frames, height, width
    kind = pick(rng, kinds)
    task = "random" if kind == "random" else pick(rng, tasks)
    region = "random" if kind == "random" else _region(rng, regions, task)
    settled = settled and kind == "instance"
    while True:
        scene = _scene(rng, size, scale, task, variety, outline * scale, settled)
        if scene is None:
            continue
        before, after, shown = scene.before, scene.after, scene.shown
        others = _reach(scene.others, size)
        if task == "random":
            mask = random_shape(rng, moving_box(rng, *size), height, width)
            break
        mask = _mask(rng, before, after, region, size, scale)
        if settled and after is not None:
            after = _in_the_middle(after, mask)
            if (_reach([after], size) & ~mask).any():
                continue
        if not (mask & others).any():
            break

    objects = (before, *([after] if after else []), *scene.others)
    background, grain, _ = draw_background(texture_rng, *size, scale, held_out, seen(objects))
    painted, clean = background.copy(), background.copy()
    for drawn in scene.others:
        _paint((painted, clean), drawn)
    if shown:
        _paint((painted,), before)
    if after:
        _paint((clean,), after)
    painted, clean, background = (quantise(clip, grain) for clip in (painted, clean, background))
    asked, caption = _words(rng, scene, kind)
    found = np.zeros(size, bool) if after is None or task == "random" else _reach([after], size, 0.5)
    look = None if after is None or task == "random" else (after.shape, after.color, after.size)
    return FillClip(painted, clean, background, mask, found, before.centers(frames), caption, look, asked, task, region)


def _check(seed, index, frames, height, width, variety, **weights) -> None:
    if seed < 0 or index < 0:
        raise InputError(f"seed and index must not be negative, got seed={seed}, index={index}")
    if frames < 1 or min(height, width) < 32:
        raise InputError(f"clips need at least 1 frame of 32x32 pixels, got {frames} of {width}x{height}")
    if not 0 <= variety <= 1:
        raise InputError(f"variety is {variety}; it must be from 0 to 1")
    for (name, given), known in zip(weights.items(), (KINDS, TASKS, REGIONS)):
        check_weights(name, given, known)


# The scene: what stood in the region, what is asked for there, and the rest. The two stand on the same path.


@dataclass(frozen=True)
class _Scene:
    before: DrawnObject
    shown: bool  # whether what gives the region its shape stood there
    after: DrawnObject | None
    others: tuple[DrawnObject, ...]
    said: tuple[bool, ...] | None  # which of the look the caption names, where that is settled


class _Steady:
    """Random numbers drawn together towards the middle: `variety` of the way from 0.5."""

    def __init__(self, rng: np.random.Generator, variety: float):
        self.rng, self.variety = rng, variety

    def random(self, *size):
        return 0.5 + self.variety * (self.rng.random(*size) - 0.5)


def _scene(rng, size, scale, task, variety, outline, settled) -> _Scene | None:
    """None where no place was found for what was drawn."""
    frames, height, width = size
    count = int(rng.integers(3))
    looks = [_look(rng) for _ in range(2 + count)]
    said = pick(rng, MASKS) if settled else None
    looks[1] = _as_settled(looks[1], said)
    while task == "replace" and any(a == b for a, b in zip(looks[0][:2], looks[1][:2])):
        looks[0 if settled else 1] = _look(rng)  # another than the settled one
    bodies = [body(rng, *looks[0], scale, False), body(_Steady(rng, variety), *looks[1], scale, False)]
    bodies += [body(rng, *look, scale, False) for look in looks[2:]]
    if task in ("keep", "random"):
        bodies[0] = bodies[1]
    halves = np.array([extent(made["half"], made["tilt"]) for made in bodies]) + outline
    halves[1] = halves[:2].max(0) + rng.random() * EXPAND * scale
    moving = rng.random((1 + count, 1)) < 0.75
    found = paths(rng, halves[1:], moving, frames, height, width, scale, hard=False)
    if found is None:
        return None
    starts, velocities = (np.concatenate([part[:1], part]).tolist() for part in found)
    before, after, *others = (
        DrawnObject(**made, start=tuple(start), velocity=tuple(velocity), outline=outline)
        for made, start, velocity in zip(bodies, starts, velocities)
    )
    shown = task in ("keep", "replace", "random") or (task == "delete" and rng.random() < 0.7)
    return _Scene(before, shown, None if task == "delete" else after, tuple(others), said)


def _as_settled(look: Look, said: tuple[bool, ...] | None) -> Look:
    return look if said is None else tuple(a if named else b for a, b, named in zip(look, DEFAULT, said))


def _in_the_middle(after: DrawnObject, mask: np.ndarray) -> DrawnObject:
    """The object moved so that it stands in the middle of the region's box, in most frames."""
    boxes = boxes_of(mask)
    beside = np.median(boxes[:, :2] + boxes[:, 2:] / 2 - after.centers(len(mask)), axis=0)
    return replace(after, start=tuple((np.array(after.start) + beside).tolist()))


def _look(rng) -> Look:
    return any_of(rng, SHAPES), any_of(rng, COLORS), any_of(rng, SIZES)


def _words(rng, scene: _Scene, kind: str) -> tuple[Look | None, str]:
    if kind == "random":
        return None, words.scene(rng, [(d.shape, d.color, d.size) for d in (scene.after, *scene.others)])
    if kind == "no_text":
        return None, ""
    if scene.after is None:
        return None, words.nothing(rng)
    look = scene.after.shape, scene.after.color, scene.after.size
    asked = words.named(rng, look) if scene.said is None else words.of(look, scene.said)
    return asked, words.thing(rng, asked)


# Regions


def _region(rng, regions: dict, task: str) -> str:
    """One of `regions`; a mask that is exact cannot cover something else."""
    fitting = {name: weight for name, weight in regions.items() if name != "exact" or task in ("keep", "delete")}
    if not sum(fitting.values()):
        raise InputError(f"regions is {regions}; the task {task!r} needs others than 'exact'")
    return pick(rng, fitting)


def _mask(rng, before, after, region, size, scale) -> np.ndarray:
    mask = _reach([before], size)
    if after is not None:
        mask = masks.dilate(mask, _needed(mask, _reach([after], size)))
    return shaped(rng, mask, region, EXPAND * scale)


def _needed(mask: np.ndarray, wanted: np.ndarray) -> float:
    """By how much the mask has to grow to cover what is wanted."""
    away = [cv2.distanceTransform((~frame).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) for frame in mask]
    return float(np.stack(away)[wanted].max(initial=0))


# Painting


def _paint(clips: tuple[np.ndarray, ...], drawn: DrawnObject) -> None:
    for t, rows, cols, keep, paint in patches(drawn, *clips[0].shape[:3]):
        for clip in clips:
            spot = clip[t, rows, cols]
            spot *= keep
            spot += paint


def _reach(objects, size: tuple[int, int, int], above: float = 0.0) -> np.ndarray:
    """Where objects cover more than a share `above` of a pixel, bool (T, H, W)."""
    mask = np.zeros(size, bool)
    for drawn in objects:
        for t, rows, cols, keep, _ in patches(drawn, *size):
            mask[t, rows, cols] |= keep[..., 0] < 1 - above
    return mask
