"""What is where in a drawn clip, as labels for `train.recognition`."""

from __future__ import annotations

import itertools
import re

import numpy as np

from .synthetic import MARGIN, Clip
from .synthetic_fill import FillClip
from .synthetic_words import ADJECTIVES, BEFORE_NOUN, COLORS, NOUNS, SHAPES, SIZES

MAX_OBJECTS = 4
LOOKS = {"shape": SHAPES, "color": COLORS, "size": SIZES}
SIDES = ("left", "right", "top", "bottom")
SHARED = tuple(itertools.product((False, True), repeat=len(LOOKS)))  # which of the looks the rivals share
PLACES = len(SHARED) * len(SIDES)
FACTS = len(LOOKS) + PLACES + len(LOOKS) + 1  # looks, places, whether each look is named, whether the object is meant
MENTIONS = (*SHAPES, *COLORS, *SIZES, *SIDES)  # what a sentence can name
WORDS = {
    **{noun.split()[0]: shape for shape, nouns in NOUNS.items() if shape for pair in nouns for noun in pair},
    **{word: name for name, words in {**ADJECTIVES, **BEFORE_NOUN}.items() for word in words},
}
UNKNOWN = -1


def of(clip: Clip | FillClip, cells: int) -> dict[str, np.ndarray]:
    """The `owners`, `facts` and `mentions` of a drawn clip; of one to fill they tell what is asked for."""
    fills = isinstance(clip, FillClip)
    return {
        "owners": owners(clip.object_mask[None] if fills else clip.object_masks, cells),
        "facts": asked(clip) if fills else facts(clip),
        "mentions": mentions(clip.sentence),
    }


def owners(object_masks: np.ndarray, cells: int) -> np.ndarray:
    """The object that stands in each of `cells` x `cells` cells of each frame, int8 (T, cells, cells).

    object_masks: bool (N, T, H, W). A cell belongs to the object that covers most of it, if that is 30 % at least, else
    to `UNKNOWN`.
    """
    count, frames, height, width = object_masks.shape
    cover = object_masks.reshape(count, frames, cells, height // cells, cells, width // cells).mean((3, 5))
    return np.where(cover.max(0) < 0.3, UNKNOWN, cover.argmax(0)).astype(np.int8)


def mentions(sentence: str) -> np.ndarray:
    """Which of `MENTIONS` a sentence names, bool (len(MENTIONS),)."""
    named = {WORDS.get(word) for word in re.findall(r"[a-z]+(?:-[a-z]+)?", sentence.lower())}
    return np.array([name in named for name in MENTIONS])


def asked(clip: FillClip) -> np.ndarray:
    """The looks that a caption asks for, of object 0, as `facts`; all else `UNKNOWN`."""
    labels = np.full((MAX_OBJECTS, FACTS), UNKNOWN, np.int8)
    for i, (values, said) in enumerate(zip(LOOKS.values(), clip.asked or ())):
        labels[0, i] = UNKNOWN if said is None else values.index(said)
    return labels


def facts(clip: Clip) -> np.ndarray:
    """What holds of each object, int8 (MAX_OBJECTS, FACTS); `UNKNOWN` where nothing can be said.

    Its looks, as indices into `LOOKS`. Its places, each a side and a set of looks: 1 if it is ahead on that side of all
    others that share those looks, 0 if one of them is ahead of it, by the margin that sentences need. For each look
    whether the sentence names it, known where the sentence names any of the kind. Whether the sentence means it.
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
    named = dict(zip(MENTIONS, mentions(clip.sentence)))
    for i, (name, values) in enumerate(LOOKS.items()):
        if any(named[value] for value in values):
            labels[: len(objects), i - len(LOOKS) - 1] = [named[getattr(drawn, name)] for drawn in objects]
    for i, (row, look) in enumerate(zip(labels, looks)):
        places = row[len(LOOKS) : len(LOOKS) + PLACES].reshape(len(SHARED), len(SIDES))
        for place, shared in zip(places, SHARED):
            rivals = (looks == look)[:, np.array(shared)].all(1)
            rivals[i] = False
            if rivals.any():
                place[ahead[rivals, i].any(0)] = 0
                place[ahead[i, rivals].all(0)] = 1
    return labels
