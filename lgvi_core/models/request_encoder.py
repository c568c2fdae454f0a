"""LGVI-I's reader of requests: a multimodal language model that answers, and whose hidden states steer the U-Net."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import InputError
from .request_text import IMAGE, RequestTokenizer, between_tags, cut_start, write_prompt

if TYPE_CHECKING:
    from PIL import Image

    from ..conversation import Turn

MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's
SELECTED = {"default": 1, "full": 0}  # the first of the vision tower's tokens that the language model sees
LONGEST_SIDE = 100  # times the shorter one


class Read(NamedTuple):
    """What the model makes of a text and a picture: hidden (B, N, W), logits (B, N, V), features (B, N, D)."""

    hidden: Tensor
    logits: Tensor
    features: Tensor


@dataclass(frozen=True)
class Reply:
    """What the model answered.

    text: as written, tags and all (`answer.parse` reads it). tokens: the N that were generated. features: (1, N, D);
    the i-th is of the state that token i was chosen from. start: the first of them that the public code gives to the
    U-Net. tagged: those between the prompt tags. ended: whether the model came to an end, or was cut off.
    """

    text: str
    tokens: tuple[int, ...]
    features: Tensor
    start: int
    tagged: slice
    ended: bool

    def steering(self, between_tags: bool = False) -> Tensor:
        """The features (1, M, D) that take the place of CLIP's; the empty text beside them is zeros.

        From where the removal prompt begins to the end of the answer, as the public weights are used, or only what is
        `between_tags`, as the paper has it (LGVI 4.2). Raises `InputError` if there are none: the answer is empty.
        """
        begins = self.start if self.start <= len(self.tokens) else 0
        chosen = self.features[:, self.tagged if between_tags else slice(begins, None)]
        if not chosen.shape[1]:
            raise InputError(
                f"the language model's answer {self.text!r:.80} has no removal prompt to steer with; ask in other words"
            )
        return chosen


class RequestEncoder(nn.Module):
    """LLaVA with a head that turns its hidden states into the U-Net's text features.

    config: a transformers LlavaConfig as a dict. tokenizer_model: the content of its tokenizer.model. system_prompt:
    the instruction that it was trained with. width: of the features. Source: LGVI 4.2.
    Raises `InputError` for a config without a vision tower and for a tokenizer that has more tokens than the model.
    """

    def __init__(self, config: dict, tokenizer_model: bytes, system_prompt: str, width: int = 768):
        super().__init__()
        from transformers import LlavaConfig, LlavaForConditionalGeneration

        if not config.get("vision_config"):
            raise InputError("the language model has no vision tower (vision_config); it must be a LLaVA model")
        if config.get("vision_feature_select_strategy", "default") not in SELECTED:
            raise InputError(
                f"vision_feature_select_strategy is {config['vision_feature_select_strategy']!r}; "
                f"allowed: {', '.join(SELECTED)}"
            )
        self.config = config
        self.system_prompt = system_prompt
        self.tokenizer = RequestTokenizer(tokenizer_model)
        self.llava = LlavaForConditionalGeneration(LlavaConfig(**config))
        text, vision = self.llava.config.text_config, self.llava.config.vision_config
        if len(self.tokenizer) > text.vocab_size:
            raise InputError(
                f"the tokenizer has {len(self.tokenizer)} tokens, the language model {text.vocab_size}; "
                "they do not belong together"
            )
        self.head = nn.Sequential(
            nn.Linear(text.hidden_size, text.hidden_size), nn.ReLU(), nn.Linear(text.hidden_size, width, bias=False)
        )
        self.image_size = vision.image_size
        stages = len(getattr(vision, "depths", (1,)))  # a tower like Swin halves its resolution from each to the next
        self.image_tokens = (vision.image_size // (vision.patch_size * 2 ** (stages - 1))) ** 2
        self.max_length = text.max_position_embeddings
        if self.llava.config.vision_feature_select_strategy == "full" and stages == 1:
            self.image_tokens += 1  # the class token, which a tower of several stages has not

    @property
    def device(self) -> torch.device:
        return self.head[0].weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.head[0].weight.dtype

    def picture(self, frame: Tensor) -> Tensor:
        """A frame (H, W, 3), uint8 or float in [0, 1], as the vision tower's pixels (1, 3, S, S)."""
        return picture(frame, self.image_size).to(self.device, self.dtype)

    def look(self, pixels: Tensor) -> Tensor:
        """Pictures (B, 3, S, S) as features (B, P, W) among the words' embeddings."""
        model, config = self.llava.model, self.llava.config
        states = model.vision_tower(pixels, output_hidden_states=True).hidden_states[config.vision_feature_layer]
        return model.multi_modal_projector(states[:, SELECTED[config.vision_feature_select_strategy] :])

    def embed(self, tokens: Tensor, pixels: Tensor) -> Tensor:
        """Embeddings (B, N - 1 + P, W) of token ids (B, N) whose one `IMAGE` becomes the picture's P features.

        Raises `InputError` unless there is one in every row.
        """
        is_image = tokens == IMAGE
        if (is_image.sum(dim=1) != 1).any():
            raise InputError(f"a text holds {is_image.sum(dim=1).tolist()} pictures; write <image> once in each")
        words = self.llava.get_input_embeddings()(tokens.masked_fill(is_image, self.tokenizer.bos))
        rows = zip(words, self.look(pixels), is_image.int().argmax(dim=1).tolist(), strict=True)
        return torch.stack([torch.cat([row[:at], seen.to(row.dtype), row[at + 1 :]]) for row, seen, at in rows])

    def forward(self, tokens: Tensor, pixels: Tensor, mask: Tensor | None = None) -> Read:
        """Reads whole texts at once, for training.

        tokens: (B, N) with one `IMAGE` each. pixels: (B, 3, S, S). mask: (B, N) bool, False where a row is padded on
        its right. The picture takes P places instead of one: `spread` brings labels or a mask to the same length.
        """
        if mask is not None:
            mask = self.spread(tokens, mask, True).long()
        hidden = self._model(inputs_embeds=self.embed(tokens, pixels), attention_mask=mask).last_hidden_state
        return Read(hidden, self.llava.get_output_embeddings()(hidden), self.head(hidden))

    def spread(self, tokens: Tensor, values: Tensor, fill: int) -> Tensor:
        """Values (B, N) of tokens (B, N) as (B, N - 1 + P), with `fill` where the picture is (-100 for labels)."""
        seen = values.new_full((self.image_tokens,), fill)
        rows = zip(values, (tokens == IMAGE).int().argmax(dim=1).tolist(), strict=True)
        return torch.stack([torch.cat([row[:at], seen, row[at + 1 :]]) for row, at in rows])

    @torch.no_grad()
    def answer(
        self,
        frame: Tensor,
        request: str,
        turns: Sequence[Turn] = (),
        max_tokens: int = 1024,
        temperature: float = 0.0,
        generator: torch.Generator | None = None,
        callback: Callable[[int], None] | None = None,
    ) -> Reply:
        """Answers a request about a frame (H, W, 3), uint8 or float in [0, 1].

        turns: earlier ones. max_tokens: of the answer, cut off there. temperature: 0 takes the likeliest token always;
        else one of the 50 likeliest is drawn with `generator`, on the CPU (the authors' script has 0.2). callback: told
        the number of tokens so far after each; what it raises ends the run.
        Raises `InputError` for an empty request and for one that leaves no room for an answer.
        """
        if max_tokens < 1 or temperature < 0:
            raise InputError(
                f"max_tokens is {max_tokens} and temperature {temperature}; allowed: at least 1 and at least 0"
            )
        tokens = self.tokenizer.encode(write_prompt(self.system_prompt, request, turns))
        length = len(tokens) - 1 + self.image_tokens
        if length >= self.max_length:
            raise InputError(
                f"the request and the turns before it come to {length} tokens; the language model holds "
                f"{self.max_length}, its answer included. Say it shorter, or begin a new conversation"
            )

        def choose(logits: Tensor) -> int:
            if temperature == 0:
                return int(logits.argmax())
            likeliest = logits.float().cpu().topk(min(50, len(logits)))
            drawn = torch.multinomial((likeliest.values / temperature).softmax(0), 1, generator=generator)
            return int(likeliest.indices[drawn])

        room = min(max_tokens, self.max_length - length)
        embeddings = self.embed(torch.tensor([tokens], device=self.device), self.picture(frame))
        said, hidden = self.generate(embeddings, choose, room, callback)
        return self.reply(said, hidden)

    @torch.no_grad()
    def generate(
        self,
        embeddings: Tensor,
        choose: Callable[[Tensor], int],
        max_tokens: int,
        callback: Callable[[int], None] | None = None,
    ) -> tuple[list[int], Tensor]:
        """Goes on from embeddings (1, N, W): up to `max_tokens` token ids, and the states (1, M, W) before each.

        choose: the next token from its logits (V,), those that the tokenizer does not know at minus infinity. The token
        that ends an answer is the last, if it comes.
        """
        from transformers import DynamicCache

        cache, tokens, states = DynamicCache(), [], []
        while len(tokens) < max_tokens and self.tokenizer.eos not in tokens[-1:]:
            read = self._model(inputs_embeds=embeddings, past_key_values=cache, use_cache=True)
            states.append(read.last_hidden_state[:, -1:])
            logits = self.llava.get_output_embeddings()(states[-1])[0, 0]
            logits[len(self.tokenizer) :] = -torch.inf  # rows that pad the vocabulary have no meaning
            tokens.append(choose(logits))
            embeddings = self.llava.get_input_embeddings()(torch.tensor([tokens[-1:]], device=self.device))
            if callback is not None:
                callback(len(tokens))
        return tokens, torch.cat(states, dim=1)

    def reply(self, tokens: Sequence[int], hidden: Tensor) -> Reply:
        """The reply of generated token ids and the states (1, N, W) they were chosen from."""
        text = self.tokenizer.decode(tokens).strip()
        ended = self.tokenizer.eos in tokens[-1:]
        start, tagged = cut_start(self.tokenizer, text), between_tags(self.tokenizer, tokens)
        return Reply(text, tuple(tokens), self.head(hidden.to(self.dtype)), start, tagged, ended)

    @property
    def _model(self) -> nn.Module:
        return self.llava.model.language_model


def picture(frame: Tensor, size: int) -> Tensor:
    """A frame (H, W, 3), uint8 or float in [0, 1], as CLIP's pixels (1, 3, size, size).

    The shorter side becomes `size` (Pillow's bicubic), the middle is kept, CLIP's mean and deviation are taken out.
    Raises `InputError` as `as_image`.
    """
    from PIL.Image import Resampling

    image = as_image(frame)
    width, height = image.size
    resized = (size, int(size * height / width)) if width <= height else (int(size * width / height), size)
    image = image.resize(resized, Resampling.BICUBIC)
    left, top = round((resized[0] - size) / 2), round((resized[1] - size) / 2)
    pixels = torch.from_numpy(np.array(image))[top : top + size, left : left + size].permute(2, 0, 1) / 255
    return ((pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(DEVIATION).view(3, 1, 1))[None]


def as_image(frame: Tensor) -> Image.Image:
    """A frame (H, W, 3), uint8 or float in [0, 1], as a Pillow image.

    Raises `InputError` for what is no frame, or one whose sides are too different.
    """
    from PIL import Image

    if frame.ndim != 3 or frame.shape[-1] != 3 or not frame.numel():
        raise InputError(f"the frame has the shape {tuple(frame.shape)}; expected (height, width, 3)")
    height, width = frame.shape[:2]
    if max(height, width) > LONGEST_SIDE * min(height, width):
        raise InputError(f"the frame has {width}x{height} pixels; one side may be {LONGEST_SIDE} times the other")
    if frame.is_floating_point():
        frame = (frame.clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(frame.cpu().numpy())
