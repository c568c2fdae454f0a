"""Conversations for a whole dataset: `python -m train.data annotate DATASET --model FOLDER -o dialogues.jsonl`.

    dialogues.jsonl         requests and answers, as `dialogues` reads them; `description` and `model` tell their origin
    dialogues.html          some of them with their frames, see `annotate_page`
    dialogues.jsonl.work    while it works: plan.json, and part-000.jsonl, ... with a line for each sample that is done

A line is on disk before the next sample begins. A run that was killed goes on after the last whole line, by whatever
number of processes; what it writes does not depend on that.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from lgvi_core.errors import InputError

from ..watching.journal import read, write_whole
from . import long_run
from .annotate import Annotator, Scene, Unfit
from .entries import Sample
from .records import some
from .sources import FileSource

PLAN = "plan.json"
LOOKED_AT = 8  # frames among which one is chosen, where what is to go is not in the first
EXAMPLES = 3
AGAIN = "give another output, or remove that folder to begin anew"


class Scenes:
    """What a chat model is asked about, for each sample of a source."""

    def __init__(self, source):
        self.source = source
        self.together: dict[object, list[str]] = {}  # captions of the samples of each video
        for i in range(len(source)):
            self.together.setdefault(self._video(i), []).extend(source.entry(i).captions)

    def __getitem__(self, i: int) -> Scene:
        """Raises `Unfit` for a sample from which nothing is removed."""
        entry = self.source.entry(i)
        frame, _ = self.frame(i)
        return Scene(entry.name, frame[None], entry.captions, tuple(self.together[self._video(i)]))

    def frame(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """The first frame (H, W, 3) uint8 and its mask (H, W), or the frame that has most of what is not in the first.

        Raises `Unfit` as `__getitem__`.
        """
        frames = self.source.entry(i).frames
        sample = self._load(i, [0])
        if not sample.mask.any():
            sample = self._load(i, np.unique(np.linspace(0, frames - 1, LOOKED_AT).round().astype(int)).tolist())
        place = int(sample.mask.sum(axis=(1, 2)).argmax())
        frame, clean, mask = (part[place] for part in sample)
        if not mask.any() or np.array_equal(frame, clean):
            raise Unfit("nothing is removed from it")
        return frame, mask

    def _load(self, i: int, frames: list[int]) -> Sample:
        entry = self.source.entry(i)
        return self.source.load(i, frames, entry.height, entry.width)

    def _video(self, i: int):
        if not isinstance(self.source, FileSource):
            return i
        video = self.source.records[i].video
        return video.path, video.names[:1]


def begin(work: Path, source, how: dict) -> None:
    """Make the folder of the work, or see that what was begun there is the same; `how`: all beside the samples.

    Raises `InputError` as `long_run.begin`, and for samples of the same name.
    """
    entries = [source.entry(i) for i in range(len(source))]
    twice = [name for name, times in Counter(entry.name for entry in entries).items() if times > 1]
    if twice:
        raise InputError(f"several samples have one name, by which dialogues are found: {some(twice)}")
    long_run.begin(work / PLAN, {**how, "samples": [[entry.name, *entry.captions] for entry in entries]}, AGAIN)


def told(work: Path) -> dict[int, dict]:
    """What is told of each sample that is done, in their order."""
    lines = [line for path in sorted(work.glob("part-*.jsonl")) for line in read(path)]
    return {line["sample"]: line for line in sorted(lines, key=lambda line: line["sample"])}


def run(scenes: Scenes, annotator: Annotator, work: Path, done: Sequence[int], rank: int = 0, world: int = 1) -> None:
    """Ask about the samples of process `rank` of `world` that are not `done`."""
    count = len(scenes.source)
    todo = sorted(set(range(count)) - set(done))[rank::world]
    path = work / f"part-{rank:03d}.jsonl"
    if path.is_file():
        write_whole(path, "".join(map(_line, read(path))))  # without what a kill cut off
    where = f"annotating ({rank + 1} of {world})" if world > 1 else "annotating"
    shown = tqdm(total=len(done) + len(todo), initial=len(done), unit="sample", desc=where, disable=rank > 0)
    with path.open("a", encoding="utf-8") as file, shown as bar:
        for i in todo:
            file.write(_line({"sample": i, "name": scenes.source.entry(i).name, **_asked(scenes, i, annotator)}))
            file.flush()
            os.fsync(file.fileno())
            bar.update()


def _asked(scenes: Scenes, i: int, annotator: Annotator) -> dict:
    """What `annotator` tells of a sample, also where that cannot be read or the model cannot take it."""
    try:
        return annotator(scenes[i])
    except Unfit as reason:
        told = reason.told
    except (InputError, OSError) as error:
        told = {"reason": "it cannot be used", "why": str(error)}
    return {"said": [], "left_out": [told] * annotator.requests}


def write(lines: dict[int, dict], model: str, output: Path) -> None:
    """Write the conversations of all samples as a file of dialogues."""
    rows = [_row(line, said, model) for line in lines.values() for said in line["said"]]
    write_whole(output, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _row(line: dict, said: dict, model: str) -> dict:
    turns = [{"role": "user", "text": said["request"]}, {"role": "assistant", "text": said["answer"]}]
    description = {"description": line["description"]} if line["description"] else {}
    return {"name": line["name"], "dialogue": turns, **description, "model": model}


def finish(work: Path) -> None:
    """Clear away what only unfinished work needs."""
    shutil.rmtree(work)


def summary(lines: dict[int, dict]) -> str:
    """How many conversations there are, why others are not, and some of them, as text."""
    reasons = left_out(lines)
    talked = [line for line in lines.values() if line["said"]]
    count = sum(len(line["said"]) for line in talked)
    wanted = count + sum(left.times for left in reasons.values())
    said = [f"{count} of {wanted} conversations, about {len(talked)} of {len(lines)} samples"]
    for reason, (times, name, why) in reasons.items():
        said.append(f"  {times:6} left out: {reason}, as {name}" + (f": {why!r:.120}" if why else ""))
    for line in talked[:: -(-len(talked) // EXAMPLES) or 1]:
        one = line["said"][0]
        said.append(f"\n{line['name']}\n  {one['request']}\n  {one['answer']}")
    return "\n".join(said)


class LeftOut(NamedTuple):
    """How many conversations are left out for a reason; the first one's sample, and what the model wrote there."""

    times: int
    name: str
    why: str


def left_out(lines: dict[int, dict]) -> dict[str, LeftOut]:
    """What is left out by its reason, most first."""
    found = [(one["reason"], line["name"], one["why"]) for line in lines.values() for one in line["left_out"]]
    first = {reason: (name, why) for reason, name, why in reversed(found)}
    counts = Counter(reason for reason, _, _ in found)
    return {reason: LeftOut(times, *first[reason]) for reason, times in counts.most_common()}


def _line(told: dict) -> str:
    return json.dumps(told) + "\n"  # ASCII: a line that is cut off can be read up to there
