"""ROVI (huggingface.co/datasets/jianzongwu/rovi), the dataset of the LGVI paper.

    train.json, test.json                     which object of which video, and what it is called
    JPEGImages/<video>/<frame>.jpg            the videos
    Annotations/<video>/<frame>.png           pixel value = number of the object
    InpaintImages/<video>/<object>/<frame>.*  the video without that object

The JSON may be a list of objects, or objects inside objects whose keys are the video and the object. What each field is
called is found among the common names of `NAMES`; other names are given by the setting `fields`, for example
`fields: {video: clip, object: target, caption: words}`. An expression ("the dog on the left") becomes the request to
remove it ("remove the dog on the left"); what is a request already stays.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from lgvi_core.errors import InputError

from .records import Record, inside, request, some, track

MARK = "folders JPEGImages, Annotations and InpaintImages"
WHERE = "get the dataset from huggingface.co/datasets/jianzongwu/rovi and give its folder"
SETTINGS: dict = {"fields": {}}
NAMES = {
    "video": ("video", "video_id", "video_name", "vid", "vid_id", "clip", "video_path"),
    "object": ("object", "object_id", "obj_id", "obj", "oid", "instance", "instance_id", "object_name"),
    "caption": (
        "expression", "expressions", "exp", "exps", "caption", "captions", "text", "texts", "sentence", "sentences",
        "referring_expression", "referring", "refer", "prompt", "request", "description",
    ),
}  # fmt: skip
CONTAINERS = ("videos", "objects", "expressions", "annotations", "data", "samples", "items", "train", "test", "valid")


def matches(root: Path) -> bool:
    return all((root / name).is_dir() for name in ("JPEGImages", "Annotations", "InpaintImages"))


def records(root: Path, settings: dict) -> Iterator[Record]:
    """One record for each object of a video, with all its expressions."""
    path = root / f"{settings['split']}.json"
    captions: dict[tuple[str, str], list[str]] = {}
    for video, number, words in expressions(path, settings["fields"]):
        captions.setdefault((video, number), []).extend(words)
    for (video, number), words in captions.items():
        if not number.isdecimal():
            raise InputError(f"{path}: the object {number!r} of {video} is no number as the masks have them")
        yield Record(
            name=f"{video}/{number}",
            video=track(root / "JPEGImages" / video),
            mask=track(root / "Annotations" / video),
            clean=inside(root / "InpaintImages" / video, number),
            captions=tuple(dict.fromkeys(map(request, words))),
            object_id=int(number),
        )


def expressions(path: Path, fields: dict[str, str]) -> Iterator[tuple[str, str, list[str]]]:
    """Yields video, object and expressions of every row of the JSON; `InputError` where a field cannot be told."""
    unknown = set(fields) - set(NAMES)
    if unknown:
        raise InputError(f"fields names {sorted(unknown)[0]!r}; allowed: {', '.join(NAMES)}")
    if not path.is_file():
        raise InputError(f"{path} does not exist; the setting `split` says which JSON file of the folder is read")
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is no JSON: {error}") from None
    names = {part: (fields[part],) if part in fields else NAMES[part] for part in NAMES}
    rows = list(_rows(content, (), names, path))
    if not rows:
        raise InputError(
            f"{path}: which field is the caption cannot be told; there are {some(_keys(content), 20)}. Common names "
            f"are {', '.join(names['caption'])}; set fields: {{caption: NAME}}"
        )
    yield from rows


def _rows(node, keys: tuple[str, ...], names: dict, path: Path) -> Iterator[tuple[str, str, list[str]]]:
    """Go down to the objects that have a caption; the keys on the way stand for what these do not say."""
    if isinstance(node, list):
        for value in node:
            yield from _rows(value, keys, names, path)
    elif isinstance(node, dict):
        words = _field(node, names["caption"])
        if words is not None:
            yield _row(node, words, keys, names, path)
        elif keys and _field(node, names["object"]) is not None and _plain(node):
            raise InputError(f"{path}: {' '.join(keys)} has an object without a caption: {some(node, 20)}")
        else:
            for key, value in node.items():
                yield from _rows(value, (*keys, key), names, path)


def _row(node: dict, words, keys: tuple[str, ...], names: dict, path: Path) -> tuple[str, str, list[str]]:
    outer = [key for key in keys if key not in CONTAINERS]
    said = {part: _field(node, names[part]) for part in ("video", "object")}
    for part, key in zip(said, (*outer, None, None)):
        said[part] = key if said[part] is None else said[part]
        if said[part] is None:
            raise InputError(
                f"{path}: which field is the {part} cannot be told; there are {', '.join(node)}. Common names are "
                f"{', '.join(names[part])}; set fields: {{{part}: NAME}}"
            )
    words = list(words.values()) if isinstance(words, dict) else [words] if isinstance(words, str) else words
    if not isinstance(words, list) or not all(isinstance(text, str) for text in words):
        raise InputError(f"{path}: the caption of {said} is {words!r}; expected a text or a list of texts")
    return str(said["video"]), str(said["object"]), words


def _keys(node) -> list[str]:
    """The keys of the innermost objects that come first."""
    while not _plain(node):
        parts = node.values() if isinstance(node, dict) else node
        node = next(part for part in parts if isinstance(part, (dict, list)))
    return list(node) if isinstance(node, dict) else []


def _field(row: dict, names: tuple[str, ...]):
    return next((row[name] for name in names if row.get(name) is not None and _plain(row[name])), None)


def _plain(value) -> bool:
    """Whether a value can be a field's: text, a number, or texts; not objects that hold rows."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
    return not any(isinstance(part, (dict, list)) for part in parts)
