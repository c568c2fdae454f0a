"""A LLaVA small enough to make on the spot, and the public folders of LGVI-I's language model around it."""

import io
import json
from pathlib import Path

import torch
from sentencepiece import SentencePieceTrainer

from lgvi_core.checkpoints.llava import public_parts
from lgvi_core.checkpoints.llava_names import public_name, todays_name
from lgvi_core.models import RequestEncoder
from lgvi_core.models.request_text import RequestTokenizer

TEXTS = ["Sure. {{prompt}} remove the red dog on the left {{/prompt}}", "User: I only want the blue one. Assistant:"]
LAYERS = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
CLIP = "openai/clip-vit-large-patch14-336"
PROMPT = "Answer and write the removal prompt."


def small_tokenizer() -> bytes:
    written = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS),
        model_writer=written,
        vocab_size=320,
        model_type="bpe",
        byte_fallback=True,
        hard_vocab_limit=False,
        add_dummy_prefix=True,
        minloglevel=2,
    )
    return written.getvalue()


def small_encoder(padding: int = 0, longest: int = 512) -> RequestEncoder:
    """An untrained request encoder; `padding` rows of its vocabulary are of no token."""
    tokenizer = small_tokenizer()
    tokens = len(RequestTokenizer(tokenizer)) + padding
    config = {
        "model_type": "llava",
        "text_config": LAYERS | {"vocab_size": tokens, "max_position_embeddings": longest},
        "vision_config": LAYERS | {"image_size": 28, "patch_size": 7, "projection_dim": 16},
        "image_token_index": tokens - 1,
        "vision_feature_layer": -2,
        "tie_word_embeddings": False,
    }
    torch.manual_seed(0)
    return RequestEncoder(config, tokenizer, PROMPT, width=24).eval()


def write_trained(encoder: RequestEncoder, folder: Path) -> Path:
    """Write the public LGVI-I folder's part of the language model; gives the file."""
    (folder / "llava").mkdir(parents=True)
    torch.save(public_parts(encoder), folder / "llava/llava_weights.pth")
    (folder / "llava/system_prompt.txt").write_text(encoder.system_prompt)
    return folder / "llava/llava_weights.pth"


def write_transformers(encoder: RequestEncoder, folder: Path, **saving) -> None:
    """Write LLaVA as transformers lays it out."""
    encoder.llava.save_pretrained(folder, **saving)
    (folder / "tokenizer.model").write_bytes(encoder.tokenizer.model)


def write_public(encoder: RequestEncoder, folder: Path) -> None:
    """Write LLaVA as its authors lay it out, and CLIP beside it."""
    values = {public_name(todays_name(name)): value for name, value in encoder.llava.state_dict().items()}
    vision = "model.vision_tower.vision_tower."
    clip = {name.removeprefix(vision): value for name, value in values.items() if name.startswith(vision)}
    own = {name: value for name, value in values.items() if not name.startswith(vision)}
    text = encoder.llava.config.text_config
    config = LAYERS | {
        "model_type": "llava",
        "vocab_size": text.vocab_size,
        "max_position_embeddings": text.max_position_embeddings,
        "rms_norm_eps": text.rms_norm_eps,
        "mm_vision_tower": CLIP,
        "mm_vision_select_layer": -2,
        "mm_projector_type": "mlp2x_gelu",
    }
    for place, weights, settings in (
        (folder, own, config),
        (folder.parent / Path(CLIP).name, clip, {"vision_config": encoder.config["vision_config"]}),
    ):
        place.mkdir(parents=True, exist_ok=True)
        torch.save(weights, place / "pytorch_model.bin")
        (place / "config.json").write_text(json.dumps(settings))
    (folder / "tokenizer.model").write_bytes(encoder.tokenizer.model)
