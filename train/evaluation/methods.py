"""What makes results to judge: a checkpoint, a trivial baseline, or a folder of another tool's results."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from lgvi_core import checkpoints, masks, standalone
from lgvi_core.conditioning import work_size
from lgvi_core.editing import Edge
from lgvi_core.errors import InputError
from lgvi_core.inpaint import fill, inpaint
from lgvi_core.video import open_video

GIVEN = "the given mask"
ENDINGS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".gif", ".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class Clip:
    """What is judged: `frames` and `clean` (T, H, W, 3) uint8, `mask` (T, H, W) bool, and the words."""

    name: str
    caption: str
    frames: np.ndarray
    clean: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True)
class Edit:
    """One result (T, H, W, 3) uint8: how the source was put back outside the mask, and the mask where one was found;
    fills: something was to appear there, nothing to go."""

    composited: str
    frames: np.ndarray
    mask: np.ndarray | None = None
    fills: bool = False


class Method(Protocol):
    """`name` stands in the table, `identity` says what exactly it is, `modes` what its edits say of compositing."""

    name: str
    identity: str
    modes: tuple[str, ...]

    def check(self, name: str, frames: int, total: int, height: int, width: int) -> None:
        """Raises `InputError` if the sample `name` cannot be edited, before long work starts."""

    def edit(self, clip: Clip) -> Iterator[Edit]:
        """The results, one for each of `modes`."""


class Model:
    """A checkpoint, as a user gets it (the source put back outside the mask) and before that.

    One that removes is given the caption and finds the mask; one that fills is given the true mask and the caption.
    """

    def __init__(self, path: Path, seed: int, steps: int | None, device: str | None):
        self.name = path.resolve().name if path.is_dir() else path.stem
        if self.name == "checkpoint":  # what every run calls its own
            self.name = path.resolve().parent.name
        self.path, self.seed, self.device = path, seed, device
        self.settings = {} if steps is None else {"steps": steps}
        self.identity = f"{fingerprint(path)} seed {seed} steps {steps or 'as recommended'}"
        self.loaded = None

    @property
    def fills(self) -> bool:
        return self.checkpoint().config.is_inpainting

    @property
    def modes(self) -> tuple[str, ...]:
        return (GIVEN if self.fills else "its own mask", "no")

    def check(self, name, frames, total, height, width):
        self.checkpoint()

    def checkpoint(self) -> checkpoints.Checkpoint:
        if self.loaded is None:
            self.loaded = standalone.load(self.path, self.device, None)
        return self.loaded

    def edit(self, clip):
        checkpoint, (height, width) = self.checkpoint(), clip.mask.shape[1:]
        settings = {"checkpoint": checkpoint, "seed": self.seed, "keep_outside": False, **self.settings}
        if self.fills:
            raw = fill(clip.frames, clip.caption, mask=clip.mask, **settings)
        else:
            raw = inpaint(clip.frames, clip.caption, **settings)
        factor = checkpoint.vae.factor
        working = work_size(width, height, checkpoint.training, factor)
        edge = Edge.fit(width / working.width * factor / checkpoint.config.mask_upscale, None, None)
        alpha = masks.soft_edge(raw.mask, edge.dilate, edge.feather)
        kept = masks.composite(clip.frames, raw.frames.astype(np.float32) / 255, alpha)
        found = None if self.fills else raw.mask
        yield Edit(self.modes[0], kept, found, self.fills)
        yield Edit("no", raw.frames, found, self.fills)


class Identity:
    """The input as it is: what doing nothing scores."""

    name, identity, modes = "identity", "the input", ("no",)

    def check(self, name, frames, total, height, width):
        pass

    def edit(self, clip):
        yield Edit("no", clip.frames)


class Telea:
    """OpenCV's Telea inpainting of the true mask, frame by frame."""

    name, identity, modes = "telea", "the true mask grown by 1 pixel, radius 3", ("the true mask",)

    def check(self, name, frames, total, height, width):
        pass

    def edit(self, clip):
        yield Edit("the true mask", telea(clip.frames, clip.mask))


class Folder:
    """Results of another tool: in `folder`, a video or a folder of pictures for each sample, by its name.

    A slash in a sample's name may be a folder or an underscore. Judged as they are, and with the source put back
    outside the true mask, which is what the field's evaluations of mask-driven tools do.
    """

    modes = ("as it is", "the true mask")

    def __init__(self, folder: Path):
        if not folder.is_dir():
            raise InputError(f"--results {folder} is not a folder; give one with a video or frames for each sample")
        self.folder, self.name, self.identity = folder, folder.resolve().name, fingerprint(folder)

    def find(self, name: str) -> Path:
        flat = name.replace("/", "_")
        for spelling in (name, flat):
            for ending in ("", *ENDINGS):
                if (self.folder / (spelling + ending)).exists():
                    return self.folder / (spelling + ending)
        raise InputError(
            f"{self.folder} has no result for {name!r}: expected a folder of frames {flat} or a video {flat}.mp4"
        )

    def check(self, name, frames, total, height, width):
        place = self.find(name)
        source = open_video(place)
        if (source.height, source.width) != (height, width):
            raise InputError(f"{place} is {source.width}x{source.height} pixels, the sample {name!r} {width}x{height}")
        if place.is_dir() and source.frame_count not in (frames, total):  # a video file's own count can be wrong
            wanted = frames if frames == total else f"{frames} or {total}"
            raise InputError(f"{place} has {source.frame_count} frames, the sample {name!r} {wanted}")

    def edit(self, clip):
        place, count = self.find(clip.name), len(clip.frames)
        result = [frame.image for _, frame in zip(range(count), open_video(place))]
        if len(result) != count:
            raise InputError(f"{place} has {len(result)} frames, the sample {clip.name!r} {count}")
        result = np.stack(result)
        yield Edit("as it is", result)
        yield Edit("the true mask", np.where(clip.mask[..., None], result, clip.frames))


BASELINES = {"identity": Identity, "telea": Telea}


def telea(frames: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The mask filled by OpenCV's Telea inpainting, frame by frame; the rim is filled too."""
    grown = masks.dilate(mask, 1).astype(np.uint8)
    return np.stack([cv2.inpaint(frame, hole, 3, cv2.INPAINT_TELEA) for frame, hole in zip(frames, grown)])


def fingerprint(path: Path) -> str:
    """A short name for the files at `path`, by their names, sizes and times; it changes when one is replaced."""
    if not path.exists():
        raise InputError(f"{path} does not exist")
    files = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
    known = hashlib.sha256()
    for file in files:
        state = file.stat()
        known.update(f"{file.relative_to(path)} {state.st_size} {state.st_mtime_ns}\n".encode())
    return f"{path} {known.hexdigest()[:12]}"
