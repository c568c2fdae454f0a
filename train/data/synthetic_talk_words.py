"""How things in drawn clips are told of in conversations: names, lists, answers, and what a prompt names.

A name is as short as it can be and fits one thing only, in every frame; the words are those of `synthetic_words`, so
that a model trained on them follows a prompt that is written here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lgvi_core.answer import CLOSE, MARKS, OPEN

from .synthetic_words import ADJECTIVES, AFTER_NOUN, BEFORE_NOUN, NOUNS, Look, Scene, matching, named, sides_won

NAMES = ((True, True, False), (True, True, True))  # what of a look a name says: as little as does
COMMON = ((True, True, False), (True, False, False), (False, True, False))  # the same of all of several things
SIDES = {side: next(iter(words)) for side, words in AFTER_NOUN.items()}  # "left": "on the left"
WORDS = {
    **{noun: shape for shape, nouns in NOUNS.items() if shape for pair in nouns for noun in pair},
    **{word: name for name, words in ADJECTIVES.items() for word in words},
}
FRONT = {word: side for side, words in BEFORE_NOUN.items() for word in words}
BEHIND = {word: side for side, words in AFTER_NOUN.items() for word in words}


@dataclass(frozen=True)
class View:
    """What is to be seen of a clip: looks, centers (N, T, 2) as (x, y), the frame's (width, height), and the margin by
    which a place must be won, in pixels."""

    looks: tuple[Look, ...]
    centers: np.ndarray
    size: tuple[int, int]
    margin: float

    @cached_property
    def scene(self) -> Scene:
        leads = (self.centers[:, None] - self.centers[None]).min(2).tolist()
        return Scene(self.looks, leads, self.margin)

    def without(self, gone: Sequence[int]) -> View:
        """The same when some things are gone."""
        left = [i for i in range(len(self.looks)) if i not in gone]
        return View(tuple(self.looks[i] for i in left), self.centers[left], self.size, self.margin)

    def order(self, axis: int) -> list[int]:
        """Things from left to right (axis 0) or from top to bottom (axis 1), as in the first frame."""
        return np.argsort(self.centers[:, 0, axis], kind="stable").tolist()


def describe(phrase: Look, plural: bool = False) -> str:
    """A phrase in its plainest words: "small red circle"."""
    shape, color, size = phrase
    noun = next(iter(NOUNS[shape]))[plural] if shape else ("things" if plural else "thing")
    return " ".join(word for word in (size, color, noun) if word)


def name(view: View, i: int, axis: int = 0) -> str | None:
    """One thing's name ("the red circle on the left"); None where no words single it out.

    axis: which way to tell things apart by place, where both do: 1 by above and below.
    """
    rivals = {mask: [j for j in matching(named(view.looks[i], mask), view.looks) if j != i] for mask in NAMES}
    for mask in NAMES:
        if not rivals[mask]:
            return "the " + describe(named(view.looks[i], mask))
    for mask in NAMES:
        sides = sides_won(view.scene, i, rivals[mask])
        if sides:
            return f"the {describe(named(view.looks[i], mask))} {SIDES[sides[-axis]]}"  # sides across come first
    return None


def name_all(view: View, targets: Sequence[int], axis: int = 0) -> str | None:
    """The name of several things, or of one; None where one of them has none."""
    if len(targets) == len(view.looks) > 1:
        return "everything"
    if len(targets) > 1:
        for mask in COMMON:
            phrase = named(view.looks[targets[0]], mask)
            if matching(phrase, view.looks) == tuple(sorted(targets)):
                return "all the " + describe(phrase, plural=True)
    names = [name(view, i, axis) for i in view.order(axis) if i in targets]
    return None if None in names else joined(names)


def listed(view: View, axis: int) -> str:
    """All there is: "a small red circle and a large blue square"."""
    return joined([f"a {describe(view.looks[i])}" for i in view.order(axis)])


def joined(words: Sequence[str], last: str = "and") -> str:
    return f" {last} ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def met(view: View, targets: Sequence[int], axis: int) -> str | None:
    """The answer to a request that is met; None where what it means has no name."""
    what = name_all(view, targets, axis)
    if what is None:
        return None
    return f"I see {listed(view, axis)}. {what[0].upper()}{what[1:]} will go. {OPEN} remove {what} {CLOSE}"


def asking(view: View, candidates: Sequence[int], axis: int) -> str:
    """The answer to a request that several things fit: it names them, where they have names."""
    names = [name(view, i, axis) for i in view.order(axis) if i in candidates]
    which = "Which one do you mean?" if None in names else f"Which one do you mean, {joined(names, 'or')}?"
    return f"I see {listed(view, axis)}. {which} {MARKS['ask']}"


def missing(view: View, phrase: Look, axis: int) -> str:
    """The answer to a request about what is not there."""
    return f"I see {listed(view, axis)}, but no {describe(phrase)}. {MARKS['absent']}"


def refusing(what: str) -> str:
    """The answer to what is no removal, by what it asks for, see `REFUSALS`."""
    return f"{REFUSALS[what]} {MARKS['not a removal']}"


REFUSALS = {
    "change": "I can only remove things, not change them.",
    "add": "I can only remove things, not add any.",
    "restore": "I can only remove things, not bring them back.",
    "ask": "I only remove things. Tell me what should go.",
}


def resolve(prompt: str, view: View) -> tuple[int, ...] | None:
    """What the words of a prompt mean in a view: indices; None for what is not understood, or fits more than one thing.

    Reads more than is written here: "remove the tiny disc at the top", "remove everything but the red one".
    """
    text = prompt.lower().strip(" .").removeprefix("remove ").strip()
    everything = tuple(range(len(view.looks)))
    head, but, kept = re.sub(r"^(?:all the objects|all objects)", "everything", text).partition(" but ")
    if head == "everything" and not but:
        return everything
    if head == "everything":
        kept = resolve(kept, view)
        return None if kept is None else tuple(i for i in everything if i not in kept)
    found: set[int] = set()
    for part in text.split(" and "):
        meant = _meant(part, view)
        if not meant:
            return None
        found.update(meant)
    return tuple(sorted(found))


def _meant(part: str, view: View) -> tuple[int, ...]:
    """What one noun phrase means; nothing where it is not understood or fits more than it may."""
    side, many = None, part.startswith(("all ", "both ", "every "))
    for words, meaning in BEHIND.items():
        if part.endswith(f" {words}"):
            part, side = part.removesuffix(f" {words}"), meaning
    rest = re.sub(r"^(?:all the|all|both the|both|every|the|a)\s+", "", part)
    look: list[str | None] = [None, None, None]
    for noun in sorted(WORDS, key=len, reverse=True):
        if rest == noun or rest.endswith(f" {noun}"):
            rest = rest.removesuffix(noun).strip()
            _say(look, WORDS[noun])
            break
    for word in rest.split():
        if word in FRONT:
            side = FRONT[word]
        elif word in WORDS:
            _say(look, WORDS[word])
        elif not any(word in pair for pair in NOUNS[None]):
            return ()
    fitting = matching(tuple(look), view.looks)
    if side is not None and len(fitting) > 1:  # of one alone a side says nothing
        scene = view.scene
        fitting = tuple(i for i in fitting if side in sides_won(scene, i, [j for j in fitting if j != i]))
    return fitting if many or len(fitting) == 1 else ()


def _say(look: list[str | None], word: str) -> None:
    look[2 if word in ("small", "large") else 0 if word in NOUNS else 1] = word

