"""A mask that the user gives, frame by frame beside the video."""

from __future__ import annotations

import os

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
        self.read, self.last, self.single, self.name = 0, None, False, "array"
        if not isinstance(mask, (str, os.PathLike)):
            frames = source.frame_count or sum(1 for _ in source)
            array = masks.as_mask(mask, frames, source.height, source.width)
            self.frames = iter(array >= 0.5)
            return
        video = open_video(mask)
        if (video.width, video.height) != (source.width, source.height):
            raise InputError(
                f"the mask {mask} is {video.width}x{video.height} but the video is {source.width}x{source.height}: "
                "give a mask of the video's size"
            )
        self.name, self.single = mask, video.frame_count == 1
        if not self.single and video.frame_count != source.frame_count:  # containers may be wrong: count
            lengths = [sum(1 for _ in clip) for clip in (video, source)]
            if lengths[0] != lengths[1]:
                raise InputError(_lengths(mask, *lengths))
        self.frames = (frame.image.mean(axis=-1) >= 128 for frame in video)

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


def _lengths(mask, masked, frames) -> str:
    return f"the mask {mask} has {masked} frames but the video has {frames}: give one for each frame, or one for all"
