"""The objects of a clip, from masks that are given, from JSON of masks, or from a detector's boxes.

Masks of a clip are a folder, a picture or a video (`build_clips` says where they lie):

    masks/00000.png             pictures for all frames or for some: of the frame's name; else as many as the clip has
                                frames; else with the frame's number, from 0, at the end of the name; one picture
                                without a number belongs to the first frame
    masks/<object>/00000.png    the same for each object; or masks/<object>.mp4
    masks/<object>.png          each object of a clip that is a picture
    masks.mp4                   one object

Pictures with a palette, and grey ones without a value above 64, number the objects by pixel value (255: no object, as
in DAVIS); of others, one object is what is lighter than middle grey. An object's label is `labels.json`'s, else the
name of its folder or file without a number at its end.

What has a mask for some frames only is tracked from there, see `through`. A detector's boxes are outlined by GrabCut
(Rother et al. 2004) in the first frame that has any, and tracked from there too.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from lgvi_core import tracking
from lgvi_core.errors import InputError
from lgvi_core.scene_cuts import cuts

from . import build_segments, detections
from .build_clips import Clip
from .records import ENDINGS, Track, natural, track
from .regions import boxes_of

HIGHEST_NUMBER = 64  # of an object in a grey picture
NO_OBJECT = 255
GRABCUT_AREA = 256 * 256  # pixels that a frame is brought to at most
GRABCUT_STEPS = 4
ROOM = 0.15  # of a box's sides, around it, that GrabCut sees as background
FILLED = 0.15  # of a box that an outline fills at least
AGREES = 0.2  # overlap of a track's box with a detected one, below which the detector has another opinion


@dataclass
class Object:
    """An object of a clip: its masks (H, W) bool by frame, and what a detector saw of its kind, to check tracks by."""

    name: str
    label: str
    masks: dict[int, np.ndarray]
    score: float = 1.0
    seen: dict[int, list[tuple]] = field(default_factory=dict)  # boxes by frame

    @property
    def key(self) -> int:
        """The frame to start with: the first that shows it."""
        return next((t for t in sorted(self.masks) if self.masks[t].any()), min(self.masks, default=0))


def of(clip: Clip, frames: np.ndarray, labels: dict) -> list[Object]:
    """All objects that are given for a clip. frames: uint8 (T, H, W, 3), the clip or its beginning.

    Raises `InputError` for files that cannot be read or do not fit the clip.
    """
    found = []
    for path in clip.masks:
        found += _from_masks(path, clip.video, len(frames))
    for path in clip.files:
        found += _from_json(path, frames)
    known = labels.get(clip.name, {})
    times = Counter(one.name for one in found)
    for i, one in enumerate(found):
        one.name += f"-{i}" if times[one.name] > 1 else ""
        one.label = (known if isinstance(known, str) else known.get(one.name)) or one.label
        for t, mask in one.masks.items():
            if mask.shape != frames.shape[1:3]:
                raise InputError(
                    f"the mask of {one.name!r} in frame {t} is {mask.shape[1]}x{mask.shape[0]}, the clip "
                    f"{frames.shape[2]}x{frames.shape[1]}"
                )
    return found


# Masks that are given


def _from_masks(path: Path, video: Track, count: int) -> list[Object]:
    given = track(path)
    if path.is_file() or (given.names and not _is_picture(video)):
        return _numbered(given, video, count, path.stem)
    found = []
    for part in sorted(path.iterdir(), key=lambda part: natural(part.name)):
        if part.is_dir() or part.suffix.lower() in ENDINGS[1:]:
            found += _numbered(track(part), video, count, part.stem)
    if not found:
        raise InputError(f"{path} holds no masks: give pictures, or a folder or video for each object")
    return found


def _is_picture(video: Track) -> bool:
    return len(video.names) == 1 and not video.is_video


def _numbered(given: Track, video: Track, count: int, name: str) -> list[Object]:
    if not given.names:
        raise InputError(f"{given.path} holds no masks")
    label = "" if name == "masks" else re.sub(r"[\s_-]*\d*$", "", name).replace("_", " ")
    if given.is_video:
        length = given.describe()[0]
        frames = range(min(length, count))
        return [Object(name, label, dict(zip(frames, given.masks(list(frames), None))))]
    places = {t: i for t, i in _places(given, video).items() if t < count}
    pictures = {t: _values(given, i) for t, i in places.items()}
    if not all(numbers for _, numbers in pictures.values()):
        return [Object(name, label, {t: given.masks([i], None)[0] for t, i in places.items()})]
    numbers = sorted({int(n) for values, _ in pictures.values() for n in np.unique(values)} - {0})
    numbers = [n for n in numbers if n != NO_OBJECT] or numbers
    if len(numbers) == 1:
        return [Object(name, label, {t: values == numbers[0] for t, (values, _) in pictures.items()})]
    return [Object(f"{n}", "", {t: values == n for t, (values, _) in pictures.items()}) for n in numbers]


def _values(given: Track, i: int) -> tuple[np.ndarray, bool]:
    """The pixel values (H, W) of a mask's picture, and whether they number objects."""
    with given.file(i).picture() as picture:
        if picture.mode not in ("P", "L"):
            return np.zeros((0, 0)), False
        values = np.asarray(picture)
        return values, picture.mode == "P" or values.max(initial=0) <= HIGHEST_NUMBER


def _places(given: Track, video: Track) -> dict[int, int]:
    """Which of the mask's pictures belongs to which frame."""
    if not video.is_video:
        frame = {name: t for t, name in enumerate(video.frame_names)}
        named = {frame[name]: i for i, name in enumerate(given.frame_names) if name in frame}
        if len(named) == len(given.names):
            return named
    count = video.describe()[0]
    if len(given.names) == count:
        return {t: t for t in range(count)}
    ends = [re.search(r"(\d+)\D*$", name) for name in given.frame_names]
    if len(given.names) == 1 and not ends[0]:
        return {0: 0}
    places = {int(end[1]): i for i, end in enumerate(ends) if end}
    if len(places) < len(given.names) or max(places) >= count:
        raise InputError(
            f"{given.path} has {len(given.names)} masks for {count} frames, and their names do not say which frames: "
            "name them as the frames, or by the frame's number from 0"
        )
    return places


# JSON


def _from_json(path: Path, frames: np.ndarray) -> list[Object]:
    segments = build_segments.read(path, frames.shape[1:3])
    if segments is not None:
        inside = [(one, {t: mask for t, mask in one.masks.items() if t < len(frames)}) for one in segments]
        return [Object(one.name, one.label, masks, one.score) for one, masks in inside if masks]
    boxes = [found for found in detections.read(path) if found.frame < len(frames)]
    if not boxes:
        return []
    key = boxes[0].frame
    objects = []
    for i, first in enumerate(found for found in boxes if found.frame == key):
        mask = outline(frames[key], first.box)
        seen: dict[int, list[tuple]] = {}
        for other in boxes:
            if other.label == first.label and other.frame != key:
                seen.setdefault(other.frame, []).append(other.box)
        objects.append(Object(f"object{i}", first.label, {key: mask}, first.score, seen))
    return objects


def outline(frame: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
    """What of a box (x, y, width, height) in a frame (H, W, 3) uint8 is the object, by GrabCut: bool (H, W).

    The mask is empty where GrabCut finds next to nothing in the box.
    """
    out = np.zeros(frame.shape[:2], bool)
    x, y, wide, high = box
    rows, columns = (
        slice(max(0, round(low - ROOM * length)), round(low + length + ROOM * length))
        for low, length in ((y, high), (x, wide))
    )
    part = frame[rows, columns]
    if min(part.shape[:2]) < 3:
        return out
    scale = min(1.0, (GRABCUT_AREA / (part.shape[0] * part.shape[1])) ** 0.5)
    small = cv2.resize(part, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else part
    corners = np.array([[x, y], [x + wide, y + high]]) - (columns.start, rows.start)
    (left, top), (right, bottom) = (corners * scale).round().astype(int)
    states = np.full(small.shape[:2], cv2.GC_BGD, np.uint8)
    states[max(0, top) : bottom, max(0, left) : right] = cv2.GC_PR_FGD
    if not (states == cv2.GC_BGD).any() or not (states == cv2.GC_PR_FGD).any():
        return out  # it fills the frame: nothing tells the object from what is around it
    cv2.setRNGSeed(0)  # its colours begin with k-means
    models = np.zeros((1, 65)), np.zeros((1, 65))
    bgr = np.ascontiguousarray(small[..., ::-1])
    cv2.grabCut(bgr, states, None, *models, GRABCUT_STEPS, cv2.GC_INIT_WITH_MASK)
    found = (states == cv2.GC_FGD) | (states == cv2.GC_PR_FGD)
    if found.sum() < FILLED * (bottom - top) * (right - left):
        return out
    soft = cv2.resize(found.astype(np.float32), part.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    out[rows, columns] = soft > 0.5
    return out


# Through the clip


@dataclass(frozen=True)
class Course:
    """An object through a stretch of its clip: frames `start` to `stop`, their masks (T, H, W), why it ends there."""

    start: int
    stop: int
    masks: np.ndarray
    end: str  # "" at the clip's own ends


def scenes(frames: np.ndarray) -> list[int]:
    """The first frame of every scene, and the number of frames."""
    return [0, *cuts(frames), len(frames)]


def through(one: Object, frames: np.ndarray, borders: list[int]) -> Course:
    """An object from its first mask on through the scene that this is in, as long as it is seen.

    Frames without a mask of their own are tracked from the nearest that has one (`lgvi_core.masks.track`). Where a
    track cannot be trusted or a detector sees the object's kind elsewhere only, the object is lost; where a given mask
    is empty, it is gone.
    """
    key = one.key
    first = max(border for border in borders if border <= key)
    stop = min(border for border in borders if border > key)
    masks = np.zeros(frames.shape[:3], bool)
    ends: dict[int, str] = {}
    given = [t for t in sorted(one.masks) if first <= t < stop]
    for t in given:
        masks[t] = one.masks[t]
        if not masks[t].any():
            ends[t] = "the object leaves"
    shown = [t for t in given if masks[t].any()]
    for t, near in zip(shown, _nearest(shown, first, stop)):
        if all(place in one.masks for place in range(near.start, near.stop)):
            continue
        tracked = tracking.track(frames[near], masks[t], t - near.start, across_cuts=True)
        lost = _untrusted(tracked, t - near.start)
        for place in range(near.start, near.stop):
            if place in one.masks:
                continue
            masks[place] = tracked.masks[place - near.start]
            if lost[place - near.start] or not _confirmed(one, place, masks[place]):
                ends[place] = "the track is lost"
    before = max((t for t in ends if t < key), default=first - 1)
    after = min((t for t in ends if t > key), default=stop)
    reason = next((ends[t] for t in (after, before) if t in ends), "")
    if not reason and (first, stop) != (0, len(frames)):
        reason = "a scene cut"
    return Course(before + 1, after, masks[before + 1 : after], reason)


def _nearest(shown: list[int], first: int, stop: int) -> list[slice]:
    """For each frame with a mask, the frames of the scene that are nearer to it than to another."""
    middles = [first, *((a + b + 1) // 2 for a, b in zip(shown, shown[1:])), stop]
    return [slice(a, b) for a, b in zip(middles, middles[1:])]


def _untrusted(tracked: tracking.Track, index: int) -> np.ndarray:
    """Which frames (T,) bool lie at or behind one, seen from `index`, that cannot be trusted."""
    bad = (tracked.trust < tracking.TRUSTED) | ~tracked.masks.any(axis=(1, 2))
    onwards = np.logical_or.accumulate(bad[index:])
    return np.concatenate([np.logical_or.accumulate(bad[index::-1])[:0:-1], onwards])


def _confirmed(one: Object, frame: int, mask: np.ndarray) -> bool:
    boxes = one.seen.get(frame)
    if not boxes:
        return True
    box = boxes_of(mask[None])[0]
    return not np.isnan(box[0]) and max(detections.overlap(box, other) for other in boxes) >= AGREES
