"""Captions of drawn clips to fill: what is to stand in the region, or that nothing is.

A look is (shape, color, size); None stands for what is left unsaid. Which words say it is drawn apart from what is left
unsaid, so that neither the words nor their number tell it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lgvi_core.editing import DELETION

from .synthetic_words import COLORS, MASKS, SHAPES, SIZES, Look, noun_phrase, pick

NOTHING = {
    "nothing": 30, "background": 20, "the background": 10, "just the background": 8, "nothing here": 6, "empty": 6,
    DELETION: 20,
}  # fmt: skip
THINGS = {
    "{noun}": 12, "a {noun}": 48, "the {noun}": 14, "add a {noun}": 4, "put a {noun} here": 4, "draw a {noun}": 4,
    "a {noun} here": 4, "there is a {noun}": 2, "fill it with a {noun}": 2, "replace it with a {noun}": 6,
}  # fmt: skip
SCENE = "a clip of {things}"


def named(rng: np.random.Generator, look: Look) -> Look:
    """The part of a look that a caption says: one to three of its attributes."""
    return of(look, pick(rng, MASKS))


def of(look: Look, said: Sequence[bool]) -> Look:
    """A look without what is not said of it."""
    return tuple(value if named else None for value, named in zip(look, said))


def thing(rng: np.random.Generator, look: Look) -> str:
    """A caption for something of this look: "a large green circle", "the small white cross", "a red thing"."""
    return _written(rng, pick(rng, THINGS).format(noun=noun_phrase(rng, look)))


def nothing(rng: np.random.Generator) -> str:
    """A caption that asks for the background alone."""
    text = pick(rng, NOTHING)
    return text if text == DELETION else _written(rng, text)


def scene(rng: np.random.Generator, looks: Sequence[Look]) -> str:
    """A caption of a clip as a whole: "a clip of a red circle and a small square"."""
    things = " and ".join("a " + noun_phrase(rng, named(rng, look)) for look in looks) or "nothing"
    return _written(rng, SCENE.format(things=things))


def examples(seed: int, count: int) -> list[str]:
    """Captions of all kinds, for a tokenizer to learn from."""
    captions = []
    for i in range(count):
        rng = np.random.default_rng((seed, i))
        looks = [tuple(values[rng.integers(len(values))] for values in (SHAPES, COLORS, SIZES)) for _ in range(2)]
        said = (thing(rng, named(rng, looks[0])), thing(rng, named(rng, looks[1])), nothing(rng), scene(rng, looks))
        captions.append(said[rng.integers(len(said))])
    return captions


def _written(rng: np.random.Generator, text: str) -> str:
    if rng.random() < 0.3:
        text = text[0].upper() + text[1:]
    return text + "." if rng.random() < 0.2 else text
