"""The language model that a run of LGVI-I starts from: trained before, LLaVA with a new head, or all new and small."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import nn

from lgvi_core.answer import CLOSE, MARKS, OPEN
from lgvi_core.checkpoints.llava import (
    empty_request_encoder,
    is_trained_part,
    load_request_encoder,
    new_request_encoder,
    read_request_encoder,
)
from lgvi_core.checkpoints.request_file import matches as is_whole
from lgvi_core.errors import InputError
from lgvi_core.models import RequestEncoder
from lgvi_core.models.request_text import RequestTokenizer

from . import lora
from .config import Language, TrainConfig
from .data.synthetic_talk import dialogues
from .footprint import HALF
from .tokenizer import train_sentencepiece

SYSTEM_PROMPT = (
    "You help a person to remove things from a video, of which you see the first frame. Answer in one or two short "
    f"sentences. If it is clear what has to go, write after them what to remove between {OPEN} and {CLOSE}, so that "
    "it fits nothing else in the picture: what it is, its colour or size, where it is. If several things fit, ask "
    f"which one is meant and end with {MARKS['ask']}. If it is not in the picture, say so and end with "
    f"{MARKS['absent']}. If they want something else than a removal, say that you only remove and end with "
    f"{MARKS['not a removal']}."
)
TRAINED = r"embed_tokens|multi_modal_projector|^head\."  # what LGVI-I trains of LLaVA
PLACE_DEVIATION = 0.5  # of a new vision tower's position embeddings, about that of its patches; CLIP's own is 0.02


def start_language(config: TrainConfig, width: int, weights: bool = True) -> tuple[RequestEncoder, list[str]]:
    """The request encoder that `config.request_encoder` asks for, for features of `width`, and lines that tell of it.

    What trains requires gradients and is of float32; what does not is of the run's precision. Without `weights` it is
    on the meta device. Raises `InputError` for files that are absent or do not fit, and where nothing would train.
    """
    language = config.request_encoder
    encoder, report = _made(config, language, width, weights)
    if encoder.head[2].out_features != width:
        raise InputError(
            f"request_encoder: its features have width {encoder.head[2].out_features}, the U-Net takes {width}; they "
            "are parts of different models"
        )
    choose(encoder, language)
    trained = sum(p.numel() for p in encoder.parameters() if p.requires_grad)
    whole = sum(p.numel() for p in encoder.parameters())
    half = HALF[config.precision]
    for parameter in encoder.parameters():
        kept = torch.float32 if parameter.requires_grad or half is None else half
        parameter.data = parameter.data.to(kept)
    if config.gradient_checkpointing:
        now, before = "activation_checkpointing_enable", "gradient_checkpointing_enable"  # by transformers' version
        getattr(encoder.llava, now if hasattr(encoder.llava, now) else before)()
    return encoder, [*report, f"request encoder: {whole / 1e6:,.2f} M values, {trained / 1e6:,.2f} M of them train"]


def choose(encoder: RequestEncoder, language: Language) -> None:
    """Has those parameters of an encoder require gradients that are to train; adds the adapters that are asked for."""
    expression = language.trainable
    if expression is None:
        expression = TRAINED if language.base is not None else ""
    names = [name for name, _ in encoder.named_parameters()]
    chosen = {name for name in names if re.search(expression, name)}
    if not chosen:
        raise InputError(
            f"request_encoder.trainable is {language.trainable!r}, which matches none of its parameters, such as "
            f"{names[0]}"
        )
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(name in chosen)
    if language.lora is not None:
        layers = encoder.llava.model.language_model
        before = {name: p for name, p in encoder.named_parameters() if name in chosen}
        lora.add(layers, language.lora)
        for parameter in before.values():
            parameter.requires_grad_(True)


def _made(config: TrainConfig, language: Language, width: int, weights: bool) -> tuple[RequestEncoder, list[str]]:
    if language.initialise is not None:
        return _trained_before(language, weights)
    if language.base is not None:
        prompt = language.system_prompt or SYSTEM_PROMPT
        encoder = new_request_encoder(language.base, width, prompt, language.vision_tower, weights)
        return encoder, [f"request encoder: LLaVA of {language.base}, its head new"]
    with torch.device("cpu" if weights else "meta"):
        encoder = new_encoder(config, width)
    return encoder, [f"request encoder: new, a vocabulary of {len(encoder.tokenizer)}"]


def _trained_before(language: Language, weights: bool) -> tuple[RequestEncoder, list[str]]:
    path = Path(language.initialise).expanduser()
    if not is_trained_part(path):
        raise InputError(
            f"request_encoder.initialise: there is no request encoder at {path}; give the public LGVI-I folder with "
            "LLaVA as base, or a whole one as a file"
        )
    if not weights:
        source = read_request_encoder(path, language.base, language.vision_tower, language.system_prompt)
        return empty_request_encoder(source), [f"request encoder: {path}"]
    given = (language.base, language.vision_tower) if not is_whole(path) else (None, None)
    dtype = torch.float32 if is_whole(path) else None
    encoder = load_request_encoder(path, *given, dtype=dtype, system_prompt=language.system_prompt)
    return encoder.train(), [f"request encoder: {path}"]


def new_encoder(config: TrainConfig, width: int) -> RequestEncoder:
    """An untrained request encoder whose tokenizer knows the words of drawn conversations."""
    language = config.request_encoder
    prompt = language.system_prompt or SYSTEM_PROMPT
    with torch.device("cpu"):
        tokenizer = new_tokenizer(config.seed, language, prompt)
    tokens = RequestTokenizer(tokenizer)
    ids = {"vocab_size": len(tokens), "bos_token_id": tokens.bos, "eos_token_id": tokens.eos}
    settings = {
        "model_type": "llava",
        "text_config": {"model_type": "llama", **language.text, **ids},
        "vision_config": {"model_type": "clip_vision_model", **language.vision},
        "image_token_index": len(tokens) - 1,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full" if "depths" in language.vision else "default",
        "tie_word_embeddings": False,
    }
    try:
        encoder = RequestEncoder(settings, tokenizer, prompt, width)
    except Exception as error:  # transformers has errors of every kind for a bad config
        raise InputError(f"request_encoder: no model can be made of its vision and text: {error}") from None
    # At the deviations that are theirs for large models, attention drowns what a word is, and patches where they are.
    nn.init.normal_(encoder.llava.get_input_embeddings().weight)
    for name, parameter in encoder.llava.model.vision_tower.named_parameters():
        if ".position_embedding" in f".{name}":
            nn.init.normal_(parameter, std=PLACE_DEVIATION)
    encoder.llava.model.language_model.set_attn_implementation("eager")  # of short texts the faster one on a CPU
    return encoder


def new_tokenizer(seed: int, language: Language, prompt: str) -> bytes:
    """The tokenizer.model of drawn conversations and an instruction, in which every tag is one token."""
    texts = [prompt]
    for said in dialogues(seed, language.tokenizer_sentences):
        texts += [f"User: {said.request} Assistant: {said.answer}", *(turn.text for turn in said.turns)]
    return train_sentencepiece(texts, language.tokenizer_size, (OPEN, CLOSE, *MARKS.values()))
