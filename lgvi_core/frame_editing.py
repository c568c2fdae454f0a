"""One frame of a video, or a picture, edited with several seeds: to choose a keyframe from."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .errors import InputError
from .inpaint import FILL_DEMO, Pathlike, check_filling, fill
from .sheet import check_sheet, save_sheet, side_by_side
from .sources import source_of
from .standalone import load
from .user_mask import Box, UserMask
from .video import VideoSource, VideoWriter, check_output


@dataclass(frozen=True)
class Edited:
    """What came of a frame: its number, the files by their seed, the sheet (None of one seed), and what to know."""

    frame: int
    files: dict[int, Path]
    sheet: Path | None
    messages: tuple[str, ...]


def edit_frame(
    video,
    prompt: str,
    output: Pathlike,
    *,
    frame: int = 0,
    seeds: int = 4,
    seed: int = 0,
    mask=None,
    checkpoint=FILL_DEMO,
    base=None,
    device: str | None = None,
    dtype: str | None = None,
    callback: Callable[[dict], None] | None = None,
    **options,
) -> Edited:
    """Fill a mask in one frame as `prompt` says, once for each of so many seeds from `seed` on.

    video, mask, options: as in `inpaint.fill`; a mask for each frame of the video, or one for this one. frame: from 0,
    from the end where negative. output: a .png; of several seeds it names NAME-SEED.png and NAME-sheet.png, which shows
    the frame and all of them. callback: as that of `fill`, told of seeds in the place of windows. No more of the video
    is read than up to that frame. Raises `InputError` as `fill`.
    """
    if seeds < 1:
        raise InputError(f"seeds is {seeds}; it must be at least 1")
    check_filling(checkpoint)
    source, output = source_of(video), Path(output)
    number, image = _frame(source, frame)
    files = {one: output if seeds == 1 else _named(output, one) for one in range(seed, seed + seeds)}
    sheet = _named(output, "sheet") if seeds > 1 else None
    read = [path for path in (source.path, mask, getattr(mask, "file", None)) if isinstance(path, (str, os.PathLike))]
    if output.suffix.lower() != ".png":
        raise InputError(f"the edited frame {output} must be a file that ends in .png")
    for path, one in itertools.product(files.values(), read or [None]):
        check_output(path, source.width, source.height, 1, one)
    if sheet is not None:
        check_sheet(sheet, read)
    if mask is not None and not isinstance(mask, Box):
        mask = _mask(UserMask(mask, source), number)
    checkpoint = load(checkpoint, device, dtype, base, fills=True)
    results = {}
    for place, one in enumerate(files):
        options["callback"] = None if callback is None else _counted(callback, place, seeds)
        results[one] = fill(image[None], prompt, mask=mask, checkpoint=checkpoint, seed=one, **options)
        if mask is None:  # it was found by words, and is found
            mask = results[one].mask[0]
            options |= {"mask_words": None, "mask_shape": "exact", "mask_grow": None}

    for one, result in results.items():
        with VideoWriter(files[one], source.width, source.height, source.frame_rate) as writer:
            writer.write(result.frames[0])
    if sheet is not None:
        shown = {f"frame {number}": image} | {f"seed {one}": result.frames[0] for one, result in results.items()}
        save_sheet(side_by_side(shown), sheet)
    return Edited(number, files, sheet, results[seed].messages)


def _counted(callback: Callable[[dict], None], seed: int, seeds: int) -> Callable[[dict], None]:
    def count(step: dict) -> None:
        callback(step if "finding" in step else step | {"window": seed, "windows": seeds, "window_is": "seed"})

    return count


def _frame(source: VideoSource, index: int) -> tuple[int, np.ndarray]:
    """A frame's number and picture, uint8."""
    number = index + sum(1 for _ in source) if index < 0 else index
    found = next(itertools.islice(source, number, None), None) if number >= 0 else None
    if found is None:
        count = sum(1 for _ in source)
        raise InputError(f"there is no frame {index}: the video has frames 0 to {count - 1}")
    return number, found.image


def _mask(user_mask: UserMask, number: int) -> np.ndarray:
    for _ in range(0 if user_mask.single else number):
        user_mask.next()
    return user_mask.next()


def _named(output: Path, name) -> Path:
    return output.with_name(f"{output.stem}-{name}{output.suffix}")
