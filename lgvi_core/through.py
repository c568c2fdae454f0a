"""A video through a model to where the results belong: frames, files, sound and untouched pixels."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from .conditioning import WorkSize, to_bytes
from .editing import Edge, Windows, edit, mask_of, put_into
from .errors import InputError
from .masks import NEARLY_ALL
from .sheet import ContactSheet, check_sheet
from .standalone import Standalone
from .user_mask import UserMask
from .video import Frame, VideoSource, VideoWriter, check_output

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """What came of a request.

    frames: (T, H, W, 3) of the input's kind; mask: (T, H, W) bool; both None where they went to a file. mask_area: the
    share of all pixels that the mask covers. unchanged: nothing matched, the video is as it was. messages: what a
    person should know.
    """

    frame_count: int
    mask_area: float
    unchanged: bool
    messages: tuple[str, ...]
    frames: np.ndarray | None = None
    mask: np.ndarray | None = None


@dataclass(frozen=True)
class Places:
    """Where the results go; None: nowhere, or, for the output, into the `Result`."""

    output: str | os.PathLike | None
    mask: str | os.PathLike | None
    sheet: str | os.PathLike | None

    def check(self, source: VideoSource, *read) -> None:
        """Raises `InputError` unless all that is written can be, beside each other and the paths among `read`."""
        read = [path for path in read if isinstance(path, (str, os.PathLike))]
        for path in (self.output, self.mask):
            for one in (read or [None]) if path is not None else ():
                check_output(path, source.width, source.height, source.frame_count, one)
        if self.sheet is not None:
            check_sheet(self.sheet, read)
        written = (self.output, self.mask, self.sheet)
        places = [Path(os.path.realpath(path)) for path in written if path is not None]
        for outer, inner in itertools.permutations(places, 2):
            if outer == inner or outer in inner.parents:
                raise InputError(f"{inner} is or lies in {outer}, which is written too: give each a place of its own")


@dataclass(frozen=True)
class Work:
    """A model made ready for a video, and how it works: size, windows, edge of the mask, seed.

    fills: the model fills the user's mask; else it edits, and with `find_mask` says where.
    """

    model: Standalone
    size: WorkSize
    windows: Windows
    edge: Edge
    seed: int
    find_mask: bool
    fills: bool


def edit_video(
    source: VideoSource, work: Work, user_mask: UserMask | None, places: Places, nothing: str, messages: list[str]
) -> Result:
    """All frames of a source edited and written; what is at the places changes only when all is done.

    nothing: what to say where no pixel is in the mask; the video is then as it was, the very file if it is of the kind
    of the output. messages: what else is to be said.
    """

    def edits(images, holes):
        holes = holes if work.fills else None
        return edit(images, work.model, work.size, work.windows, work.seed, work.find_mask, holes)

    def finish(count):
        return [] if user_mask is None else user_mask.finish(count)

    frames = ((frame, None if user_mask is None else user_mask.next()) for frame in source)
    return put_together(source, source.frame_count, frames, edits, work, places, nothing, messages, finish)


def put_together(
    source: VideoSource,
    expected: int | None,
    frames: Iterable[tuple[Frame, np.ndarray | None]],
    edits: Callable[[Iterator[np.ndarray], Iterator[np.ndarray | None]], Iterator[tuple[Tensor, ...]]],
    work: Work,
    places: Places,
    nothing: str,
    messages: list[str],
    finish: Callable[[int], list[str]],
) -> Result:
    """Frames and what is made of them, written; what is at the places changes only when all is done.

    expected: how many frames the file says it has. frames: with their masks, None where `edits` finds it. edits: from
    the frames' images, and masks taken one behind each, the model's picture and, where a mask is None, the soft mask,
    in order. finish: of how many frames there were, what is to be said of the mask. What is left is as in `edit_video`.
    """
    pending: deque[tuple[Frame, np.ndarray | None]] = deque()  # read and not yet written, with the mask
    contact = ContactSheet() if places.sheet is not None else None
    results, found_masks, count, covered = [], [], 0, 0
    with contextlib.ExitStack() as stack:
        video_writer = open_writer(stack, places.output, source, source.path if source.has_audio else None)
        mask_writer = open_writer(stack, places.mask, source, None)
        holes = (pending[-1][1] for _ in itertools.count())
        for edited, *soft in edits(_images(frames, pending), holes):
            frame, found = pending.popleft()
            found = mask_of(*soft, source.height, source.width) if found is None else found
            result = put_into(frame.image, edited, found, work.edge)
            count, covered = count + 1, covered + int(found.sum())
            if video_writer is not None:
                video_writer.write(to_bytes(result), frame.time)
            else:
                results.append(result)
                found_masks.append(found)
            if mask_writer is not None:
                mask_writer.write(np.repeat(found[..., None], 3, axis=2).astype(np.uint8) * 255, frame.time)
            if contact is not None:
                contact.add(to_bytes(frame.image), found, to_bytes(result))
        said_of_mask = finish(count)

    unchanged = work.edge.keep_outside and not covered
    if unchanged:
        messages = [*messages, f"{nothing}: the video comes back unchanged"]
        if places.output is not None and expected in (None, count):
            copy_source(source.path, Path(places.output))
    messages = [*messages, *said_of_mask]
    if work.fills and covered > NEARLY_ALL * count * source.width * source.height:
        messages.append("the mask covers nearly all of the video: little is left that the fill could fit to")
    if contact is not None:
        contact.save(places.sheet)
    for message in messages:
        logger.warning("%s", message)
    area = covered / (count * source.width * source.height)
    kept = (None, None) if places.output is not None else (np.stack(results), np.stack(found_masks))
    return Result(count, area, unchanged, tuple(messages), *kept)


def _images(frames: Iterable[tuple[Frame, np.ndarray | None]], pending: deque) -> Iterator[np.ndarray]:
    for frame, mask in frames:
        pending.append((frame, mask))
        yield frame.image


def open_writer(stack, path, source: VideoSource, sound: Path | None) -> VideoWriter | None:
    """A writer of a source's frames for as long as an `ExitStack` lasts, with a file's sound; None without a path."""
    if path is None:
        return None
    writer = VideoWriter(
        path, source.width, source.height, source.frame_rate, sound, source.colour, source.sample_aspect_ratio
    )
    return stack.enter_context(writer)


def copy_source(source: Path | None, output: Path) -> None:
    """Put the source file itself in the place of its re-encoded copy, where they are of one kind."""
    if source is not None and source.is_file() and source.suffix.lower() == output.suffix.lower():
        place = Path(os.path.realpath(output))
        temporary = place.with_name(f".{place.name}.{os.getpid()}")
        try:
            shutil.copyfile(source, temporary)
            os.replace(temporary, place)
        except OSError as error:
            logger.warning("%s is encoded anew: the source could not be copied (%s)", output, error.strerror or error)
        finally:
            temporary.unlink(missing_ok=True)
