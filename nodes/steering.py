"""CONDITIONING of a language model's hidden states (LGVI-I): which U-Net they steer, or that nothing is to be removed.

Beside it zeros stand for the empty text (LGVI 4.2), as core's ConditioningZeroOut makes them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..lgvi_core.errors import InputError

# Keys of CONDITIONING's options: the mark (`request_file.mark`) of the U-Net that was trained with the language model,
# and what the person was told where a request was not met.
STEERS, UNMET = "lgvi_steers", "lgvi_unmet"


def steering(features: Tensor, mark: str) -> list:
    """CONDITIONING of features (1, M, D) for the U-Net of this mark."""
    return [[features, {STEERS: mark}]]


def nothing(width: int, mark: str, said: str) -> list:
    """CONDITIONING that leaves a video as it is, since the request was not met; said: what the person was told."""
    return [[torch.zeros(1, 1, width), {STEERS: mark, UNMET: said}]]


def steers(conditioning: list) -> bool:
    """Whether CONDITIONING is a language model's."""
    return any(STEERS in options for _, options in conditioning)


def why_not(conditioning: list | None) -> str | None:
    """What a person should know where CONDITIONING says that nothing is to be removed; None where it does not."""
    said = [options[UNMET] for _, options in conditioning or () if UNMET in options]
    return f"the request is not met ({said[0]!r:.200}): nothing is removed" if said else None


def check_steering(options: dict, mark: str) -> None:
    """Raises `InputError` for the options of CONDITIONING that steers another U-Net than the one of this mark."""
    if options.get(STEERS, mark) != mark:
        raise InputError(
            "the CONDITIONING comes from a language model that was trained with another U-Net than this MODEL, to "
            "which its hidden states mean nothing: connect the prompt of MLLM Request→Prompt in its place, or load the "
            "checkpoint that belongs to the reader in Load LGVI"
        )
