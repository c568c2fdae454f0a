"""Multi-head attention whose kernel is an argument."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MAX_BATCH = 32768  # fused CUDA kernels put the batch on a grid axis of at most 65,535


def scaled_dot_product(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Attention of q (B, N, heads * D) over k, v (B, M, heads * D); returns (B, N, heads * D)."""
    if q.shape[0] > MAX_BATCH:
        parts = zip(q.split(MAX_BATCH), k.split(MAX_BATCH), v.split(MAX_BATCH))
        return torch.cat([scaled_dot_product(*part, heads) for part in parts])
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))  # (B, heads, N, D)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def explicit_product(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """The same as `scaled_dot_product` written out: faster on a CPU where tokens are few, quadratic in memory."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))  # (B, heads, N, D)
    weights = torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, dim=-1)
    return (weights.to(v.dtype) @ v).transpose(1, 2).flatten(2)


def remember(cache: dict | None, key, compute):
    """`compute()`, or what it gave before if the cache has it."""
    if cache is None:
        return compute()
    if key not in cache:
        cache[key] = compute()
    return cache[key]


class Attention(nn.Module):
    """Attention with the parameter names of diffusers' `Attention`; `attention(q, k, v, heads)` does the arithmetic."""

    def __init__(self, query_dim, context_dim, dim, heads, operations, attention, factory):
        super().__init__()
        self.heads = heads
        self.attention = attention
        self.to_q = operations.Linear(query_dim, dim, bias=False, **factory)
        self.to_k = operations.Linear(context_dim, dim, bias=False, **factory)
        self.to_v = operations.Linear(context_dim, dim, bias=False, **factory)
        self.to_out = nn.ModuleList([operations.Linear(dim, query_dim, **factory)])

    def forward(self, x: Tensor, context: Tensor | None = None, cache: dict | None = None) -> Tensor:
        """x (B, N, C) attends to context (B, M, C'), or to itself; `cache` keeps keys and values of the context."""
        context = x if context is None else context
        k, v = remember(cache, self, lambda: (self.to_k(context), self.to_v(context)))
        return self.to_out[0](self.attention(self.to_q(x), k, v, self.heads))
