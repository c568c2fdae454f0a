"""What a detector found in a video, from its JSON file, followed through the frames.

Two layouts are read:

    {"0": [[x, y, width, height, "dog", 0.93], ...], "1": [...]}    by frame, numbered from 0; the score may be absent
    [{"image_id": 0, "bbox": [x, y, width, height], "category": "dog", "score": 0.93}, ...]

The second is COCO's for results; it may also stand under "annotations", with "categories" of {"id", "name"} beside it
for entries that have a `category_id`. `image_id` is the frame's number from 0, or with "images" of {"id"} beside it
the number of the image in their order. Boxes are in pixels, (x, y) the upper left corner.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lgvi_core.errors import InputError

THRESHOLD = 0.2  # least score (CoCoCo, arXiv 2403.12035)
LAYOUTS = 'expected {"<frame>": [[x, y, width, height, label, score], ...]} or COCO results'


class Detection(NamedTuple):
    """A box (x, y, width, height) in pixels, and what is in it."""

    frame: int
    box: tuple[float, float, float, float]
    label: str
    score: float


class Instance(NamedTuple):
    """An object through a clip: boxes (T, 4); where it was not found, they lie between those before and after."""

    label: str
    boxes: np.ndarray
    found: int  # in how many frames


def read(path: Path) -> list[Detection]:
    """All detections of a file, in order of frames. Raises `InputError` that names what is wrong."""
    try:
        data = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"detections {path} cannot be read: {error}") from None
    except ValueError as error:
        raise InputError(f"detections {path} are no JSON: {error}") from None
    try:
        return sorted(_parsed(data), key=lambda found: found.frame)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise InputError(f"detections {path}: {type(error).__name__} {error}; {LAYOUTS}") from None


def _parsed(data) -> list[Detection]:
    if isinstance(data, dict) and "annotations" not in data:
        return [
            _checked(int(frame), box[:4], box[4], box[5] if len(box) > 5 else 1.0)
            for frame, boxes in data.items()
            for box in boxes
        ]
    names, images = {}, {}
    if isinstance(data, dict):
        names = {category["id"]: category["name"] for category in data.get("categories", ())}
        images = {image["id"]: i for i, image in enumerate(data.get("images", ()))}
        data = data["annotations"]
    found = []
    for entry in data:
        label = entry.get("category", entry.get("label"))
        label = names[entry["category_id"]] if label is None else label
        frame = images[entry["image_id"]] if images else int(entry["image_id"])
        found.append(_checked(frame, entry["bbox"], label, entry.get("score", 1.0)))
    return found


def _checked(frame: int, box, label, score) -> Detection:
    box = tuple(map(float, box))
    if len(box) != 4 or not np.isfinite(box).all() or min(box[2:]) <= 0:
        raise ValueError(f"the box {list(box)} is not x, y, width, height with an area")
    if not isinstance(label, str) or not label.strip():
        raise ValueError(f"the label {label!r} is no name")
    return Detection(frame, box, label.strip(), float(score))


def follow(detections: list[Detection], frames: int, threshold: float = THRESHOLD) -> list[Instance]:
    """The objects of the first frame through a clip of `frames`: in each frame the box of the same label that overlaps
    the last one most, if any does.

    Objects that are in less than half of the frames are left out.
    """
    by_frame: list[list[Detection]] = [[] for _ in range(frames)]
    for found in detections:
        if found.score >= threshold and 0 <= found.frame < frames:
            by_frame[found.frame].append(found)
    paths = [{0: first} for first in by_frame[0]] if frames else []
    for t in range(1, frames):
        rest = list(by_frame[t])
        for path in sorted(paths, key=lambda path: -path[0].score):
            last = path[max(path)]
            overlaps = [overlap(last.box, other.box) * (other.label == last.label) for other in rest]
            if overlaps and max(overlaps) > 0:
                path[t] = rest.pop(int(np.argmax(overlaps)))
    return [_instance(path, frames) for path in paths if 2 * len(path) >= frames]


def overlap(a, b) -> float:
    """Intersection over union of two boxes (x, y, width, height)."""
    wide = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    high = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(wide, 0) * max(high, 0)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


def _instance(path: dict[int, Detection], frames: int) -> Instance:
    known = np.array([found.box for found in path.values()])
    boxes = np.stack([np.interp(range(frames), list(path), column) for column in known.T], axis=1)
    return Instance(path[0].label, boxes, len(path))
