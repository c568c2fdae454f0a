"""What a run of LGVI-I leaves of its language model: LGVI-I's own three parts over LLaVA, or one whole file."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor, nn

from lgvi_core.checkpoints import request_file
from lgvi_core.checkpoints.llava import FILE, PROMPT_FILE, public_parts
from lgvi_core.models import RequestEncoder

from .config import TrainConfig
from .talk_model import TalkModel

WHOLE = "request-encoder"  # names of whole files: this, or "best-" and this


def save(model: TalkModel, config: TrainConfig, checkpoint: Path) -> Path:
    """Writes the request encoder beside the place of a checkpoint; gives the file.

    LLaVA with LGVI-I's parts alone trained: those, as LGVI-I's public folder has them, to be used over the same LLaVA.
    Else the whole, half precision, adapters merged into it.
    """
    language, encoder = config.request_encoder, model.request_encoder
    best = "" if checkpoint.stem in ("checkpoint", "lora") else f"{checkpoint.stem}-"
    if language.base is not None and language.trainable is None and language.lora is None:
        return _save_parts(encoder, checkpoint.parent / f"{best}{FILE.parent}")
    path = checkpoint.with_name(f"{best}{WHOLE}.safetensors")
    request_file.save(encoder, path, model.unet, torch.float16, merged(encoder.llava), config.licence)
    return path


def merged(llava: nn.Module) -> dict[str, Tensor]:
    """LLaVA's weights under its own names, adapters added to the layers that they are on."""
    values = {
        name.replace(".base_layer.", "."): value for name, value in llava.state_dict().items() if ".lora_" not in name
    }
    for name, module in llava.named_modules():
        if hasattr(module, "lora_A"):
            weight = values[f"{name}.weight"]
            values[f"{name}.weight"] = weight + module.get_delta_weight("default").to(weight)
    return values


def _save_parts(encoder: RequestEncoder, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / FILE.name
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    parts = public_parts(encoder).items()
    parts = {part: {name: value.half().cpu() for name, value in values.items()} for part, values in parts}
    try:
        (folder / PROMPT_FILE).write_text(encoder.system_prompt + "\n", encoding="utf-8")
        torch.save(parts, temporary)
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
    return file
