"""Conversations for samples by a chat model, in three steps: it describes the frame, invents a request, answers it.

The steps are those of the LGVI paper (arXiv 2401.10226, section 3 and appendix A.2). What the model writes is taken as
it is or not at all: what does not fit is asked for again, and dropped in the end, with the reason.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from lgvi_core.answer import CLOSE, MARK, MARKS, OPEN, TAG, parse, split_tags, spoken
from lgvi_core.conversation import LABELLED
from lgvi_core.understanding import Written
from lgvi_core.wording import read

from . import annotate_words as words
from .dialogues import plain, plainly

MOST_WORDS = {"description": 400, "request": 80, "answer": 100}
LEAST_WORDS = 3
MOST_SHOWN = 500  # characters of what does not fit
REQUEST = re.compile(r"<request>(.*?)</request>", re.DOTALL | re.IGNORECASE)
ARTICLE = re.compile(r"^(?:the|a|an) ")


class Unfit(Exception):
    """The reason why what a model wrote, or a sample, cannot be used; `why` is what it wrote, or what else there is."""

    def __init__(self, reason: str, why: str = ""):
        super().__init__(reason)
        self.told = {"reason": reason, "why": why}


@dataclass(frozen=True)
class Scene:
    """What is asked about: a sample's frame (1, H, W, 3) uint8, its captions, and those of others of its video."""

    name: str
    frame: np.ndarray
    captions: tuple[str, ...]
    beside: tuple[str, ...] = ()


@dataclass(frozen=True)
class Annotator:
    """Has a chat model write conversations.

    write: the model; torch's random numbers are set before each call, so that what it draws belongs to the sample.
    sees: whether it looks at pictures; else it is told the captions in their place. requests: for each sample. tries:
    of each step. absent: requests mean what is not in the video, and the answers say so.
    """

    write: Callable[[str, np.ndarray | None], Written]
    sees: bool = True
    requests: int = 1
    tries: int = 4
    seed: int = 0
    absent: bool = False

    def __call__(self, scene: Scene) -> dict:
        """{said: [{request, answer}], left_out: [{reason, why}], description}: each request is in one of the lists."""
        told: dict = {"said": [], "left_out": []}
        try:
            captions = [None] if self.absent else _removals(scene.captions)
            told["description"] = "" if not self.sees else self._asked("description", words.DESCRIBE, scene, _whole)
        except Unfit as reason:
            return told | {"left_out": [reason.told] * self.requests}
        view = words.shown(told["description"]) if self.sees else words.known(_things(scene))
        for number in range(self.requests):
            before = [one["request"] for one in told["said"]]
            try:
                told["said"].append(self._conversation(scene, view, captions[number % len(captions)], number, before))
            except Unfit as reason:
                told["left_out"].append(reason.told)
        return told

    def _conversation(self, scene: Scene, view: str, caption: str | None, number: int, before: list[str]) -> dict:
        """One request and its answer; without a caption they mean what is not there. `before`: earlier requests."""
        if caption is None:
            invent, reply, fits = words.mistaken(view, before), partial(words.refusal, view), _refusal
        else:
            invent = words.implicit(view, _thing(caption), before)
            reply, fits = partial(words.answer, view, caption), partial(_answer, caption=caption)
        read_request = partial(_request, caption=caption, before=before)
        request = self._asked(f"request {number}", invent, scene, read_request)
        return {"request": request, "answer": self._asked(f"answer {number}", reply(request), scene, fits)}

    def _asked(self, what: str, text: str, scene: Scene, fits: Callable[[Written, str], str]) -> str:
        """What the model writes to a text and the frame, once it fits. Raises the last try's `Unfit`."""
        for attempt in range(self.tries):
            torch.manual_seed(zlib.crc32(f"{self.seed} {scene.name} {what} {attempt}".encode()))
            written = self.write(text, scene.frame if self.sees else None)
            try:
                return fits(written, what.split()[0])
            except Unfit as problem:
                reason = str(problem)
        raise Unfit(reason, written.text[:MOST_SHOWN])


def _removals(captions: tuple[str, ...]) -> list[str]:
    """The captions that are understood as removals when an answer has them as its prompt."""
    found = [caption for caption in captions if parse(plain(caption).answer).met]
    if not found:
        raise Unfit("its caption is not understood as a removal")
    return found


def _things(scene: Scene) -> list[str]:
    """What a video is known to show, without what comes twice."""
    return list(dict.fromkeys(map(_thing, (*scene.captions, *scene.beside))))


def _thing(caption: str) -> str:
    """What a caption asks to remove."""
    reading = read(caption)
    return reading.what if reading.kind == "remove" else caption


# What a model wrote, read


def _whole(written: Written, what: str) -> str:
    """The text without what the model thought before it."""
    text = spoken(written.text).strip()
    count = len(text.split())
    if not written.ended:
        raise Unfit(f"the {what} is cut off")
    if count < LEAST_WORDS:
        raise Unfit(f"the {what} is empty" if not count else f"the {what} is of {LEAST_WORDS - 1} words or less")
    if count > MOST_WORDS[what]:
        raise Unfit(f"the {what} is longer than {MOST_WORDS[what]} words")
    if LABELLED.search(text):
        raise Unfit(f"the {what} speaks for both sides")
    return text


def _request(written: Written, what: str, caption: str | None, before: list[str]) -> str:
    found = REQUEST.findall(_whole(written, what))
    if len(found) != 1:
        raise Unfit("the request does not stand once between its tags")
    request = " ".join(found[0].split())
    if len(request.split()) < LEAST_WORDS:
        raise Unfit("the request is empty")
    if TAG.search(request) or MARK.search(request) or request[0] in "\"“'":
        raise Unfit("the request has tags or quotation marks")
    if caption and (plainly(caption) in plainly(request) or _ordered(request) == _ordered(caption)):
        raise Unfit("the request repeats the caption")
    if plainly(request) in plainly(words.EXAMPLES):
        raise Unfit("the request is that of an example")
    if plainly(request) in map(plainly, before):
        raise Unfit("the request is there already")
    return request


def _ordered(request: str) -> str:
    """What a plain order asks to remove, to be compared; of all else the text."""
    return ARTICLE.sub("", plainly(_thing(request)))


def _answer(written: Written, what: str, caption: str) -> str:
    text = _whole(written, what)
    _, tagged = split_tags(text)
    if text.count(OPEN) != 1 or text.count(CLOSE) != 1 or sum(map(len, tagged.values())) != 1:
        raise Unfit(f"the answer does not have one prompt between {OPEN} and {CLOSE}")
    if tagged["prompt"] != [" ".join(caption.split())]:
        raise Unfit("the answer's prompt is not the caption")
    if not text.endswith(CLOSE):
        raise Unfit("the answer goes on after its prompt")
    if len(text.partition(OPEN)[0].split()) < LEAST_WORDS:
        raise Unfit("the answer has nothing but its prompt")
    if not parse(text, written.ended).met:
        raise Unfit("the answer is not understood as a removal")
    return text


def _refusal(written: Written, what: str) -> str:
    text = _whole(written, what)
    if TAG.search(text) or MARK.findall(text) != ["absent"] or not text.endswith(MARKS["absent"]):
        raise Unfit(f"the answer does not end in {MARKS['absent']} alone")
    return text
