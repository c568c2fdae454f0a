"""Linear layers in 8 or 4 bits, by bitsandbytes, quantised one by one while their weights are read."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import nn

from ..errors import InputError
from .weights import Weights

BITS = (8, 4)


def check_bits(bits: int) -> None:
    """Raises `InputError` unless layers can be had in so many bits here."""
    if bits not in BITS:
        raise InputError(f"bits is {bits}; allowed: 8, 4, or None for none of this")
    if find_spec("bitsandbytes") is None:
        raise InputError(f"{bits} bits need `pip install bitsandbytes`; or leave bits out, in bfloat16")


def quantise(
    model: nn.Module, prefix: str, weights: Weights, device: torch.device, dtype: torch.dtype, bits: int
) -> Weights:
    """Puts quantised layers in place of the linear ones whose names begin with `prefix`; gives the weights left over.

    weights: by the model's names. dtype: that the layers compute in. 8 bits are LLM.int8 (arXiv 2208.07339), 4 bits
    QLoRA's NF4 (arXiv 2305.14314).
    """
    weights = dict(weights)
    for name, layer in list(model.named_modules()):
        if name.startswith(prefix) and isinstance(layer, nn.Linear):
            values = weights.pop(f"{name}.weight").read().to(dtype)
            bias = weights.pop(f"{name}.bias").read().to(device, dtype) if layer.bias is not None else None
            model.set_submodule(name, _layer(values, bias, dtype, bits).to(device))
    return weights


def _layer(values: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype, bits: int) -> nn.Module:
    from bitsandbytes import nn as bnb

    size = (values.shape[1], values.shape[0], bias is not None)
    if bits == 8:
        layer = bnb.Linear8bitLt(*size, has_fp16_weights=False, threshold=6.0, device="meta")
        layer.weight = bnb.Int8Params(values, requires_grad=False, has_fp16_weights=False)
    else:
        layer = bnb.Linear4bit(*size, compute_dtype=dtype, quant_type="nf4", device="meta")
        layer.weight = bnb.Params4bit(values, requires_grad=False, quant_type="nf4")
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=False)
    return layer
