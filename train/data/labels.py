"""What is where in a drawn clip, as labels for `train.recognition`."""

from __future__ import annotations

import itertools

import numpy as np

from .synthetic import MARGIN, Clip
from .synthetic_words import COLORS, SHAPES, SIZES

MAX_OBJECTS = 4
LOOKS = {"shape": SHAPES, "color": COLORS, "size": SIZES}
SIDES = ("left", "right", "top", "bottom")
SHARED = tuple(itertools.product((False, True), repeat=len(LOOKS)))  # which of the looks the rivals share
PLACES = len(SHARED) * len(SIDES)
FACTS = len(LOOKS) + PLACES + 1  # the last: whether the sentence means the object
UNKNOWN = -1


def owners(clip: Clip, cells: int) -> np.ndarray:
    """The object that stands in each of `cells` x `cells` cells of each frame, int8 (T, cells, cells).

    A cell belongs to the object that covers most of it, if that is 30 % at least, else to `UNKNOWN`.
    """
    count, frames, height, width = clip.object_masks.shape
    cover = clip.object_masks.reshape(count, frames, cells, height // cells, cells, width // cells).mean((3, 5))
    return np.where(cover.max(0) < 0.3, UNKNOWN, cover.argmax(0)).astype(np.int8)


def facts(clip: Clip) -> np.ndarray:
    """Of each object its looks, whether it has each place, and whether it is a target: int8 (MAX_OBJECTS, FACTS).

    Looks are indices into `LOOKS`. A place is a side and a set of looks: 1 if the object is ahead on that side of all
    others that share those looks, 0 if one of them is ahead of it, each by the margin that sentences need; `UNKNOWN`
    where neither holds or there are no such others.
    """
    objects, frames = clip.objects, len(clip.frames)
    scale = min(clip.frames.shape[1:3]) / 64
    centers = np.stack([drawn.centers(frames) for drawn in objects])
    lead = (centers[:, None] - centers[None]).min(2) > MARGIN * scale  # [i, j, axis]: i is further on than j
    ahead = np.stack([lead[..., 0].T, lead[..., 0], lead[..., 1].T, lead[..., 1]], axis=-1)  # [i, j, side]
    looks = np.array([[values.index(getattr(d, name)) for name, values in LOOKS.items()] for d in objects])
    labels = np.full((MAX_OBJECTS, FACTS), UNKNOWN, np.int8)
    labels[: len(objects), : len(LOOKS)] = looks
    labels[: len(objects), -1] = [i in clip.targets for i in range(len(objects))]
    for i, (row, look) in enumerate(zip(labels, looks)):
        places = row[len(LOOKS) : -1].reshape(len(SHARED), len(SIDES))
        for place, shared in zip(places, SHARED):
            rivals = (looks == look)[:, np.array(shared)].all(1)
            rivals[i] = False
            if rivals.any():
                place[ahead[rivals, i].any(0)] = 0
                place[ahead[i, rivals].all(0)] = 1
    return labels
