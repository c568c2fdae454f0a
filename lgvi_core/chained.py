"""A video filled window by window, from keyframes on where there are some, to where the results belong; resumable."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from .beside import as_float, said_of_keyframe, with_beside
from .checkpoints import Checkpoint
from .conditioning import WorkSize, resize_frames, to_bytes, to_pixels
from .editing import put_into
from .keyframe_pictures import check_place
from .keyframes import Plan, bare_scenes, plan, said_of_drift, said_of_scenes, scenes_of, spread
from .parts import Parts, Spill, parts_beside
from .scene_cuts import cuts
from .through import Places, Result, Work, put_together
from .user_mask import UserMask
from .video import Frame, VideoSource

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Way:
    """How an edit spreads: from which keyframes, uint8 (H, W, 3) at the source's size, and how far.

    chained: windows guide the next one; else their overlaps are blended. cross_cuts: beyond scene cuts too. blend: what
    a keyframe has outside of the mask is taken over, and fades over the frames near it; else the source's own stays.
    match: colour drift is put right. by_words: scenes without a keyframe are filled by the prompt; else they stay.
    """

    keyframes: dict[int, np.ndarray] = field(default_factory=dict)
    chained: bool = True
    cross_cuts: bool = False
    blend: bool = False
    match: bool = True
    by_words: bool = True


@dataclass
class Clip:
    """A clip that is read: its frames at the working size and its masks on disk, keyframes in memory."""

    images: np.ndarray  # (T, h, w, 3) uint8
    packed: np.ndarray  # (T, bytes): masks at the source's size
    shape: tuple[int, int]  # that size, (H, W)
    keyframes: dict[int, np.ndarray]  # as they come back
    beside: dict[int, np.ndarray]  # what a keyframe adds outside of the mask, float32 (H, W, 3)
    digest: dict[str, str]
    said: list[str]  # of the mask
    messages: list[str]  # of the keyframes

    def __len__(self) -> int:
        return len(self.images)

    def mask(self, frame: int) -> np.ndarray:
        """Bool (H, W)."""
        return np.unpackbits(self.packed[frame], count=self.shape[0] * self.shape[1]).reshape(self.shape).astype(bool)


class Masks(Sequence):
    """The masks of a clip by frame, empty where nothing is to change."""

    def __init__(self, clip: Clip, skipped: list[range]):
        self.clip, self.skipped = clip, skipped

    def __len__(self) -> int:
        return len(self.clip)

    def __getitem__(self, frame: int) -> np.ndarray:
        if any(frame in scene for scene in self.skipped):
            return np.zeros(self.clip.shape, bool)
        return self.clip.mask(frame)


def spread_video(
    source: VideoSource,
    work: Work,
    user_mask: UserMask,
    places: Places,
    nothing: str,
    messages: list[str],
    way: Way,
    words: tuple[str, str],
) -> Result:
    """As `through.edit_video`, in the order of a plan: three passes over the clip, the second of them windows.

    words: prompt and negative prompt. Windows that are done are kept beside the output, so that after an interruption
    the same call goes on behind them. Memory does not grow with the clip.
    """
    expected = source.frame_count
    plan((), (), work.windows, way.chained)  # checks the two before anything is read
    with parts_beside(places.output) as parts:
        clip = _read(source, user_mask, work, way, parts)
        scenes = scenes_of(len(clip), () if way.cross_cuts else cuts(clip.images))
        bare = bare_scenes(scenes, clip.keyframes, clip.packed.any(axis=1)) if way.keyframes else []
        skipped = [] if way.by_words else bare
        messages = [*messages, *clip.messages, *said_of_scenes(scenes, bare, way.by_words)]
        if way.blend:
            _blend_small(clip, scenes)
        steps = plan([scene for scene in scenes if scene not in skipped], clip.keyframes, work.windows, way.chained)
        masks = Masks(clip, skipped)
        parts.begin(_about(clip, work, way, words), [step.new for step in steps.steps])
        messages += _run(steps, clip, masks, parts, work, way)

        def edits(images, holes):
            for frame, image in enumerate(images):
                yield (_picture(frame, image, clip, parts),)

        def frames():
            for number, frame in enumerate(source):
                image = with_beside(frame.image, number, clip.beside, scenes) if way.blend else frame.image
                yield Frame(image, frame.time), masks[number]

        return put_together(source, expected, frames(), edits, work, places, nothing, messages, lambda _: clip.said)


def _read(source: VideoSource, user_mask: UserMask, work: Work, way: Way, parts: Parts) -> Clip:
    """The first pass: all that windows look at onto the disk. Raises `InputError` for a keyframe behind the end."""
    images, masks = Spill(parts.folder), Spill(parts.folder)
    digests = {name: hashlib.sha256() for name in ("video", "mask", "keyframes")}
    size = replace(work.size, padded_width=work.size.width, padded_height=work.size.height)
    keyframes, beside, messages, count = {}, {}, [], 0
    for number, frame in enumerate(source):
        mask, image = user_mask.next(), frame.image
        small = _small(image, size)
        images.add(small)
        masks.add(np.packbits(mask))
        digests["video"].update(small)
        digests["mask"].update(masks.like)
        if number in way.keyframes:
            keyframe = way.keyframes[number]
            if way.blend:
                beside[number] = (as_float(keyframe) - as_float(image)) * ~mask[..., None]
            messages += said_of_keyframe(number, image, keyframe, mask, work.edge, way.blend)
            keyframes[number] = keyframe if way.blend else put_into(image, _tensor(keyframe), mask, work.edge)
            digests["keyframes"].update(np.ascontiguousarray(keyframes[number]))
        count = number + 1
    for number in way.keyframes:
        check_place(number, number, count)
    digest = {name: value.hexdigest() for name, value in digests.items()}
    shape = (source.height, source.width)
    said = user_mask.finish(count)
    return Clip(images.array(), masks.array(), shape, keyframes, beside, digest, said, messages)


def _run(steps: Plan, clip: Clip, masks: Masks, parts: Parts, work: Work, way: Way) -> list[str]:
    """The second pass: the windows that are not done yet, and what is to be said of them."""
    total, before, drift = len(steps.steps), parts.done, 0.0
    model = replace(work.model, windows=steps, frames=len(clip))  # so that progress counts these windows
    if before:
        logger.info("%s: going on behind %d of %d windows", parts.folder, before, total)
    try:
        seen = (clip.images, masks, clip.keyframes, parts, model, work.size, work.seed)
        for off in spread(steps, *seen, done=before, match=way.match):
            drift = max(drift, float(off.abs().max()))
    except BaseException:
        if parts.done:
            logger.warning("%d of %d windows are kept in %s: the same again goes on there", parts.done, total,
                           parts.folder)
        raise
    return said_of_drift(drift, way.match)


def _picture(frame: int, image: np.ndarray, clip: Clip, parts: Parts) -> torch.Tensor:
    if frame in clip.keyframes:
        return _tensor(clip.keyframes[frame])
    return parts[frame] if frame in parts.places else _tensor(image)


def _blend_small(clip: Clip, scenes: list[range]) -> None:
    """What keyframes have beside the mask, put into the frames that windows look at."""
    size = clip.images.shape[1:3]
    small = {
        number: resize_frames(torch.from_numpy(part)[None], *size)[0].numpy() for number, part in clip.beside.items()
    }
    for number in range(len(clip)):
        clip.images[number] = with_beside(clip.images[number], number, small, scenes)


def _about(clip: Clip, work: Work, way: Way, words: tuple[str, str]) -> dict:
    """What windows depend on, by names that a person knows."""
    model, size = work.model, work.size
    return {
        **clip.digest,
        "prompt": words[0],
        "negative prompt": words[1],
        "checkpoint": _weights_digest(model.checkpoint),
        "seed": work.seed,
        "steps": model.steps,
        "guidance scale": model.guidance_scale,
        "scheduler": model.scheduler,
        "size": [size.width, size.height],
        "window": work.windows.window,
        "overlap": work.windows.overlap,
        "choice between chain and blend": way.chained,
        "colour correction": way.match,
        "choice about cuts": way.cross_cuts,
        "choice about keyframes outside of the mask": way.blend,
    }


def _weights_digest(checkpoint: Checkpoint) -> str:
    """Tells checkpoints apart by the first and last values of every tensor of their U-Net."""
    digest = hashlib.sha256()
    for name, tensor in checkpoint.unet.state_dict().items():
        flat = tensor.detach().reshape(-1)
        ends = torch.cat([flat[:16], flat[-16:]]).double().cpu().numpy()
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(ends)
    return digest.hexdigest()


def _small(image: np.ndarray, size: WorkSize) -> np.ndarray:
    if image.dtype == np.uint8 and image.shape[:2] == (size.height, size.width):
        return np.ascontiguousarray(image)
    pixels = to_pixels([image], size, "cpu")[0].permute(1, 2, 0)
    return to_bytes(((pixels + 1) / 2).contiguous().numpy())


def _tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(as_float(image))
