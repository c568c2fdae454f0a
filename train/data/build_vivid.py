"""A dataset to fill from clips: VIVID's pipeline (arXiv 2411.15260, section 3.1 and 3.3), from objects that are given.

`python -m train.data build-vivid CLIPS -o DATASET`. For each object of a clip: its masks through the clip, captions,
the six shapes of its masks; what does not do is left out and counted.

    DATASET
        shard-000003.tar        samples, see `shards`; none where nothing of its clips stays
        shard-000003.json       what became of its clips and objects; written last: the shard is finished
        build.json              what the dataset is made from, and how
        statistics.html, .json  how many and what they are like, see `build_page`

A shard belongs to a fixed run of clips, whoever makes it: processes take every n-th shard, and what they make does not
depend on their number. Clips of an unfinished shard lie in `.work`; a run that was killed goes on after the last one.
"""

from __future__ import annotations

import json
import os
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from lgvi_core import mask_shapes
from lgvi_core.errors import InputError

from ..evaluation.quiet import only_errors
from ..watching.journal import write_whole
from . import build_filters as filters
from . import build_objects, long_run, shards
from .build_captions import Captioner
from .build_clips import Clip
from .build_filters import Limits
from .build_objects import Course, Object
from .records import some

GROWTH = (0.01, 0.06)  # by which masks grow, of the frame's shorter side
JPEG = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
WORK, PLAN = ".work", "build.json"


@dataclass(frozen=True)
class Build:
    """What every clip is turned into samples by."""

    labels: dict  # of `build_clips.labels`
    limits: Limits
    captioner: Captioner
    vocabulary: frozenset[str] | None = None  # labels that stay, in lower case


def begin(out: Path, clips: list[Clip], clips_per_shard: int, how: dict) -> None:
    """Make the folder, or see that what was begun there is the same.

    how: all that the samples depend on beside the clips. Raises `InputError` for a folder with other things in it, and
    for a dataset that was begun otherwise, with what differs.
    """
    plan = {"clips_per_shard": clips_per_shard, **how, "clips": [clip.name for clip in clips]}
    long_run.begin(out / PLAN, plan, "give a new folder")


def run(clips: list[Clip], out: Path, build: Build, clips_per_shard: int, rank: int = 0, world: int = 1) -> None:
    """Make the shards of process `rank` of `world` that are not finished."""
    starts = list(enumerate(range(0, len(clips), clips_per_shard)))[rank::world]
    todo = [(number, start) for number, start in starts if not _report(out, number).is_file()]
    counts = [len(clips[start : start + clips_per_shard]) for _, start in starts]
    where = f"building ({rank + 1} of {world})" if world > 1 else "building"
    missing = sum(len(clips[start : start + clips_per_shard]) for _, start in todo)
    shown = tqdm(total=sum(counts), initial=sum(counts) - missing, unit="clip", desc=where, disable=rank > 0)
    with shown as bar, only_errors():  # lost tracks are counted
        for number, start in todo:
            _shard(clips, range(start, min(start + clips_per_shard, len(clips))), out, number, build, bar.update)


def _shard(clips: list[Clip], places: range, out: Path, number: int, build: Build, done: Callable) -> None:
    """Make one shard, of the clips at `places`."""
    work = out / WORK / f"shard-{number:06d}"
    work.mkdir(parents=True, exist_ok=True)
    for place in places:
        report = work / f"{place:08d}.json"
        if not report.is_file():
            said = _clip(clips[place], place, work / f"{place:08d}.tar", build)
            write_whole(report, json.dumps(said, ensure_ascii=False))
        done()
    path = out / f"shard-{number:06d}.tar"
    pieces = [work / f"{place:08d}.tar" for place in places]
    pieces = [piece for piece in pieces if piece.is_file()]
    if pieces:
        with _tar(work / path.name) as tar:
            for piece in pieces:
                with tarfile.open(piece, "r:") as part:
                    for member in part:
                        tar.addfile(member, part.extractfile(member))
        os.replace(work / path.name, path)
    told = [json.loads((work / f"{place:08d}.json").read_text("utf-8")) for place in places]
    report = _report(work, number)
    write_whole(report, json.dumps(told, indent=1, ensure_ascii=False) + "\n")
    os.replace(report, _report(out, number))
    shutil.rmtree(work)


def finish(out: Path) -> None:
    """Clear away what only an unfinished dataset needs."""
    shutil.rmtree(out / WORK, ignore_errors=True)


def reports(out: Path) -> Iterator[dict]:
    """What is told of each clip, in order."""
    for path in sorted(out.glob("shard-*.json")):
        yield from json.loads(path.read_text("utf-8"))


def _report(out: Path, number: int) -> Path:
    return out / f"shard-{number:06d}.json"


# One clip


def _clip(clip: Clip, place: int, path: Path, build: Build) -> dict:
    """Write the samples of a clip, if it has any, and tell what became of it: {name, left_out, objects}."""
    told = {"name": clip.name, "left_out": "", "objects": []}
    try:
        _, height, width = clip.video.describe()
        told |= {"height": height, "width": width}
        told["left_out"] = filters.size(height, width, build.limits)
        if not told["left_out"]:
            frames = clip.frames(build.limits.most_frames)
            told |= {"frames": len(frames), "left_out": filters.length(len(frames), "", build.limits)}
        if not told["left_out"]:
            objects = build_objects.of(clip, frames, build.labels)
            told["left_out"] = "" if objects else "no object is given"
    except (InputError, OSError, ValueError) as error:
        return told | {"left_out": "it cannot be used", "why": str(error)}
    if told["left_out"]:
        return told
    samples = list(_samples(objects, frames, build, told["objects"]))
    if samples:
        with _tar(path) as tar:
            for number, sample in enumerate(samples):
                _write(tar, f"{place:08d}-{number:03d}", clip, frames, sample)
    return told


class Sample(NamedTuple):
    """An object that stays, where all objects of its clip are in its frames (T, H, W), and its captions."""

    name: str
    course: Course
    everything: np.ndarray
    captions: list[str]


def _samples(objects: list[Object], frames: np.ndarray, build: Build, told: list[dict]) -> Iterator[Sample]:
    """The objects that stay; `told` gets a line for each object."""
    limits, borders = build.limits, build_objects.scenes(frames)
    candidates: list[tuple[Object, dict]] = []
    for one in sorted(objects, key=lambda one: -one.score):  # of two that are alike the surer one stays
        line = {"name": one.name, "label": one.label, "left_out": _unfit(one, [o for o, _ in candidates], build)}
        told.append(line)
        if not line["left_out"]:
            candidates.append((one, line))
    courses = [build_objects.through(one, frames, borders) for one, _ in candidates]
    everything = np.zeros(frames.shape[:3], bool)
    for course in courses:
        everything[course.start : course.stop] |= course.masks
    for (one, line), course in zip(candidates, courses):
        part = slice(course.start, course.stop)
        line |= {"frames": part.stop - part.start}
        line["left_out"] = filters.length(line["frames"], course.end, limits) or filters.covered(course.masks, limits)
        if line["left_out"]:
            continue
        moves = filters.motion(frames[part], course.masks, everything[part])
        line |= {"area": float(course.masks.mean()), "motion": moves}
        line["left_out"] = filters.moves(moves, limits) or filters.blurred(frames[part], course.masks, limits)
        if line["left_out"]:
            continue
        said = [text.strip() for text in build.captioner(frames[part], course.masks, one.label) if text.strip()]
        line["captions"] = [text for text in said if len(text.split()) <= limits.most_words]
        if line["captions"]:
            yield Sample(one.name, course, everything[part], line["captions"])
        else:
            line["left_out"] = "the caption is too long" if said else "there is no caption"


def _unfit(one: Object, others: list[Object], build: Build) -> str:
    """Why an object is left out by its first mask and its label."""
    if one.score < build.limits.least_score:
        return "its score is too low"
    if build.vocabulary is not None and one.label.lower() not in build.vocabulary:
        return "its label is not in the vocabulary"
    mask = one.masks[one.key]
    there = [other.masks[one.key] for other in others if one.key in other.masks]
    return filters.covered(mask[None], build.limits) or filters.alike(mask, there, build.limits)


def _write(tar: tarfile.TarFile, key: str, clip: Clip, frames: np.ndarray, sample: Sample) -> None:
    """Add one sample: its frames as they are on disk, those of a video as JPEG, and its masks in all shapes."""
    name, course = f"{clip.name}/{sample.name}", sample.course
    said = {"name": name, "captions": sample.captions, "fill": True, "clip": clip.name, "first": course.start}
    shards.member(tar, f"{key}.json", json.dumps(said, ensure_ascii=False).encode())
    for t in range(course.start, course.stop):
        if clip.video.is_video:
            suffix, content = ".jpg", cv2.imencode(".jpg", frames[t, ..., ::-1], JPEG)[1].tobytes()
        else:
            file = clip.video.file(t)
            suffix, content = file.suffix, file.read()
        shards.member(tar, f"{key}.video.{t:05d}{suffix}", content)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    parts = {"objects": sample.everything}
    for shape in mask_shapes.SHAPES:
        pixels = max(1.0, min(frames.shape[1:3]) * rng.uniform(*GROWTH))
        part = "mask" if shape == "exact" else f"mask_{shape}"
        parts[part] = mask_shapes.reshape(course.masks, shape, pixels)
    for part, masks in parts.items():
        for t, mask in enumerate(masks, course.start):
            shards.member(tar, f"{key}.{part}.{t:05d}.png", shards.png(Image.fromarray(mask)))


class _tar:
    """A new tar file, moved into place when it is whole."""

    def __init__(self, path: Path):
        self.path, self.temporary = path, path.with_name(f".{path.name}.{os.getpid()}")

    def __enter__(self) -> tarfile.TarFile:
        self.file = tarfile.open(self.temporary, "w", format=tarfile.USTAR_FORMAT)
        return self.file

    def __exit__(self, kind, error, trace) -> None:
        self.file.close()
        if kind is None:
            os.replace(self.temporary, self.path)
        else:
            self.temporary.unlink()


def summary(told: list[dict]) -> str:
    """What became of clips and objects, as text."""
    broken = [f"{clip['name']}: {clip['why']}" for clip in told if "why" in clip]
    objects = [one for clip in told for one in clip["objects"]]
    kept = sum(not one["left_out"] for one in objects)
    lines = [f"{kept} of {len(objects)} objects in {len(told)} clips stay, each in {len(mask_shapes.SHAPES)} shapes"]
    for what, ones in (("clips", told), ("objects", objects)):
        lines += [f"  {count:6} {what} left out: {reason}" for reason, count in left_out(ones).items()]
    if broken:
        lines.append(f"cannot be used: {some(broken)}")
    return "\n".join(lines)


def left_out(ones: list[dict]) -> dict[str, int]:
    """How many are left out for each reason, most first."""
    reasons = [one["left_out"] for one in ones if one["left_out"]]
    return {reason: reasons.count(reason) for reason in sorted(set(reasons), key=lambda r: (-reasons.count(r), r))}


def settings(build: Build, captions: str, objects: Path) -> dict:
    """All that samples depend on beside the clips, for `begin`."""
    words = None if build.vocabulary is None else sorted(build.vocabulary)
    return {"objects": str(objects.resolve()), "captions": captions, "vocabulary": words, **asdict(build.limits)}
