"""Remove from a video what a sentence names: the whole way, from file to file, a window at a time."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .checkpoints import Checkpoint
from .conditioning import to_bytes, work_size
from .editing import RECOMMENDED, Edge, Windows, edit, mask_of, put_into
from .errors import InputError
from .sheet import ContactSheet, check_sheet
from .standalone import Standalone, load
from .user_mask import UserMask
from .video import Frame, VideoSource, VideoWriter, check_output, open_video

logger = logging.getLogger(__name__)

DEMO = Path(__file__).parent / "demo" / "lgvi-demo.safetensors"
Pathlike = str | os.PathLike


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
class Settings:
    """How to sample and to composite; None: what the checkpoint recommends, or fits its mask's resolution.

    size: (width, height) the model works at. window, overlap: frames. dilate, feather: pixels of the source.
    """

    steps: int | None = None
    guidance_scale: float | None = None
    image_guidance_scale: float | None = None
    scheduler: str | None = None
    seed: int = 0
    size: tuple[int, int] | None = None
    window: int = 24
    overlap: int = 8
    batch_passes: bool | None = None
    dilate: float | None = None
    feather: float | None = None
    keep_outside: bool = True


def inpaint(
    video: Pathlike | np.ndarray | Tensor,
    request: str,
    output: Pathlike | None = None,
    *,
    mask: Pathlike | np.ndarray | Tensor | None = None,
    mask_output: Pathlike | None = None,
    sheet: Pathlike | None = None,
    checkpoint: Pathlike | Checkpoint = DEMO,
    device: str | None = None,
    dtype: str | None = None,
    callback: Callable[[dict], None] | None = None,
    **settings,
) -> Result:
    """Remove what `request` names ("remove the red circle on the left") from a video.

    video: a path that `open_video` takes, or frames (T, H, W, 3), uint8 or float in [0, 1]. output: a path that
    `VideoWriter` takes; without one the frames come back in the result. mask: where changes are kept, 1 = remove, as
    a path or an array that `masks.as_mask` takes; without one the model finds it. mask_output, sheet: paths for the
    mask as a video and for a contact sheet. checkpoint: a path or what `checkpoints.load` gave; by default the demo
    checkpoint. device: "cuda" where there is one, else "cpu". dtype: float16 on CUDA, else float32. Neither touches a
    checkpoint that is loaded already. settings: the fields of `Settings`.

    Outside the dilated mask every pixel is the source's own unless `keep_outside` is false. If nothing matches the
    words, the video comes back as it was and the result says so. With `output`, memory does not grow with the clip.

    callback gets a dict after each step: that of `sampling.denoise` and `window` of `windows` (None: not known). What
    it raises ends the call; no file is touched.

    Raises `InputError` for all that a person can mend, before long work starts.
    """
    if not request or not request.strip():
        raise InputError('the request is empty: say what to remove, for example "remove the red circle on the left"')
    settings = Settings(**settings)
    windows = Windows(settings.window, settings.overlap)
    source = _source(video)
    _check_places(source, [path for path in (video, mask) if isinstance(path, Pathlike)], output, mask_output, sheet)
    user_mask = None if mask is None else UserMask(mask, source)
    find_mask = user_mask is None
    checkpoint = load(checkpoint, device, dtype)
    model, working, edge, messages = _plan(source, request, settings, find_mask, checkpoint, windows, callback)

    expected = source.frame_count
    pending: deque[Frame] = deque()  # frames that are read and not yet written
    contact = ContactSheet() if sheet is not None else None
    frames, found_masks, count, covered = [], [], 0, 0
    with contextlib.ExitStack() as stack:
        video_writer = _writer(stack, output, source, source.path if source.has_audio else None)
        mask_writer = _writer(stack, mask_output, source, None)
        for edited, *soft in edit(_images(source, pending), model, working, windows, settings.seed, find_mask):
            frame = pending.popleft()
            found = mask_of(*soft, source.height, source.width) if find_mask else user_mask.next()
            result = put_into(frame.image, edited, found, edge)
            count, covered = count + 1, covered + int(found.sum())
            if video_writer is not None:
                video_writer.write(to_bytes(result), frame.time)
            else:
                frames.append(result)
                found_masks.append(found)
            if mask_writer is not None:
                mask_writer.write(np.repeat(found[..., None], 3, axis=2).astype(np.uint8) * 255, frame.time)
            if contact is not None:
                contact.add(to_bytes(frame.image), found, to_bytes(result))
        if user_mask is not None:
            user_mask.finish(count)

    unchanged = settings.keep_outside and not covered
    if unchanged:
        nothing = f"nothing in the video matches {request.strip()!r}" if mask is None else "the mask is empty"
        messages.append(f"{nothing}: the video comes back unchanged")
        if output is not None and isinstance(video, Pathlike) and expected in (None, count):
            _copy(source.path, Path(output))
    if contact is not None:
        contact.save(sheet)
    for message in messages:
        logger.warning("%s", message)
    area = covered / (count * source.width * source.height)
    if output is not None:
        return Result(count, area, unchanged, tuple(messages))
    return Result(count, area, unchanged, tuple(messages), np.stack(frames), np.stack(found_masks))


def _plan(source, request, settings: Settings, find_mask, checkpoint: Checkpoint, windows: Windows, callback):
    """(model, size it works at, edge of the mask, messages): the request made ready, checked before long work."""
    recommended = RECOMMENDED | {name: checkpoint.sampling[name] for name in RECOMMENDED if name in checkpoint.sampling}
    given = {name: value for name in RECOMMENDED if (value := getattr(settings, name)) is not None}
    factor, config = checkpoint.vae.factor, checkpoint.config
    working = work_size(source.width, source.height, checkpoint.training, factor, settings.size)
    mask_pixel = source.width / working.width * factor / config.mask_upscale
    with torch.no_grad():
        text, empty_text = (checkpoint.text_encoder.encode([words]) for words in (request.strip(), ""))
    model = Standalone(
        checkpoint,
        text,
        empty_text,
        **recommended | given,
        batch_passes=settings.batch_passes,
        windows=windows,
        frames=source.frame_count,
        callback=callback,
    )
    edge = Edge.fit(mask_pixel, settings.dilate, settings.feather, settings.keep_outside)

    messages = []
    tokens, most = checkpoint.text_encoder.length(request), checkpoint.text_encoder.max_length
    if tokens > most:
        messages.append(f"the request has {tokens} tokens, the model reads {most}: its end is not read")
    if find_mask and not config.has_mask_decoder:
        messages.append("this checkpoint has no mask decoder: the mask is where input and output differ")
    return model, working, edge, messages


def _check_places(source: VideoSource, read: list[Pathlike], output, mask_output, sheet) -> None:
    """Raises `InputError` unless all that is written can be, beside what is read and beside each other."""
    for path in (output, mask_output):
        for one in (read or [None]) if path is not None else ():
            check_output(path, source.width, source.height, source.frame_count, one)
    if sheet is not None:
        check_sheet(sheet, read)
    places = [Path(os.path.realpath(path)) for path in (output, mask_output, sheet) if path is not None]
    for outer, inner in itertools.permutations(places, 2):
        if outer == inner or outer in inner.parents:
            raise InputError(f"{inner} is or lies in {outer}, which is written too: give each a place of its own")


def _source(video) -> VideoSource:
    if isinstance(video, Pathlike):
        return open_video(video)
    if isinstance(video, Tensor):
        video = video.detach().cpu()
        video = video.float() if video.dtype == torch.bfloat16 else video  # numpy has no bfloat16
    clip = np.asarray(video)
    if clip.ndim != 4 or clip.shape[-1] != 3 or not clip.size:
        raise InputError(f"frames have shape {clip.shape}; expected (frames, height, width, 3)")
    is_float = np.issubdtype(clip.dtype, np.floating)
    if clip.dtype != np.uint8 and not (is_float and clip.min() >= 0 and clip.max() <= 1):
        raise InputError(f"frames are {clip.dtype}; expected uint8, or float within 0 to 1")

    def read(source):
        return (Frame(image, None) for image in clip)

    height, width = clip.shape[1:3]
    return VideoSource(Path("frames"), width, height, Fraction(24), len(clip), False, None, Fraction(1), read)


def _images(source: VideoSource, pending: deque[Frame]) -> Iterator[np.ndarray]:
    for frame in source:
        pending.append(frame)
        yield frame.image


def _writer(stack, path, source: VideoSource, sound: Path | None) -> VideoWriter | None:
    if path is None:
        return None
    writer = VideoWriter(
        path, source.width, source.height, source.frame_rate, sound, source.colour, source.sample_aspect_ratio
    )
    return stack.enter_context(writer)


def _copy(source: Path, output: Path) -> None:
    """Put the source file itself in the place of its re-encoded copy, where they are of one kind."""
    if source.is_file() and source.suffix.lower() == output.suffix.lower():
        place = Path(os.path.realpath(output))
        temporary = place.with_name(f".{place.name}.{os.getpid()}")
        try:
            shutil.copyfile(source, temporary)
            os.replace(temporary, place)
        except OSError as error:
            logger.warning("%s is encoded anew: the source could not be copied (%s)", output, error.strerror or error)
        finally:
            temporary.unlink(missing_ok=True)
