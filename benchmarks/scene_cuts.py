"""How well scene cuts are found: `python -m benchmarks.scene_cuts CLIPS`.

CLIPS holds a folder for each clip with frames/, a picture for each frame. Cuts are made by joining clips; what must not
be taken for one, by changing them. Prints, for each kind, how many cuts are found and how many are that are none: by
`lgvi_core.scene_cuts`, by ffmpeg's `scdet` filter (through PyAV) and by PySceneDetect's detector of content, at their
own thresholds.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from lgvi_core.errors import InputError
from lgvi_core.scene_cuts import cuts
from train.data import scene_cuts

SIZE = (432, 240)
CONTENT = 27.0  # PySceneDetect's default
SCDET = 10.0  # ffmpeg's


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; returns the exit code, 2 for input that cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scene_cuts", description=__doc__.splitlines()[0])
    parser.add_argument("clips", type=Path, metavar="CLIPS")
    options = parser.parse_args(arguments)
    cv2.setNumThreads(1)
    try:
        clips = {folder.parent.name: read(folder) for folder in sorted(options.clips.glob("*/frames"))}
        if len(clips) < 2:
            raise InputError(f"{options.clips} holds fewer than two folders with frames/: give at least two clips")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("| what | " + " | ".join(WAYS) + " |")
    print("|---" * (len(WAYS) + 1) + "|")
    counts, seconds, frames = defaultdict(lambda: np.zeros((len(WAYS), 3), int)), np.zeros(len(WAYS)), 0
    for what, clip, truth in cases(clips):
        frames += len(clip)
        for way, find in enumerate(WAYS.values()):
            start = time.process_time()
            found = set(find(clip))
            seconds[way] += time.process_time() - start
            counts[what][way] += len(found & truth), len(truth), len(found - truth)
    for what, ways in counts.items():
        cells = [f"{hit} of {there}, {false} false" if there else f"{false} false" for hit, there, false in ways]
        print(f"| {what} | " + " | ".join(cells) + " |")
    print("| ms a frame | " + " | ".join(f"{1000 * one / frames:.1f}" for one in seconds) + " |")
    return 0


def read(folder: Path) -> np.ndarray:
    """The pictures of a folder, uint8 (T, H, W, 3)."""
    return np.stack([resized(cv2.imread(str(path))[..., ::-1]) for path in sorted(folder.iterdir())])


def resized(picture: np.ndarray) -> np.ndarray:
    return cv2.resize(picture, SIZE, interpolation=cv2.INTER_AREA)


def cases(clips: dict[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray, set[int]]]:
    """What it is, uint8 frames (T, H, W, 3), and where they are cut."""
    for one, other in itertools.permutations(clips.values(), 2):
        joined = np.concatenate([one[:9], other[:9]])
        grey = joined.mean(axis=-1, keepdims=True).repeat(3, axis=-1)
        yield "two clips joined", joined, {9}
        yield "two clips joined, dark", as_bytes(joined / 4), {9}
        yield "two clips joined, grey", as_bytes(grey), {9}
    for clip in clips.values():
        width, height = SIZE
        near = clip[9:, height // 4 : -height // 4, width // 4 : -width // 4]
        yield "the same, from nearer", np.concatenate([clip[:9], [resized(picture) for picture in near]]), {9}
        for what, changed in traps(clip):
            yield what, changed, set()


def traps(clip: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """A clip in which something changes, and no cut is made."""
    (width, height), count = SIZE, len(clip)
    place = np.arange(count).reshape(-1, 1, 1, 1)
    large = cv2.resize(clip[5], None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC)
    yield "as filmed", clip
    yield "every second frame", clip[::2]
    yield "every fourth frame", clip[::4]
    yield "a flash of one frame", as_bytes(clip * np.where(place == 8, 2.5, 1))
    yield "light goes on", as_bytes(clip + np.where(place >= 8, 50.0, 0))
    yield "light halves", as_bytes(clip * np.where(place >= 8, 0.5, 1))
    yield "dark and back, in 8 frames each", as_bytes(clip[:17] * np.abs(place[:17] / 8 - 1))
    yield "a pan of a tenth a frame", np.stack([large[200:, 43 * i :][:height, :width] for i in range(18)])
    yield "a zoom", np.stack([resized(large[12 * i : 720 - 12 * i, 22 * i : 1296 - 22 * i]) for i in range(18)])
    yield "noise", as_bytes(clip + np.random.default_rng(0).normal(0, 20, clip.shape))
    yield "a wall passes", passed(clip)


def passed(clip: np.ndarray) -> np.ndarray:
    """The clip behind a thing of half its width that crosses within 18 frames."""
    clip, width = clip[:18].copy(), clip.shape[2]
    for place, picture in enumerate(clip):
        right = width * 3 // 2 * (place + 1) // len(clip)
        picture[:, max(0, right - width // 2) : right] = 40, 60, 90
    return clip


def as_bytes(pixels: np.ndarray) -> np.ndarray:
    return np.clip(pixels, 0, 255).astype(np.uint8)


def by_ffmpeg(clip: np.ndarray) -> list[int]:
    graph = av.filter.Graph()
    height, width = clip.shape[1:3]
    source = graph.add_buffer(width=width, height=height, format=av.VideoFormat("rgb24"), time_base=Fraction(1, 24))
    graph.link_nodes(source, graph.add("scdet", f"threshold={SCDET}"), graph.add("buffersink")).configure()
    found = []
    for place, picture in enumerate(clip):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame.pts, frame.time_base = place, Fraction(1, 24)
        graph.push(frame)
        if "lavfi.scd.time" in graph.pull().metadata:
            found.append(place)
    return found


WAYS = {
    "`lgvi_core.scene_cuts`": cuts,
    "ffmpeg's scdet": by_ffmpeg,
    "PySceneDetect": lambda clip: scene_cuts.cuts(clip, CONTENT),
}

if __name__ == "__main__":
    sys.exit(main())
