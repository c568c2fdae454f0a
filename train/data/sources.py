"""Datasets behind one interface: `open_source` gives what has a length, entries to plan with and samples to load.

    source = open_source("rovi", {"kind": "rovi", "root": "data/rovi", "split": "train"}, seed=0)
    entry = source.entry(0)
    sample = source.load(0, list(range(entry.frames)), entry.height, entry.width)

There is one module per layout; its docstring describes it field by field. Settings that every layout on disk takes:

root         the folder
split        which part of the dataset, where the layout has several ("train")
flip         mirror half of the samples in training, where the words allow it (false; see `words`)
resize       masks and clean videos may be of another size than the video and are resized to it (false)
skip_broken  go on without the samples whose files are missing or do not fit, instead of stopping (false)
dialogues    a file of requests and answers, to train a request encoder with; see `dialogues` ("")
"""

from __future__ import annotations

import difflib
import logging
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from lgvi_core.errors import InputError

from . import (
    drawn,
    gqa_inpaint,
    instances,
    refer_youtube_vos,
    rovi,
    shards,
    synthetic_fill_source,
    synthetic_talk_source,
    triplets,
)
from .dialogues import read_dialogues
from .entries import Entry, Sample
from .records import Record, resized, resized_masks, some

__all__ = ["KINDS", "Entry", "FileSource", "Sample", "detect", "open_source", "probe"]

log = logging.getLogger(__name__)

LAYOUTS = {
    "triplets": triplets,
    "gqa_inpaint": gqa_inpaint,
    "refer_youtube_vos": refer_youtube_vos,
    "rovi": rovi,
    "instances": instances,
    "shards": shards,
}
DRAWN = {
    "synthetic": (drawn.DrawnSource, drawn.SETTINGS),
    "synthetic_fill": (synthetic_fill_source.FillSource, synthetic_fill_source.SETTINGS),
    "synthetic_talk": (synthetic_talk_source.TalkSource, synthetic_talk_source.SETTINGS),
}
KINDS = (*DRAWN, *LAYOUTS)
SETTINGS = {"split": "train", "flip": False, "resize": False, "skip_broken": False, "dialogues": ""}


class Key(NamedTuple):
    """What pixels a frame has: `identity` names them, `stamp` changes when the file does."""

    identity: str
    stamp: str


class FileSource:
    """A dataset on disk. `broken` lists (name, reason) of the samples it goes on without.

    Raises `InputError` where no sample can be used, and, unless `skip_broken`, where the files of one are missing or do
    not fit together.
    """

    def __init__(self, name: str, records: list[Record], settings: dict):
        self.name = name
        self.flip = settings["flip"]
        self.records: list[Record] = []
        self.entries: list[Entry] = []
        self.broken: list[tuple[str, str]] = []
        for record in tqdm(records, desc=f"opening {name}", unit="sample", delay=2, leave=False):
            try:
                if not any(caption.strip() for caption in record.captions):
                    raise InputError("it has no caption")
                record, entry = probe(record, settings["resize"])
            except InputError as error:
                self.broken.append((record.name, str(error)))
            else:
                self.records.append(record)
                self.entries.append(entry)
        self._report(settings)
        said = settings.get("dialogues")
        self.dialogues = read_dialogues(Path(said).expanduser()) if said else {}
        if self.dialogues and not any(entry.name in self.dialogues for entry in self.entries):
            raise InputError(
                f"data.{name}.dialogues: {said} is about {some(self.dialogues, 3)}, and no sample has "
                f"such a name; they are called {some((entry.name for entry in self.entries), 3)}"
            )

    def _report(self, settings: dict):
        if not self.broken:
            return
        what = f"data.{self.name}: {len(self.broken)} of {len(self.broken) + len(self.records)} samples cannot be used"
        listed = "; ".join(f"{name}: {reason}" for name, reason in self.broken[:3])
        if not self.records or not settings["skip_broken"]:
            raise InputError(
                f"{what}, such as {listed}. `python -m train.data check {settings['root']}` names them all; set "
                f"data.{self.name}.skip_broken=true to go on without them"
            )
        log.warning("%s and are left out: %s", what, some((name for name, _ in self.broken), 20))

    def __len__(self):
        return len(self.records)

    def entry(self, i: int) -> Entry:
        return self.entries[i]

    def load(self, i: int, frames: list[int], height: int, width: int) -> Sample:
        """The sample's pictures at `frames`, resized to (height, width) without regard to their shape."""
        record = self.records[i]
        video, clean = (resized(t.frames(frames), height, width) for t in (record.video, record.clean))
        return Sample(video, clean, self.masks(i, frames, height, width))

    def masks(self, i: int, frames: list[int], height: int, width: int) -> np.ndarray:
        """Its masks alone (T, H, W) bool."""
        record = self.records[i]
        return resized_masks(record.mask.masks(frames, record.object_id), height, width)

    def keys(self, i: int, frames: list[int], height: int, width: int, flipped: bool) -> tuple[list[Key], list[Key]]:
        """What the pixels of the video's and the clean video's frames are known by, for caches."""
        shape = f"{width}x{height}{' flipped' if flipped else ''}"
        both = []
        for track in (self.records[i].video, self.records[i].clean):
            keys = []
            for t in frames:
                file = track.file(0 if track.is_video else t)
                state = file.path.stat()
                frame = f" frame {t}" if track.is_video else ""
                keys.append(Key(f"{file}{frame} {shape}", f"{state.st_size} {state.st_mtime_ns}"))
            both.append(keys)
        return tuple(both)


def probe(record: Record, resize: bool) -> tuple[Record, Entry]:
    """The record with its tracks matched frame by frame, and its entry; only headers are read.

    Raises `InputError` for missing files, and for lengths or (unless `resize`) sizes that differ.
    """
    frames, height, width = record.video.describe()
    matched = {}
    for part in ("mask", "clean"):
        found = getattr(record, part)
        matched[part] = found.like(record.video)
        count, *size = matched[part].describe()
        if count != frames:
            raise InputError(f"its {part} has {count} frames, the video {frames}: {found}")
        if size != [height, width] and not resize:
            raise InputError(
                f"its {part} is {size[1]}x{size[0]}, the video {width}x{height}: {found} (the setting "
                "resize=true resizes it)"
            )
    captions = tuple(caption.strip() for caption in record.captions if caption.strip())
    return replace(record, **matched), Entry(record.name, frames, height, width, captions)


def open_source(name: str, settings: dict, seed: int = 0):
    """The dataset that a config calls `name`; `settings` are its `data.<name>`, `kind` among them.

    Raises `InputError` for settings that are not known, a folder that does not exist (with where to get the data) or is
    of another layout, and for what the dataset itself has wrong.
    """
    if settings.get("kind") in DRAWN:
        source, known = DRAWN[settings["kind"]]
        given = {key: value for key, value in settings.items() if key != "kind"}
        return source(_settings(name, given, known), seed)
    return FileSource(name, *records_of(name, settings))


def records_of(name: str, settings: dict) -> tuple[list[Record], dict]:
    """The records of a dataset on disk, their files not looked at, and its settings with all defaults."""
    settings = dict(settings)
    kind = settings.pop("kind", None)
    if kind not in LAYOUTS:
        raise InputError(f"data.{name}.kind is {kind!r}; allowed: {', '.join(KINDS)}")
    layout = LAYOUTS[kind]
    settings = _settings(name, settings, {"root": "", **SETTINGS, **layout.SETTINGS})
    root = Path(settings["root"]).expanduser()
    if not settings["root"] or not root.is_dir():
        raise InputError(f"data.{name}.root is {settings['root']!r}, which is no folder; {layout.WHERE}")
    records = list(layout.records(root, settings))
    if not records:
        raise InputError(f"data.{name}: {root} has no samples in the split {settings['split']!r}")
    return records, settings


def _settings(name: str, given: dict, known: dict) -> dict:
    for key, value in given.items():
        if key not in known:
            nearest = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else f"known: {', '.join(known)}"
            raise InputError(f"data.{name}.{key} does not exist; {hint}")
        if known[key] is not None and not isinstance(value, type(known[key])):
            raise InputError(f"data.{name}.{key} is {value!r}; expected {type(known[key]).__name__}")
    return {**known, **given}


def detect(path: str | Path) -> str:
    """The kind of the dataset in a folder. Raises `InputError` where it is none that is known."""
    root = Path(path)
    if not root.is_dir():
        raise InputError(f"{root} is no folder")
    for kind, layout in LAYOUTS.items():
        if layout.matches(root):
            return kind
    marks = "; ".join(f"{kind}: {layout.MARK}" for kind, layout in LAYOUTS.items())
    raise InputError(f"{root} is in no layout that is known. What each is recognised by: {marks}")
