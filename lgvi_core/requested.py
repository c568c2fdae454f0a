"""A request in a person's own words, from the first frame to the video without what it is about."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from . import checkpoints
from .checkpoints import Checkpoint
from .conversation import Turn, unseen
from .errors import InputError
from .inpaint import DEMO, Settings, inpaint
from .sheet import ContactSheet
from .through import Places, Result, copy_source, open_writer
from .understanding import Reader, Understanding
from .video import VideoSource, open_video

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What became of a request: what was understood, in the end, and what came of it."""

    understood: Understanding
    result: Result


def remove(
    video: str | os.PathLike | VideoSource,
    request: str,
    output: str | os.PathLike,
    *,
    reader: Reader,
    turns: Sequence[Turn] = (),
    told: Callable[[Understanding], None] = lambda understood: None,
    checkpoint: str | os.PathLike | Checkpoint = DEMO,
    **options,
) -> Outcome:
    """Does what a request means, or answers it and leaves the video as it is.

    reader: who reads it, see `understanding.open_reader`. turns: of the conversation before it. told: called with what
    was understood before long work starts. What is left is as in `inpaint.inpaint`.

    A request that is not met gives an untouched video, and the result says why. One that is met, but whose words
    nothing in the video fits, becomes one of the kind "absent". Raises `InputError` as `inpaint` and the reader do.
    """
    if not request.strip():
        raise InputError('the request is empty: say what you want, for example "I only want the dog to stay"')
    source = video if isinstance(video, VideoSource) else open_video(video)
    places = Places(output, options.get("mask_output"), options.get("sheet"))
    _check(source, places, checkpoint, options)
    understood = reader(first_frame(source), request, turns)
    told(understood)
    if not understood.met:
        return Outcome(understood, untouched(source, places, _reason(understood)))
    return act(video, understood, output, checkpoint=checkpoint, **options)


def act(video, understood: Understanding, output, **options) -> Outcome:
    """Removes what is understood; of the kind "absent" if nothing fits it. options: as in `inpaint.inpaint`."""
    result = inpaint(video, understood.prompt, output, features=understood.features, **options)
    if result.unchanged and options.get("mask") is None:
        understood = replace(understood, prompt="", response=unseen(understood.prompt), kind="absent", features=None)
    return Outcome(understood, result)


def first_frame(source: VideoSource) -> np.ndarray:
    """The first frame as what a `Reader` is shown, (1, H, W, 3) uint8."""
    return np.array(next(iter(source)).image)[None]


def untouched(source: VideoSource, places: Places, message: str) -> Result:
    """The video as it is at its place, the very file if it is of the same kind; a mask of nothing, and the sheet."""
    expected, count = source.frame_count, 0
    contact = None if places.sheet is None else ContactSheet()
    with contextlib.ExitStack() as stack:
        writer = open_writer(stack, places.output, source, source.path if source.has_audio else None)
        mask_writer = open_writer(stack, places.mask, source, None)
        for frame in source:
            count += 1
            writer.write(frame.image, frame.time)
            if mask_writer is not None:
                mask_writer.write(np.zeros_like(frame.image), frame.time)
            if contact is not None:
                contact.add(frame.image, np.zeros(frame.image.shape[:2], bool), frame.image)
    if expected in (None, count):
        copy_source(source.path, Path(places.output))
    if contact is not None:
        contact.save(places.sheet)
    logger.warning("%s", message)
    return Result(count, 0.0, True, (message,))


def _check(source: VideoSource, places: Places, checkpoint, options: dict) -> None:
    """What would be refused later, before a language model is asked."""
    places.check(source, source.path, options.get("mask"))
    Settings(**{name: value for name, value in options.items() if name in Settings.__dataclass_fields__})
    if not isinstance(checkpoint, Checkpoint):
        checkpoints.open_source(checkpoint)


def _reason(understood: Understanding) -> str:
    why = {"ask": "it is not clear what has to go", "absent": "it is not in the picture"}
    return f"{why.get(understood.kind, 'the request is not a removal')}: the video comes back unchanged"
