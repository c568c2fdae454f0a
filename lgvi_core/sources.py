"""Clips and pictures as a person gives them: paths, arrays, tensors."""

from __future__ import annotations

import os
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from .errors import InputError
from .video import Frame, VideoSource, open_video

SHAPES = {3: "(height, width, 3)", 4: "(frames, height, width, 3)"}


def source_of(video) -> VideoSource:
    """What `open_video` takes, or frames (T, H, W, 3), uint8 or float in [0, 1]; a source stays as it is.

    Raises `InputError` for what is no clip.
    """
    if isinstance(video, VideoSource):
        return video
    if isinstance(video, (str, os.PathLike)):
        return open_video(video)
    clip = as_array(video, 4, "frames have")

    def read(source):
        return (Frame(image, None) for image in clip)

    height, width = clip.shape[1:3]
    return VideoSource(None, width, height, Fraction(24), len(clip), False, None, Fraction(1), read)


def as_array(pictures, axes: int, have: str) -> np.ndarray:
    """Pictures of so many axes as an array, uint8 or float in [0, 1]; else `InputError`, which begins with `have`."""
    if isinstance(pictures, Tensor):
        pictures = pictures.detach().cpu()
        pictures = pictures.float() if pictures.dtype == torch.bfloat16 else pictures  # numpy has no bfloat16
    array = np.asarray(pictures)
    if array.ndim != axes or array.shape[-1] != 3 or not array.size:
        raise InputError(f"{have} shape {array.shape}; expected {SHAPES[axes]}")
    is_float = np.issubdtype(array.dtype, np.floating)
    if array.dtype != np.uint8 and not (is_float and array.min() >= 0 and array.max() <= 1):
        raise InputError(f"{have} type {array.dtype}; expected uint8, or float within 0 to 1")
    return array
