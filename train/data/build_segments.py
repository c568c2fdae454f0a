"""Masks of objects from JSON: COCO's run-length code, as detectors and SAM 3 write them.

One file belongs to one clip. It is a list, or an object with the list under "annotations" and "categories" beside it,
of either layout:

    {"image_id": 0, "segmentation": RLE, "category": "dog", "score": 0.9, "track_id": 3}    one frame of an object
    {"segmentations": [RLE, null, ...], "category": "dog", "score": 0.9}                    an object, frame by frame

The first are COCO's results, `image_id` the frame's number from 0; entries with one `track_id` (or `obj_id`) are one
object, an entry without is an object of its own. The second are YouTube-VIS's results. RLE is {"size": [height,
width], "counts": ...}, the counts a list or compressed text (as pycocotools writes it), or a list of polygons [x, y, x,
y, ...]. A label may also stand as "label" or "category_id". Files without segmentations are boxes, see `detections`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from lgvi_core.errors import InputError

LAYOUTS = 'expected entries {"image_id": frame, "segmentation": RLE} or {"segmentations": [RLE or null, ...]}'
IDENTITIES = ("track_id", "obj_id", "object_id")


class Segment(NamedTuple):
    """An object as a file has it: masks (H, W) bool by frame."""

    name: str
    label: str
    score: float
    masks: dict[int, np.ndarray]


def read(path: Path, size: tuple[int, int]) -> list[Segment] | None:
    """The objects with masks of a file, None if it has boxes alone. size: height and width, for polygons.

    Raises `InputError` that names what is wrong.
    """
    try:
        data = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}") from None
    names = {}
    try:
        if isinstance(data, dict):
            names = {category["id"]: category["name"] for category in data.get("categories", ())}
            data = data.get("annotations", [])
        if not any("segmentation" in entry or "segmentations" in entry for entry in data if isinstance(entry, dict)):
            return None
        return _objects(data, names, size)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise InputError(f"{path}: {type(error).__name__} {error}; {LAYOUTS}") from None


def _objects(data: list[dict], names: dict, size: tuple[int, int]) -> list[Segment]:
    found: dict[str, Segment] = {}
    for i, entry in enumerate(data):
        label = entry.get("category", entry.get("label"))
        label = names.get(entry.get("category_id"), "") if label is None else label
        identity = next((entry[key] for key in IDENTITIES if key in entry), f"object{i}")
        parts = entry.get("segmentations")
        if parts is None:
            parts, first = [entry["segmentation"]], int(entry["image_id"])
        else:
            first = 0
        masks = {first + t: decode(part, size) for t, part in enumerate(parts) if part}
        known = found.get(str(identity))
        score = float(entry.get("score", 1.0))
        if known is not None:
            known.masks.update(masks)
            score = max(score, known.score)
            masks = known.masks
        found[str(identity)] = Segment(str(identity), str(label).strip(), score, masks)
    return list(found.values())


def decode(code: dict | list, size: tuple[int, int]) -> np.ndarray:
    """A mask (H, W) bool from COCO's run-length code, or from polygons at `size` (height, width).

    Raises ValueError for a code that does not fill its size.
    """
    if isinstance(code, list):
        mask = np.zeros(size, np.uint8)
        cv2.fillPoly(mask, [np.reshape(corners, (-1, 2)).round().astype(np.int32) for corners in code], 1)
        return mask > 0
    height, width = map(int, code["size"])
    counts = code["counts"]
    counts = _counts(counts) if isinstance(counts, (str, bytes)) else np.asarray(counts, np.int64)
    if counts.sum() != height * width or (counts < 0).any():
        raise ValueError(f"the run lengths make {counts.sum()} pixels, not {height} x {width}")
    runs = np.repeat(np.arange(len(counts)) % 2 == 1, counts)  # absent first, column by column
    return runs.reshape(width, height).T.copy()


def _counts(text: str | bytes) -> np.ndarray:
    """Run lengths from text: 5 bits a letter, lowest first, the sixth says that the number goes on.

    Numbers have a sign; from the fourth on each is the difference to the one before the last.
    """
    numbers, value, shift = [], 0, 0
    for letter in text if isinstance(text, bytes) else text.encode("ascii"):
        bits = letter - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits & 16) << (shift - 4)  # the highest bit is the sign's
            numbers.append(value + (numbers[-2] if len(numbers) > 2 else 0))
            value, shift = 0, 0
    return np.array(numbers, np.int64)
