"""What people say about drawn clips when they want something gone, without saying so: requests and what they mean.

A request is built for a `View`, so its meaning is known: the things that have to go, those among which it leaves open
which is meant, what it names that is not there, or which of the things that a remover cannot do it asks for.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .synthetic_talk_words import SIDES, View, describe
from .synthetic_words import (
    AFTER_NOUN,
    BEFORE_NOUN,
    COLORS,
    MASKS,
    SHAPES,
    SIZES,
    UNNAMED,
    Look,
    matching,
    named,
    noun_phrase,
    pick,
    say,
    sides_won,
)

ANSWERABLE, AMBIGUOUS, ABSENT, OTHER = KINDS = ("answerable", "ambiguous", "absent", "not a removal")
AXES = {"left": 0, "right": 0, "top": 1, "bottom": 1}


class Said(NamedTuple):
    """A request and what it means: `means` are the things that go (ANSWERABLE) or may be meant (AMBIGUOUS), the look
    that is not there (ABSENT), or a key of `REFUSALS` (OTHER). axis: 1 where it is about above and below, else 0.
    plain: the same in plain words, with which the answer begins; empty where the request has them already."""

    text: str
    kind: str
    means: tuple | str
    axis: int = 0
    plain: str = ""


class Noun(NamedTuple):
    """A noun phrase, what it fits, and the same in plain words. axis: as in `Said`."""

    text: str
    fits: tuple[int, ...]
    look: Look
    plain: str
    axis: int = 0


COMPLAINTS = (
    "{it} bothers me", "{it} gets in the way", "{it} is ugly", "I could do without {it}", "{it} ruins the picture",
    "{it} distracts from the rest", "imagine this without {it}", "my eye keeps going to {it}",
    "the picture would be calmer without {it}", "why is {it} even there?", "{it} should not be here",
    "I would rather not see {it}", "{it} has to go", "{it} does not belong here",
    "what would it look like without {it}?", "{it} spoils it all", "I never liked {it}", "can we lose {it}?",
    "{it} is one thing too many", "hide {it}",
    "make {it} disappear", "I am tired of {it}", "{it} annoys me", "the scene does not need {it}",
)  # fmt: skip
MANY_COMPLAINTS = (
    "{it} bother me", "{it} get in the way", "{it} are ugly", "I could do without {it}", "{it} ruin the picture",
    "imagine this without {it}", "{it} should not be here", "{it} have to go", "{it} do not belong here",
    "{it} annoy me", "can we lose {it}?", "hide {it}", "make {it} disappear", "the scene does not need {it}",
)  # fmt: skip
KEEPING = (
    "I only want {it} to stay", "keep only {it}", "I want a picture of only {it}", "just {it} should be left",
    "everything can go but {it}", "leave me {it} and nothing else", "nothing but {it}, please", "only {it} may stay",
    "what would it look like with just {it}?", "I like {it}, the rest is clutter", "save {it}, lose the others",
    "I came here for {it} alone", "show me {it} and nothing more", "whatever is not {it} can go",
    "let me see {it} on its own", "all I need is {it}", "the rest is in the way of {it}",
)  # fmt: skip
COLOR_COMPLAINTS = (
    "too much {color} in here", "there is too much {color}", "I am tired of {color}", "{color} hurts my eyes",
    "less {color}, please", "no more {color}", "I do not like {color}", "could we lose everything {color}?",
    "{color} is not my colour", "anything {color} bothers me", "I want it free of {color}", "{color} has to go",
)  # fmt: skip
SHAPE_COMPLAINTS = (
    "I cannot stand {shapes}", "no more {shapes}", "{shapes} bore me", "I have seen enough {shapes}",
    "too many {shapes} for me", "I would rather not see any {shapes}", "{shapes} make me nervous",
    "no {shapes}, please", "a picture without {shapes} would be nice", "{shapes} are out of fashion",
)  # fmt: skip
SIZE_COMPLAINTS = {
    "small": (
        "the small things bother me", "small things distract me", "I do not care for the little ones",
        "lose the small stuff", "only big things, please", "the tiny ones look like dust", "nothing small should stay",
    ),
    "large": (
        "the big things get in the way", "large things are too much", "I do not care for the big ones",
        "lose the big stuff", "only small things, please", "the large ones block the view", "nothing large should stay",
    ),
}  # fmt: skip
LONE_SIZES = {
    "small": ("that tiny speck bothers me", "something small distracts me", "what is that little thing doing there?",
              "the smallest thing can go", "I would drop the smallest one"),
    "large": ("something is far too big here", "the biggest thing is in the way", "that huge thing has to go",
              "the largest one hides too much", "I would drop the biggest one"),
}  # fmt: skip
EMPTIER = (
    "it should look emptier {at}", "too much going on {at}", "I need some room {at} for a title", "make it calmer {at}",
    "it is too busy {at}", "{at} it should be bare", "could you tidy up {at}?", "I want nothing {at}",
    "free some space {at}", "it is too crowded {at}",
)  # fmt: skip
BESIDE = {
    "left": ("what is left of {it} can go", "everything to the left of {it} bothers me"),
    "right": ("what is right of {it} can go", "everything to the right of {it} bothers me"),
    "top": ("what is above {it} can go", "everything above {it} bothers me"),
    "bottom": ("what is below {it} can go", "everything below {it} bothers me"),
}
BEYOND = {"left": "left of", "right": "right of", "top": "above", "bottom": "below"}
ODD = (
    "one of these is not like the others, lose it", "the odd one out should go", "one thing does not fit in here",
    "make them all alike", "they should match, so drop the one that does not",
)  # fmt: skip
EMPTY = (
    "I want nothing but the background", "an empty picture, please", "clear it all", "just the background, please",
    "make it empty", "all of it has to go", "I do not want to see any of this",
)  # fmt: skip
NOT_THIS = ("not {it}, the other one", "{it} is fine, the other one is not", "{it} may stay, unlike the other one",
            "lose the one that is not {it}")  # fmt: skip
VAGUE = (
    "take that thing away", "one of them has to go", "that one bothers me", "can you remove it?",
    "there is one too many", "remove this", "one of these is ugly", "I do not like that one", "lose one of them",
)  # fmt: skip
ONE_OF = ("one of {them} has to go", "remove one of {them}", "there is one too many of {them}", "lose one of {them}")
REFUSED = {
    "change": (
        "make it brighter", "make it darker", "turn {it} {color}", "paint {it} {color}", "replace {it} with {a}",
        "make {it} bigger", "make {it} smaller", "move {it} to the {side}", "blur the background", "slow it down",
        "make the background {color}", "play it backwards", "I want {it} to be {color}", "swap {it} for {a}",
        "give {it} another colour", "rotate {it}", "sharpen the picture", "zoom in on {it}", "make it black and white",
        "the picture is too dark", "let {it} move faster", "cut the video in half",
    ),
    "add": (
        "add {a}", "put {a} in the middle", "draw {a}", "I want another {noun}", "there should be {a} as well",
        "could I have {a} on the {side}?", "place {a} beside {it}", "a second {noun} would be nice", "give me {a}",
    ),
    "ask": (
        "how many {nouns} are there?", "what colour is {it}?", "where is {it}?", "is there {a}?", "what do you see?",
        "who are you?", "hello", "thank you", "tell me a joke", "how is the weather?", "what can you do?",
        "is {it} moving?", "what a nice video", "which one is the biggest?", "good morning", "do you like {it}?",
    ),
    "restore": ("bring it back", "undo that", "I want {it} back", "put it back", "go back one step"),
}  # fmt: skip
OPENERS = {"": 70, "hm, ": 5, "well, ": 5, "oh, ": 4, "hi, ": 4, "so, ": 4, "you know, ": 4, "sorry, ": 4}
FURTHER = {"": 35, "great, ": 15, "thanks, ": 12, "ok, ": 12, "good, ": 10, "and ": 8, "also, ": 8}

Build = Callable[[np.random.Generator, View], Said | None]


def any_of(rng: np.random.Generator, texts: tuple):
    return texts[int(rng.integers(len(texts)))]


def spoken(rng: np.random.Generator, text: str, further: bool) -> str:
    """A request as people write it: with a word before it or none, any case, any end."""
    opener = pick(rng, FURTHER if further else OPENERS)
    if opener and not text.startswith(("and ", "ok, ", "next, ")):
        text = opener + (text if text.startswith("I ") else text[0].lower() + text[1:])
    if text[-1] not in "?.":
        text += pick(rng, {"": 55, ".": 40, "!": 5})
    return text[0].upper() + text[1:] if rng.random() < 0.6 else text[0].lower() + text[1:]


def phrase(rng: np.random.Generator, view: View, fits: Callable[[int], bool], unnamed: bool = False) -> Noun | None:
    """Words for something in a view that as many things fit as `fits` takes; None if those tried do not."""
    look = view.looks[int(rng.integers(len(view.looks)))]
    look = named(look, UNNAMED if unnamed else pick(rng, MASKS))
    found = matching(look, view.looks)
    if not fits(len(found)):
        return None
    plural = len(found) > 1
    return Noun("the " + noun_phrase(rng, look, plural=plural), found, look, "the " + describe(look, plural))


def one(rng: np.random.Generator, view: View) -> Noun | None:
    """Words that single out one thing, by what it looks like or by its place."""
    if rng.random() < 0.65:
        return phrase(rng, view, lambda count: count == 1)
    target = int(rng.integers(len(view.looks)))
    look = named(view.looks[target], pick(rng, {**MASKS, UNNAMED: 1.5}))
    rivals = [i for i in matching(look, view.looks) if i != target]
    sides = sides_won(view.scene, target, rivals) if rivals else ()
    if not sides:
        return None
    side = any_of(rng, tuple(sides))
    plain = f"the {describe(look)} {SIDES[side]}"
    return Noun("the " + noun_phrase(rng, look, side), (target,), look, plain, AXES[side])


def absent_look(rng: np.random.Generator, view: View) -> Look | None:
    """A look that nothing has, most often near to one that something has."""
    near = list(view.looks[int(rng.integers(len(view.looks)))])
    changed = int(rng.integers(3))
    near[changed] = any_of(rng, (SHAPES, COLORS, SIZES)[changed])
    if rng.random() < 0.3:
        near = [any_of(rng, values) for values in (SHAPES, COLORS, SIZES)]
    look = named(near, pick(rng, MASKS))
    return None if matching(look, view.looks) or look[:2] == (None, None) else look


def complaint(rng, view):
    it = one(rng, view)
    return it and Said(any_of(rng, COMPLAINTS).format(it=it.text), ANSWERABLE, it.fits, it.axis, it.plain)


def many_complaint(rng, view):
    it = phrase(rng, view, lambda count: count > 1)
    return it and Said(any_of(rng, MANY_COMPLAINTS).format(it=it.text), ANSWERABLE, it.fits, plain=it.plain)


def keeping(rng, view):
    it = one(rng, view) if rng.random() < 0.75 else phrase(rng, view, lambda count: count > 1)
    gone = it and tuple(i for i in range(len(view.looks)) if i not in it.fits)
    if not gone:
        return None
    return Said(any_of(rng, KEEPING).format(it=it.text), ANSWERABLE, gone, it.axis, f"everything but {it.plain}")


def color(rng, view):
    said = any_of(rng, view.looks)[1]
    text = any_of(rng, COLOR_COMPLAINTS).format(color=said)
    return Said(text, ANSWERABLE, matching((None, said, None), view.looks), plain=f"everything {said}")


def shape(rng, view):
    said = any_of(rng, view.looks)[0]
    look = said, None, None
    text = any_of(rng, SHAPE_COMPLAINTS).format(shapes=noun_phrase(rng, look, plural=True))
    return Said(text, ANSWERABLE, matching(look, view.looks), plain=f"all the {describe(look, plural=True)}")


def size(rng, view):
    said = any_of(rng, view.looks)[2]
    found = matching((None, None, said), view.looks)
    if len(found) == len(view.looks):
        return None
    table = LONE_SIZES if len(found) == 1 and rng.random() < 0.7 else SIZE_COMPLAINTS
    return Said(any_of(rng, table[said]), ANSWERABLE, found, plain=f"everything {said}")


def emptier(rng, view):
    side = any_of(rng, tuple(AXES))
    axis, before = AXES[side], side in ("left", "top")
    ahead = (view.size[axis] / 2 - view.centers[:, :, axis]) * (1 if before else -1)  # (N, T), pixels
    clear = view.margin / 2
    if not ((ahead.min(1) > clear) | (ahead.max(1) < -clear)).all():
        return None
    found = tuple(np.flatnonzero(ahead.min(1) > clear).tolist())
    if not 0 < len(found) < len(view.looks):
        return None
    at = pick(rng, {SIDES[side]: 60, f"on the {side} side" if axis == 0 else f"in the {side} half": 40})
    return Said(any_of(rng, EMPTIER).format(at=at), ANSWERABLE, found, axis, f"everything {SIDES[side]}")


def beside(rng, view):
    it, side = phrase(rng, view, lambda count: count == 1), any_of(rng, tuple(AXES))
    if it is None:
        return None
    (at,), axis, sign = it.fits, AXES[side], -1 if side in ("left", "top") else 1
    ahead = (view.centers[:, :, axis] - view.centers[at, :, axis]) * sign  # (N, T), pixels
    others = [i for i in range(len(view.looks)) if i != at]
    if not all(ahead[i].min() > view.margin or ahead[i].max() < 0 for i in others):
        return None
    found = tuple(i for i in others if ahead[i].min() > view.margin)
    if not found:
        return None
    plain = f"everything {BEYOND[side]} {it.plain}"
    return Said(any_of(rng, BESIDE[side]).format(it=it.text), ANSWERABLE, found, axis, plain)


def odd(rng, view):
    if len(view.looks) < 3:
        return None
    found = set()
    for part in range(3):
        values = [look[part] for look in view.looks]
        rare = [i for i, value in enumerate(values) if values.count(value) == 1]
        found |= set(rare) if len(rare) == 1 or len(set(values)) > 2 else set()
    return Said(any_of(rng, ODD), ANSWERABLE, tuple(found), plain="the odd one out") if len(found) == 1 else None


def empty(rng, view):
    return Said(any_of(rng, EMPTY), ANSWERABLE, tuple(range(len(view.looks))), plain="everything")


def not_this(rng, view):
    it = one(rng, view) if len(view.looks) == 2 else None
    if not it:
        return None
    text = any_of(rng, NOT_THIS).format(it=it.text)
    return Said(text, ANSWERABLE, (1 - it.fits[0],), it.axis, f"everything but {it.plain}")


def direct(rng, view):
    """A request in so many words, as the removal demo reads it."""
    kind = pick(rng, {"attributes": 45, "position": 35, "several": 20})
    said = say(rng, kind, view.looks, view.centers, view.margin)
    if said is None:
        return None
    vertical = set(re.findall(r"\w+", said[1].lower())) & {*BEFORE_NOUN["top"], *BEFORE_NOUN["bottom"]}
    return Said(said[1], ANSWERABLE, said[0], int(bool(vertical)))


def which(rng, view, ways=COMPLAINTS + KEEPING[:4]):
    """A thing is named that several fit."""
    it = phrase(rng, view, lambda count: count > 1, unnamed=rng.random() < 0.1)
    if it is None:
        return None
    if it.look != (None, None, None) and rng.random() < 0.2:
        return Said(any_of(rng, ONE_OF).format(them=it.text), AMBIGUOUS, it.fits, plain=f"one of {it.plain}")
    text = any_of(rng, ways + ("remove {it}", "erase {it}", "take {it} out"))
    text, plain = text.format(it="the " + noun_phrase(rng, it.look)), f"the {describe(it.look)}"
    return Said(text, AMBIGUOUS, it.fits, plain=plain)


def vague(rng, view):
    everything = tuple(range(len(view.looks)))
    return Said(any_of(rng, VAGUE), AMBIGUOUS, everything, plain="one of them") if len(everything) > 1 else None


def absent(rng, view):
    look = absent_look(rng, view)
    if look is None:
        return None
    way, plain = pick(rng, {"one": 60, "many": 15, "kind": 25}), f"the {describe(look)}"
    if way == "kind" and look[0] and not look[1] and not look[2]:
        text = any_of(rng, SHAPE_COMPLAINTS).format(shapes=noun_phrase(rng, look, plural=True))
    elif way == "kind" and look[1] and not look[0] and not look[2]:
        text = any_of(rng, COLOR_COMPLAINTS).format(color=look[1])
    elif way == "many":
        text = any_of(rng, MANY_COMPLAINTS).format(it="the " + noun_phrase(rng, look, plural=True))
    else:
        side = any_of(rng, tuple(AFTER_NOUN)) if rng.random() < 0.15 else None
        table = COMPLAINTS + KEEPING + ("remove {it}", "erase {it}", "please delete {it}", "get rid of {it}")
        way = any_of(rng, table)
        text = way.format(it="the " + noun_phrase(rng, look, side))
        plain += f" {SIDES[side]}" if side else ""
        plain = f"everything but {plain}" if way in KEEPING else plain
    return Said(text, ABSENT, look, plain=plain)


def other(rng, view, restores=False):
    what = pick(rng, {"change": 50, "add": 22, "ask": 28, "restore": 25 if restores else 0})
    look = named(any_of(rng, view.looks), pick(rng, MASKS))
    made = named((any_of(rng, SHAPES), any_of(rng, COLORS), any_of(rng, SIZES)), pick(rng, MASKS))
    text = any_of(rng, REFUSED[what]).format(
        it="the " + noun_phrase(rng, look), a=f"a {describe(made)}", noun=describe((made[0], None, None)),
        nouns=describe((made[0], None, None), plural=True), color=any_of(rng, COLORS), side=any_of(rng, tuple(AXES)),
    )  # fmt: skip
    return Said(text, OTHER, what)


BUILDERS: dict[str, dict[Build, float]] = {
    ANSWERABLE: {complaint: 18, many_complaint: 8, keeping: 30, color: 6, shape: 6, size: 6, emptier: 10, beside: 20,
                 odd: 10, empty: 2, not_this: 14, direct: 14},
    AMBIGUOUS: {which: 80, vague: 20},
    ABSENT: {absent: 1},
    OTHER: {other: 1},
}  # fmt: skip
