"""Refer-YouTube-VOS, with videos that one has inpainted oneself beside it.

    meta_expressions/<split>/meta_expressions.json
        videos.<video>.frames                     the names of the frames that are used
        videos.<video>.expressions.<id>.exp       "a brown dog on the left"
        videos.<video>.expressions.<id>.obj_id    the object it means
    [<split>/]JPEGImages/<video>/<frame>.jpg      the videos
    [<split>/]Annotations/<video>/<frame>.png     pixel value = number of the object
    [<split>/]InpaintImages/<video>/<object>/<frame>.*   the video without that object, or <object>.mp4

The dataset itself has no inpainted videos: run any inpainting tool over every video with the masks of one object,
widened by some pixels so that the object's edge goes too, and write what it gives as above, or into another folder that
the setting `inpainted` names. Objects without a result are not part of the dataset; how many are is logged. An
expression becomes the request to remove what it names.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

from lgvi_core.errors import InputError

from .records import Record, Track, inside, request, track

log = logging.getLogger(__name__)

MARK = "a folder meta_expressions"
WHERE = "get the dataset from youtube-vos.org/dataset/rvos and give the folder that has meta_expressions"
SETTINGS: dict = {"inpainted": ""}


def matches(root: Path) -> bool:
    return (root / "meta_expressions").is_dir()


def records(root: Path, settings: dict) -> Iterator[Record]:
    """One record for each object that has a result, with all its expressions."""
    path = root / "meta_expressions" / settings["split"] / "meta_expressions.json"
    if not path.is_file():
        raise InputError(f"{path} does not exist; the setting `split` says which part of the dataset is read")
    base = root / settings["split"] if (root / settings["split"] / "JPEGImages").is_dir() else root
    inpainted = Path(settings["inpainted"] or base / "InpaintImages").expanduser()
    if not inpainted.is_dir():
        raise InputError(
            f"{inpainted} does not exist: the dataset needs videos inpainted by a tool of yours, as "
            "InpaintImages/<video>/<object>/<frame>.png (the setting `inpainted` names another folder)"
        )
    absent = 0
    for video, frames, number, words in _objects(path):
        clean = inside(inpainted / video, number)
        if not clean.names:
            absent += 1
            continue
        pictures, masks = (track(base / folder / video) for folder in ("JPEGImages", "Annotations"))
        captions = tuple(map(request, words))
        yield Record(f"{video}/{number}", _named(pictures, frames), masks, clean, captions, int(number))
    if absent:
        log.info("%s: %d objects have no inpainted video in %s and are not used", path, absent, inpainted)


def _objects(path: Path) -> Iterator[tuple[str, list[str], str, list[str]]]:
    try:
        videos = json.loads(path.read_text("utf-8"))["videos"]
        for video, content in videos.items():
            words: dict[str, list[str]] = {}
            for expression in content["expressions"].values():
                words.setdefault(str(int(expression["obj_id"])), []).append(expression["exp"])
            for number in sorted(words, key=int):
                yield video, content["frames"], number, words[number]
    except KeyError as error:
        wanted = "videos.<video>.frames and .expressions.<id>.exp and .obj_id"
        raise InputError(f"{path} has no field {error}; expected {wanted}") from None
    except (ValueError, AttributeError, TypeError) as error:
        raise InputError(f"{path} is not as Refer-YouTube-VOS has it: {error}") from None


def _named(pictures: Track, frames: list[str]) -> Track:
    """The pictures of these frames; of a frame that is not there, the name that it should have."""
    names = dict(zip(pictures.frame_names, pictures.names))
    return Track(pictures.path, tuple(names.get(frame, f"{frame}.jpg") for frame in frames))
