"""A mask that the user gives, frame by frame beside the video."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import numpy as np

from . import masks
from .errors import InputError
from .video import VideoSource, open_video


class UserMask:
    """Reads a mask in step with the video: a path (video, folder of pictures, one picture for all frames) or an array.

    In pictures, what is brighter than mid-grey is the mask. Raises `InputError` where size or length do not fit the
    video, before the first frame is asked for if the files say how long they are.
    """

    def __init__(self, mask, source: VideoSource):
        self.read, self.last = 0, None
        is_file = isinstance(mask, (str, os.PathLike))
        self.name = f"the mask {mask}" if is_file else "the mask"
        frames, length = _from_file(mask, source) if is_file else _from_array(mask, source)
        if length not in (1, source.frame_count):  # containers may be wrong: count
            length, count = sum(1 for _ in frames()), sum(1 for _ in source)
            if length not in (1, count):
                raise InputError(_lengths(self.name, length, count))
        self.single = length == 1
        self.frames = frames()

    def next(self) -> np.ndarray:
        """The next frame's mask, (H, W) bool."""
        if self.single and self.read:
            return self.last
        self.last = next(self.frames, None)
        if self.last is None:
            raise InputError(_lengths(self.name, self.read, f"more than {self.read}"))
        self.read += 1
        return self.last

    def finish(self, count: int) -> None:
        """Raises `InputError` if the mask has frames that the video of `count` frames had not."""
        if not self.single and next(self.frames, None) is not None:
            raise InputError(_lengths(self.name, f"more than {count}", count))


def _from_file(path, source: VideoSource) -> tuple[Callable[[], Iterator[np.ndarray]], int | None]:
    """A function that gives the frames' masks from the start, and how many the container says there are."""
    video = open_video(path)
    if (video.width, video.height) != (source.width, source.height):
        raise InputError(
            f"the mask {path} is {video.width}x{video.height} but the video is {source.width}x{source.height}: "
            "give a mask of the video's size"
        )
    return lambda: (frame.image.mean(axis=-1) >= 128 for frame in video), video.frame_count


def _from_array(array, source: VideoSource) -> tuple[Callable[[], Iterator[np.ndarray]], int]:
    length = len(array) if np.ndim(array) == 3 else 1
    array = masks.as_mask(array, length, source.height, source.width)
    return lambda: (mask >= 0.5 for mask in array), length


def _lengths(mask, masked, frames) -> str:
    return f"{mask} has {masked} frames but the video has {frames}: give one for each frame, or one for all"
