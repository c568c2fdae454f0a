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

regions        "instance": shapes that cover the object in every frame, random ones over boxes, and one of the six kinds
               of VIVID or a random one over masks, captions of the object's name; "random": random moving shapes
               anywhere, captions of the clip ("instance")
threshold      least score of a box (0.2)
cut_threshold  videos with a scene cut are left out; 0 keeps all (20.0)

The paper's mixture are two entries under `data` with batches of `share` 0.7 and 0.2, and `dropout: {text: 0.1}`.
Which shape a region has depends on the sample and on the frames shown of it.
"""

from __future__ import annotations

import json
import logging
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lgvi_core import mask_shapes
from lgvi_core.errors import InputError

from . import detections, regions
from .records import Record, Track, some, track

log = logging.getLogger(__name__)

MARK = "a file instances.jsonl"
WHERE = "give the folder that has instances.jsonl"
SETTINGS: dict = {"regions": "instance", "threshold": detections.THRESHOLD, "cut_threshold": 20.0}
KINDS = ("instance", "random")
LARGEST = 0.06  # by which masks grow at most, of the frame's shorter side


@dataclass(frozen=True)
class Region:
    """Masks made when they are asked for: in the place of a `Track` of masks."""

    name: str
    size: tuple[int, int, int]  # frames, height and width of the video
    boxes: np.ndarray | None = None  # (T, 4)
    drawn: Track | None = None

    is_video = True  # frames come together

    def __str__(self):
        return f"the region of {self.name}"

    def describe(self) -> tuple[int, int, int]:
        return self.size if self.drawn is None else self.drawn.describe()

    def like(self, other: Track) -> Region:
        return self if self.drawn is None else Region(self.name, self.size, drawn=self.drawn.like(other))

    def masks(self, indices: list[int], object_id: int | None) -> list[np.ndarray]:
        """Masks (H, W) bool of some frames."""
        _, height, width = self.size
        rng = np.random.default_rng([zlib.crc32(self.name.encode()), *indices])
        if self.drawn is not None:
            shapes = (*mask_shapes.SHAPES, "random")
            masks = np.stack(self.drawn.masks(indices, object_id))
            return list(regions.shaped(rng, masks, shapes[rng.integers(len(shapes))], LARGEST * min(height, width)))
        boxes = regions.moving_box(rng, len(indices), height, width) if self.boxes is None else self.boxes[indices]
        return list(regions.random_shape(rng, boxes, height, width))



def matches(root: Path) -> bool:
    return (root / "instances.jsonl").is_file()


def records(root: Path, settings: dict) -> Iterator[Record]:
    """A record for each object, or with random regions for each video. Raises `InputError` for a line that is wrong."""
    if settings["regions"] not in KINDS:
        raise InputError(f"regions is {settings['regions']!r}; allowed: {', '.join(KINDS)}")
    lines = [line for line in _lines(root) if line.get("split", settings["split"]) == settings["split"]]
    if settings["cut_threshold"]:
        from .scene_cuts import cut_videos  # PySceneDetect is not needed where nobody asks for it

        cut = cut_videos(root, (line["video"] for line in lines), settings["cut_threshold"])
        if cut:
            log.info("%s: %d videos with a scene cut are left out: %s", root, len(cut), some(cut))
        lines = [line for line in lines if line["video"] not in cut]
    numbers = Counter()
    for line in lines:
        video = track(root / line["video"])
        if not video.names:  # told with the other samples that cannot be used
            yield Record(line["video"], video, video, video, (line["video"],))
            continue
        size = video.describe()
        found = _objects(root, line, size, settings["threshold"])
        if settings["regions"] == "random":
            names = " and ".join(dict.fromkeys(label for label, _ in found))
            found = [(line.get("caption") or names, {})]
        for words, region in found:
            name = f"{line['video']}/{numbers[line['video']]}"
            numbers[line["video"]] += 1
            yield Record(name, video, Region(name, size, **region), video, (words,))


def _objects(root: Path, line: dict, size: tuple[int, int, int], threshold: float) -> list[tuple[str, dict]]:
    """For each object its caption, and what its region is made from."""
    if "masks" in line:
        return [(regions.caption(line["label"]), {"drawn": track(root / line["masks"])})]
    found = detections.follow(detections.read(root / line["detections"]), size[0], threshold)
    if not found:
        log.warning("%s: no object is found from its first frame on; it is left out", line["video"])
    return [(regions.caption(instance.label), {"boxes": instance.boxes}) for instance in found]


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
