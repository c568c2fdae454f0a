"""Chat models small enough to make on the spot, in folders as transformers writes them."""

from pathlib import Path

import torch
from small_llava import LAYERS
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

IMAGE, BEGIN, END = "<image>", "<s>", "</s>"
PLAIN = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
SEEING = (
    "{% for m in messages %}{{ m['role'] }}: {% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}\n{% endfor %}assistant:"
)


def small_tokenizer(template: str | None) -> PreTrainedTokenizerFast:
    """Bytes as tokens."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [END, BEGIN, IMAGE, *letters]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BEGIN, eos_token=END, additional_special_tokens=[IMAGE]
    )
    fast.chat_template = template
    return fast


def text_config(tokenizer, longest: int) -> dict:
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": 0}
    return LAYERS | ends | {"vocab_size": len(tokenizer), "max_position_embeddings": longest}


def write_blind(folder: Path, longest: int = 8192, template: str | None = PLAIN, **saving) -> None:
    """Write an untrained chat model that reads words alone."""
    tokenizer = small_tokenizer(template)
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**text_config(tokenizer, longest))).save_pretrained(folder, **saving)
    tokenizer.save_pretrained(folder)


def write_seeing(folder: Path, longest: int = 8192, **saving) -> None:
    """Write an untrained chat model that looks at pictures."""
    tokenizer = small_tokenizer(SEEING)
    config = LlavaConfig(
        text_config={"model_type": "llama", **text_config(tokenizer, longest)},
        vision_config=LAYERS | {"model_type": "clip_vision_model", "image_size": 28, "patch_size": 7},
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        vision_feature_layer=-2,
    )
    torch.manual_seed(0)
    LlavaForConditionalGeneration(config).save_pretrained(folder, **saving)
    sizes = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
    pictures = CLIPImageProcessorPil(**sizes)
    LlavaProcessor(
        pictures,
        tokenizer,
        patch_size=7,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=SEEING,
    ).save_pretrained(folder)
