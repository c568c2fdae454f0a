"""What a run must remember: written to a temporary name and moved into place."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import torch
from torch import nn

from lgvi_core.errors import InputError


class EMA:
    """Exponential moving average of a module's weights, with the usual warm-up (1 + n) / (10 + n)."""

    def __init__(self, module: nn.Module, decay: float):
        self.decay = decay
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self.source = list(module.parameters())
        self.average = list(self.module.parameters())

    @torch.no_grad()
    def update(self, step: int):
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.average, self.source, 1 - decay)


def save(path: Path, step: int, model: nn.Module, ema: EMA, optimizer: torch.optim.Optimizer):
    """Write the state after `step` steps; the previous file stays until the new one is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    content = {
        "step": step,
        "model": model.state_dict(),
        "ema": ema.module.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    try:
        with open(temporary, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def restore(path: Path, model: nn.Module, ema: EMA, optimizer: torch.optim.Optimizer) -> int:
    """Load what `save` wrote and return its step; 0 where there is no file. Raises `InputError` if it does not fit."""
    if not path.is_file():
        return 0
    content = torch.load(path, map_location="cpu", weights_only=True)
    try:
        model.load_state_dict(content["model"])
        ema.module.load_state_dict(content["ema"])
        optimizer.load_state_dict(content["optimizer"])
    except (KeyError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{path} is from a run with another config; use another output folder or delete it ({error})"
        ) from None
    return content["step"]
