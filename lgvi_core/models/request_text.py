"""The text around LGVI-I's language model: its prompt, its tokens, and where in an answer the removal prompt stands."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..answer import CLOSE, OPEN, TAG
from ..errors import InputError

if TYPE_CHECKING:
    from ..conversation import Turn

IMAGE = -200  # stands for the picture among token ids, as in the public code
IMAGE_TAG, END_TAG = "<image>", "</s>"
SPECIAL = re.compile(f"({IMAGE_TAG}|{END_TAG})")


class RequestTokenizer:
    """LLaMA's SentencePiece tokenizer, with a place for the picture.

    `model` is the content of a tokenizer.model file. Raises `InputError` if it is none, or has no tokens that begin and
    end a text.
    """

    def __init__(self, model: bytes):
        try:
            from sentencepiece import SentencePieceProcessor
        except ImportError as error:
            raise InputError("reading requests with LLaVA needs `pip install sentencepiece`") from error
        self.model = model
        try:
            self.pieces = SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise InputError(f"tokenizer.model is no SentencePiece model ({error}); download it again") from error
        self.bos, self.eos = self.pieces.bos_id(), self.pieces.eos_id()
        if min(self.bos, self.eos) < 0:
            raise InputError("tokenizer.model has no tokens for begin and end; take the one of LLaVA-1.5-7B")

    def __len__(self) -> int:
        return self.pieces.vocab_size()

    def encode(self, text: str) -> list[int]:
        """Token ids after the token that begins a text; `<image>` gives `IMAGE`, `</s>` the token that ends one.

        Every piece between these is tokenised by itself, as the public code does it.
        """
        special = {IMAGE_TAG: [IMAGE], END_TAG: [self.eos]}
        parts = SPECIAL.split(text)
        return [self.bos, *(token for part in parts for token in special.get(part) or self.pieces.encode(part))]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of token ids, without what begins and ends it."""
        return self.pieces.decode([token for token in tokens if token not in (self.bos, self.eos)])


def write_prompt(system: str, request: str, turns: Sequence[Turn] = ()) -> str:
    """What the model reads: the instruction, earlier turns, the picture before the first request, and the request.

    Vicuna's style with the roles User and Assistant. Raises `InputError` for an empty request. Source: LGVI 4.2 and its
    public template.
    """
    if not request.strip():
        raise InputError("the request is empty; say what to remove, such as 'remove the dog on the left'")
    picture, text = f"{IMAGE_TAG}\n", f"{system} "
    for turn in turns:
        said = _plain(turn.text)
        if turn.role == "user":
            text += f"User: {picture}{said} "
            picture = ""
        else:
            tagged = f" {OPEN} {_plain(turn.prompt)} {CLOSE}" if turn.prompt else ""
            text += f"Assistant: {said}{tagged}{END_TAG}"
    return f"{text}User: {picture}{_plain(request)} Assistant:"


def cut_start(tokenizer: RequestTokenizer, answer: str) -> int:
    """The first of an answer's features that go to the U-Net; 1 without a prompt tag.

    It is the number of tokens of what stands before the last opening tag, the one that begins a text among them and
    earlier opening tags left out: the public code's rule, and what its weights were trained with.
    """
    before, tag, _ = answer.rpartition(OPEN)
    return len(tokenizer.encode(before.replace(OPEN, ""))) if tag else 1


def between_tags(tokenizer: RequestTokenizer, tokens: Sequence[int]) -> slice:
    """The generated tokens between the last opening tag and its closing tag; all of them without a tag.

    Tags in every spelling that `answer.parse` reads; one that is not closed goes on to the end.
    """
    text = tokenizer.decode(tokens)
    tags = [(tag.start(), tag.end(), bool(tag[1] or tag[3])) for tag in TAG.finditer(text) if _is_prompt(tag)]
    opening = [end for _, end, closes in tags if not closes]
    if not opening:
        return slice(0, len(tokens))
    closing = [start for start, _, closes in tags if closes and start >= opening[-1]]
    content = text[opening[-1] : closing[0] if closing else len(text)]
    first = opening[-1] + len(content) - len(content.lstrip())  # tokens of nothing but space or tag are none of it
    last = first + len(content.strip())

    def length(count: int) -> int:
        return len(tokenizer.decode(tokens[:count]))

    counts = range(len(tokens) + 1)
    begin, end = bisect_right(counts, first, key=length) - 1, bisect_left(counts, last, key=length)
    return slice(begin, end) if first < last else slice(0, 0)


def _is_prompt(tag: re.Match) -> bool:
    return (tag[2] or tag[4]).lower() == "prompt"


def _plain(words: str) -> str:
    """A person's words without what the tokenizer would take for a picture or an end."""
    return SPECIAL.sub("", words).strip()
