"""How well a mask is tracked: `python -m benchmarks.tracking CLIPS [--plot FILE.png]`.

CLIPS holds a folder for each clip with frames/ and masks/, a picture for each frame; clips without masks are left out.
The first frame's mask is tracked over 24 frames, by flow chained from frame to frame and by `lgvi_core.masks.track`.
Prints the intersection over union with the true masks (the first frame is not counted), and draws it frame by frame.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import cv2
import matplotlib
import numpy as np

from lgvi_core.errors import InputError
from lgvi_core.tracking import Track, chained, track

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

FRAMES = 24


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and draw; returns the exit code, 2 for input that cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tracking", description=__doc__.splitlines()[0])
    parser.add_argument("clips", type=Path, metavar="CLIPS")
    parser.add_argument("--plot", type=Path, default=None, metavar="FILE", help="write the curves as a picture")
    options = parser.parse_args(arguments)
    cv2.setNumThreads(1)
    try:
        clips = {folder.parent.name: read(folder.parent) for folder in sorted(options.clips.glob("*/masks"))}
        if not clips:
            raise InputError(f"{options.clips} holds no folder with frames/ and masks/")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    results = {name: measure(*clip) for name, clip in clips.items()}
    print("| clip | flow, chained | tracked | lowest | trusted until | seconds a frame |")
    print("|---|---|---|---|---|---|")
    for name, (plain, ours, found, seconds) in results.items():
        until = "the end" if found.lost_at is None else f"frame {found.lost_at - 1}"
        print(f"| {name} | {plain.mean():.2f} | {ours.mean():.2f} | {ours.min():.2f} | {until} | {seconds:.2f} |")
    if options.plot:
        draw(results, options.plot)
    return 0


def read(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The first frames (T, H, W, 3) uint8 of a clip and its masks (T, H, W) bool."""
    pictures, masks = (sorted(path.iterdir())[:FRAMES] for path in (folder / "frames", folder / "masks"))
    if len(pictures) != len(masks):
        raise InputError(f"{folder} has {len(pictures)} frames and {len(masks)} masks; give a mask for each frame")
    frames = np.stack([cv2.imread(str(path))[..., ::-1] for path in pictures])
    return frames, np.stack([cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) >= 128 for path in masks])


def overlap(masks: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Intersection over union of two masks (T, H, W), frame by frame but the first; 1 where both are empty."""
    both, either = (masks & truth).sum((1, 2))[1:], (masks | truth).sum((1, 2))[1:]
    return np.where(either > 0, both / np.maximum(either, 1), 1.0)


def measure(frames: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray, Track, float]:
    """The overlaps of chained flow and of the tracker, its track, and its seconds of one core for each frame."""
    plain = overlap(chained(frames, truth[0]), truth)
    start = time.process_time()
    found = track(frames, truth[0], 0)
    return plain, overlap(found.masks, truth), found, (time.process_time() - start) / (len(frames) - 1)


def draw(results: dict[str, tuple], path: Path):
    figure, axes = pyplot.subplots(1, len(results), figsize=(4.5 * len(results), 3.2), sharey=True, squeeze=False)
    for axis, (name, (plain, ours, found, _)) in zip(axes[0], results.items()):
        places = np.arange(1, len(ours) + 1)
        axis.plot(places, ours, label=f"tracked, mean {ours.mean():.2f}")
        axis.plot(places, plain, label=f"chained flow, mean {plain.mean():.2f}")
        axis.plot(places, found.trust[1:], ":", color="gray", label="trust")
        axis.set(title=name, xlabel="frames from the given mask", ylim=(0, 1))
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    axes[0, 0].set_ylabel("intersection over union")
    figure.tight_layout()
    part = path.with_name(path.name + ".part")
    figure.savefig(part, dpi=110, format="png")
    part.replace(path)


if __name__ == "__main__":
    sys.exit(main())
