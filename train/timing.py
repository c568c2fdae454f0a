"""How long a run takes: timed passes of it, or how fast a device computes."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable

import torch

from .config import Batches, TrainConfig
from .data import mixing
from .footprint import HALF
from .model import build
from .objectives import make_objective


def timed(config: TrainConfig, kinds: Iterable[tuple[Batches, float, int]], device: torch.device) -> float:
    """Seconds of one process for `kinds` (batch, steps, clips a pass), from one pass of each shape, data included."""
    parts = build(config)
    for network in (parts.model, parts.model.text_encoder, parts.autoencoder):
        network.to(device)
    config = dataclasses.replace(config, workers=0, cache=None)
    objective, half = make_objective(config, parts, device), HALF[config.precision]
    parts.model.train()
    known, seconds = {}, 0.0
    for batch, steps, micro in kinds:
        shape = micro, batch.frames, batch.height, batch.width, batch.only
        if shape not in known:
            one_pass = dataclasses.replace(batch, start=0, end=None, size=micro, micro=None)
            batches = mixing.loader(dataclasses.replace(config, batches=(one_pass,)), 0)
            for _ in range(1 if known else 2):  # the very first warms up
                began = time.perf_counter()
                sample = next(iter(batches))
                with torch.autocast(device.type, half, enabled=half is not None):
                    losses = objective(parts.model, sample, config.seed, 0)
                losses.total.backward()
                losses.total.item()
                known[shape] = time.perf_counter() - began
        seconds += steps * batch.size / micro * known[shape]
    return seconds


def product_speed(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a large matrix product, the best of three."""
    side = 8192 if device.type == "cuda" else 1024
    matrix, best = torch.ones(side, side, device=device, dtype=dtype), float("inf")
    for _ in range(3):
        began = time.perf_counter()
        (matrix @ matrix)[0, 0].item()
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best


def span(seconds: float) -> str:
    """A length of time in words."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:,.1f} seconds"
