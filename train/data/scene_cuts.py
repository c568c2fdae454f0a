"""Which videos are of more than one scene, by PySceneDetect; what is found out is kept in the dataset's folder."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from scenedetect import ContentDetector, FrameTimecode
from tqdm import tqdm

from lgvi_core.errors import InputError
from lgvi_core.video import open_video

from .records import Track, track

FILE = "scene-cuts.json"


def cuts(frames: Iterable[np.ndarray], threshold: float) -> list[int]:
    """The frames (H, W, 3) uint8 RGB that begin a new scene.

    threshold: mean change of hue, saturation and brightness, out of 255.
    """
    detector = ContentDetector(threshold=threshold, min_scene_len=1)
    found: list[int] = []
    for i, frame in enumerate(frames):
        bgr = np.ascontiguousarray(frame[..., ::-1])
        found += [place.frame_num for place in detector.process_frame(FrameTimecode(i, 24.0), bgr)]
    return found


def cut_videos(root: Path, names: Iterable[str], threshold: float) -> dict[str, list[int]]:
    """Those of the videos `names` in the folder that have scene cuts, and the frames that begin a new scene.

    Each is decoded once while it stays as it is. Those that cannot be read are passed over.
    """
    place = root / FILE
    known = json.loads(place.read_text("utf-8")) if place.is_file() else {}
    before, found = dict(known), {}
    try:
        for name in tqdm(dict.fromkeys(names), desc="looking for scene cuts", unit="video", delay=2, leave=False):
            video = track(root / name)
            stamp = [threshold, *_state(video)]
            if known.get(name, {}).get("stamp") != stamp:
                try:
                    known[name] = {"stamp": stamp, "cuts": cuts(_frames(video), threshold)}
                except InputError:  # told where the video is opened as a sample
                    continue
            if known[name]["cuts"]:
                found[name] = known[name]["cuts"]
    finally:  # a search through many videos that is interrupted goes on from there
        if known != before:
            temporary = place.with_name(f".{FILE}.{os.getpid()}")
            temporary.write_text(json.dumps(known, indent=1) + "\n", "utf-8")
            os.replace(temporary, place)
    return found


def _state(video: Track) -> list[int]:
    if not video.names:
        return []
    first = video.file(0).path.stat()
    return [len(video.names), first.st_size, first.st_mtime_ns]


def _frames(video: Track) -> Iterator[np.ndarray]:
    if video.is_video:
        return (frame.image for frame in open_video(video.file(0).path))
    return (video.frames([i])[0] for i in range(len(video.names)))
