"""The mask decoder: what the U-Net's up-blocks know of the region that changes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import clip_norm


class MaskProject(nn.Module):
    """Two convolutions per frame with GroupNorm over the clip, one over time with GroupNorm per position; ReLU."""

    def __init__(self, in_channels, channels, groups, operations, factory):
        super().__init__()
        self.conv1 = operations.Conv2d(in_channels, channels, 3, padding=1, bias=False, **factory)
        self.norm1 = operations.GroupNorm(groups, channels, **factory)
        self.conv2 = operations.Conv2d(channels, channels, 3, padding=1, bias=False, **factory)
        self.norm2 = operations.GroupNorm(groups, channels, **factory)
        self.conv_temp = operations.Conv1d(channels, channels, 3, padding=1, bias=False, **factory)
        self.norm_temp = operations.GroupNorm(groups, channels, **factory)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """x: (B * T, C, H, W)."""
        x = F.relu(clip_norm(self.norm1, self.conv1(x), frames))
        x = F.relu(clip_norm(self.norm2, self.conv2(x), frames))
        size = x.shape[-2:]
        lines = x.unflatten(0, (-1, frames)).permute(0, 3, 4, 2, 1).flatten(0, 2)  # (B * H * W, C, T)
        lines = F.relu(self.norm_temp(self.conv_temp(lines)))
        return lines.unflatten(0, (-1, *size)).permute(0, 4, 3, 1, 2).flatten(0, 1)


class MaskDecoder(nn.Module):
    """Mask logits from the outputs of the up-blocks, coarse to fine (LGVI, section 4.1)."""

    def __init__(self, in_channels, channels, groups, upscale, operations, factory):
        super().__init__()
        self.upscale = upscale
        widths = [in_channels[0], *(channels + width for width in in_channels[1:])]
        self.projects = nn.ModuleList(MaskProject(width, channels, groups, operations, factory) for width in widths)
        self.final_conv = operations.Conv2d(channels, upscale**2, 1, **factory)

    def forward(self, features: list[Tensor], frames: int) -> Tensor:
        """features: (B * T, C_i, H_i, W_i), the last at latent size; returns logits (B * T, upscale ** 2, H, W)."""
        h = self.projects[0](features[0], frames)
        for project, feature in zip(self.projects[1:], features[1:]):
            h = F.interpolate(h, size=feature.shape[-2:], mode="nearest")
            h = project(torch.cat([h, feature], dim=1), frames)
        return self.final_conv(h)
