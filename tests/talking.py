"""A request encoder small enough to make on the spot that answers every request with one and the same text."""

import io
from pathlib import Path

import torch
from sentencepiece import SentencePieceTrainer

from lgvi_core.checkpoints import request_file
from lgvi_core.models import InflatedUNet, RequestEncoder
from lgvi_core.models.request_text import RequestTokenizer, write_prompt

SPACE = "\u2581"  # as SentencePiece writes it
LAYERS = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
PROMPT = "Answer and write the removal prompt."


def talking_encoder(said: list[str], width: int = 24, longest: int = 512) -> RequestEncoder:
    """An encoder that says these pieces of text, no two of them alike, one token each, and ends.

    Its language model's layers hand on the last token, and the output layer maps each to the next. Vision tower and
    head are random.
    """
    tokenizer = _tokenizer(said)
    pieces = RequestTokenizer(tokenizer)
    config = {
        "model_type": "llava",
        "text_config": LAYERS | {"vocab_size": len(pieces), "max_position_embeddings": longest},
        "vision_config": LAYERS | {"image_size": 28, "patch_size": 7, "projection_dim": 16},
        "image_token_index": len(pieces) - 1,
        "vision_feature_layer": -2,
        "tie_word_embeddings": False,
    }
    torch.manual_seed(0)
    encoder = RequestEncoder(config, tokenizer, PROMPT, width).eval()
    last = pieces.encode(write_prompt(PROMPT, "anything"))[-1]
    chain = [last, *(pieces.pieces.piece_to_id(piece.replace(" ", SPACE)) for piece in said), pieces.eos]
    assert len(set(chain)) == len(chain)
    with torch.no_grad():
        for name, value in encoder.llava.model.language_model.named_parameters():
            value.fill_(float("norm" in name))
        table, out = encoder.llava.get_input_embeddings().weight, encoder.llava.get_output_embeddings().weight
        out.zero_()
        for place, (token, following) in enumerate(zip(chain, chain[1:])):
            table[token, place] = out[following, place] = 8
    return encoder


def write_talking(path: Path, said: list[str], unet: InflatedUNet | None = None, width: int = 24) -> Path:
    """Write such an encoder as one file, marked as the one that steers the U-Net."""
    request_file.save(talking_encoder(said, width), path, unet, torch.float16)
    return path


def _tokenizer(symbols: list[str]) -> bytes:
    written = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(["a text of some words", "and of a few more words"]),
        model_writer=written,
        vocab_size=400,
        model_type="bpe",
        byte_fallback=True,
        hard_vocab_limit=False,
        user_defined_symbols=[symbol.replace(" ", SPACE) for symbol in symbols],
        minloglevel=2,
    )
    return written.getvalue()
