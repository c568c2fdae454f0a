"""Motion blocks: what joins the frames of a clip behind every layer of an image U-Net (CoCoCo, AnimateDiff)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import Attention, remember
from .blocks import FeedForward, start_at_zero
from .config import UNetConfig

DAMPED_HEIGHT = 12  # rows of a feature map that global attention sees at most


class MotionBlock(nn.Module):
    """The attentions that `config.motion_attention` names over a clip, each pre-norm and residual, then a feed-forward.

    CoCoCo (arXiv 2403.12035, figure 3). The output starts at zero: a new block changes nothing.
    """

    def __init__(self, channels, config: UNetConfig, operations, attention, factory):
        super().__init__()
        self.temporal_transformer = MotionTransformer(channels, config, operations, attention, factory)

    def forward(self, x: Tensor, text: Tensor, frames: int, cache: dict | None) -> Tensor:
        """x: (B * T, C, H, W), text: (B, N, D)."""
        return self.temporal_transformer(x, text, frames, cache)


class MotionTransformer(nn.Module):
    def __init__(self, channels, config: UNetConfig, operations, attention, factory):
        super().__init__()
        self.norm = operations.GroupNorm(config.norm_num_groups, channels, eps=1e-6, **factory)
        self.proj_in = operations.Linear(channels, channels, **factory)
        self.transformer_blocks = nn.ModuleList([MotionLayers(channels, config, operations, attention, factory)])
        self.proj_out = operations.Linear(channels, channels, **factory)
        start_at_zero(self.proj_out)

    def forward(self, x: Tensor, text: Tensor, frames: int, cache: dict | None) -> Tensor:
        size = x.shape[-2:]
        h = self.proj_in(self.norm(x).flatten(2).transpose(1, 2))  # (B * T, H * W, C)
        h = h.unflatten(0, (-1, frames)).unflatten(2, size)  # (B, T, H, W, C)
        for block in self.transformer_blocks:
            h = block(h, text, cache)
        h = self.proj_out(h).flatten(0, 1)
        return x + h.permute(0, 3, 1, 2)


class MotionLayers(nn.Module):
    """The sub-layers, by name: "temporal", "global" and "text" in any number and order."""

    def __init__(self, dim, config: UNetConfig, operations, attention, factory):
        super().__init__()
        self.attend = [ATTEND[kind] for kind in config.motion_attention]
        widths = [config.cross_attention_dim if kind == "text" else dim for kind in config.motion_attention]
        shared = (dim, config.motion_heads, operations, attention, factory)
        self.attention_blocks = nn.ModuleList(Attention(dim, width, *shared) for width in widths)
        self.norms = nn.ModuleList(operations.LayerNorm(dim, **factory) for _ in widths)
        self.ff = FeedForward(dim, operations, factory)
        self.ff_norm = operations.LayerNorm(dim, **factory)

    def forward(self, x: Tensor, text: Tensor, cache: dict | None) -> Tensor:
        """x: (B, T, H, W, C), text: (B, N, D)."""
        for attend, block, norm in zip(self.attend, self.attention_blocks, self.norms):
            x = x + attend(block, norm(x), text, cache)
        return x + self.ff(self.ff_norm(x))


def over_time(block: Attention, x: Tensor, text: Tensor, cache: dict | None) -> Tensor:
    """Temporal self-attention: each position attends to itself in all frames."""
    rows = x.flatten(2, 3).transpose(1, 2)  # (B, H * W, T, C)
    h = block((rows + positions(rows.shape[2], x, cache)).flatten(0, 1))
    return h.reshape(rows.shape).transpose(1, 2).reshape(x.shape)


def everywhere(block: Attention, x: Tensor, text: Tensor, cache: dict | None) -> Tensor:
    """Damped global attention: all frames and positions at once, of a map that is at most 12 rows high (section 3.3).

    Exact over those tokens; how much memory it takes is the attention function's.
    """
    batch, frames, height, width, _ = x.shape
    damped = height > DAMPED_HEIGHT
    if damped:
        x = resize(x, DAMPED_HEIGHT, max(1, int(DAMPED_HEIGHT / height * width)))
    tokens = x.flatten(1, 3)  # (B, T * h * w, C)
    h = block(tokens + positions(tokens.shape[1], x, cache)).reshape(x.shape)
    return resize(h, height, width) if damped else h


def to_words(block: Attention, x: Tensor, text: Tensor, cache: dict | None) -> Tensor:
    """Textual cross-attention: every position of every frame attends to the words."""
    h = x + positions(x.shape[1], x, cache)[:, None, None]
    return block(h.flatten(1, 3), text, cache).reshape(x.shape)


ATTEND = {"temporal": over_time, "global": everywhere, "text": to_words}


def resize(x: Tensor, height: int, width: int) -> Tensor:
    """A map (B, T, H, W, C) at another size, nearest neighbour."""
    h = F.interpolate(x.flatten(0, 1).permute(0, 3, 1, 2), (height, width), mode="nearest")
    return h.permute(0, 2, 3, 1).unflatten(0, x.shape[:2])


def positions(length: int, like: Tensor, cache: dict | None = None) -> Tensor:
    """Sinusoidal table (length, C) of any length, for a tensor (..., C): sine and cosine in turn (arXiv 1706.03762)."""
    channels = like.shape[-1]

    def table():
        frequencies = torch.exp(torch.arange(0, channels, 2, device=like.device) * (-math.log(10000) / channels))
        angles = torch.arange(length, device=like.device)[:, None] * frequencies
        return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :channels].to(like.dtype)

    return remember(cache, ("positions", length, channels, like.dtype), table)
