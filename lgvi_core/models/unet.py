"""The inflated U-Net: Stable Diffusion's, looking at all frames of a clip, steered by words, with a mask decoder."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import InputError
from .attention import remember, scaled_dot_product
from .blocks import Downsample, ResnetBlock, Transformer, Upsample, clip_norm, start_at_zero
from .config import UNetConfig
from .mask_decoder import MaskDecoder
from .motion import MotionBlock
from .reuse import Reuse


class InflatedUNet(nn.Module):
    """The U-Net of LGVI (arXiv 2401.10226, section 4.1) and of CoCoCo (arXiv 2403.12035); what differs is in `config`.

    Parameter names are the public checkpoints'. `operations` supplies Conv1d, Conv2d, Linear, GroupNorm and LayerNorm;
    `attention(q, k, v, heads)` works on (B, N, heads * D). A host can supply its own of both.
    `gradient_checkpointing` trades time for memory in training.
    """

    def __init__(self, config: UNetConfig, operations=nn, attention=scaled_dot_product, dtype=None, device=None):
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        factory = {"dtype": dtype, "device": device}
        channels = config.block_out_channels
        time_dim = 4 * channels[0]

        self.conv_in = operations.Conv2d(config.in_channels, channels[0], 3, padding=1, **factory)
        if config.adds_condition:
            self.condition_conv_in = operations.Conv2d(config.out_channels, channels[0], 3, padding=1, **factory)
            start_at_zero(self.condition_conv_in)
        if config.coordinates:
            self.coordinate_conv_in = operations.Conv2d(2, channels[0], 1, **factory)
        self.time_embedding = TimeEmbedding(channels[0], time_dim, operations, factory)
        if config.pooled_text:
            self.text_embedding = TimeEmbedding(config.cross_attention_dim, time_dim, operations, factory)

        def resnet(in_channels, out_channels):
            return ResnetBlock(in_channels, out_channels, config, operations, factory)

        def transformer(width, language=config.lan_cross_attn):
            return Transformer(width, config, language, operations, attention, factory)

        def motion_blocks(width, count):
            if not config.motion_attention:
                return None
            return nn.ModuleList(MotionBlock(width, config, operations, attention, factory) for _ in range(count))

        self.down_blocks = nn.ModuleList()
        skips = [channels[0]]
        width = channels[0]
        for level, (kind, out) in enumerate(zip(config.down_block_types, channels)):
            block = nn.Module()
            block.resnets = nn.ModuleList()
            block.attentions = nn.ModuleList()
            for _ in range(config.layers_per_block):
                block.resnets.append(resnet(width, out))
                if kind.startswith("CrossAttn"):
                    block.attentions.append(transformer(out))
                width = out
                skips.append(width)
            block.motion_modules = motion_blocks(out, config.layers_per_block)
            if level + 1 < len(channels):
                block.downsamplers = nn.ModuleList([Downsample(width, operations, factory)])
                skips.append(width)
            self.down_blocks.append(block)

        self.mid_block = nn.Module()
        self.mid_block.resnets = nn.ModuleList([resnet(width, width), resnet(width, width)])
        self.mid_block.attentions = nn.ModuleList([transformer(width, language=False)])
        self.mid_block.motion_modules = motion_blocks(width, 1)

        self.up_blocks = nn.ModuleList()
        for level, (kind, out) in enumerate(zip(config.up_block_types, reversed(channels))):
            block = nn.Module()
            block.resnets = nn.ModuleList()
            block.attentions = nn.ModuleList()
            for _ in range(config.layers_per_block + 1):
                block.resnets.append(resnet(width + skips.pop(), out))
                if kind.startswith("CrossAttn"):
                    block.attentions.append(transformer(out))
                width = out
            block.motion_modules = motion_blocks(out, config.layers_per_block + 1)
            if level + 1 < len(channels):
                block.upsamplers = nn.ModuleList([Upsample(width, operations, factory)])
            self.up_blocks.append(block)

        self.conv_norm_out = operations.GroupNorm(config.norm_num_groups, width, eps=config.norm_eps, **factory)
        self.conv_out = operations.Conv2d(width, config.out_channels, 3, padding=1, **factory)
        # The decoder looks at the up-blocks from the first with attention on: three of Stable Diffusion's four.
        attends = [kind.startswith("CrossAttn") for kind in config.up_block_types]
        self.first_mask_block = attends.index(True) if any(attends) else 0
        self.mask_decoder = None
        if config.has_mask_decoder:
            inputs = list(reversed(channels))[self.first_mask_block :]
            groups, upscale = config.mask_norm_groups, config.mask_upscale
            self.mask_decoder = MaskDecoder(inputs, config.mask_channels, groups, upscale, operations, factory)
        if config.gate and not config.is_inpainting:
            self.gate_conv_out = operations.Conv2d(width, config.mask_upscale**2, 3, padding=1, **factory)
        if config.reuse:
            self.reuse = Reuse(width, operations, factory)

    @property
    def dtype(self) -> torch.dtype:
        return self.conv_in.weight.dtype

    def forward(
        self,
        noisy: Tensor,
        timestep: Tensor | int | float,
        text: Tensor,
        condition: Tensor | None = None,
        mask: Tensor | None = None,
        masked_video: Tensor | None = None,
        return_mask: bool = False,
        cache: dict | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The model's prediction (B, C, T, H, W), and with `return_mask` the mask (B, 1, T, pH, pW) in [0, 1].

        noisy, condition: (B, C, T, H, W) latents of any H and W, condition None for zeros. timestep: one, or (B,).
        text: (B, N, D). p is `config.mask_upscale`. `cache` is a dict that the caller keeps for as long as text and
        condition stay the same (the steps of one clip): what depends on them alone is then computed once.

        Where `config.is_inpainting`, `mask` (B, 1, T, H, W), 1 = fill, and `masked_video`, latents like noisy of the
        video whose masked pixels are zero, stand in place of the condition; elsewhere they are refused.

        Raises `InputError` where shapes do not fit, an input belongs to the other family, or a mask is asked of a
        U-Net without a mask decoder.
        """
        config = self.config
        timestep = torch.as_tensor(timestep, device=noisy.device)
        self._check(noisy, timestep, text, condition, mask, masked_video, return_mask)
        batch, _, frames, height, width = noisy.shape

        time = self.time_embedding(sinusoid(timestep.expand(batch), config.block_out_channels[0]).to(noisy.dtype))
        if config.pooled_text:
            time = time + self.text_embedding(text.mean(dim=1))

        def in_frames(x):
            return x.transpose(1, 2).flatten(0, 1)  # (B * T, C, H, W) from here on

        ramp = 1.0
        if config.noise_ramp:
            ramp = 1 - timestep.expand(batch).to(noisy) / (config.num_train_timesteps - 1)
            ramp = ramp.repeat_interleave(frames, 0)[:, None, None, None]
        x = in_frames(noisy)
        if config.is_inpainting:
            source, holes = in_frames(masked_video), in_frames(mask).to(x)
            x = self.conv_in(torch.cat([x * ramp, holes, source], dim=1))
        else:
            source = in_frames(torch.zeros_like(noisy) if condition is None else condition)
            if config.adds_condition:
                x = self.conv_in(x) * ramp + remember(cache, "condition", lambda: self.condition_conv_in(source))
            else:
                x = self.conv_in(torch.cat([x, source], dim=1))

        if config.coordinates:
            place = beside(holes) if config.is_inpainting else places(height, width)
            x = x + self.coordinate_conv_in(place.to(x))

        skips = [x]
        for block in self.down_blocks:
            for i in range(len(block.resnets)):
                x = self._layer(block, i, x, time, text, frames, cache)
                skips.append(x)
            if hasattr(block, "downsamplers"):
                x = block.downsamplers[0](x)
                skips.append(x)

        x = self._layer(self.mid_block, 0, x, time, text, frames, cache)
        x = self.mid_block.resnets[1](x, time, frames)

        features = []
        for block in self.up_blocks:
            for i in range(len(block.resnets)):
                x = torch.cat([x, skips.pop()], dim=1)
                x = self._layer(block, i, x, time, text, frames, cache)
            if hasattr(block, "upsamplers"):
                x = block.upsamplers[0](x, skips[-1].shape[-2:])
            features.append(x)

        h = F.silu(clip_norm(self.conv_norm_out, x, 1 if config.frame_norm else frames))
        prediction = self.conv_out(h)
        finds_mask = return_mask or (config.gate and not config.is_inpainting)
        logits = self.mask_decoder(features[self.first_mask_block :], frames) if finds_mask else None
        if config.gate:
            if config.is_inpainting:
                gate = covered = F.max_pool2d(holes, 3, stride=1, padding=1)  # latents that the mask cuts through, too
            else:
                covered = torch.sigmoid(logits.detach()).amax(1, keepdim=True)
                gate = torch.sigmoid(grow(logits.detach(), config.mask_upscale) + self.gate_conv_out(h))
                gate = gate.repeat(1, config.out_channels // gate.shape[1], 1, 1)
            if config.reuse:
                prediction = self.reuse(h, prediction, source, covered, frames)
            prediction = source + gate * (prediction - source)
        prediction = prediction.unflatten(0, (batch, frames)).transpose(1, 2)
        if not return_mask:
            return prediction
        probability = F.pixel_shuffle(torch.sigmoid(logits.float()), config.mask_upscale)
        return prediction, probability.unflatten(0, (batch, frames)).transpose(1, 2)

    def _layer(self, block, i, x, time, text, frames, cache):
        """The resnet block `i` of a block, and the transformer and the motion block behind it, if there are any."""

        def run(x, time, text):
            x = block.resnets[i](x, time, frames)
            for behind in (block.attentions, block.motion_modules):
                if behind:
                    x = behind[i](x, text, frames, cache)
            return x

        if self.gradient_checkpointing and self.training:
            return checkpoint(run, x, time, text, use_reentrant=False)
        return run(x, time, text)

    def _check(self, noisy, timestep, text, condition, mask, masked_video, return_mask):
        channels = self.config.out_channels
        if noisy.ndim != 5 or noisy.shape[1] != channels:
            raise InputError(
                f"noisy latents are {tuple(noisy.shape)}; expected (batch, {channels}, frames, height, width)"
            )
        if self.config.is_inpainting:
            self._check_inpainting(noisy, condition, mask, masked_video)
        elif mask is not None or masked_video is not None:
            raise InputError("this U-Net takes no mask channels: mask and masked_video belong to the inpainting family")
        if condition is not None and condition.shape != noisy.shape:
            raise InputError(f"condition is {tuple(condition.shape)} but the noisy latents are {tuple(noisy.shape)}")
        if timestep.shape not in ((), (1,), noisy.shape[:1]):
            expected = f"one number, or one for each of the {noisy.shape[0]} clips"
            raise InputError(f"timestep is {tuple(timestep.shape)}; expected {expected}")
        if text.ndim != 3 or text.shape[0] != noisy.shape[0] or text.shape[2] != self.config.cross_attention_dim:
            expected = (noisy.shape[0], "tokens", self.config.cross_attention_dim)
            raise InputError(f"text features are {tuple(text.shape)}; expected {expected}")
        if return_mask and self.mask_decoder is None:
            raise InputError("a mask was asked for, but this checkpoint has no mask decoder")

    @staticmethod
    def _check_inpainting(noisy, condition, mask, masked_video):
        if condition is not None or mask is None or masked_video is None:
            raise InputError("this U-Net fills a masked region: it takes mask and masked_video, and no condition")
        one_channel = (noisy.shape[0], 1, *noisy.shape[2:])
        for name, value, expected in (("mask", mask, one_channel), ("masked_video", masked_video, tuple(noisy.shape))):
            if tuple(value.shape) != expected:
                raise InputError(f"{name} is {tuple(value.shape)}; expected {expected} beside the noisy latents")


class TimeEmbedding(nn.Module):
    def __init__(self, in_dim, dim, operations, factory):
        super().__init__()
        self.linear_1 = operations.Linear(in_dim, dim, **factory)
        self.linear_2 = operations.Linear(dim, dim, **factory)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(x)))


def sinusoid(timestep: Tensor, dim: int) -> Tensor:
    """Sinusoidal embedding (B, dim) of timesteps (B,): cosines, then sines, in float32 (Stable Diffusion's)."""
    frequencies = torch.exp(torch.arange(dim // 2, device=timestep.device) * (-math.log(10000) / (dim // 2)))
    angles = timestep[:, None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def places(height: int, width: int) -> Tensor:
    """Each latent's place (1, 2, H, W): x and y from -1 to 1 between the frame's edges."""
    axes = ((2 * torch.arange(side) + 1) / side - 1 for side in (height, width))
    return torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1])[None]


def beside(holes: Tensor) -> Tensor:
    """Each latent's place (N, 2, H, W), x and y in eighths of the frame from the middle of the box around the hole.

    holes: (N, 1, H, W), 1 = fill. All zero where a frame has no hole.
    """
    grid, inside = places(*holes.shape[-2:]).to(holes), holes > 0.5
    high = torch.where(inside, grid, -torch.inf).amax((2, 3), keepdim=True)
    low = torch.where(inside, grid, torch.inf).amin((2, 3), keepdim=True)
    return torch.where(inside.any(-1, keepdim=True).any(-2, keepdim=True), 4 * (grid - (low + high) / 2), 0.0)


def grow(logits: Tensor, upscale: int) -> Tensor:
    """Largest logit of each mask pixel's 3x3 neighbourhood. logits: (N, upscale ** 2, H, W), pixel-unshuffled."""
    return F.pixel_unshuffle(F.max_pool2d(F.pixel_shuffle(logits, upscale), 3, stride=1, padding=1), upscale)
