"""What an inflated U-Net looks like, as data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from ..errors import InputError

DOWN_BLOCKS = ("CrossAttnDownBlock3D", "DownBlock3D")
UP_BLOCKS = ("CrossAttnUpBlock3D", "UpBlock3D")


@dataclass(frozen=True)
class UNetConfig:
    """Shape of an `InflatedUNet`. The defaults are LGVI's at Stable Diffusion 1.5 size.

    `in_channels` equal to `out_channels` adds the condition video after a convolution of its own; twice as many
    concatenates [noisy, condition] before the first convolution (InstructPix2Pix). `attention_head_dim` is the number
    of heads, as in Stable Diffusion 1.5's own config. The options from `mask_channels` on are not in the paper; they
    are off in the public checkpoints.

    Raises `InputError` that names the values which do not go together.
    """

    in_channels: int = 4
    out_channels: int = 4
    sample_size: int = 64
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    down_block_types: tuple[str, ...] = ("CrossAttnDownBlock3D",) * 3 + ("DownBlock3D",)
    up_block_types: tuple[str, ...] = ("UpBlock3D",) + ("CrossAttnUpBlock3D",) * 3
    layers_per_block: int = 2
    cross_attention_dim: int = 768
    attention_head_dim: int = 8
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    temp_attn: bool = True
    lan_cross_attn: bool = False
    mask_decoder_type: str | None = "MaskDecoder"
    mask_channels: int = 512  # width inside the mask decoder
    mask_norm_groups: int = 32
    mask_upscale: int = 1  # mask pixels per latent pixel and axis
    gate: bool = False  # output (1 - g) * condition + g * prediction, g from the mask; the model predicts the sample
    frame_copy: bool = False  # the gated prediction may take what other frames of the condition show at the same place
    noise_ramp: bool = False  # noisy latents enter by 1 - t / (T - 1): not at all at the last timestep, pure noise
    num_train_timesteps: int = 1000  # T, of the noise ramp
    coordinates: bool = False  # add a projection of each latent's place in the frame after the first convolution
    pooled_text: bool = False  # add the mean of the text features to the time embedding
    resnet_time_scale_shift: str = "default"  # "scale_shift": the time embedding scales and shifts the second norm

    def __post_init__(self):
        levels = len(self.block_out_channels)
        if self.in_channels not in (self.out_channels, 2 * self.out_channels):
            raise InputError(
                f"in_channels is {self.in_channels}; with out_channels {self.out_channels} it must be "
                f"{self.out_channels} (added condition) or {2 * self.out_channels} (concatenated condition)"
            )
        for name, allowed in (("down_block_types", DOWN_BLOCKS), ("up_block_types", UP_BLOCKS)):
            types = getattr(self, name)
            if len(types) != levels or not set(types) <= set(allowed):
                raise InputError(f"{name} is {list(types)}; it must name {levels} blocks out of {list(allowed)}")
        for channels in self.block_out_channels:
            if channels % self.norm_num_groups or channels % self.attention_head_dim:
                raise InputError(
                    f"block_out_channels {channels} must be divisible by norm_num_groups {self.norm_num_groups} "
                    f"and by the {self.attention_head_dim} heads of attention_head_dim"
                )
        if self.mask_channels % self.mask_norm_groups:
            raise InputError(
                f"mask_channels {self.mask_channels} must be divisible by mask_norm_groups {self.mask_norm_groups}"
            )
        if self.mask_decoder_type not in (None, "MaskDecoder"):
            raise InputError(f"mask_decoder_type is {self.mask_decoder_type!r}; known: 'MaskDecoder' or null")
        if self.resnet_time_scale_shift not in ("default", "scale_shift"):
            raise InputError(
                f"resnet_time_scale_shift is {self.resnet_time_scale_shift!r}; known: 'default', 'scale_shift'"
            )
        if self.noise_ramp and not self.adds_condition:
            wanted = f"in_channels {self.out_channels}, not {self.in_channels}"
            raise InputError(f"noise_ramp needs an added condition: {wanted}")
        if self.gate and not self.has_mask_decoder:
            raise InputError("gate is true but mask_decoder_type is null: the gate is made from the mask decoder")
        if self.frame_copy and not self.gate:
            raise InputError("frame_copy is true but gate is false: what is copied is blended in by the gate's mask")
        if self.gate and self.out_channels % self.mask_upscale**2:
            raise InputError(
                f"gate with mask_upscale {self.mask_upscale} needs out_channels divisible by {self.mask_upscale**2}, "
                f"not {self.out_channels}"
            )

    @property
    def has_mask_decoder(self) -> bool:
        return self.mask_decoder_type is not None

    @property
    def adds_condition(self) -> bool:
        """Whether the condition enters through a convolution of its own rather than by concatenation."""
        return self.in_channels == self.out_channels

    @classmethod
    def from_public(cls, public: dict) -> UNetConfig:
        """Config from a public `unet/config.json`, or from one of ours.

        Flags unknown here are ignored where they are false or null or have the only value that the architecture
        knows; any other is an `InputError` that names them.
        """
        public = {name: value for name, value in public.items() if not name.startswith("_")}
        fields = {field.name for field in dataclasses.fields(cls)}
        refused = {
            name: value
            for name, value in public.items()
            if name not in fields and value not in (None, False) and value != FIXED.get(name)
        }
        if refused:
            listed = ", ".join(f"{name}={value!r}" for name, value in sorted(refused.items()))
            raise InputError(f"this U-Net config asks for what InflatedUNet does not have: {listed}")
        known = {
            name: tuple(value) if isinstance(value, list) else value for name, value in public.items() if name in fields
        }
        return cls(**known)

    def to_dict(self) -> dict:
        """Plain values, as JSON keeps them."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(self).items()}


# Flags of public configs that have one possible value here.
FIXED = {
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "downsample_padding": 1,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock3DCrossAttn",
    "act_fn": "silu",
}
