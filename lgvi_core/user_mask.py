"""A mask that the user gives, frame by frame beside the video."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from . import mask_shapes, masks
from .errors import InputError
from .region import Region, check_box, from_pixels
from .video import VideoSource, open_video

NEAR = 48  # of 255: how far a channel may be off a colour, for what encoding does to it
HARD = 16 / 255  # how far a value may be off 0 and 1 in a mask that is not soft
GROWN = 16  # a mask that expands does so by this part of the frame's shorter side, where nobody says


@dataclass(frozen=True)
class Opened:
    """A mask that fits a video: `frames()` gives it from the start, (H, W) soft float or bool each.

    length: how many frames there are, 1 for one that is for all, None if only counting tells. chosen: that one mask is
    for all frames goes without saying. said: what a person should know of how it was made.
    """

    name: str
    frames: Callable[[], Iterator[np.ndarray]]
    length: int | None
    chosen: bool = False
    said: tuple[str, ...] = ()


@dataclass(frozen=True)
class Colour:
    """The pixels of a colour (red, green, blue; 0 to 255), in the video itself, or in a mask file where one is given.

    What encoding does to a colour is let pass: a channel may be off by up to `NEAR`.
    """

    rgb: tuple[int, int, int]
    file: str | os.PathLike | None = None

    @classmethod
    def parse(cls, text: str, file=None) -> Colour:
        """From "#ff00ff" or "ff00ff"."""
        digits = text.strip().removeprefix("#")
        if len(digits) != 6 or not all(digit in "0123456789abcdefABCDEF" for digit in digits):
            raise InputError(f'the colour {text!r} is not known: give six hexadecimal digits, such as "#ff00ff"')
        return cls(tuple(bytes.fromhex(digits)), file)

    def open(self, source: VideoSource) -> Opened:
        video = source if self.file is None else _same_size(self.file, source)
        where = "the video" if self.file is None else f"the mask {self.file}"
        name = "the colour #{:02x}{:02x}{:02x} in {}".format(*self.rgb, where)
        return Opened(name, lambda: (self._in(frame.image) for frame in video), video.frame_count)

    def _in(self, image: np.ndarray) -> np.ndarray:
        scale = 1 if image.dtype == np.uint8 else 255
        distance = np.abs(image.astype(np.float32) * scale - np.array(self.rgb, np.float32))
        return distance.max(axis=-1) <= NEAR


@dataclass(frozen=True)
class Box:
    """A box for all frames; in fractions of the frame if neither side is above 1, else in pixels."""

    x: float
    y: float
    width: float
    height: float

    @classmethod
    def parse(cls, text: str) -> Box:
        """From "x,y,width,height"."""
        try:
            return cls(*(float(number) for number in text.split(",")))
        except (ValueError, TypeError) as error:
            raise InputError(
                f'the box {text!r} is not of the form "x,y,width,height", in pixels or in fractions of the frame'
            ) from error

    def open(self, source: VideoSource) -> Opened:
        if 0 < self.width <= 1 and 0 < self.height <= 1:
            region = Region(check_box((self.x, self.y, self.width, self.height)))
        else:
            box = {"x": self.x, "y": self.y, "width": self.width, "height": self.height}
            region = from_pixels(box, source.height, source.width)
        mask = region.mask(source.height, source.width)
        return Opened("the box", lambda: iter([mask]), 1, chosen=True)


@dataclass(frozen=True)
class Shape:
    """One of `mask_shapes.SHAPES` for a mask that is given; grow: by how many pixels those that expand do so.

    None: a 16th of the frame's shorter side. Raises `InputError` for another name, and for growth that is no number of
    pixels or of a shape that does not expand.
    """

    name: str = "exact"
    grow: float | None = None

    def __post_init__(self):
        mask_shapes.reshape(np.zeros((1, 1, 1), bool), self.name, self.grow or 0.0)  # checks the two
        if self.grow is not None and "expand" not in self.name:
            raise InputError(f"a mask of shape {self.name} does not grow: choose expand, hull_expand or box_expand")

    def of(self, mask: np.ndarray) -> np.ndarray:
        """The bool mask (H, W) in this shape."""
        pixels = min(mask.shape) / GROWN if self.grow is None else self.grow
        return mask_shapes.reshape(mask[None], self.name, pixels)[0]


class UserMask:
    """Reads a mask in step with the video.

    mask: a path (video, folder of pictures, one picture for all frames), an array that `masks.as_mask` takes, or what
    opens itself beside a video, such as `Colour` and `Box`. In pictures, what is brighter than mid-grey is the mask;
    of soft values, what is at least half. shape: what is made of each frame's. Raises `InputError` where size or length
    do not fit the video, before the first frame is asked for if the files say how long they are.
    """

    def __init__(self, mask, source: VideoSource, shape: Shape = Shape()):
        self.read, self.last, self.soft, self.shape = 0, None, False, shape
        self.opened = open_mask(mask, source)
        length = self.opened.length
        if length not in (1, source.frame_count):  # containers may be wrong: count
            length, count = sum(1 for _ in self.opened.frames()), sum(1 for _ in source)
            if length not in (1, count):
                raise InputError(_lengths(self.opened.name, length, count))
        self.single = length == 1
        self.frames = self.opened.frames()

    def next(self) -> np.ndarray:
        """The next frame's mask, (H, W) bool."""
        self.read += 1
        if self.single and self.last is not None:
            return self.last
        mask = next(self.frames, None)
        if mask is None:
            raise InputError(_lengths(self.opened.name, self.read - 1, f"more than {self.read - 1}"))
        if mask.dtype != bool:
            self.soft = self.soft or is_soft(mask)
            mask = mask >= 0.5
        self.last = self.shape.of(mask)
        return self.last

    def finish(self, count: int) -> list[str]:
        """What a person should know of the mask; `InputError` if it has frames that the video of `count` had not."""
        if not self.single and next(self.frames, None) is not None:
            raise InputError(_lengths(self.opened.name, f"more than {count}", count))
        single = self.single and not self.opened.chosen and self.last is not None and bool(self.last.any())
        return [*self.opened.said, *notes(self.opened.name, single, self.soft, count)]


def is_soft(mask) -> bool:
    """Whether a mask, an array or a tensor of 0 to 1, has values that are well between."""
    return bool(((mask > HARD) & (mask < 1 - HARD)).any())


def notes(name: str, single: bool, soft: bool, count: int) -> list[str]:
    """What a person should know of a mask of one frame for a video of `count`, and of a soft one."""
    said = []
    if single and count > 1:
        said.append(f"{name} has one frame: it is used for all {count} frames of the video")
    if soft:
        said.append(f"{name} is soft: what is at least half in it counts")
    return said


def open_mask(mask, source: VideoSource) -> Opened:
    """A mask of any kind that `UserMask` takes, beside a video. Raises `InputError` where it does not fit."""
    if isinstance(mask, (str, os.PathLike)):
        video = _same_size(mask, source)
        return Opened(f"the mask {mask}", lambda: (_brightness(frame.image) for frame in video), video.frame_count)
    if hasattr(mask, "open"):
        return mask.open(source)
    length = len(mask) if np.ndim(mask) == 3 else 1
    array = masks.as_mask(mask, length, source.height, source.width)
    return Opened("the mask", lambda: iter(array), length)


def _same_size(path, source: VideoSource) -> VideoSource:
    video = open_video(path)
    if (video.width, video.height) != (source.width, source.height):
        raise InputError(
            f"the mask {path} is {video.width}x{video.height} but the video is {source.width}x{source.height}: "
            "give a mask of the video's size"
        )
    return video


def _brightness(image: np.ndarray) -> np.ndarray:
    """Grey values, mid-grey (128 of 255) as 0.5."""
    return image.mean(axis=-1, dtype=np.float32) / 256


def _lengths(mask, masked, frames) -> str:
    return f"{mask} has {masked} frames but the video has {frames}: give one for each frame, or one for all"
