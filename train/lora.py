"""LoRA (arXiv 2106.09685) on the U-Net by peft, saved under the names that ComfyUI's own LoRA loader takes."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import nn

from lgvi_core.checkpoints.writing import write_safetensors
from lgvi_core.errors import InputError
from lgvi_core.models import InflatedUNet

from .config import Lora, TrainConfig

ADAPTED = (nn.Linear, nn.Conv2d, nn.Conv1d)


def add(unet: InflatedUNet, settings: Lora) -> None:
    """Puts adapters on the linear and convolution layers whose name matches `targets`, and freezes everything else.

    They add nothing at first. Raises `InputError` if peft is not installed or no layer matches.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise InputError(f"lora needs peft: pip install 'lgvi[train]' ({error})") from error
    names = targets(unet, settings)
    unet.requires_grad_(False)
    exactly = "|".join(map(re.escape, names))
    adapter = LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout, target_modules=f"({exactly})"
    )
    inject_adapter_in_model(adapter, unet)


def targets(unet: InflatedUNet, settings: Lora) -> list[str]:
    """Names of the layers that get an adapter; `InputError` if there are none."""
    layers = [name for name, module in unet.named_modules() if isinstance(module, ADAPTED)]
    names = [name for name in layers if re.search(settings.targets, name)]
    if not names:
        raise InputError(
            f"lora.targets is {settings.targets!r}; no linear layer or convolution has such a name. Names look like "
            f"{layers[len(layers) // 2]!r}"
        )
    return names


def save(unet: InflatedUNet, path: Path, config: TrainConfig) -> None:
    """Writes the adapters as one safetensors file: `diffusion_model.<layer>.lora_{down,up}.weight` and `.alpha`.

    The metadata says what they were trained on and how. Raises `InputError` as `checkpoints.save` does.
    """
    tensors = {}
    for name, module in unet.named_modules():
        if hasattr(module, "lora_A"):
            layer = f"diffusion_model.{name}"
            tensors[f"{layer}.lora_down.weight"] = module.lora_A["default"].weight
            tensors[f"{layer}.lora_up.weight"] = module.lora_B["default"].weight
            tensors[f"{layer}.alpha"] = torch.tensor(float(module.lora_alpha["default"]))
    metadata = {
        "format": "pt",
        "lgvi.base": Path(config.initialise or "").name,
        "lgvi.rank": str(config.lora.rank),
        "lgvi.alpha": str(config.lora.alpha),
        "lgvi.targets": config.lora.targets,
        "lgvi.licence": config.licence,
    }
    write_safetensors(Path(path), tensors, metadata, None)
