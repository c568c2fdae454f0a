"""What a pass of the U-Net costs in memory and arithmetic, found by a pass on tensors without values."""

from __future__ import annotations

import re
from collections.abc import Set
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lgvi_core.models import InflatedUNet, UNetConfig

HALF = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Cost:
    """Of one pass: bytes that the backward pass needs, floating-point operations of the forward pass."""

    activations: int
    operations: int


class SavedAttention(torch.autograd.Function):
    """Attention as a fused kernel does it: queries, keys, values and result are kept, no product of all pairs."""

    @staticmethod
    def forward(ctx, q, k, v):
        out = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, out)
        return out


class Ledger:
    """Bytes of the tensors that autograd keeps, each storage once, parameters left out."""

    def __init__(self, module: nn.Module):
        self.kept = {}  # by storage; holds the tensors, so that no other takes their place
        self.known = {p.untyped_storage()._cdata for p in module.parameters()}

    def pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.known:
            self.kept.setdefault(storage._cdata, tensor)
        return tensor

    @property
    def total(self) -> int:
        return sum(tensor.untyped_storage().nbytes() for tensor in self.kept.values())


def cost(
    config: UNetConfig,
    latents: tuple[int, int, int, int],
    tokens: int,
    precision: str,
    checkpointing: bool,
    with_mask: bool,
    trained: Set[str],
) -> Cost:
    """The cost of one pass over latents (B, T, h, w) and texts of `tokens` tokens.

    trained: names of the U-Net's parameters that get gradients. Types are those that autocast would choose. Buffers of
    kernels and gradients of activations are not counted.
    """
    arithmetic = 0

    def attention(q, k, v, heads):
        nonlocal arithmetic
        arithmetic += 4 * q.shape[0] * q.shape[1] * k.shape[1] * q.shape[2]
        return SavedAttention.apply(q, k, v)

    unet = InflatedUNet(config, autocast_operations(HALF[precision]), attention, device="meta").train()
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_(name in trained)
    ledger, layers, run_layer = Ledger(unet), [], unet._layer

    def layer(resnet, transformer, x, *others):
        before = ledger.total
        out = run_layer(resnet, transformer, x, *others)
        layers.append((x.nbytes, ledger.total - before))
        return out

    unet._layer = layer
    batch, frames, height, width = latents
    with torch.device("meta"):
        noisy = torch.empty(batch, config.out_channels, frames, height, width)
        text = torch.empty(batch, tokens, config.cross_attention_dim)
        timesteps = torch.empty(batch, dtype=torch.long)
        given = {"condition": noisy}
        if config.is_inpainting:
            given = {"mask": torch.empty(batch, 1, frames, height, width), "masked_video": noisy}
    counter = FlopCounterMode(display=False)
    with counter, torch.autograd.graph.saved_tensors_hooks(ledger.pack, lambda tensor: tensor):
        outputs = unet(noisy, timesteps, text, **given, return_mask=with_mask)
    total = ledger.total
    if checkpointing:  # of each layer only its input is kept; one at a time is computed again
        total += sum(given - own for given, own in layers) + max(own for _, own in layers)
    del outputs
    return Cost(total, counter.get_total_flops() + arithmetic)


def trained_layers(unet: nn.Module) -> set[str]:
    """Names of the parameters that get gradients; those of an adapter count as the weight of its layer."""
    names = (name for name, parameter in unet.named_parameters() if parameter.requires_grad)
    return {re.sub(r"\.lora_[AB]\.\w+", "", name) for name in names}


def autocast_operations(half: torch.dtype | None):
    """Layers that compute in the types that autocast would give them; plain ones without `half`."""
    if half is None:
        return nn

    def lowered(kind):
        class Lowered(kind):
            def forward(self, x):
                bias = None if self.bias is None else self.bias.to(half)
                if isinstance(self, nn.Linear):
                    return nn.functional.linear(x.to(half), self.weight.to(half), bias)
                return self._conv_forward(x.to(half), self.weight.to(half), bias)

        return Lowered

    def raised(kind):
        class Raised(kind):
            def forward(self, x):
                return super().forward(x.float())

        return Raised

    class Operations:
        Conv1d, Conv2d, Linear = lowered(nn.Conv1d), lowered(nn.Conv2d), lowered(nn.Linear)
        GroupNorm, LayerNorm = raised(nn.GroupNorm), raised(nn.LayerNorm)

    return Operations
