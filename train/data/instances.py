"""Videos and where objects are in them, for training to fill: CoCoCo's instance-aware regions (arXiv 2403.12035).

    instances.jsonl     one JSON object a line
    scene-cuts.json     which videos have cuts; written here on first use, by PySceneDetect
    ...                 the files it names, anywhere in the folder

video        a file that PyAV opens, or a folder of pictures in natural order
detections   JSON of any detector's boxes, see `detections`; each object of the first frame is a sample; or
masks        one object's masks, as a video or a folder of pictures, with
label        its name: "dog", "a brown dog"
caption      of the whole clip, for random regions (optional; by default the names of the objects)
split        "train" or another word (optional)

The video is its own truth: what the region hides is what the caption names. Settings beside those of every layout:

regions        "instance": shapes that cover the object in every frame, captions of the object's name; "random": random
               moving shapes anywhere, captions of the clip ("instance")
shapes         of regions made from masks, by weight: {name: weight} of the six shapes of `lgvi_core.mask_shapes` and
               "random" (all alike); over boxes they are random ones
deletion       share of samples that ask for nothing, see `deletion`, with VIVID's fixed caption (0.0)
threshold      least score of a box (0.2)
cut_threshold  videos with a scene cut are left out; 0 keeps all (20.0)

CoCoCo's mixture are two entries under `data` with batches of `share` 0.7 and 0.2, and `dropout: {text: 0.1}`; VIVID's
is `deletion: 0.25`. Which shape a region has depends on the sample and on the frames shown of it.
"""

from __future__ import annotations

import json
import logging
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

import numpy as np

from lgvi_core.editing import DELETION
from lgvi_core.errors import InputError

from . import detections, regions
from .deletion import Deletion
from .records import Record, Track, resized_masks, some, track
from .synthetic_words import check_weights, pick

log = logging.getLogger(__name__)

MARK = "a file instances.jsonl"
WHERE = "give the folder that has instances.jsonl"
SETTINGS: dict = {
    "regions": "instance", "shapes": dict.fromkeys(regions.SHAPES, 1), "deletion": 0.0,
    "threshold": detections.THRESHOLD, "cut_threshold": 20.0,
}  # fmt: skip
KINDS = ("instance", "random")
LARGEST = 0.06  # by which masks grow at most, of the frame's shorter side


@dataclass(frozen=True)
class Region:
    """Masks made when they are asked for: in the place of a `Track` of masks."""

    name: str
    size: tuple[int, int, int]  # frames, height and width of the video
    boxes: np.ndarray | None = None  # (T, 4)
    drawn: Track | None = None
    shapes: dict | None = None  # of what is drawn, by weight

    is_video = True  # frames come together

    def __str__(self):
        return f"the region of {self.name}"

    def describe(self) -> tuple[int, int, int]:
        return self.size if self.drawn is None else self.drawn.describe()

    def like(self, other: Track) -> Region:
        return self if self.drawn is None else replace(self, drawn=self.drawn.like(other))

    def masks(self, indices: list[int], object_id: int | None) -> list[np.ndarray]:
        """Masks (H, W) bool of some frames."""
        _, height, width = self.size
        rng = np.random.default_rng([zlib.crc32(self.name.encode()), *indices])
        if self.drawn is not None:
            masks = np.stack(self.drawn.masks(indices, object_id))
            return list(regions.shaped(rng, masks, pick(rng, self.shapes), LARGEST * min(height, width)))
        boxes = regions.moving_box(rng, len(indices), height, width) if self.boxes is None else self.boxes[indices]
        return list(regions.random_shape(rng, boxes, height, width))


@dataclass(frozen=True)
class Unusable:
    """In the place of a region that cannot be made: the reason."""

    reason: str

    def like(self, other: Track) -> Unusable:
        raise InputError(self.reason)


@dataclass(frozen=True)
class Things:
    """Where anything is in a video: one object's masks, or all that a detector found from some score on."""

    video: Track
    size: tuple[int, int, int]
    drawn: Track | None = None
    found: Path | None = None
    threshold: float = 0.0

    def covered(self, indices: list[int]) -> np.ndarray:
        """Where something is in some frames, bool (T, H, W)."""
        if self.drawn is not None:
            return resized_masks(self.drawn.like(self.video).masks(indices, None), *self.size[1:])
        out = np.zeros((len(indices), *self.size[1:]), bool)
        for one in detections.read(self.found):
            if one.score >= self.threshold and one.frame in indices:
                x, y, wide, high = one.box
                rows = slice(max(0, int(y)), max(0, ceil(y + high)))
                out[indices.index(one.frame), rows, max(0, int(x)) : max(0, ceil(x + wide))] = True
        return out


def matches(root: Path) -> bool:
    return (root / "instances.jsonl").is_file()


def records(root: Path, settings: dict) -> Iterator[Record]:
    """A record for each object, or with random regions for each video, and those that ask for nothing.

    Raises `InputError` for settings and lines that are wrong.
    """
    _check(settings)
    lines = [line for line in _lines(root) if line.get("split", settings["split"]) == settings["split"]]
    if settings["cut_threshold"]:
        from .scene_cuts import cut_videos  # PySceneDetect is not needed where nobody asks for it

        cut = cut_videos(root, (line["video"] for line in lines), settings["cut_threshold"])
        if cut:
            log.warning(
                "%s: %d videos with a scene cut are left out: %s. A change above cut_threshold, %g, is one; with very "
                "fast motion raise it, 0 keeps all",
                root, len(cut), some(f"{name} ({len(places)} cuts)" for name, places in cut.items()),
                settings["cut_threshold"],
            )  # fmt: skip
        lines = [line for line in lines if line["video"] not in cut]
    numbers, things, others = Counter(), {}, []
    for line in lines:
        video = track(root / line["video"])
        try:
            size = video.describe()
            found = _objects(root, line, size, settings)
        except InputError as error:  # told with the other samples that cannot be used
            yield Record(line["video"], video, Unusable(str(error)), video, (line["video"],))
            continue
        things.setdefault(line["video"], []).append(_things(root, line, video, size, settings["threshold"]))
        others += [(line["video"], region) for _, region in found if region.drawn is None or region.drawn.names]
        if settings["regions"] == "random":
            names = " and ".join(dict.fromkeys(label for label, _ in found))
            found = [(line.get("caption") or names, Region("", size))]
        for words, region in found:
            name = f"{line['video']}/{numbers[line['video']]}"
            numbers[line["video"]] += 1
            yield Record(name, video, replace(region, name=name), video, (words,))
    if settings["deletion"]:
        yield from deletions(root, things, others, numbers.total(), settings["deletion"])


def _check(settings: dict) -> None:
    if settings["regions"] not in KINDS:
        raise InputError(f"regions is {settings['regions']!r}; allowed: {', '.join(KINDS)}")
    check_weights("shapes", settings["shapes"], regions.SHAPES)
    check_share(settings["deletion"])


def check_share(deletion: float) -> None:
    """Raises `InputError` for what is no share of samples that ask for nothing."""
    if not 0 <= deletion < 1:
        raise InputError(f"deletion is {deletion}; it is a share of the samples, from 0 to below 1")


def deletions(root: Path, things: dict, others: list, count: int, share: float) -> Iterator[Record]:
    """As many records that ask for nothing as make the share beside `count` others, over all videos evenly."""
    if len({clip for clip, _ in others}) < 2:
        raise InputError(f"{root}: deletion takes masks from other videos, and fewer than two have an object")
    order = list(things)
    np.random.default_rng(0).shuffle(order)
    for number in range(round(count * share / (1 - share))):
        clip = order[number % len(order)]
        name, first = f"{clip}/background{number // len(order)}", things[clip][0]
        region = Deletion(name, clip, first.video, first.size, tuple(things[clip]), others)
        yield Record(name, first.video, region, first.video, (DELETION,))


def _objects(root: Path, line: dict, size: tuple[int, int, int], settings: dict) -> list[tuple[str, Region]]:
    """For each object its caption, and its region, which has no name yet."""
    if "masks" in line:
        drawn = track(root / line["masks"])
        return [(regions.caption(line["label"]), Region("", size, drawn=drawn, shapes=settings["shapes"]))]
    found = detections.follow(detections.read(root / line["detections"]), size[0], settings["threshold"])
    if not found:
        log.warning("%s: no object is found from its first frame on; it is left out", line["video"])
    return [(regions.caption(instance.label), Region("", size, boxes=instance.boxes)) for instance in found]


def _things(root: Path, line: dict, video: Track, size: tuple[int, int, int], threshold: float) -> Things:
    if "masks" in line:
        return Things(video, size, drawn=track(root / line["masks"]))
    return Things(video, size, found=root / line["detections"], threshold=threshold)


def _lines(root: Path) -> Iterator[dict]:
    for number, text in enumerate((root / "instances.jsonl").read_text("utf-8").splitlines(), 1):
        if not text.strip():
            continue
        where = f"{root / 'instances.jsonl'}, line {number}"
        try:
            line = json.loads(text)
        except ValueError as error:
            raise InputError(f"{where} is no JSON: {error}") from None
        if not isinstance(line, dict) or "video" not in line or ("masks" in line) == ("detections" in line):
            raise InputError(f"{where} must have video and either detections or masks, got {text[:80]}")
        if "masks" in line and not line.get("label"):
            raise InputError(f"{where} has masks but no label: give the object's name")
        yield line
