"""What an edit from keyframes stands on: the edited frames, where the mask is in each frame, and the video's scenes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch

from ..lgvi_core import masks
from ..lgvi_core.conditioning import resize_frames, to_bytes
from ..lgvi_core.errors import InputError
from ..lgvi_core.keyframes import bare_scenes, said_of_scenes, scenes_of
from ..lgvi_core.scene_cuts import cuts
from ..lgvi_core.user_mask import is_soft, notes
from .frames import Clip
from .host_editing import LastResult

last_look = LastResult()


@dataclass(frozen=True)
class Ground:
    """What is found in a video before it is edited.

    scenes: its parts between cuts; filled: those that the edit fills. holes: bool (T, H, W), empty in the others.
    key: equal for equal findings. messages: what is to be known of them, and said_of_mask where anything changes.
    """

    scenes: list[range]
    filled: list[range]
    holes: np.ndarray
    key: tuple
    messages: list[str]
    said_of_mask: list[str]


def keyframes_at(numbers: list[int], keyframes: torch.Tensor, images: torch.Tensor) -> tuple[dict, list[str]]:
    """The keyframes, float (H, W, 3), by frame, at the size of the video's images (T, H, W, 3); what is to be known.

    Raises `InputError` unless there are as many keyframes as numbers, each of them a picture.
    """
    if keyframes.ndim != 4 or keyframes.shape[-1] not in (3, 4) or len(keyframes) != len(numbers):
        raise InputError(
            f"the keyframes are {tuple(keyframes.shape)} and the indices name {len(numbers)} frames: give one edited "
            "frame (height, width, 3) for each index, in the same order"
        )
    pictures, messages = keyframes[..., :3].detach().cpu().float(), []
    if not pictures.isfinite().all():
        raise InputError("the keyframes have values that are no numbers (NaN or infinity)")
    (height, width), given = images.shape[1:3], pictures.shape[1:3]
    if given != (height, width):
        messages.append(f"the keyframes are {given[1]}x{given[0]}: they are resized to the video's {width}x{height}")
        pictures = resize_frames(pictures, height, width).clamp(0, 1)
    return {number: picture.numpy() for number, picture in zip(numbers, pictures)}, messages


def ground_of(
    model, source: Clip, mask: torch.Tensor, edited: dict, track: bool, cross_cuts: bool, by_words: bool
) -> Ground:
    """Looks at a video with a MASK and keyframes; the last look of a MODEL is kept.

    track: a mask of one frame is that of the first keyframe and followed from there, else it is for all. by_words:
    scenes without a keyframe are filled by the prompt. Raises `InputError` for a mask that does not fit.
    """
    count, height, width = source.images.shape[:3]
    holes = masks.binarize(masks.as_mask(mask, count, height, width))
    single = (mask.ndim == 2 or len(mask) == 1) and count > 1
    track = track and single
    key = (source.fingerprint(), hashlib.sha256(np.packbits(holes)).hexdigest(), track, cross_cuts, *edited)
    starts, holes, messages = last_look.get(
        model, None, key, lambda: _look(source.images, holes, next(iter(edited)), track, cross_cuts)
    )
    scenes = scenes_of(count, starts)
    bare = bare_scenes(scenes, edited, holes.any(axis=(1, 2)))
    left = [] if by_words else bare
    holes = holes.copy() if left else holes
    for scene in left:
        holes[scene.start : scene.stop] = False
    return Ground(
        scenes,
        [scene for scene in scenes if scene not in left],
        holes,
        (*key, by_words),
        [*messages, *said_of_scenes(scenes, bare, by_words)],
        notes("the mask", single and not track, is_soft(mask), count),
    )


def _look(images: torch.Tensor, holes: np.ndarray, keyframe: int, track: bool, cross_cuts: bool) -> list:
    """Where the video's images (T, H, W, 3) are cut, each one's mask, bool (T, H, W), and what is to be known of them.

    track: the mask is that of the frame `keyframe`, and followed from there. Raises `InputError` if that cannot be.
    """
    messages = []
    frames = np.stack([to_bytes(image) for image in images.numpy()])
    starts = [] if cross_cuts else cuts(frames)
    if track:
        found = masks.track(frames, holes[0], keyframe, cross_cuts)
        holes = found.masks
        messages.append(f"the mask is that of frame {keyframe}, and tracked through the others")
        if found.lost_at is not None:
            messages.append(f"from frame {found.lost_at} on the tracked mask is not to be trusted: give one for each")
    return [starts, holes, messages]
