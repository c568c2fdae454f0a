"""Clips of any length in constant memory: overlapping windows, their blend, and noise that belongs to frames."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from ..errors import InputError


def sliding(frames: Iterable, window: int, overlap: int) -> Iterator[tuple[int, list]]:
    """Windows (start, items) of exactly `window` consecutive items, each `window - overlap` further on.

    The last window ends at the last item and overlaps its neighbour by more where it has to. A clip shorter than the
    window is one short window; no frames, no windows. Holds at most `window` + stride items at a time.

    Raises `InputError`, at the call, unless 0 <= overlap < window.
    """
    if window < 1 or not 0 <= overlap < window:
        raise InputError(
            f"window is {window} and overlap {overlap} frames; the window must be at least 1 "
            "and the overlap at least 0 and shorter than the window"
        )
    return _sliding(frames, window, window - overlap)


def _sliding(frames, window, stride):
    start, held = 0, []
    for frame in frames:
        held.append(frame)
        if len(held) == window + stride:
            start, held = start + stride, held[stride:]
        elif len(held) != window:
            continue
        yield start, list(held)
    if 0 < len(held) < window:
        yield start, held
    elif len(held) > window:
        yield start + len(held) - window, held[-window:]


def crossfade(windows: Iterable[tuple[int, Tensor | tuple[Tensor, ...]]]) -> Iterator[Tensor | tuple[Tensor, ...]]:
    """Blends windows (start, tensor or tuple of tensors, frames first) into blocks of finished frames, in order.

    In an overlap the weight moves from the old window to the new one along a raised cosine; the two sum to 1. A frame
    that one window alone has is passed on bit for bit. A frame comes out when a window arrives that starts after
    it, so one window is held. Starts must not decrease, and windows must leave no gap: `InputError` where they do.
    """
    start, held, single = 0, None, False  # held: the frames that the next window may still touch
    for next_start, value in windows:
        single = isinstance(value, Tensor)
        incoming = (value,) if single else tuple(value)
        if held is None:
            start, held = next_start, incoming
            continue
        finished = next_start - start
        overlap = len(held[0]) - finished
        if finished < 0 or overlap < 0 or overlap > len(incoming[0]):
            raise InputError(
                f"a window of {len(incoming[0])} frames starts at frame {next_start}, after one of frames {start} to "
                f"{start + len(held[0]) - 1}: windows must come in order and leave no gap"
            )
        if finished:
            yield _unpack([x[:finished] for x in held], single)
        ramp = fade_in(overlap)
        blended = [_blend(old[finished:], new[:overlap], ramp) for old, new in zip(held, incoming)]
        start, held = next_start, tuple(torch.cat([mix, new[overlap:]]) for mix, new in zip(blended, incoming))
    if held is not None:
        yield _unpack(held, single)


def fade_in(overlap: int) -> list[float]:
    """The weight of a new window in each frame of an overlap: a raised cosine."""
    return [0.5 - 0.5 * math.cos(math.pi * (i + 1) / (overlap + 1)) for i in range(overlap)]


def _unpack(tensors, single):
    return tensors[0] if single else tuple(tensors)


def _blend(old: Tensor, new: Tensor, ramp: list[float]) -> Tensor:
    weight = torch.tensor(ramp, dtype=new.dtype, device=new.device).reshape(-1, *[1] * (new.ndim - 1))
    return torch.lerp(old, new, weight.expand_as(new))


def frame_noise(start: int, count: int, shape: tuple[int, int, int], seed: int) -> Tensor:
    """Gaussian noise (C, count, H, W), float32 on the CPU, for frames `start` to `start + count - 1`.

    Each frame's noise depends on the seed and its own number alone, so overlapping windows start from the same noise.
    """
    frames = []
    for frame in range(start, start + count):
        digest = hashlib.sha256(f"{seed}/{frame}".encode()).digest()
        generator = torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "little"))
        frames.append(torch.randn(shape, generator=generator))
    return torch.stack(frames, dim=1)
