"""Conversations about drawn clips, with exact truth: an implicit request, the turns before it, and the right answer.

Objects, paths and backgrounds are those of `synthetic`. What earlier turns removed is gone from every frame, and the
first frame is all that has to be seen to answer. Half of the clips have no earlier turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lgvi_core.conversation import Turn

from . import synthetic_talk_words as words
from .dialogues import Dialogue
from .synthetic import MARGIN, Clip, draw_looks, paint, place
from .synthetic_talk_requests import (
    ABSENT,
    AMBIGUOUS,
    ANSWERABLE,
    BUILDERS,
    COMPLAINTS,
    KINDS,
    OTHER,
    Said,
    absent,
    any_of,
    one,
    other,
    spoken,
    which,
)
from .synthetic_talk_words import SIDES, View
from .synthetic_words import ADJECTIVES, BEFORE_NOUN, check_weights, matching, named, noun_phrase, pick, sides_won

TALK = 2  # apart from the streams of `synthetic`, where 0 and 1 stand here
SHARES = dict(zip(KINDS, (0.6, 0.15, 0.13, 0.12)))
HISTORIES = {"none": 0.5, "removed": 0.3, "asked": 0.1, "missed": 0.05, "refused": 0.05}
TRIES = 12  # requests that are tried before other objects are drawn
OTHERS = (
    "now the other {it}", "and the other {it}?", "the other {it} too", "the other {it} as well", "now {it} number two",
    "what about the other {it}?", "do the same with the other {it}", "next, the other {it}",
)  # fmt: skip
REST = (
    "now the rest", "the others too", "and everything else", "the rest can go as well", "now everything that is left",
    "what is left can go", "and all the others",
)  # fmt: skip
MEANT = ("{it}", "I mean {it}", "{it}, please", "{it} of course", "{it} I would say", "take {it}", "it is {it}")
RATHER = ("I meant {it}", "then {it}", "{it} then", "rather {it}", "let it be {it} instead", "ok, I meant {it}")
BOTH = ("both of them", "both", "all of them", "each of them")


@dataclass(frozen=True)
class TalkClip(Clip):
    """A clip and what is said about it. `sentence` is the prompt that the answer has, or the request where it has none.

    `kind` is one of `synthetic_talk_requests.KINDS`, `history` one of `HISTORIES`, `about` what made the request.
    `candidates` are the things that an ambiguous request may mean.
    """

    dialogue: Dialogue
    history: str
    about: str
    candidates: tuple[int, ...]

    @property
    def view(self) -> View:
        """What is to be seen of it, for `synthetic_talk_words.resolve`."""
        return view_of(self.objects, *self.frames.shape[:3])


def draw_talk(seed: int, index: int, frames: int = 8, height: int = 64, width: int = 64, held_out: bool = False,
              augment: bool = False, kinds: dict[str, float] = SHARES, histories: dict[str, float] = HISTORIES,
              kind: str | None = None) -> TalkClip:
    """Draw clip `index` of the set that `seed` and `held_out` name; the same arguments give the same bytes.

    `kinds` and `histories` are weights, `kind` asks for one kind. `held_out` and `augment` are as in `synthetic.draw`.
    Raises `InputError` for what cannot be drawn.
    """
    check_weights("kinds", kinds, KINDS)
    check_weights("histories", histories, HISTORIES)
    if kind is not None:
        check_weights("kind", {kind: 1.0}, KINDS)
    rng, texture_rng, damage_rng = (np.random.default_rng((seed, index, held_out, TALK, part)) for part in range(3))
    scale = min(height, width) / 64
    drawn_kind, history = pick(rng, kinds), pick(rng, histories)
    kind = kind or drawn_kind
    if history == "asked" and kind != ANSWERABLE:
        history = "none"
    while True:
        objects, talk = _scene(rng, kind, history, frames, height, width, scale, augment)
        if talk is not None:
            break
    left = tuple(drawn for i, drawn in enumerate(objects) if i not in talk.gone)
    damage = damage_rng if augment else None
    painted = paint(left, talk.targets, texture_rng, frames, height, width, scale, held_out, damage)
    dialogue = Dialogue(talk.request, talk.answer, tuple(talk.turns))
    sentence = talk.answer.split(words.OPEN)[-1].split(words.CLOSE)[0].strip() if kind == ANSWERABLE else talk.request
    truth = {"objects": left, "targets": talk.targets, "sentence": sentence, "kind": kind}
    said = {"dialogue": dialogue, "history": history, "about": talk.about, "candidates": talk.candidates}
    return TalkClip(**painted, **truth, **said)


def dialogues(seed: int, count: int) -> list[Dialogue]:
    """What is said about the first `count` training clips of `seed`, without drawing them."""
    found = []
    for index in range(count):
        rng = np.random.default_rng((seed, index, False, TALK, 0))
        kind, history = pick(rng, SHARES), pick(rng, HISTORIES)
        history = "none" if history == "asked" and kind != ANSWERABLE else history
        talk = None
        while talk is None:
            _, talk = _scene(rng, kind, history, 1, 64, 64, 1.0, False)
        found.append(Dialogue(talk.request, talk.answer, tuple(talk.turns)))
    return found


def view_of(objects: Sequence, frames: int, height: int, width: int) -> View:
    """What is to be seen of objects in a clip of that size."""
    looks = tuple((drawn.shape, drawn.color, drawn.size) for drawn in objects)
    centers = np.stack([drawn.centers(frames) for drawn in objects])
    return View(looks, centers, (width, height), MARGIN * min(height, width) / 64)


@dataclass
class _Talk:
    """A conversation as it is made: turn by turn, with what is gone so far (numbers of the whole scene)."""

    turns: list[Turn]
    gone: tuple[int, ...] = ()
    request: str = ""
    answer: str = ""
    targets: tuple[int, ...] = ()
    candidates: tuple[int, ...] = ()
    about: str = ""


def _scene(rng, kind, history, frames, height, width, scale, augment):
    """Objects, and what is said about them; None in its place where nothing that was tried fits."""
    count = (3 if rng.random() < 0.6 else 2) + (history == "removed")
    alike = kind == AMBIGUOUS or history == "asked" or rng.random() < 0.3
    looks = draw_looks(rng, count, "position" if alike else "attributes")
    moving = rng.random((count, 1)) < 0.75
    objects = place(rng, looks, moving, frames, height, width, scale, augment=augment)
    if objects is None:
        return (), None
    view = view_of(objects, frames, height, width)
    for _ in range(TRIES):
        talk = _conversation(rng, view, kind, history)
        if talk is not None:
            return objects, talk
    return objects, None


def _conversation(rng, view: View, kind: str, history: str) -> _Talk | None:
    """The turns before, as `history` wants them, and a request of the kind; None where those tried do not fit."""
    talk, build = _Talk([]), None
    if history == "removed":
        for _ in range(2 if len(view.looks) > 3 and rng.random() < 0.4 else 1):
            before = view.without(talk.gone)
            said = pick(rng, BUILDERS[ANSWERABLE])(rng, before)
            if said is None or len(said.means) >= len(before.looks) or not _say(rng, talk, before, said):
                return None
            last = before.looks[said.means[-1]]
            left = [i for i in range(len(view.looks)) if i not in talk.gone]
            talk.gone += tuple(left[i] for i in said.means)
        if rng.random() < 0.5:
            build = lambda rng, view: _follow(rng, view, last, kind)  # noqa: E731
    elif history == "asked":
        said = which(rng, view, COMPLAINTS)
        if said is None or not _say(rng, talk, view, said):
            return None
        build = lambda rng, view: _clarify(rng, view, said.means)  # noqa: E731
    elif history == "missed":
        said = absent(rng, view)
        if said is None or not _say(rng, talk, view, said):
            return None
        build = _rather if kind == ANSWERABLE and rng.random() < 0.6 else None
    elif history == "refused":
        _say(rng, talk, view, other(rng, view))
    if build is None:
        build = pick(rng, BUILDERS[kind])
        if kind == OTHER and talk.gone:
            build = lambda rng, view: other(rng, view, restores=True)  # noqa: E731
    now = view.without(talk.gone)
    said = build(rng, now)
    if said is None or said.kind != kind or not _say(rng, talk, now, said):
        return None
    talk.turns = talk.turns[:-2]
    talk.about = build.__name__.strip("_<>") if build.__name__ != "<lambda>" else history
    return talk


def _say(rng, talk: _Talk, view: View, said: Said) -> bool:
    """Adds a request and the answer to it; whether the answer can be said."""
    if said.kind == ANSWERABLE:
        talk.targets = tuple(sorted(said.means))
        answer = words.met(view, talk.targets, said.axis)
    elif said.kind == AMBIGUOUS:
        talk.targets, talk.candidates = (), said.means
        answer = words.asking(view, said.means, said.axis)
    else:
        talk.targets = ()
        answer = words.missing(view, said.means, said.axis) if said.kind == ABSENT else words.refusing(said.means)
    if answer is None:
        return False
    if said.plain:
        answer = f"You mean {said.plain}. {answer}"
    talk.request, talk.answer = spoken(rng, said.text, bool(talk.turns)), answer
    seen, _, rest = answer.partition(" {{")
    prompt = rest.split("}} ")[1].split(" {{")[0] if said.kind == ANSWERABLE else ""
    talk.turns += [Turn("user", talk.request), Turn("assistant", seen, prompt)]
    return True


def _follow(rng, view: View, last, kind: str) -> Said | None:
    """ "Now the other square": what is left of the look of what was removed last; or all that is left."""
    if kind == ANSWERABLE and rng.random() < 0.3:
        return Said(any_of(rng, REST), ANSWERABLE, tuple(range(len(view.looks))), plain="everything")
    look = named(last, pick(rng, {(True, False, False): 60, (False, True, False): 20, (True, True, False): 20}))
    found = matching(look, view.looks)
    text = any_of(rng, OTHERS).format(it=noun_phrase(rng, look))
    plain = f"the other {words.describe(look)}"
    if not found:
        return Said(text, ABSENT, look, plain=plain)
    return Said(text, ANSWERABLE if len(found) == 1 else AMBIGUOUS, found, plain=plain)


def _clarify(rng, view: View, candidates: tuple[int, ...]) -> Said | None:
    """The answer to "which one do you mean?", by what tells one candidate from the others."""
    if len(candidates) > 1 and rng.random() < 0.15:
        fits = BOTH if len(candidates) == 2 else BOTH[2:]
        return Said(any_of(rng, fits), ANSWERABLE, candidates, plain="all of them")
    target = any_of(rng, candidates)
    rivals = [i for i in candidates if i != target]
    ways = [(None, side) for side in sides_won(view.scene, target, rivals)]
    for part in range(3):
        value = view.looks[target][part]
        if all(view.looks[i][part] != value for i in rivals):
            ways += [(part, value)] * 2
    if not ways:
        return None
    part, value = any_of(rng, tuple(ways))
    if part is None:
        it = f"the {pick(rng, BEFORE_NOUN[value])} one" if rng.random() < 0.5 else f"the one {SIDES[value]}"
        axis, plain = int(value in ("top", "bottom")), f"the one {SIDES[value]}"
        return Said(any_of(rng, MEANT).format(it=it), ANSWERABLE, (target,), axis, plain)
    look = tuple(value if i == part else None for i in range(3))
    it = "the " + (noun_phrase(rng, look) if part == 0 else f"{pick(rng, ADJECTIVES[value])} one")
    plain = f"the {value if part == 0 else f'{value} one'}"
    return Said(any_of(rng, MEANT).format(it=it), ANSWERABLE, (target,), plain=plain)


def _rather(rng, view: View) -> Said | None:
    """Another thing than the one that was not there."""
    it = one(rng, view)
    return it and Said(any_of(rng, RATHER).format(it=it.text), ANSWERABLE, it.fits, it.axis, it.plain)
