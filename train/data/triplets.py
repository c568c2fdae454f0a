"""A plain folder of triplets, for data of one's own.

    captions.jsonl      one JSON object a line
    ...                 the files it names, anywhere in the folder

video      the video as it is: a file that PyAV opens, a folder of pictures in natural order, or one picture
mask       what is to be removed, the same way: white, or any palette colour but the first, is removed
clean      the video without it, the same way
caption    the request: "remove the dog on the left"; or
captions   a list of requests that mean the same
name       how reports call the sample (optional; by default its video, and a number where that is there twice)
split      the part of the dataset that the sample belongs to (optional, "train")

Video, mask and clean have the same number of frames and the same size. Pictures of folders belong together by their
names, or by their order where no name is the same.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from lgvi_core.errors import InputError

from .records import Record, some, track

MARK = "a file captions.jsonl"
WHERE = "give the folder that has captions.jsonl"
SETTINGS: dict = {}
FIELDS = ("video", "mask", "clean")


def matches(root: Path) -> bool:
    return (root / "captions.jsonl").is_file()


def records(root: Path, settings: dict) -> Iterator[Record]:
    """The records of captions.jsonl; `InputError` names the lines that are wrong."""
    path = root / "captions.jsonl"
    if not path.is_file():
        raise InputError(f"{path} does not exist; it has one JSON object a line: video, mask, clean and caption")
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no UTF-8 text: {error}") from None
    rows, problems = [], []
    for number, line in enumerate(lines, 1):
        try:
            rows += [_row(line, f"line {number}")] if line.strip() else []
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise InputError(f"{path}: {some(problems)}")
    seen = Counter()
    for row in rows:
        if row.get("split", "train") != settings["split"]:
            continue
        name = str(row.get("name") or Path(row["video"]).with_suffix(""))
        seen[name] += 1
        if seen[name] > 1:
            name = f"{name}#{seen[name]}"
        captions = row.get("captions", row.get("caption"))
        captions = (captions,) if isinstance(captions, str) else tuple(captions)
        yield Record(name, *(track(root / row[field]) for field in FIELDS), captions)


def _row(line: str, where: str) -> dict:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{where} is no JSON: {error}") from None
    if not isinstance(row, dict):
        raise InputError(f"{where} is {row!r}; expected an object with video, mask, clean and caption")
    absent = [field for field in FIELDS if not isinstance(row.get(field), str)]
    if absent:
        raise InputError(f"{where} has no text for {', '.join(absent)}; its fields are {', '.join(row)}")
    captions = row.get("captions", row.get("caption"))
    if not isinstance(captions, str) and not (isinstance(captions, list) and all(isinstance(c, str) for c in captions)):
        raise InputError(f"{where} has caption(s) {captions!r}; expected a text, or a list of texts")
    return row
