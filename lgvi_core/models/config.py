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
    concatenates [noisy, condition] before the first convolution (InstructPix2Pix); one more than that concatenates
    [noisy, mask, masked video] and fills what the mask covers (Stable Diffusion for inpainting, CoCoCo).
    `attention_head_dim` is the number of heads, as in Stable Diffusion 1.5's own config. The options from
    `mask_channels` to `resnet_time_scale_shift` are in no paper; they are off in the public checkpoints.

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
    gate: bool = False  # (1 - g) * input + g * prediction, g from the mask; the model predicts the sample
    reuse: bool = False  # the gated prediction may take what surrounds the mask, and what other frames show there
    noise_ramp: bool = False  # noisy latents enter by 1 - t / (T - 1): not at all at the last timestep, pure noise
    num_train_timesteps: int = 1000  # T, of the noise ramp
    # Add a projection of each latent's place after the first convolution: in the frame, or beside what is to be filled.
    coordinates: bool = False
    pooled_text: bool = False  # add the mean of the text features to the time embedding
    resnet_time_scale_shift: str = "default"  # "scale_shift": the time embedding scales and shifts the second norm
    frame_norm: bool = False  # GroupNorm over each frame rather than over the clip (CoCoCo)
    motion_attention: tuple[str, ...] = ()  # attentions of the motion block behind every layer; see `motion`
    motion_heads: int = 8

    def __post_init__(self):
        levels = len(self.block_out_channels)
        out = self.out_channels
        if self.in_channels not in (out, 2 * out, 2 * out + 1):
            raise InputError(
                f"in_channels is {self.in_channels}; with out_channels {out} it must be {out} (added condition) "
                f"or {2 * out} (concatenated condition), or {2 * out + 1} (mask and masked video)"
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
            if self.motion_attention and channels % self.motion_heads:
                raise InputError(f"block_out_channels {channels} must be divisible by motion_heads {self.motion_heads}")
        if not set(self.motion_attention) <= set(MOTION_ATTENTION.values()):
            allowed = list(MOTION_ATTENTION.values())
            raise InputError(f"motion_attention is {list(self.motion_attention)}; allowed are {allowed} in any order")
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
        if self.noise_ramp and not (self.adds_condition or self.is_inpainting):
            wanted = f"in_channels {out} or {2 * out + 1}, not {self.in_channels}"
            raise InputError(f"noise_ramp needs an added condition, or a mask and masked video: {wanted}")
        if self.gate and not (self.has_mask_decoder or self.is_inpainting):
            raise InputError("gate is true but mask_decoder_type is null: the gate is made from the mask decoder")
        if self.reuse and not self.gate:
            raise InputError("reuse is true but gate is false: what is taken from elsewhere is blended in by the gate")
        if self.gate and not self.is_inpainting and self.out_channels % self.mask_upscale**2:
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

    @property
    def is_inpainting(self) -> bool:
        """Whether the U-Net takes a mask and the masked video, and fills what is masked."""
        return self.in_channels == 2 * self.out_channels + 1

    @classmethod
    def from_public(cls, public: dict) -> UNetConfig:
        """Config from a public `unet/config.json`, LGVI's or CoCoCo's, or from one of ours.

        Flags unknown here are ignored where they are false or null or have the only value that the architecture
        knows; any other is an `InputError` that names them.
        """
        public = {name: value for name, value in public.items() if not name.startswith("_")}
        if public.get("use_motion_module") and "motion_module_kwargs" in public:
            public = without_motion_flags(public)
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


def without_motion_flags(public: dict) -> dict:
    """A public config with CoCoCo's flags for motion blocks put in our terms; `InputError` names those not known."""
    levels = len(public.get("block_out_channels", UNetConfig.block_out_channels))
    motion = dict(public["motion_module_kwargs"])
    kinds, heads = motion.pop("attention_block_types", ()), motion.pop("num_attention_heads", None)
    width = public.get("cross_attention_dim", UNetConfig.cross_attention_dim)
    fixed = {
        "use_motion_module": True,
        "motion_module_type": "Vanilla",
        "motion_module_mid_block": True,
        "motion_module_decoder_only": False,
        "motion_module_resolutions": [2**level for level in range(levels)],
        "num_transformer_block": 1,
        "temporal_position_encoding": True,
        "temporal_attention_dim_div": 1,
        "text_cross_attention_dim": width,
    }
    flags = {name: value for name, value in public.items() if name in fixed} | motion
    wrong = [f"{name}={value!r}" for name, value in flags.items() if name in fixed and value != fixed[name]]
    wrong += [f"attention_block_types={kind!r}" for kind in kinds if kind not in MOTION_ATTENTION]
    wrong += [f"{name}={value!r}" for name, value in motion.items() if name not in fixed and name not in IGNORED]
    if wrong or not kinds or heads is None:
        raise InputError(
            f"this U-Net config asks for motion blocks that InflatedUNet does not have: {', '.join(wrong) or motion}"
        )
    ours = {name: value for name, value in public.items() if name not in (*fixed, "motion_module_kwargs")}
    ours["frame_norm"] = ours.pop("use_inflated_groupnorm", False)
    ours["motion_attention"] = [MOTION_ATTENTION[kind] for kind in kinds]
    return {"temp_attn": False, "mask_decoder_type": None, "motion_heads": heads, **ours}


# Attentions of a motion block as CoCoCo's config names them, and as ours does.
MOTION_ATTENTION = {
    "Temporal_Self": "temporal",
    "Temporal_Light_down_resize": "global",
    "Temporal_Text_Cross": "text",
}

# Tables grow with the clip, and nothing attends to pictures of its own.
IGNORED = ("temporal_position_encoding_max_len", "vision_cross_attention_dim")

# Flags of public configs that have one possible value here.
FIXED = {
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "downsample_padding": 1,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock3DCrossAttn",
    "act_fn": "silu",
}
