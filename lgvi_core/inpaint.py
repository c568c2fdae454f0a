"""Remove from a video what a sentence names: the whole way, from file to file, a window at a time."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from . import checkpoints, masks
from .checkpoints import Checkpoint
from .conditioning import WorkSize, decode, encode, mask_at_work_size, resize_frames, to_pixels, work_size
from .errors import InputError
from .sampling import denoise
from .sampling.schedulers import make_scheduler, set_steps
from .sampling.windows import crossfade, frame_noise, sliding
from .sheet import ContactSheet, check_sheet
from .user_mask import UserMask
from .video import Frame, VideoSource, VideoWriter, check_output, open_video

logger = logging.getLogger(__name__)

DEMO = Path(__file__).parent / "demo" / "lgvi-demo.safetensors"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
MASK_STEPS = 5  # model calls, spread over the steps, at which the mask decoder is read
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
    windows = sliding((), settings.window, settings.overlap)  # checks the two before anything is opened
    source, like_input = _source(video)
    _check_places(source, [path for path in (video, mask) if isinstance(path, Pathlike)], output, mask_output, sheet)
    user_mask = None if mask is None else UserMask(mask, source)
    plan = _plan(source, request, settings, user_mask, _load(checkpoint, device, dtype), callback)

    expected = source.frame_count
    pending: deque[Frame] = deque()  # frames that are read and not yet written
    windows = sliding(_remember(source, pending), settings.window, settings.overlap)
    finished = crossfade(plan.edit(start, frames) for start, frames in windows)
    contact = ContactSheet() if sheet is not None else None
    frames, found_masks, count, covered = [], [], 0, 0
    with contextlib.ExitStack() as stack:
        video_writer = _writer(stack, output, source, source.path if source.has_audio else None)
        mask_writer = _writer(stack, mask_output, source, None)
        for frame, result, found in plan.composite(finished, pending):
            count, covered = count + 1, covered + int(found.sum())
            if video_writer is not None:
                video_writer.write(result, frame.time)
            else:
                frames.append(result)
                found_masks.append(found)
            if mask_writer is not None:
                mask_writer.write(np.repeat(found[..., None], 3, axis=2).astype(np.uint8) * 255, frame.time)
            if contact is not None:
                contact.add(frame.image, found, result)
        if user_mask is not None:
            user_mask.finish(count)

    messages = list(plan.messages)
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
    return Result(count, area, unchanged, tuple(messages), like_input(np.stack(frames)), np.stack(found_masks))


@dataclass(frozen=True)
class Plan:
    """A request made ready: model, conditions and numbers that hold for every window."""

    model: Checkpoint
    settings: Settings  # with nothing left None but size, batch_passes
    working: WorkSize
    width: int
    height: int
    windows: int | None
    text: Tensor
    empty_text: Tensor
    user_mask: UserMask | None
    messages: tuple[str, ...]
    callback: Callable[[dict], None] | None

    @torch.no_grad()
    def edit(self, start: int, frames: list[Frame]) -> tuple[int, tuple[Tensor, ...]]:
        """A window at the working size: edited frames (T, h, w, 3) and soft mask (T, h, w) if the user gave none."""
        model, settings, working = self.model, self.settings, self.working
        device = self.text.device
        reads_mask = self.user_mask is None and model.config.has_mask_decoder
        stride = settings.window - settings.overlap
        known = {"window": math.ceil(start / stride), "windows": self.windows}

        pixels = to_pixels([frame.image for frame in frames], working, device)
        generator = torch.Generator(device).manual_seed((settings.seed + start) % 2**64)
        condition = encode(model.vae, pixels, generator)
        denoised = denoise(
            model.unet,
            frame_noise(start, len(frames), condition[0, :, 0].shape, settings.seed)[None],
            self.text,
            self.empty_text,
            condition,
            make_scheduler(settings.scheduler, model.scheduler_config),
            settings.steps,
            settings.guidance_scale,
            settings.image_guidance_scale,
            generator=generator,
            callback=None if self.callback is None else lambda step: self.callback(step | known),
            mask_steps=MASK_STEPS if reads_mask else 0,
            batch_passes=settings.batch_passes,
        )
        edited = decode(model.vae, denoised.latents, working)
        if self.user_mask is not None:
            return start, (edited.cpu(),)
        if reads_mask:
            soft = mask_at_work_size(denoised.mask, working)
        else:
            soft = masks.from_difference(decode(model.vae, condition, working), edited)
        return start, (edited.cpu(), torch.from_numpy(masks.smooth_in_time(soft.cpu().numpy())))

    def composite(self, blocks: Iterable, pending: deque[Frame]) -> Iterator[tuple[Frame, np.ndarray, np.ndarray]]:
        """Each frame with its result (H, W, 3) uint8 and mask (H, W) bool, at the source's size, in order."""
        settings = self.settings
        for edited, *soft in blocks:
            for i in range(len(edited)):
                frame = pending.popleft()
                if soft:
                    found = masks.binarize(masks.resize(soft[0][i : i + 1].numpy(), self.height, self.width))
                else:
                    found = self.user_mask.next()[None]
                alpha = np.ones(found.shape, np.float32)
                if settings.keep_outside:
                    alpha = masks.soft_edge(found, settings.dilate, settings.feather)
                result = frame.image
                if alpha.any():
                    full = resize_frames(edited[i : i + 1], self.height, self.width).numpy()
                    result = masks.composite(frame.image[None], full, alpha)[0]
                yield frame, result, found[0]


def _plan(source, request, settings: Settings, user_mask, model: Checkpoint, callback) -> Plan:
    defaults = {"steps": 50, "guidance_scale": 3.0, "image_guidance_scale": 1.5, "scheduler": "ddim"}
    defaults |= {name: model.sampling[name] for name in defaults if name in model.sampling}
    working = work_size(source.width, source.height, model.training, model.vae.factor, settings.size)
    mask_pixel = source.width / working.width * model.vae.factor / model.config.mask_upscale
    defaults["dilate"] = float(max(2, math.ceil(mask_pixel)))
    given = {name: value for name, value in vars(settings).items() if value is not None}
    defaults["feather"] = given.get("dilate", defaults["dilate"]) / 2
    settings = Settings(**defaults | given)
    set_steps(make_scheduler(settings.scheduler, model.scheduler_config), settings.steps)
    masks.soft_edge(np.zeros((1, 1, 1), bool), settings.dilate, settings.feather)  # checks the two

    messages = []
    tokens, most = model.text_encoder.length(request), model.text_encoder.max_length
    if tokens > most:
        messages.append(f"the request has {tokens} tokens, the model reads {most}: its end is not read")
    if user_mask is None and not model.config.has_mask_decoder:
        messages.append("this checkpoint has no mask decoder: the mask is where input and output differ")
    stride = settings.window - settings.overlap
    more = None if source.frame_count is None else max(0, source.frame_count - settings.window)
    with torch.no_grad():
        text, empty_text = (model.text_encoder.encode([words]) for words in (request.strip(), ""))
    return Plan(
        model=model,
        settings=settings,
        working=working,
        width=source.width,
        height=source.height,
        windows=None if more is None else 1 + math.ceil(more / stride),
        text=text,
        empty_text=empty_text,
        user_mask=user_mask,
        messages=tuple(messages),
        callback=callback,
    )


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


def _load(checkpoint, device: str | None, dtype: str | None) -> Checkpoint:
    device = str(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"device {device!r} was asked for, but torch finds no CUDA here; use --device cpu")
    dtype = dtype or ("float16" if device.startswith("cuda") else "float32")
    if dtype not in DTYPES:
        raise InputError(f"dtype {dtype!r} is not known; choose one of {', '.join(DTYPES)}")
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = checkpoints.load(checkpoint, device, DTYPES[dtype])
    for name, part in (("autoencoder", checkpoint.vae), ("text encoder", checkpoint.text_encoder)):
        if part is None:
            path = checkpoint.path or "the checkpoint"
            raise InputError(f"{path} has no {name}: give a whole checkpoint, not the U-Net alone")
    return checkpoint


def _source(video) -> tuple[VideoSource, Callable[[np.ndarray], np.ndarray]]:
    """The clip, and a function that gives uint8 result frames the kind of array that the clip came as."""
    if isinstance(video, Pathlike):
        return open_video(video), lambda frames: frames
    if isinstance(video, Tensor):
        video = video.detach().cpu()
        video = video.float() if video.dtype == torch.bfloat16 else video  # numpy has no bfloat16
    given = np.asarray(video)
    if given.ndim != 4 or given.shape[-1] != 3 or not given.size:
        raise InputError(f"frames have shape {given.shape}; expected (frames, height, width, 3)")
    clip, like_input = given, lambda frames: frames
    if given.dtype != np.uint8:
        if not np.issubdtype(given.dtype, np.floating) or not (given.min() >= 0 and given.max() <= 1):
            raise InputError(f"frames are {given.dtype}; expected uint8, or float within 0 to 1")
        clip = (given * 255).round().astype(np.uint8)

        def like_input(frames):
            return np.where(frames == clip, given, frames.astype(given.dtype) / 255)

    def read(source):
        return (Frame(image, None) for image in clip)

    height, width = clip.shape[1:3]
    source = VideoSource(Path("frames"), width, height, Fraction(24), len(clip), False, None, Fraction(1), read)
    return source, like_input


def _remember(source: VideoSource, pending: deque[Frame]) -> Iterator[Frame]:
    for frame in source:
        pending.append(frame)
        yield frame


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
