"""AdamW, which parameters it trains at which rate, and the average of what it makes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

import torch
from torch import nn

from lgvi_core.errors import InputError

from .config import Group, Optimizer, TrainConfig

REST = "learning_rate"  # name of the group of all parameters that no other takes


def parameter_groups(model: nn.Module, config: Optimizer) -> list[dict]:
    """AdamW's groups of the parameters that train: `params`, `weight_decay`, and the config's group as `name`.

    Vectors have no weight decay. Raises `InputError` for a group that matches nothing that trains.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not trained:
        raise InputError("nothing trains: every parameter is frozen")
    groups = []
    for group in (*config.groups, Group(match="")):
        taken = [trained.pop(name) for name in list(trained) if re.search(group.match, name)]
        if group.match and not taken:
            raise InputError(f"optimizer.groups: {group.match!r} matches no parameter that trains and is still free")
        decay = config.weight_decay if group.weight_decay is None else group.weight_decay
        for chosen, value in (([p for p in taken if p.ndim > 1], decay), ([p for p in taken if p.ndim <= 1], 0.0)):
            if chosen:
                groups.append({"params": chosen, "weight_decay": value, "name": group.match or REST})
    return groups


def make_optimizer(groups: list[dict], config: Optimizer, fused: bool) -> torch.optim.Optimizer:
    """The optimizer that the config names; `InputError` where its package is absent."""
    if config.kind == "adamw":
        return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=fused)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError:
        raise InputError(
            "optimizer.kind is 'adamw8bit', which needs bitsandbytes: `pip install bitsandbytes`, or set it to 'adamw'"
        ) from None
    return AdamW8bit(groups, lr=config.learning_rate, betas=config.betas)


def rates(config: TrainConfig, step: int) -> dict[str, float]:
    """The learning rate of each group, by its name, in the step after `step` steps."""
    return {group.match or REST: rate(config, group, step) for group in (*config.optimizer.groups, Group(match=""))}


def rate(config: TrainConfig, group: Group, step: int) -> float:
    """Linear warm-up, then the group's schedule down to `final_learning_rate` at the last step."""
    optimizer = config.optimizer
    highest = group.learning_rate or optimizer.learning_rate
    if step < optimizer.warmup_steps:
        return highest * (step + 1) / optimizer.warmup_steps
    done = (step - optimizer.warmup_steps) / max(1, config.steps - optimizer.warmup_steps)
    left = {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}
    share = left[group.schedule or optimizer.schedule]
    return highest if share == 1 else optimizer.final_learning_rate + (highest - optimizer.final_learning_rate) * share


def set_rates(groups: list[dict], values: dict[str, float]) -> None:
    """Gives each of an optimizer's groups the rate of its name."""
    for group in groups:
        group["lr"] = values[group["name"]]


class EMA:
    """Exponential moving average in float32 of the parameters that train, with the usual warm-up (1 + n) / (10 + n)."""

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float):
        self.decay = decay
        self.source = [p.detach() for p in parameters if p.requires_grad]
        self.average = [p.float().clone() for p in self.source]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After `step` steps in all."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.average, [p.float() for p in self.source], 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Puts the average into the parameters and keeps these; a second time puts all back, bit for bit."""
        for parameter, average in zip(self.source, self.average):
            kept = parameter.clone()
            parameter.copy_(average)
            average.copy_(kept)
