"""LGVI-I as it trains: the language model reads request and answer, and its states steer the U-Net (LGVI, figure 5)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgvi_core.errors import InputError
from lgvi_core.models import InflatedUNet, RequestEncoder
from lgvi_core.models.request_text import IMAGE
from lgvi_core.models.text_encoder import TextEncoder

from .config import TrainConfig
from .data.labels import LOOKS, PLACES
from .initialise import Start
from .model import Model, Parts, choose_trainable
from .recognition import FLAG_WEIGHT, Head, mean_by_clip, told_losses
from .talk_start import start_language

AT_ONCE = 8  # texts that are padded to the longest of them


class Words(NamedTuple):
    """Conversations with their pictures, as the language model reads them.

    pixels: (B, 3, S, S). tokens: (B, N) with one `IMAGE` each, padded on the right; None: it only looks. mask: (B, N)
    bool, False where padded. answer: (B, N) bool, the tokens to learn. steering: of each, which states steer the U-Net,
    in the sequence where the picture takes its P places.
    """

    pixels: Tensor
    tokens: Tensor | None = None
    mask: Tensor | None = None
    answer: Tensor | None = None
    steering: tuple[slice, ...] = ()


class Sight(nn.Module):
    """An auxiliary task: a head on the picture's features among the words tells what stands in each cell, and where.

    What a circle is is hard to learn from words about whole pictures. It is thrown away after training. Not in the
    paper; see `train.recognition`.
    """

    parts = (*map(len, LOOKS.values()), PLACES)  # what is told of an object: its looks, and on which sides it is ahead

    def __init__(self, width: int, cells: int):
        super().__init__()
        self.cells = cells
        self.head = Head(width, sum(self.parts) + 1)

    def forward(self, seen: Tensor, owners: Tensor, facts: Tensor) -> Tensor:
        """The loss, a mean over clips. seen: (B, P, W). owners: int8 (B, 1, cells, cells); facts: of `data.labels`."""
        side = math.isqrt(seen.shape[1])
        logits = self.head(seen.transpose(1, 2).unflatten(2, (side, side)), self.cells).float()
        there = owners[:, 0] >= 0
        clip, *_ = torch.nonzero(there, as_tuple=True)
        labels = facts[clip, owners[:, 0][there].long()].long()[:, : len(LOOKS) + PLACES]
        losses = told_losses(logits[there][:, :-1], labels, self.parts, clip, len(owners))
        return sum(losses, FLAG_WEIGHT * F.binary_cross_entropy_with_logits(logits[..., -1], there.float()))


class TalkModel(Model):
    """The U-Net, the language model that steers it, its head of sight; the text encoder stands by for plain words."""

    def __init__(
        self,
        unet: InflatedUNet,
        text_encoder: TextEncoder,
        request_encoder: RequestEncoder,
        sight: Sight | None = None,
        scheduler: dict | None = None,
    ):
        super().__init__(unet, text_encoder, None, scheduler)
        self.request_encoder = request_encoder
        self.sight = sight

    def forward(
        self,
        words: Words,
        noisy: Tensor | None = None,
        timesteps: Tensor | None = None,
        inputs: dict[str, Tensor] | None = None,
        no_text: Tensor | None = None,
        with_mask: bool = True,
        labels: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor | None, Tensor | None, dict[str, Tensor]]:
        """The prediction (B, C, T, h, w), the mask's probability (B, 1, T, ph, pw), and losses by name.

        no_text: bool (B,), whose words are dropped: zeros steer then. labels: owners and facts for `Sight`. Without
        noisy the U-Net does not run.
        """
        encoder, losses, hidden = self.request_encoder, {}, None
        if words.tokens is None:
            seen = encoder.look(words.pixels)
        else:
            embeddings = encoder.embed(words.tokens, words.pixels)
            seen = _picture(embeddings, words.tokens, encoder.image_tokens)
            hidden = self._read(embeddings, words.mask.sum(1) - 1 + encoder.image_tokens)
            losses["language"] = self._language(hidden, words)
        if labels is not None:
            losses["sight"] = self.sight(seen, *labels)
        if noisy is None:
            return None, None, losses
        return *self._steered(hidden, words, noisy, timesteps, inputs, no_text, with_mask), losses

    def _read(self, embeddings: Tensor, lengths: Tensor) -> Tensor:
        """The language model's last states (B, N, W) of embeddings (B, N, W), zeros beyond lengths (B,).

        Texts of about a length are read together, so that little is computed for padding.
        """
        layers, (_, places, _) = self.request_encoder.llava.model.language_model, embeddings.shape
        order, parts = lengths.argsort(descending=True), []
        for rows in order.split(AT_ONCE):
            longest = int(lengths[rows[0]])
            mask = torch.arange(longest, device=lengths.device) < lengths[rows, None]
            read = layers(inputs_embeds=embeddings[rows, :longest], attention_mask=mask.long(), use_cache=False)
            parts.append(F.pad(read.last_hidden_state, (0, 0, 0, places - longest)))
        return torch.cat(parts)[order.argsort()]

    def _language(self, hidden: Tensor, words: Words) -> Tensor:
        """Cross-entropy of the answers' tokens (LGVI, equation 6), a mean over samples of the mean over each answer."""
        encoder = self.request_encoder
        wanted = encoder.spread(words.tokens, words.tokens.masked_fill(~words.answer, -100), -100)[:, 1:]
        sample, place = torch.nonzero(wanted >= 0, as_tuple=True)
        logits = encoder.llava.get_output_embeddings()(hidden[sample, place]).float()
        wrong = F.cross_entropy(logits, wanted[sample, place], reduction="none")[:, None]
        return mean_by_clip(wrong, torch.ones_like(wrong), sample, len(hidden))

    def _steered(self, hidden, words, noisy, timesteps, inputs, no_text, with_mask) -> tuple[Tensor, Tensor | None]:
        """The U-Net under each sample's own states; samples with as many run together, so that none is padded."""
        alike: dict[int, list[int]] = {}
        for row, part in enumerate(words.steering):
            alike.setdefault(part.stop - part.start, []).append(row)
        found = []
        for rows in alike.values():
            states = torch.stack([hidden[row, words.steering[row]] for row in rows])
            text = self.request_encoder.head(states) * ~no_text[rows, None, None]
            given = {name: value[rows] for name, value in inputs.items()}
            made = self.unet(noisy[rows], timesteps[rows], text, **given, return_mask=with_mask)
            found.append(made if with_mask else (made, None))
        places = torch.tensor([row for rows in alike.values() for row in rows], device=noisy.device).argsort()
        prediction, probability = zip(*found)
        return torch.cat(prediction)[places], torch.cat(probability)[places] if with_mask else None


def _picture(embeddings: Tensor, tokens: Tensor, count: int) -> Tensor:
    """The picture's features (B, P, W) among the embeddings (B, N - 1 + P, W) of tokens (B, N)."""
    places = (tokens == IMAGE).int().argmax(dim=1).tolist()
    return torch.stack([row[at : at + count] for row, at in zip(embeddings, places)])


def with_language(config: TrainConfig, start: Start, weights: bool) -> Parts:
    """LGVI-I's parts around those of LGVI; raises `InputError` as `model.build` does."""
    language, unet = config.request_encoder, start.unet
    if unet.config.is_inpainting:
        raise InputError("request_encoder: this U-Net fills a mask; a language model steers one that removes")
    encoder, report = start_language(config, unet.config.cross_attention_dim, weights)
    if language.unet:
        choose_trainable(unet, config)
    else:
        unet.requires_grad_(False)
    start.text_encoder.requires_grad_(False)
    start.autoencoder.eval().requires_grad_(False)
    sight = None
    if language.sight:
        if math.isqrt(encoder.image_tokens) ** 2 != encoder.image_tokens:
            raise InputError("request_encoder.sight needs the patches alone: vision_feature_select_strategy 'default'")
        with torch.device("cpu" if weights else "meta"):
            sight = Sight(encoder.head[0].in_features, language.sight_cells)
    model = TalkModel(unet, start.text_encoder, encoder, sight, start.scheduler)
    return Parts(model, start.autoencoder, [*start.report, *report])
