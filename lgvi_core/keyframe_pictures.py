"""Edited frames as a person gives them: paths or pictures, by the frames of a video that they are for."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

import numpy as np
import torch

from .conditioning import resize_frames, to_bytes
from .errors import InputError
from .sources import as_array
from .video import VideoSource, open_video

Given = Mapping[int, object] | Iterable[tuple[int, object]]


def read_keyframes(given: Given, source: VideoSource) -> tuple[dict[int, np.ndarray], list[str]]:
    """The keyframes as uint8 (H, W, 3) of the source's size by frame, and what a person should know of them.

    given: paths of pictures or pictures (H, W, 3), uint8 or float in [0, 1]; by their frames' numbers, from the end
    where negative (-1: the last). Raises `InputError` for two of one frame, for a frame that the video has not, and for
    what is no picture.
    """
    pairs = list(given.items() if isinstance(given, Mapping) else given)
    count = source.frame_count
    if any(index < 0 or count is None or index >= count for index, _ in pairs):  # containers may be wrong: count
        count = sum(1 for _ in source)
    keyframes, messages = {}, []
    for index, picture in pairs:
        frame = index + count if index < 0 else index
        check_place(index, frame, count)
        if frame in keyframes:
            raise InputError(f"there are two keyframes for frame {frame}: give one")
        image = _read(picture, index)
        if image.shape[:2] != (source.height, source.width):
            messages.append(
                f"the keyframe of frame {frame} is {image.shape[1]}x{image.shape[0]}, the video is "
                f"{source.width}x{source.height}: it is resized"
            )
            pixels = resize_frames(torch.from_numpy(image)[None].float(), source.height, source.width)
            image = pixels[0].round().clamp(0, 255).byte().numpy()
        keyframes[frame] = image
    return keyframes, messages


def check_place(index: int, frame: int, count: int) -> None:
    """Raises `InputError` where a keyframe, given for `index`, is not among the frames of a video of `count`."""
    if not 0 <= frame < count:
        raise InputError(f"there is a keyframe for frame {index}, but the video has frames 0 to {count - 1}")


def _read(picture, index: int) -> np.ndarray:
    if isinstance(picture, (str, os.PathLike)):
        if not os.path.exists(picture):
            raise InputError(f"for frame {index} the keyframe {picture} does not exist: give a picture")
        frames = [frame.image for _, frame in zip(range(2), open_video(picture))]
        if len(frames) > 1:
            raise InputError(f"the keyframe {picture} has more than one frame: give a picture")
        return frames[0]
    return to_bytes(as_array(picture, 3, f"the keyframe of frame {index} has"))
