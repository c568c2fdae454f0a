"""Sentences for drawn clips: which objects a phrase matches, and the many ways to word a request.

A look is the tuple (shape, color, size) of one object. In a phrase None stands for what is left unsaid.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from lgvi_core.errors import InputError

SHAPES = ("circle", "square", "triangle", "diamond", "cross")
COLORS = ("red", "green", "blue", "yellow", "purple", "white")
SIZES = ("small", "large")
# "shape" is drawn only where it is asked for: one object by its attributes, among others of its color and size.
KINDS = {"attributes": 0.4, "position": 0.3, "several": 0.15, "none": 0.15, "shape": 0.0}

Look = tuple[str | None, str | None, str | None]
Said = tuple[tuple[int, ...], str, bool]  # targets, noun phrase, whether it counts ("all", "everything", ...)

MASKS = {  # which of shape, color, size are named
    (True, True, False): 4.0,
    (True, False, False): 2.0,
    (False, True, False): 1.5,
    (True, True, True): 1.2,
    (True, False, True): 1.0,
    (False, True, True): 1.0,
    (False, False, True): 0.5,
}
UNNAMED = (False, False, False)

NOUNS = {  # (singular, plural): weight
    "circle": {
        ("circle", "circles"): 70, ("disc", "discs"): 10, ("ball", "balls"): 10,
        ("round object", "round objects"): 7, ("round one", "round ones"): 3,
    },
    "square": {
        ("square", "squares"): 78, ("box", "boxes"): 18,
        ("square object", "square objects"): 2, ("square one", "square ones"): 2,
    },
    "triangle": {
        ("triangle", "triangles"): 94,
        ("triangular object", "triangular objects"): 3, ("triangular one", "triangular ones"): 3,
    },
    "diamond": {
        ("diamond", "diamonds"): 78, ("rhombus", "rhombuses"): 18,
        ("diamond-shaped object", "diamond-shaped objects"): 2, ("diamond-shaped one", "diamond-shaped ones"): 2,
    },
    "cross": {
        ("cross", "crosses"): 72, ("plus", "pluses"): 12, ("plus sign", "plus signs"): 12,
        ("cross-shaped object", "cross-shaped objects"): 2, ("cross-shaped one", "cross-shaped ones"): 2,
    },
    None: {("object", "objects"): 65, ("shape", "shapes"): 12, ("thing", "things"): 12, ("one", "ones"): 11},
}
ADJECTIVES = {
    **{color: {color: 1} for color in COLORS},
    "purple": {"purple": 80, "violet": 20},
    "large": {"large": 65, "big": 35},
    "small": {"small": 65, "little": 20, "tiny": 15},
}
BEFORE_NOUN = {
    "left": {"left": 50, "leftmost": 50},
    "right": {"right": 50, "rightmost": 50},
    "top": {"top": 50, "upper": 25, "topmost": 25},
    "bottom": {"bottom": 60, "lower": 40},
}
AFTER_NOUN = {
    "left": {"on the left": 70, "at the left": 10, "to the left": 10, "on the left side": 10},
    "right": {"on the right": 70, "at the right": 10, "to the right": 10, "on the right side": 10},
    "top": {"at the top": 80, "on top": 20},
    "bottom": {"at the bottom": 85, "on the bottom": 15},
}
VERBS = {
    "remove": 38, "erase": 17, "delete": 17, "get rid of": 13, "take out": 9, "take away": 2, "clear": 2, "drop": 2,
}
REQUESTS = {
    "{verb} {noun}": 50,
    "please {verb} {noun}": 13,
    "{verb} {noun} please": 2,
    "{verb} {noun}, please": 3,
    "can you {verb} {noun}?": 11,
    "could you {verb} {noun}?": 5,
    "can you please {verb} {noun}?": 2,
    "I don't want {noun}": 6,
    "I don't want to see {noun}": 2,
    "{noun} should go": 2,
    "{noun} should be gone": 2,
    "{noun}": 2,
}
COUNTING_REQUESTS = {text: weight for text, weight in REQUESTS.items() if "don't" not in text}


class Scene(NamedTuple):
    """What a sentence is about: the objects' looks, and how far each leads another in every frame."""

    looks: Sequence[Look]
    leads: list[list[list[float]]]  # [i][j][axis]: the least of center_i - center_j over the frames, x then y
    margin: float  # pixels by which a position must be won


def say(rng: np.random.Generator, kind: str, looks: Sequence[Look], centers: np.ndarray, margin: float
        ) -> tuple[tuple[int, ...], str] | None:
    """One sentence of `kind` that singles out its targets in every frame; None if the one tried fits no object.

    `centers` (N, T, 2) are the objects' positions (x, y) in pixels; a position word needs a lead of more than
    `margin` pixels in every frame. Returns the targets' indices and the sentence.
    """
    leads = (centers[:, None] - centers[None]).min(2).tolist()
    said = _BUILDERS[kind](rng, Scene(looks, leads, margin))
    if said is None:
        return None
    targets, noun, counts = said
    return targets, _request(rng, noun, counts)


def check_weights(name: str, given: dict, known: Collection[str]) -> None:
    """Raises `InputError` unless `given` is what `pick` can draw some of the `known` from."""
    if not given.keys() <= set(known) or min(given.values(), default=-1) < 0 or sum(given.values()) <= 0:
        raise InputError(f"{name} is {given}; give weights, not all 0, of some of {', '.join(known)}")


def pick(rng: np.random.Generator, table: dict):
    """A key of `table`, drawn by its weight."""
    left = rng.random() * sum(table.values())
    for key, weight in table.items():
        left -= weight
        if left < 0:
            return key
    return key


def _attributes(rng: np.random.Generator, scene: Scene) -> Said | None:
    """One object by its attributes alone: "the large red circle"."""
    target = int(rng.integers(len(scene.looks)))
    phrases = {}
    for mask, weight in MASKS.items():
        phrase = named(scene.looks[target], mask)
        if matching(phrase, scene.looks) == (target,):
            phrases[phrase] = weight
    if not phrases:
        return None
    return (target,), "the " + noun_phrase(rng, pick(rng, phrases)), False


def _position(rng: np.random.Generator, scene: Scene) -> Said | None:
    """One object by its place among at least two that share the named attributes: "the circle on the left"."""
    target = int(rng.integers(len(scene.looks)))
    phrases = {}
    for mask, weight in {**MASKS, UNNAMED: 1.0}.items():
        phrase = named(scene.looks[target], mask)
        rivals = [i for i in matching(phrase, scene.looks) if i != target]
        for side in sides_won(scene, target, rivals) if rivals else ():
            phrases[phrase, side] = weight
    if not phrases:
        return None
    phrase, side = pick(rng, phrases)
    return (target,), "the " + noun_phrase(rng, phrase, side), False


def _several(rng: np.random.Generator, scene: Scene) -> Said | None:
    """More than one object at once, in one of the forms of `_SEVERAL`."""
    return pick(rng, _SEVERAL)(rng, scene)


def _pair(rng: np.random.Generator, scene: Scene) -> Said | None:
    first = _singular(rng, scene)
    second = _singular(rng, scene)
    if first is None or second is None or first[0] == second[0]:
        return None
    article = "the " if rng.random() < 0.9 else ""
    noun = f"{first[1]} and {article}{second[1].removeprefix('the ')}"
    return tuple(sorted(first[0] + second[0])), noun, False


def _all(rng: np.random.Generator, scene: Scene) -> Said | None:
    target = int(rng.integers(len(scene.looks)))
    phrase = named(scene.looks[target], pick(rng, MASKS))
    targets = matching(phrase, scene.looks)
    if len(targets) == 1 and rng.random() < 0.7:
        return None
    if len(targets) == 2 and rng.random() < 0.35:
        return targets, "both " + noun_phrase(rng, phrase, plural=True), True
    return targets, _every(rng, phrase), True


def _everything(rng: np.random.Generator, scene: Scene) -> Said:
    return tuple(range(len(scene.looks))), _anything(rng), True


def _all_but(rng: np.random.Generator, scene: Scene) -> Said | None:
    kept = _singular(rng, scene)
    if rng.random() < 0.2:
        phrase = named(scene.looks[0], pick(rng, MASKS))
        found = matching(phrase, scene.looks)
        kept = (found, "the " + noun_phrase(rng, phrase, plural=True), True) if len(found) > 1 else None
    if kept is None or len(kept[0]) == len(scene.looks):
        return None
    targets = tuple(i for i in range(len(scene.looks)) if i not in kept[0])
    return targets, f"{_anything(rng)} {pick(rng, {'but': 55, 'except': 45})} {kept[1]}", True


def _none(rng: np.random.Generator, scene: Scene) -> Said | None:
    """Attributes no object has; most often one attribute away from an object that is there."""
    near = list(scene.looks[int(rng.integers(len(scene.looks)))])
    mask = pick(rng, MASKS)
    everywhere = rng.random() < 0.2
    changed = int(rng.integers(3))
    for i, values in enumerate((SHAPES, COLORS, SIZES)):
        if everywhere or i == changed:
            near[i] = values[int(rng.integers(len(values)))]
    phrase = named(near, mask)
    if matching(phrase, scene.looks):
        return None
    form = rng.random()
    if form < 0.1:
        return (), _every(rng, phrase), True
    side = pick(rng, dict.fromkeys(AFTER_NOUN, 1)) if form < 0.3 else None
    return (), "the " + noun_phrase(rng, phrase, side), False


_BUILDERS = {"attributes": _attributes, "shape": _attributes, "position": _position, "several": _several, "none": _none}
_SEVERAL = {_pair: 50, _all: 40, _everything: 2, _all_but: 18}


def _singular(rng: np.random.Generator, scene: Scene) -> Said | None:
    return (_attributes if rng.random() < 0.75 else _position)(rng, scene)


def sides_won(scene: Scene, target: int, rivals: list[int]) -> list[str]:
    """On which sides an object leads its rivals in every frame."""
    ahead = {
        "left": [scene.leads[i][target][0] for i in rivals],
        "right": [scene.leads[target][i][0] for i in rivals],
        "top": [scene.leads[i][target][1] for i in rivals],
        "bottom": [scene.leads[target][i][1] for i in rivals],
    }
    return [side for side, leads in ahead.items() if min(leads) > scene.margin]


def named(look: Sequence[str], mask: tuple[bool, bool, bool]) -> Look:
    """The phrase that says those values of a look which the mask has."""
    return tuple(value if said else None for value, said in zip(look, mask))


def matching(phrase: Look, looks: Sequence[Look]) -> tuple[int, ...]:
    """The objects that a phrase fits."""
    return tuple(i for i, look in enumerate(looks) if all(a in (None, b) for a, b in zip(phrase, look)))


def noun_phrase(rng: np.random.Generator, phrase: Look, side: str | None = None, plural: bool = False) -> str:
    shape, color, size = phrase
    words = [pick(rng, ADJECTIVES[word]) for word in (size, color) if word]
    words.append(pick(rng, NOUNS[shape])[plural])
    if side and rng.random() < 0.25:
        words.insert(0, pick(rng, BEFORE_NOUN[side]))
    elif side:
        words.append(pick(rng, AFTER_NOUN[side]))
    return " ".join(words)


def _every(rng: np.random.Generator, phrase: Look) -> str:
    quantifier = pick(rng, {"all": 50, "all the": 30, "every": 20})
    return f"{quantifier} {noun_phrase(rng, phrase, plural=quantifier != 'every')}"


def _anything(rng: np.random.Generator) -> str:
    return pick(rng, {"everything": 70, "all objects": 15, "all the objects": 15})


def _request(rng: np.random.Generator, noun: str, counts: bool) -> str:
    text = pick(rng, COUNTING_REQUESTS if counts else REQUESTS).format(verb=pick(rng, VERBS), noun=noun)
    if text.endswith("?"):
        text = text if rng.random() < 0.8 else text[:-1]
    elif rng.random() < 0.35:
        text += "."
    first = text[0].upper() if rng.random() < 0.5 else text[0].lower()
    return first + text[1:]
