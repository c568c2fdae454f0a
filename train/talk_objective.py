"""What LGVI-I's training minimises: diffusion and mask as LGVI, and the language of the answers (LGVI, equation 6)."""

from __future__ import annotations

import torch
from torch import Tensor

from lgvi_core.errors import InputError
from lgvi_core.models.request_encoder import RequestEncoder, picture
from lgvi_core.models.request_text import cut_start, write_prompt

from .config import TrainConfig
from .data.dialogues import Dialogue
from .objectives import Losses, Objective
from .talk_model import Words


class TalkObjective(Objective):
    """`Objective` with a language model in the text encoder's place; the weights are `config.request_encoder`'s.

    A batch with `only` trains that part alone, and the U-Net does not run.
    """

    def __init__(self, config: TrainConfig, parts, device: torch.device):
        super().__init__(config, parts, device)
        self.encoder = parts.model.request_encoder
        language = config.request_encoder
        self.weights = {name: getattr(language, name) for name in ("language", "sight") if getattr(language, name)}
        self.names = (*self.names, *self.weights)
        self.tower_steps = language.tower_steps

    def __call__(self, model, batch: dict, seed: int, step: int) -> Losses:
        if self.tower_steps is not None and step >= self.tower_steps:
            self.encoder.llava.model.vision_tower.requires_grad_(False)
        only = batch.get("only")
        words = read(self.encoder, batch, self.device, texts=only != "sight")
        if only is None:
            return super().__call__(model, {**batch, "words": words}, seed, step)
        _, _, losses = model(words, labels=self._labels(batch))
        losses = {name: value for name, value in losses.items() if only == name or name == "sight"}
        total = sum(self.weights[name] * value for name, value in losses.items())
        none = torch.zeros(0, device=self.device)
        return Losses(total, {name: value.detach() for name, value in losses.items()}, none.long(), none)

    def _predict(self, model, batch, noisy, timesteps, no_text, inputs, decodes):
        prediction, probability, losses = model(
            batch["words"], noisy, timesteps, inputs, no_text, decodes, self._labels(batch)
        )
        return prediction, probability, {name: value for name, value in losses.items() if name in self.weights}

    def _labels(self, batch: dict) -> tuple[Tensor, Tensor] | None:
        """What `Sight` is to tell, where that is known and asked for."""
        if "sight" not in self.weights or "owners" not in batch:
            return None
        return batch["owners"].to(self.device), batch["facts"].to(self.device)


def read(encoder: RequestEncoder, batch: dict, device: torch.device, texts: bool = True) -> Words:
    """The first frames and dialogues of a batch as an encoder reads them; without `texts` the frames alone.

    Raises `InputError` that names a dialogue which is longer than the language model holds.
    """
    pixels = torch.cat([picture(frame, encoder.image_size) for frame in batch["frames"][:, 0]]).to(device)
    if not texts:
        return Words(pixels)
    rows = [tokens_of(encoder, dialogue) for dialogue in batch["dialogue"]]
    longest = max(len(asked) + len(said) for asked, said, _ in rows)
    tokens = torch.full((len(rows), longest), encoder.tokenizer.eos)
    mask, answer = torch.zeros(2, len(rows), longest, dtype=torch.bool)
    steering = []
    for row, (asked, said, first) in enumerate(rows):
        end = len(asked) + len(said)
        tokens[row, :end] = torch.tensor(asked + said)
        mask[row, :end] = True
        answer[row, len(asked) : end] = True
        begins = len(asked) - 1 + encoder.image_tokens - 1  # the state that the answer's first token is chosen from
        if begins + 1 + len(said) > encoder.max_length:
            raise InputError(
                f"{batch['name'][row]}: its dialogue comes to {begins + 1 + len(said)} tokens, the language model "
                f"holds {encoder.max_length}; shorten it"
            )
        steering.append(slice(begins + first, begins + len(said)))
    return Words(pixels, tokens.to(device), mask.to(device), answer.to(device), tuple(steering))


def tokens_of(encoder: RequestEncoder, dialogue: Dialogue) -> tuple[list[int], list[int], int]:
    """The tokens of what is asked, those of the answer and its end, and the first of the latter whose states steer.

    What steers is what steers in use, see `Reply.steering`.
    """
    tokenizer = encoder.tokenizer
    asked = tokenizer.encode(write_prompt(encoder.system_prompt, dialogue.request, dialogue.turns))
    said = [*tokenizer.encode(dialogue.answer.strip())[1:], tokenizer.eos]
    first = cut_start(tokenizer, dialogue.answer.strip())
    return asked, said, first if first < len(said) else 0
