"""Conversations that training does not see: the loss of their answers, and what the language model says itself."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from lgvi_core.answer import Answer, parse
from lgvi_core.errors import InputError

from .config import TrainConfig
from .data.dialogues import Dialogue, plain
from .data.sources import open_source
from .data.synthetic_talk import TalkClip, draw_talk
from .data.synthetic_talk_requests import ABSENT, AMBIGUOUS, ANSWERABLE, OTHER
from .data.synthetic_talk_words import resolve
from .held_out import evaluating, means
from .talk_objective import read
from .watching.pictures import Row

ANSWERS = {ANSWERABLE: "remove", AMBIGUOUS: "ask", ABSENT: "absent", OTHER: "not a removal"}  # the kind of a right one
AT_ONCE = 16  # conversations in one pass
SPOKEN = 8  # that are answered, of those whose truth is not known
MOST_TOKENS = 128  # of an answer
BABBLE = 1.5  # the loss from which on no answer is asked for
ROWS = 12  # in the picture


class Held(NamedTuple):
    """The first frame of a held-out clip, its frame without what goes, what is said, and `drawn` where it was drawn."""

    name: str
    frame: np.ndarray  # (H, W, 3) uint8
    clean: np.ndarray  # (H, W, 3) uint8
    dialogue: Dialogue
    drawn: TalkClip | None = None


class TalkHeldOut:
    """Measures a language model on the held-out clips of `config.watch`; they are read anew each time.

    Drawn conversations have textures that training leaves out. Raises `InputError` as `held_out.HeldOut` does.
    """

    titles = ("first frame", "without")

    def __init__(self, config: TrainConfig):
        self.config = config
        self.name, settings = config.watch.data, config.data[config.watch.data]
        self.drawn = settings["kind"] == "synthetic_talk"
        self.source = None if self.drawn else open_source(self.name, settings, config.seed)
        if self.source is not None and not hasattr(self.source, "dialogues"):
            raise InputError(f"watch.data: nothing is said in {self.name!r}; give drawn conversations (synthetic_talk)")
        self.count = config.watch.samples if self.drawn else min(config.watch.samples, len(self.source))

    @torch.no_grad()
    def run(self, model: nn.Module, autoencoder: nn.Module) -> tuple[dict[str, float], list[Row]]:
        """Means over the clips, and rows of pictures with what was asked and answered.

        loss: of the answers' tokens. right: of the requests that can be met, the share whose prompt names what goes.
        recognised: of the others, the share that is answered as what it is. The last two of drawn clips alone, and once
        the loss is low enough for answers to be worth their time.
        """
        encoder, device = model.request_encoder, next(model.request_encoder.parameters()).device
        measured, rows = [], []
        with evaluating(model):
            held = list(self._clips())
            for first in range(0, len(held), AT_ONCE):
                part = held[first : first + AT_ONCE]
                batch = {
                    "frames": torch.stack([torch.from_numpy(clip.frame)[None] for clip in part]),
                    "dialogue": [clip.dialogue for clip in part],
                    "name": [clip.name for clip in part],
                }
                _, _, losses = model(read(encoder, batch, device))
                measured += [{"loss": float(losses["language"])}] * len(part)
            found = means(measured)
            for clip in held if self.drawn else held[:SPOKEN]:
                text, asked = "", clip.dialogue
                if found["loss"] < BABBLE:
                    text = encoder.answer(torch.from_numpy(clip.frame), asked.request, asked.turns, MOST_TOKENS).text
                    measured += [judge(clip.drawn, parse(text))] if clip.drawn is not None else []
                rows.append(Row(f"{asked.request} – {text}", [clip.frame, clip.clean]))
        return means(measured), rows[:ROWS]

    def _clips(self):
        config, seed = self.config, self.config.seed
        if self.drawn:
            for i in range(self.count):
                batch = config.batches[0]
                clip = draw_talk(seed + 1, i, 1, batch.height, batch.width, held_out=True)
                yield Held(f"{self.name}:{i}", clip.frames[0], clip.clean[0], clip.dialogue, clip)
            return
        for i in range(self.count):
            place = i * len(self.source) // self.count
            entry = self.source.entry(place)
            sample = self.source.load(place, [0], entry.height, entry.width)
            dialogue = self.source.dialogues.get(entry.name, (plain(entry.captions[0]),))[0]
            yield Held(f"{self.name}:{entry.name}", sample.frames[0], sample.clean[0], dialogue)


def judge(clip: TalkClip, answer: Answer) -> dict[str, float]:
    """Whether an answer is right about a drawn clip: `right` where the request can be met, else `recognised`."""
    if clip.kind != ANSWERABLE:
        return {"recognised": float(answer.kind == ANSWERS[clip.kind])}
    return {"right": float(answer.met and resolve(answer.prompt, clip.view) == clip.targets)}

