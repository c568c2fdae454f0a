"""A chat model of any kind, with or without eyes, from a folder as transformers writes it."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .checkpoints.files import listing, read_json
from .checkpoints.fitting import usable_device
from .checkpoints.quantised import check_bits
from .checkpoints.weights import open_folder
from .errors import InputError
from .models.request_encoder import as_image
from .understanding import Written

logger = logging.getLogger(__name__)

STEMS = ("model", "pytorch_model")
SHORTEST_SIDE = 64  # pixels; smaller frames are enlarged, since some vision towers refuse them
WANTED = "give a folder with config.json, weights and tokenizer, such as Qwen2.5-VL's or LLaVA's from huggingface.co"


class ChatModel:
    """Answers a text about pictures by a local chat model of transformers.

    folder: config.json, weights, tokenizer, chat template, and, of one that sees, the image processor. bits: 8 or 4 to
    have it quantised by bitsandbytes. max_tokens: of an answer, cut off there. temperature: 0 for the likeliest words,
    above it words are drawn by torch's random numbers. `sees`: whether it looks at pictures.
    Raises `InputError` for a folder that is no such model, lacks files or weights, or needs code of its own.
    """

    def __init__(
        self,
        folder: Path,
        device: str = "cpu",
        bits: int | None = None,
        max_tokens: int = 1024,
        temperature: float = 0.0,
    ):
        self.folder, self.max_tokens, self.temperature = Path(folder), max_tokens, temperature
        if bits is not None:
            check_bits(bits)
        device = usable_device(device)
        self.sees = _check(self.folder)
        self.processor = self._read_processor()
        self.model = self._read_model(device, bits)
        self.max_length = getattr(self.model.config.get_text_config(), "max_position_embeddings", None) or math.inf

    @torch.no_grad()
    def __call__(self, text: str, frames: np.ndarray | Tensor | None) -> Written:
        """What it writes to a text and pictures (T, H, W, 3), uint8 or float in [0, 1], or None.

        Raises `InputError` for a text that leaves no room for an answer, and for pictures it cannot take.
        """
        inputs = self._read(text, [] if frames is None else [_enlarged(frame) for frame in torch.as_tensor(frames)])
        length = inputs["input_ids"].shape[1]
        if length >= self.max_length:
            raise InputError(
                f"the request and the turns before it come to {length} tokens; {self.folder} holds {self.max_length}, "
                "its answer included. Say it shorter, or begin a new conversation"
            )
        room = min(self.max_tokens, self.max_length - length)
        likeliest = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        drawn = {"do_sample": True, "temperature": self.temperature}
        how = drawn if self.temperature else likeliest
        said = self.model.generate(**inputs, max_new_tokens=room, **how)[0, length:].tolist()
        ends = self.model.generation_config.eos_token_id
        ended = bool(said) and said[-1] in (ends if isinstance(ends, list) else [ends])
        return Written(self._tokenizer.decode(said, skip_special_tokens=True).strip(), ended)

    @property
    def _tokenizer(self):
        return self.processor.tokenizer if self.sees else self.processor

    def _read(self, text: str, images: list) -> dict:
        content = text if not self.sees else [*({"type": "image", "image": image} for image in images),
                                              {"type": "text", "text": text}]  # fmt: skip
        try:
            inputs = self.processor.apply_chat_template(
                [{"role": "user", "content": content}],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                **({} if self.sees else {"enable_thinking": False}),  # templates take what they know
            )
        except (ValueError, ImportError) as error:
            raise InputError(f"{self.folder} cannot take the request and its picture: {error}") from error
        return inputs.to(self.model.device, self.model.dtype) if self.sees else inputs.to(self.model.device)

    def _read_processor(self):
        from transformers import AutoProcessor, AutoTokenizer

        kind = AutoProcessor if self.sees else AutoTokenizer
        try:
            processor = kind.from_pretrained(self.folder, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, ImportError, TypeError) as error:
            raise InputError(f"the tokenizer or image processor of {self.folder} cannot be read: {error}") from error
        if self.sees and not hasattr(processor, "tokenizer"):
            raise InputError(f"{self.folder} sees, but has no preprocessor_config.json or no tokenizer; {WANTED}")
        if not getattr(processor, "chat_template", None):
            raise InputError(f"{self.folder} has no chat template: it is no chat model, or lacks a file; {WANTED}")
        return processor

    def _read_model(self, device: torch.device, bits: int | None):
        from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, BitsAndBytesConfig

        kind = AutoModelForImageTextToText if self.sees else AutoModelForCausalLM
        options = {}
        if bits is not None:
            nf4 = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.bfloat16}
            quantised = BitsAndBytesConfig(load_in_8bit=bits == 8, load_in_4bit=bits == 4, **nf4)
            options = {"quantization_config": quantised, "device_map": {"": device}}
        try:
            model, found = kind.from_pretrained(
                self.folder,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                torch_dtype="auto",
                **options,
            )
        except (OSError, ValueError, ImportError, RuntimeError) as error:
            raise InputError(f"the chat model in {self.folder} cannot be loaded: {error}") from error
        if found["missing_keys"]:
            raise InputError(
                f"the weights in {self.folder} lack {listing(sorted(found['missing_keys']))}: they are those of "
                "another model, or incomplete. Download it again"
            )
        if bits is None:
            model = model.to(device)
            if device.type == "cpu" and model.dtype == torch.float16:
                model = model.float()
        return model.eval()


def _check(folder: Path) -> bool:
    """Whether the model in a folder sees; `InputError` for a folder that is no chat model, or lacks weights."""
    from transformers import CONFIG_MAPPING
    from transformers.models.auto import modeling_auto

    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} is no language model: it has no config.json; {WANTED}")
    config = read_json(folder / "config.json")
    kind = config.get("model_type")
    if "mm_vision_tower" in config:
        raise InputError(
            f"{folder} is LLaVA as its authors lay it out, which answers here beneath LGVI-I's part alone: give LGVI-I "
            "as the checkpoint, or get llava-hf/llava-1.5-7b-hf from huggingface.co"
        )
    if kind not in CONFIG_MAPPING:
        raise InputError(f"{folder} is a model of type {kind!r}, which the installed transformers does not know")
    sees = kind in modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    if not sees and kind not in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise InputError(f"{folder} is a model of type {kind!r}, which writes no text; {WANTED}")
    open_folder(folder, STEMS)  # names shards that are absent or cut off
    if not sees:
        logger.warning("%s (%s) does not see the video: it goes by the words alone", folder, kind)
    return sees


def _enlarged(frame: Tensor):
    image = as_image(frame)
    scale = SHORTEST_SIDE / min(image.size)
    return image if scale <= 1 else image.resize([round(side * scale) for side in image.size])
