"""Small tokenizers in CLIP's and in LLaMA's format for models trained from nothing."""

from __future__ import annotations

import io
import json

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers.convert_slow_tokenizer import bytes_to_unicode

START, END = "<|startoftext|>", "<|endoftext|>"


def train_clip_tokenizer(sentences: list[str], merges: int) -> dict[str, str]:
    """Learn byte-pair merges from sentences; returns the texts of `vocab.json`, `merges.txt` and the config by name.

    The vocabulary is in CLIP's order (bytes, bytes that end a word, merges, start and end tokens), so every text has
    an encoding and any tool that reads CLIP tokenizers reads this one.
    """
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Lowercase()
    words = pre_tokenizers.Whitespace()
    as_letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, as_letters])
    trainer = trainers.BpeTrainer(
        vocab_size=512 + merges, min_frequency=2, end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(sentences, trainer)
    learnt = [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]][:merges]
    letters = list(bytes_to_unicode().values())
    tokens = letters + [letter + "</w>" for letter in letters] + ["".join(pair) for pair in learnt] + [START, END]
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": END,
        "do_lower_case": True,
    }
    return {
        "vocab.json": json.dumps({token: i for i, token in enumerate(tokens)}, ensure_ascii=False),
        "merges.txt": "#version: 0.2\n" + "\n".join(" ".join(pair) for pair in learnt) + "\n",
        "tokenizer_config.json": json.dumps(config, indent=1),
    }


def train_sentencepiece(texts: list[str], size: int, symbols: tuple[str, ...]) -> bytes:
    """Learn LLaMA's kind of tokenizer (byte pairs by SentencePiece) from texts; the content of tokenizer.model.

    size: tokens at most, 259 of them bytes and marks. symbols: what is one token always.
    """
    from sentencepiece import SentencePieceTrainer

    written = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=written,
        vocab_size=size,
        model_type="bpe",
        user_defined_symbols=list(symbols),
        byte_fallback=True,
        hard_vocab_limit=False,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        num_threads=1,
        minloglevel=2,
    )
    return written.getvalue()
