"""A checkpoint's text encoder as the host's CLIP."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import comfy.clip_model
import comfy.sd
import comfy.sd1_clip
import folder_paths
import torch

from ..lgvi_core.checkpoints import Source
from ..lgvi_core.checkpoints.fitting import empty_text_encoder, read_values
from ..lgvi_core.errors import InputError
from ..lgvi_core.models.text_encoder import TextEncoder, read_tokenizer

logger = logging.getLogger(__name__)

# The host's own tokenizer, and Stable Diffusion 1.5's text encoder, which the host has a loader of its own for, by what
# tells it from others.
TOKENIZER = Path(comfy.sd1_clip.__file__).with_name("sd1_tokenizer")
CLIP_L = {"hidden_size": 768, "num_hidden_layers": 12, "vocab_size": 49408, "max_position_embeddings": 77}


def load_clip(source: Source, disable_dynamic: bool = False) -> comfy.sd.CLIP | None:
    """A checkpoint's text encoder as the host's CLIP, None if it has none. Parentheses in a prompt are only words.

    Raises `InputError` for names, shapes or a tokenizer that do not fit.
    """
    if source.text_config is None:
        return None
    if not source.tokenizer_files:  # one checkpoint file of Stable Diffusion carries none
        source = replace(source, tokenizer_files=read_tokenizer(TOKENIZER))
    encoder = empty_text_encoder(source)  # checks names, shapes and tokenizer: the host itself only warns
    config = encoder.model.config
    if config.hidden_size != source.unet_config.cross_attention_dim:
        raise InputError(
            f"{source.path}: the text encoder gives features of width {config.hidden_size}, the U-Net takes "
            f"{source.unet_config.cross_attention_dim}; they are parts of different models"
        )
    weights = {f"text_model.{name}": value for name, value in read_values(source.text_encoder).items()}
    # The pooled output's projection, which the host's network has and this encoder does without.
    weights["text_projection.weight"] = torch.eye(config.hidden_size)
    if all(getattr(config, name) == value for name, value in CLIP_L.items()):
        clip = comfy.sd.load_text_encoder_state_dicts(
            [weights], folder_paths.get_folder_paths("embeddings"), disable_dynamic=disable_dynamic
        )
        clip.tokenizer.clip_l.disable_weights = True
    else:
        clip = _small_clip(encoder, weights, disable_dynamic)
    return clip


def _small_clip(encoder: TextEncoder, weights: dict[str, torch.Tensor], disable_dynamic: bool) -> comfy.sd.CLIP:
    """A CLIP of any size, of the checkpoint's own tokenizer and weights."""
    config, tokenizer = encoder.model.config.to_dict(), encoder.tokenizer
    tokens = {"start": tokenizer.bos_token_id, "end": tokenizer.eos_token_id, "pad": tokenizer.pad_token_id}

    class Network(comfy.clip_model.CLIPTextModel):
        def __init__(self, config, dtype, device, operations):
            super().__init__(config, dtype, device, operations)
            embedding = operations.Embedding(config["vocab_size"], config["hidden_size"], dtype=dtype, device=device)
            self.set_input_embeddings(embedding)  # the host's has Stable Diffusion's vocabulary

    class Encoder(comfy.sd1_clip.SDClipModel):
        def __init__(self, device="cpu", dtype=None, model_options=None):
            super().__init__(
                device=device,
                dtype=dtype,
                model_options=model_options or {},
                textmodel_json_config=config,
                special_tokens=tokens,
                max_length=encoder.max_length,
                model_class=Network,
            )

    class Clip(comfy.sd1_clip.SD1ClipModel):
        def __init__(self, device="cpu", dtype=None, model_options=None):
            super().__init__(device=device, dtype=dtype, model_options=model_options or {}, clip_model=Encoder)

    dtype = next(iter(weights.values())).dtype
    size = sum(value.numel() for value in weights.values())
    target = SimpleNamespace(params={}, clip=Clip, tokenizer=lambda **_: Tokenizer(encoder))
    options = {"model_options": {"dtype": dtype}, "disable_dynamic": disable_dynamic}
    return comfy.sd.CLIP(target, parameters=size, state_dict=[weights], **options)


class Tokenizer:
    """The checkpoint's tokenizer as the host asks for it: every token of weight 1, what is too long cut off."""

    clip_name = "l"

    def __init__(self, encoder: TextEncoder):
        self.tokenizer = encoder.tokenizer
        self.max_length = encoder.max_length
        self.words = {number: word for word, number in self.tokenizer.get_vocab().items()}

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **_) -> dict:
        count = len(self.tokenizer(text).input_ids)
        if count > self.max_length:
            logger.warning("the prompt has %d tokens, the model reads %d: its end is not read", count, self.max_length)
        tokens = self.tokenizer(text, padding="max_length", max_length=self.max_length, truncation=True).input_ids
        weighted = [(token, 1.0, i) if return_word_ids else (token, 1.0) for i, token in enumerate(tokens)]
        return {self.clip_name: [weighted]}

    def untokenize(self, token_weight_pair) -> list:
        return [(pair, self.words[pair[0]]) for pair in token_weight_pair]

    def decode(self, token_ids, skip_special_tokens: bool = True) -> str:
        return self.tokenizer.decode(token_ids, skip_special_tokens=skip_special_tokens)

    def state_dict(self) -> dict:
        return {}
