"""Building blocks of the inflated U-Net. Inside, frames stand in the batch: (B * T, C, H, W)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import Attention
from .config import UNetConfig


def clip_norm(norm: nn.Module, x: Tensor, frames: int) -> Tensor:
    """GroupNorm with statistics over `frames` frames together, all of a clip. x: (B * T, C, H, W)."""
    if frames == 1:
        return norm(x)
    clips = x.unflatten(0, (-1, frames)).transpose(1, 2)  # (B, C, T, H, W)
    return norm(clips).transpose(1, 2).flatten(0, 1)


def start_at_zero(layer: nn.Module) -> None:
    """Zeroes a layer's parameters; a host's layer may have none before its weights are loaded."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


class ResnetBlock(nn.Module):
    """Two convolutions, the time embedding between them."""

    def __init__(self, in_channels, out_channels, config: UNetConfig, operations, factory):
        super().__init__()
        groups, eps = config.norm_num_groups, config.norm_eps
        self.scale_shift = config.resnet_time_scale_shift == "scale_shift"
        self.frame_norm = config.frame_norm
        time_dim = 4 * config.block_out_channels[0]
        self.norm1 = operations.GroupNorm(groups, in_channels, eps=eps, **factory)
        self.conv1 = operations.Conv2d(in_channels, out_channels, 3, padding=1, **factory)
        self.time_emb_proj = operations.Linear(time_dim, out_channels * (1 + self.scale_shift), **factory)
        self.norm2 = operations.GroupNorm(groups, out_channels, eps=eps, **factory)
        self.conv2 = operations.Conv2d(out_channels, out_channels, 3, padding=1, **factory)
        self.conv_shortcut = None
        if in_channels != out_channels:
            self.conv_shortcut = operations.Conv2d(in_channels, out_channels, 1, **factory)

    def forward(self, x: Tensor, time: Tensor, frames: int) -> Tensor:
        """x: (B * T, C, H, W), time: (B, D)."""
        together = 1 if self.frame_norm else frames
        h = self.conv1(F.silu(clip_norm(self.norm1, x, together)))
        time = self.time_emb_proj(F.silu(time)).repeat_interleave(frames, 0)[:, :, None, None]
        if self.scale_shift:
            scale, shift = time.chunk(2, dim=1)
            h = clip_norm(self.norm2, h, together) * (1 + scale) + shift
        else:
            h = clip_norm(self.norm2, h + time, together)
        h = self.conv2(F.silu(h))
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class GEGLU(nn.Module):
    def __init__(self, dim, inner, operations, factory):
        super().__init__()
        self.proj = operations.Linear(dim, 2 * inner, **factory)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """Linear, GEGLU, linear; the middle of `net` is where diffusers keeps a dropout."""

    def __init__(self, dim, operations, factory):
        super().__init__()
        inner = 4 * dim
        layers = [GEGLU(dim, inner, operations, factory), nn.Identity(), operations.Linear(inner, dim, **factory)]
        self.net = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.net:
            x = layer(x)
        return x


class TransformerBlock(nn.Module):
    """Self-attention, [language], cross-attention, temporal attention, feed-forward (LGVI, figure 4)."""

    def __init__(self, dim, config: UNetConfig, language, operations, attention, factory):
        super().__init__()
        text_dim = config.cross_attention_dim
        shared = (dim, config.attention_head_dim, operations, attention, factory)
        self.attn1 = Attention(dim, dim, *shared)
        self.norm1 = operations.LayerNorm(dim, **factory)
        self.lan_cross_attn = None
        if language:
            self.lan_cross_attn = Attention(text_dim, dim, *shared)
            self.lan_norm = operations.LayerNorm(text_dim, **factory)
        self.attn2 = Attention(dim, text_dim, *shared)
        self.norm2 = operations.LayerNorm(dim, **factory)
        self.attn_temp = None
        if config.temp_attn:
            self.attn_temp = Attention(dim, dim, *shared)
            self.norm_temp = operations.LayerNorm(dim, **factory)
            start_at_zero(self.attn_temp.to_out[0])
        self.ff = FeedForward(dim, operations, factory)
        self.norm3 = operations.LayerNorm(dim, **factory)

    def forward(self, x: Tensor, text: Tensor, frames: int, cache: dict | None) -> tuple[Tensor, Tensor]:
        """x: (B * T, H * W, C), text: (B, N, D) or, once it has seen the frames, (B * T, N, D); returns both."""
        x = x + self.attn1(self.norm1(x))
        if self.lan_cross_attn is not None:
            if text.shape[0] != x.shape[0]:
                text = text.repeat_interleave(frames, 0)
            text = text + self.lan_cross_attn(self.lan_norm(text), x)
            cache = None  # this text changes with the picture
        h = self.norm2(x).reshape(text.shape[0], -1, x.shape[-1])  # frames that share a text stand in one row
        x = x + self.attn2(h, text, cache).reshape(x.shape)
        if self.attn_temp is not None:
            h = self.norm_temp(x).unflatten(0, (-1, frames)).transpose(1, 2)  # (B, H * W, T, C)
            h = self.attn_temp(h.flatten(0, 1)).reshape(h.shape)
            x = x + h.transpose(1, 2).flatten(0, 1)
        return x + self.ff(self.norm3(x)), text


class Transformer(nn.Module):
    """A transformer block over the positions of each frame, between two 1x1 convolutions."""

    def __init__(self, channels, config: UNetConfig, language, operations, attention, factory):
        super().__init__()
        self.norm = operations.GroupNorm(config.norm_num_groups, channels, eps=1e-6, **factory)
        self.proj_in = operations.Conv2d(channels, channels, 1, **factory)
        block = TransformerBlock(channels, config, language, operations, attention, factory)
        self.transformer_blocks = nn.ModuleList([block])
        self.proj_out = operations.Conv2d(channels, channels, 1, **factory)

    def forward(self, x: Tensor, text: Tensor, frames: int, cache: dict | None) -> Tensor:
        """x: (B * T, C, H, W), text: (B, N, D)."""
        h = self.proj_in(self.norm(x)).flatten(2).transpose(1, 2)  # (B * T, H * W, C)
        for block in self.transformer_blocks:
            h, text = block(h, text, frames, cache)
        return x + self.proj_out(h.transpose(1, 2).reshape(x.shape))


class Downsample(nn.Module):
    def __init__(self, channels, operations, factory):
        super().__init__()
        self.conv = operations.Conv2d(channels, channels, 3, stride=2, padding=1, **factory)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Upsample(nn.Module):
    def __init__(self, channels, operations, factory):
        super().__init__()
        self.conv = operations.Conv2d(channels, channels, 3, padding=1, **factory)

    def forward(self, x: Tensor, size: torch.Size) -> Tensor:
        return self.conv(F.interpolate(x, size=size, mode="nearest"))
