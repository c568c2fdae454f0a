"""What a keyframe has outside of the mask: left out and said, or taken over and faded out over the frames near it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch

from .conditioning import to_bytes
from .editing import Edge, put_into

FADE = 8  # frames over which what a keyframe has beside the mask fades
ALIKE = 8  # of 255: how far a channel may be off in pixels that count as the same


def with_beside(image: np.ndarray, number: int, beside: dict[int, np.ndarray], scenes: list[range]) -> np.ndarray:
    """A frame with what the keyframes of its scene have beside the mask, by how near they are.

    image: (H, W, 3), uint8 or float in [0, 1]. beside: by keyframe, float (H, W, 3), what it adds to its own frame.
    """
    added = 0.0
    for keyframe, weight in _weights(number, sorted(beside), scenes):
        added = added + weight * beside[keyframe]
    if isinstance(added, float):
        return image
    mixed = np.clip(as_float(image) + added, 0, 1)
    return to_bytes(mixed) if image.dtype == np.uint8 else mixed.astype(image.dtype)


def _weights(number: int, keyframes: list[int], scenes: list[range]) -> list[tuple[int, float]]:
    """The keyframes that a frame takes something from: 1 at their own, 0 at the next one's and beyond `FADE` frames."""
    scene = next(scene for scene in scenes if number in scene)
    inside = [keyframe for keyframe in keyframes if keyframe in scene]
    reach = {keyframe: [FADE + 1, FADE + 1] for keyframe in inside}
    for before, after in pairwise(inside):
        reach[before][1] = reach[after][0] = min(FADE + 1, after - before)
    found = [(one, 1 - abs(number - one) / reach[one][number > one]) for one in inside]
    return [(one, weight) for one, weight in found if weight > 0]


def said_of_keyframe(
    number: int, image: np.ndarray, keyframe: np.ndarray, mask: np.ndarray, edge: Edge, blend: bool
) -> list[str]:
    """What a person should know of a keyframe: no mask there, or changes beyond what the mask lets show."""
    if not mask.any():
        what = "all of it counts as outside" if blend else "nothing of it is used"
        return [f"the mask is empty in frame {number}, which has a keyframe: {what}"]
    everywhere = replace(edge, keep_outside=True)
    reached = put_into(np.zeros((*mask.shape, 3), np.float32), torch.ones(*mask.shape, 3), mask, everywhere)[..., 0] > 0
    off = 255 * np.abs(as_float(keyframe) - as_float(image)).max(axis=-1) > ALIKE
    share = (off & ~reached).mean()
    if not share or not edge.keep_outside:
        return []
    what = f"taken over, fading within {FADE} frames" if blend else "dropped for the video's own (blend takes it over)"
    return [f"the keyframe of frame {number} differs from the video outside of the mask in {share:.1%} of it: {what}"]


def as_float(image: np.ndarray) -> np.ndarray:
    """uint8, or float in [0, 1], as float in [0, 1]."""
    return image.astype(np.float32) / (255 if image.dtype == np.uint8 else 1)
