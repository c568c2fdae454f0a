"""The clips of a folder to build a dataset from, and where each one's objects are said to be.

    CLIPS
        <clip>.mp4              a video; its endings are those of `records.ENDINGS`
        <clip>.jpg              a picture: a clip of one frame
        <clip>/                 a folder of pictures, in natural order; or
        <clip>/frames           a folder of pictures, or a video

Other folders are searched in the same way, but for those named `masks`; a clip's name is its path without the ending.
What its objects are is read from OBJECTS, which may be the same folder; all that is there counts:

    OBJECTS
        <clip>.json             a detector's boxes or masks, see `build_segments`; or <clip>/objects.json
        <clip>/masks            masks, see `build_objects`: a folder, a picture or a video
        <clip>                  the same, where OBJECTS is another folder than CLIPS
        labels.json             {"<clip>": "a dog"} or {"<clip>": {"<object>": "a dog"}}; optional
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lgvi_core.errors import InputError
from lgvi_core.video import open_video

from .records import ENDINGS, Track, inside, natural, track

MASKS = "masks"


class Clip(NamedTuple):
    """A clip, and the files that say where its objects are."""

    name: str
    video: Track
    files: tuple[Path, ...]  # JSON
    masks: tuple[Path, ...]  # folders, pictures or videos

    def frames(self, most: int) -> np.ndarray:
        """Up to `most` frames from the first on, uint8 (T, H, W, 3); of a damaged video those that decode."""
        if self.video.is_video:
            return np.stack([frame.image for frame in islice(open_video(self.video.file(0).path), most)])
        return np.stack(self.video.frames(list(range(min(most, len(self.video.names))))))


def find(root: Path, objects: Path) -> list[Clip]:
    """All clips of a folder in natural order of their names.

    Raises `InputError` where a folder does not exist, there is no clip, two have one name, or no clip has objects.
    """
    for folder in (root, objects):
        if not folder.is_dir():
            raise InputError(f"{folder} is no folder")
    found: dict[str, Track] = {}
    for name, video in _videos(root, ""):
        if name in found:
            raise InputError(f"{found[name]} and {video} are both named {name!r}: rename one of them")
        found[name] = video
    if not found:
        raise InputError(f"{root} holds no video, no picture and no folder of pictures")
    apart = not os.path.samefile(root, objects)
    clips = [Clip(name, video, *_objects(objects, name, apart)) for name, video in found.items()]
    if not any(clip.files or clip.masks for clip in clips):
        name = clips[0].name
        raise InputError(
            f"none of the {len(clips)} clips has objects in {objects}: for the clip {name!r} there is neither "
            f"{name}.json (a detector's boxes or masks) nor {name}/{MASKS}; --objects names another folder"
        )
    return clips


def labels(objects: Path) -> dict[str, str | dict[str, str]]:
    """What `labels.json` says, {} without one. Raises `InputError` for a file that is not as `find` describes."""
    path = objects / "labels.json"
    if not path.is_file():
        return {}
    try:
        said = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}") from None
    names = said.values() if isinstance(said, dict) else [None]
    names = [name for value in names for name in (value.values() if isinstance(value, dict) else [value])]
    if not all(isinstance(name, str) for name in names):
        raise InputError(f'{path} must be {{"<clip>": "<label>"}} or {{"<clip>": {{"<object>": "<label>"}}}}')
    return said


def _videos(folder: Path, prefix: str) -> Iterator[tuple[str, Track]]:
    for path in sorted(folder.iterdir(), key=lambda path: natural(path.name)):
        if path.name.startswith(".") or path.name == MASKS:
            continue
        if path.is_file():
            if path.suffix.lower() in ENDINGS[1:]:
                yield prefix + path.stem, track(path)
            continue
        frames = inside(path, "frames")
        pictures = frames if frames.names else track(path)
        if pictures.names:
            yield prefix + path.name, pictures
        else:
            yield from _videos(path, f"{prefix}{path.name}/")


def _objects(objects: Path, name: str, apart: bool) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    files = (objects / f"{name}.json", objects / name / "objects.json")
    places = [objects / name / f"{MASKS}{ending}" for ending in ENDINGS]
    if apart:
        places += [Path(f"{objects / name}{ending}") for ending in ENDINGS]
    masks = [path for path in places if path.exists()]
    if len(masks) > 1 and masks[-1] == objects / name:
        masks.pop()  # the folder that holds the masks already found
    return tuple(path for path in files if path.is_file()), tuple(masks)
