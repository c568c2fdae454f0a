"""What is wrong with a dataset, sample by sample and file by file, and with what is said about it, line by line."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from lgvi_core.answer import CLOSE, MARK, MARKS, OPEN, parse, split_tags
from lgvi_core.errors import InputError

from .dialogues import Dialogue, plainly, read_lines
from .records import Record, Track, some
from .sources import probe

NOISE = 4.0  # mean difference, of 255, that compression explains
CHANGED = 2.0  # mean difference in the mask below which nothing was removed
WORDS = 60  # CLIP cuts off what is longer than 77 tokens


class Finding(NamedTuple):
    """Something about a sample: an "error" keeps it from being used rightly, a "warning" may be as it should."""

    level: str
    name: str
    what: str

    def __str__(self):
        return f"{self.level:7} {self.name}: {self.what}"


def across(records: list[Record]) -> Iterator[Finding]:
    """What is wrong between samples: names that come twice, and words that mean several objects of one video."""
    for name, times in Counter(record.name for record in records).items():
        if times > 1:
            yield Finding("error", name, f"there are {times} samples of this name")
    said: dict[tuple, list[str]] = {}
    for record in records:
        for caption in () if _fills(record) else dict.fromkeys(c.strip().lower() for c in record.captions):
            said.setdefault(((record.video.path, record.video.names[:1]), caption), []).append(record.name)
    for (_, caption), names in said.items():
        if caption and len(names) > 1 and len(set(names)) > 1:
            yield Finding("warning", names[0], f"the same caption, {caption!r}, belongs to {some(names[1:])}")


def of(record: Record, resize: bool = False) -> Iterator[Finding]:
    """What is wrong with one sample; every file of it is read. Sizes may differ where they are to be resized."""
    yield from _words(record)
    try:
        matched, entry = probe(record, resize=True)
        sizes = {part: getattr(matched, part).describe()[1:] for part in ("mask", "clean")}
    except InputError as error:
        yield Finding("error", record.name, str(error))
        return
    for part, size in sizes.items():
        if size != (entry.height, entry.width) and not resize:
            said = f"its {part} is {size[1]}x{size[0]}, the video {entry.width}x{entry.height}"
            yield Finding("error", record.name, f"{said} (the setting resize=true resizes it)")
    frames = list(range(entry.frames))
    clips = {}
    readers = {
        "video": matched.video.frames,
        "clean": matched.clean.frames,
        "mask": lambda indices: matched.mask.masks(indices, matched.object_id),
    }
    for part, read in readers.items():
        clips[part], problems = _read(getattr(matched, part), frames, read)
        yield from (Finding("error", record.name, f"{part}: {problem}") for problem in problems)
    if all(clips.values()) and not _fills(record):
        yield from _pixels(record.name, clips)


def dialogues(records: list[Record], path: Path) -> Iterator[Finding]:
    """What is wrong with the dialogues of a dataset, in the file at `path`, line by line."""
    captions = {record.name: record.captions for record in records}
    first: dict[tuple[str, Dialogue], int] = {}
    refused = Counter()
    for number, name, dialogue, problem in read_lines(path):
        line = f"line {number} of {path.name}"
        if problem:
            yield Finding("error", line, problem)
            continue
        earlier = first.setdefault((name, dialogue), number)
        if earlier != number:
            yield Finding("warning", name, f"{line} is the same as line {earlier}")
        if name in captions:
            yield from (Finding(level, name, f"{line}: {what}") for level, what in _said(dialogue, captions[name]))
            kind = parse(dialogue.answer).kind
            refused.update([kind] if kind != "remove" else [])
        else:
            yield Finding("warning", name, f"{line} is about a sample that is not in the dataset, or not in this split")
    told = {name for name, _ in first}
    if silent := [name for name in captions if name not in told]:
        what = f"{len(silent)} of {len(captions)} samples have no dialogue and are asked for by their captions"
        yield Finding("warning", path.name, f"{what}: {some(silent)}")
    if refused:
        kinds = ", ".join(f"{count} {kind!r}" for kind, count in refused.items())
        what = f"answers that remove nothing ({kinds}): in training they need batches with `only: language`, or the"
        yield Finding("warning", path.name, f"{what} U-Net learns to remove what they do not name")


def _said(dialogue: Dialogue, captions: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Levels and words of what is wrong with a dialogue of a sample with these captions."""
    request, wanted = dialogue.request, {plainly(caption) for caption in captions}
    if not request.strip():
        yield "error", "the request is empty"
    elif plainly(request) in wanted:
        yield "warning", f"the request is the caption, {request!r}"
    answer, (_, tagged) = parse(dialogue.answer), split_tags(dialogue.answer)
    if not answer.met:
        if not MARK.search(dialogue.answer):
            marks = ", ".join(MARKS.values())
            yield "error", f"no removal is read from the answer, and it has none of {marks}: {dialogue.answer!r}"
        return
    if len(tagged["prompt"]) != 1 or not (OPEN in dialogue.answer and CLOSE in dialogue.answer):
        yield "warning", f"the answer's prompt does not stand once between {OPEN} and {CLOSE}: {dialogue.answer!r}"
    prompt = (tagged["prompt"] or [answer.prompt])[-1]
    if plainly(prompt) not in wanted:
        yield "warning", f"the answer's prompt is {prompt!r}, the caption {some(map(repr, captions))}"


def _fills(record: Record) -> bool:
    """Whether the captions say what is to stand in the mask: the video is then its own truth."""
    return record.clean is record.video


def _words(record: Record) -> Iterator[Finding]:
    if not record.captions or not all(caption.strip() for caption in record.captions):
        yield Finding("error", record.name, "it has an empty caption" if record.captions else "it has no caption")
    twice = [caption for caption, times in Counter(c.strip().lower() for c in record.captions).items() if times > 1]
    if any(twice):
        yield Finding("warning", record.name, f"a caption comes twice: {some(twice)}")
    for caption in record.captions:
        if not caption.isascii():
            odd = "".join(sorted(set(re.findall(r"[^\x00-\x7f]", caption))))
            yield Finding("warning", record.name, f"the caption {caption!r} has characters that CLIP splits: {odd}")
        if len(caption.split()) > WORDS:
            yield Finding("warning", record.name, f"the caption {caption[:40]!r}... is long; CLIP cuts off its end")


def _read(track: Track, frames: list[int], read: Callable) -> tuple[list[np.ndarray], list[str]]:
    """All frames of a track by `read(indices)`, none of them if there is something wrong, and what that is."""
    pictures, problems = [], []
    for part in [frames] if track.is_video else [[t] for t in frames]:
        try:
            pictures += read(part)
        except (InputError, OSError) as error:
            problems.append(str(error))
    first = pictures[0].shape[:2] if pictures else None
    other = [str(track.file(t)) for t, picture in enumerate(pictures) if picture.shape[:2] != first]
    if other and not problems:
        problems.append(f"pictures of another size than the first: {some(other)}")
    return ([] if problems else pictures), problems


def _pixels(name: str, clips: dict[str, list[np.ndarray]]) -> Iterator[Finding]:
    empty, full, inside, outside = [], [], [], []
    for t, (video, clean, mask) in enumerate(zip(clips["video"], clips["clean"], clips["mask"])):
        (empty if not mask.any() else full if mask.mean() > 0.9 else []).append(t)
        if not video.shape[:2] == clean.shape[:2] == mask.shape:
            continue
        difference = cv2.absdiff(video, clean).mean(2)
        reach = max(3, min(mask.shape) // 16)  # a tool may have widened the mask
        near = cv2.dilate(mask.astype(np.uint8), np.ones((2 * reach + 1,) * 2, np.uint8)).astype(bool)
        inside += [difference[mask].mean()] if mask.any() else []
        outside += [difference[~near].mean()] if not near.all() else []
    if len(empty) == len(clips["mask"]):
        yield Finding("error", name, "its mask is empty in all frames: nothing is to be removed")
    elif empty:
        count = len(clips["mask"])
        yield Finding("warning", name, f"its mask is empty in {len(empty)} of {count} frames: {some(empty)}")
    if full:
        yield Finding("warning", name, f"its mask covers nearly everything in frames {some(full)}: is it inverted?")
    if inside and np.mean(inside) < CHANGED:
        same = max(inside + outside) == 0
        what = "the clean video equals the input" if same else "hardly anything changes in the mask"
        yield Finding("error", name, f"{what} (mean difference {np.mean(inside):.1f} of 255): nothing was removed")
    if outside and max(outside) > NOISE:
        worst = int(np.argmax(outside))
        yield Finding(
            "error" if max(outside) > 3 * NOISE else "warning", name,
            f"the clean video differs from the input outside the mask by {max(outside):.1f} of 255 on average in frame "
            f"{worst}, more than compression explains: is it the same clip, frame by frame?",
        )  # fmt: skip
