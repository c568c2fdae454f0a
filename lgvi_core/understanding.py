"""What a request means, by whatever can read it: plain rules, a chat model's words, or LGVI-I's own language model.

    read = open_reader("lgvi-i/")                               # or a chat model's folder, or None for the rules
    understood = read(frames, "great, and the other dog?", turns)
    understood.met, understood.answer, understood.prompt, understood.features

Every `Reader` gives an `Understanding`. None of them guesses: what is unclear, absent or no removal has no prompt, and
`kind` says which it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from .answer import OPEN, TAG, Answer, parse
from .conversation import Turn, instruction, rules
from .errors import InputError
from .models.request_encoder import RequestEncoder
from .region import Box

logger = logging.getLogger(__name__)

RULES = "rules"  # the name of `by_rules` where a model is named


@dataclass(frozen=True)
class Understanding(Answer):
    """What becomes of a request, and what steers the U-Net.

    features: (1, M, D) in the place of CLIP's, with zeros as the empty text (LGVI 4.2); None: `text` goes through CLIP.
    """

    features: Tensor | None = field(default=None, compare=False)

    @property
    def answer(self) -> str:
        """What the user reads, never empty."""
        return self.response

    @property
    def text(self) -> str:
        """The words for CLIP; empty where features steer, or nothing is to be removed."""
        return self.prompt if self.features is None else ""

    def turns(self, request: str) -> tuple[Turn, Turn]:
        """The request and its answer as turns of the conversation."""
        return Turn("user", request.strip()), Turn("assistant", self.response, self.prompt)


class Reader(Protocol):
    """Reads one request after another; the conversation is passed in."""

    def __call__(
        self, frames: np.ndarray | Tensor | None, request: str, turns: Sequence[Turn] = (), box: Box | None = None
    ) -> Understanding:
        """What a request means.

        frames: (T, H, W, 3), uint8 or float in [0, 1], the first of the video as it is now and others to be shown;
        None where there are none. turns: earlier ones, with the prompts that were acted on: what these name is gone.
        box: a region that the person marked, in fractions of the frame. Raises `InputError` for what cannot be read.
        """


class Written(NamedTuple):
    """What a language model wrote, and whether it came to an end or was cut off."""

    text: str
    ended: bool = True


def by_rules(
    frames, request: str, turns: Sequence[Turn] = (), box: Box | None = None, *, gone: bool = True
) -> Understanding:
    """The `Reader` without a model: direct requests in plain English, see `conversation.rules`."""
    return _understanding(rules(request, turns, box is not None, gone))


@dataclass(frozen=True)
class TwoStage:
    """The `Reader` of any chat model: it names what has to go, and its words go through CLIP (LGVI 5.3).

    write: the model; it gets the whole text and the pictures (T, H, W, 3) to be seen beside it, None if there are none.
    sees: whether it looks at pictures; else it is told that it cannot see the video.
    """

    write: Callable[[str, np.ndarray | Tensor | None], Written]
    sees: bool = True

    def __call__(self, frames, request: str, turns: Sequence[Turn] = (), box: Box | None = None) -> Understanding:
        if not request.strip():
            return by_rules(frames, request, turns, box)
        shown = frames if self.sees else None
        text = instruction(request, turns, box, 0 if shown is None else len(shown))
        return _understanding(parse(*self.write(text, shown)))


@dataclass(frozen=True)
class EndToEnd:
    """The `Reader` of LGVI-I: the hidden states of its own language model steer the U-Net (LGVI 4.2).

    steers: whether the U-Net is the one that was trained with it; for another one its words go through CLIP.
    between_tags: as in `Reply.steering`. A box is not told: the model knows of none.
    """

    encoder: RequestEncoder
    steers: bool = True
    between_tags: bool = False
    max_tokens: int = 1024

    def __call__(self, frames, request: str, turns: Sequence[Turn] = (), box: Box | None = None) -> Understanding:
        if not request.strip():
            return by_rules(frames, request, turns, box)
        if frames is None:
            raise InputError("this language model looks at the video: give its frames with the request")
        reply = self.encoder.answer(torch.as_tensor(frames[0]), request, turns, self.max_tokens)
        understood = _understanding(parse(reply.text, reply.ended))
        if not (understood.met and self.steers):
            return understood
        foreign = OPEN not in reply.text and TAG.search(reply.text) is not None  # the public code knows no other tag
        features = reply.steering(self.between_tags or foreign)
        return _understanding(understood, features)


def open_reader(
    model: str | Path | None = None,
    checkpoint: str | Path | None = None,
    device: str | None = None,
    bits: int | None = None,
) -> Reader:
    """The reader for a request model and the checkpoint that is to act on what it says.

    model: LGVI-I's folder; LLaVA's, beneath LGVI-I's own part if `checkpoint` has that; any chat model's, as
    transformers writes it; or `RULES`. None: the checkpoint's own language model, where it has one (LGVI-I's folder and
    the demo checkpoint do), else the rules. device: as torch names it; None: CUDA where there is one. bits: 8 or 4 to
    quantise the language model by bitsandbytes.
    Raises `InputError` for a folder that is no such model, is incomplete, or does not fit the checkpoint.
    """
    from .checkpoints import open_source, request_file
    from .checkpoints.llava import is_base, is_trained_part
    from .inpaint import DEMO, TALK_DEMO

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    acts = None if checkpoint is None else Path(checkpoint).expanduser()
    own = acts if acts is not None and is_trained_part(acts) else None
    demo = TALK_DEMO if acts == DEMO and TALK_DEMO.is_file() else None
    path = own or demo if model is None else Path(model).expanduser()
    if path is None or model == RULES:
        if bits is not None:
            raise InputError(f"bits is {bits}, but no language model reads the request: give one, or leave bits out")
        return by_rules
    if not path.exists():
        raise InputError(f"there is no request model at {path}: no such file or folder")
    logger.info("loading the language model of %s", path)
    if is_trained_part(path):
        whole = checkpoint is not None and request_file.matches(path)
        trained_with = whole and request_file.steers(path, open_source(checkpoint).unet)
        steers = trained_with or (own is not None and path.samefile(own))
        return _end_to_end(path, None, steers, device, bits)
    if own is not None and is_base(path):
        return _end_to_end(own, path, True, device, bits)
    from .chat_model import ChatModel

    chat = ChatModel(path, device, bits)
    return TwoStage(chat, chat.sees)


def _end_to_end(path: Path, base: Path | None, steers: bool, device: str, bits: int | None) -> EndToEnd:
    from .checkpoints import load_request_encoder

    return EndToEnd(load_request_encoder(path, base, device=device, bits=bits), steers)


def _understanding(answer: Answer, features: Tensor | None = None) -> Understanding:
    return Understanding(answer.prompt, answer.response, answer.region, answer.kind, answer.module, features)
