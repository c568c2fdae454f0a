"""LGVI as ComfyUI's own MODEL, CLIP and VAE.

    loaded = load(path)     # .model, .clip, .vae; None where the checkpoint has no such part
    info = lgvi_of(model)   # what an LGVI MODEL is and wants; InputError for any other MODEL

These two, their results and `MASK_SINK` are what other nodes use. CONDITIONING carries the video's latents as
`concat_latent_image`, as core's InstructPix2Pix conditioning does; without it a pass sees no video (zeros). For a MODEL
that fills (CoCoCo) it carries masked video and mask as core's InpaintModelConditioning does. LATENT is (T, C, H, W),
frames as the batch, or (B, C, T, H, W).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import comfy.conds
import comfy.ldm.modules.attention
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.supported_models_base
import torch
from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers
from torch import Tensor

from ..lgvi_core.checkpoints import Source, open_source, request_file
from ..lgvi_core.checkpoints.checkpoint import check_prediction
from ..lgvi_core.checkpoints.fitting import empty_unet, read_values, stored_dtype
from ..lgvi_core.editing import recommended
from ..lgvi_core.errors import InputError
from ..lgvi_core.models import InflatedUNet, UNetConfig
from ..lgvi_core.models.attention import MAX_BATCH
from . import host_text, host_vae
from .host_inpaint import mask_like, mask_of
from .host_sampling import make_model_sampling, sampling_settings
from .steering import check_steering, why_not

# Key of `transformer_options` for a callable sink(mask, transformer_options) that gets the mask of every model call:
# (B, 1, T, pH, pW) in [0, 1], B over the conds in `transformer_options["cond_or_uncond"]`, T the frames of the clip or,
# in context windows, those of `transformer_options["context_window"].index_list`.
MASK_SINK = "lgvi_mask_sink"


@dataclass(frozen=True)
class LGVIInfo:
    """What an LGVI MODEL is.

    training: `width`, `height` (pixels) and `frames` it was trained at, where known. sampling: recommended `steps`,
    `guidance_scale`, `image_guidance_scale` and `scheduler`. factor: pixels per latent and axis. mark: what a language
    model that steers it knows it by (`request_file.mark`).
    """

    config: UNetConfig
    path: Path
    factor: int
    mark: str
    scheduler_config: dict
    training: dict = field(default_factory=dict)
    sampling: dict = field(default_factory=dict)

    @property
    def has_mask_decoder(self) -> bool:
        return self.config.has_mask_decoder


@dataclass(frozen=True)
class Loaded:
    """A checkpoint as the host's own types; clip and vae are None where the checkpoint has no such part."""

    model: comfy.model_patcher.ModelPatcher
    clip: comfy.sd.CLIP | None
    vae: comfy.sd.VAE | None


def load(path: str | Path, dtype: torch.dtype | None = None, base: str | Path | None = None) -> Loaded:
    """The checkpoint at `path`, the U-Net's weights as `dtype` or as the host thinks best.

    base: Stable Diffusion 1.5 for inpainting, where CoCoCo's shards are without. Raises `InputError` as
    `checkpoints.load` does.
    """
    source = open_source(path, base)
    loaded = Loaded(_model(source, dtype), host_text.load_clip(source), host_vae.load_vae(source))
    origin = (str(path), None if base is None else str(base))
    loaded.model.cached_patcher_init = (load_model, (*origin, loaded.model.model.diffusion_model.dtype))
    if loaded.clip is not None:
        loaded.clip.patcher.cached_patcher_init = (load_clip_patcher, origin)
    if loaded.vae is not None:
        loaded.vae.patcher.cached_patcher_init = (load_vae_patcher, origin)
    return loaded


# What the host calls when it needs another copy.


def load_model(path: str, base: str | None, dtype: torch.dtype | None, disable_dynamic: bool = False):
    """The MODEL alone."""
    return _model(open_source(path, base), dtype, disable_dynamic)


def load_clip_patcher(path: str, base: str | None, disable_dynamic: bool = False):
    """The CLIP's ModelPatcher."""
    return host_text.load_clip(open_source(path, base), disable_dynamic).patcher


def load_vae_patcher(path: str, base: str | None, disable_dynamic: bool = False):
    """The VAE's ModelPatcher."""
    return host_vae.load_vae(open_source(path, base)).patcher


def lgvi_of(model) -> LGVIInfo:
    """What an LGVI MODEL is; `InputError` that says what `model` is instead."""
    inner = getattr(model, "model", model)
    if not isinstance(inner, LGVIModel):
        raise InputError(
            f"this MODEL is {type(inner).__name__}, not LGVI: connect the MODEL of Load LGVI, or one made from it"
        )
    return inner.lgvi


def _model(source: Source, dtype: torch.dtype | None, disable_dynamic: bool = False):
    unet, _ = empty_unet(source)  # checks names and shapes: the host itself only warns
    check_prediction(unet.config, source.scheduler_config, str(source.path))
    management = comfy.model_management
    weights = read_values({name: source.unet[name] for name in unet.state_dict()})
    info = LGVIInfo(
        unet.config,
        source.path,
        host_vae.factor(source),
        request_file.mark(weights),
        source.scheduler_config,
        source.training,
        recommended(unet.config, source.sampling),
    )
    device, offload_device = management.get_torch_device(), management.unet_offload_device()
    config = HostConfig(info, host_vae.latent_format(source))
    if dtype is None:
        stored = stored_dtype(source.unet, torch.device("meta"))
        size = sum(value.numel() for value in weights.values())
        dtype = management.unet_dtype(
            model_params=size, supported_dtypes=config.supported_inference_dtypes, weight_dtype=stored
        )
    compute = management.unet_manual_cast(dtype, device, config.supported_inference_dtypes)
    config.set_inference_dtype(dtype, compute, device=device)
    model = config.get_model(weights)
    patcher_class = comfy.model_patcher.ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher
    patcher = patcher_class(model, load_device=device, offload_device=offload_device)
    if not management.is_device_cpu(offload_device):
        model.to(offload_device)
    model.load_model_weights(weights, "", assign=patcher.is_dynamic())
    return patcher


class HostConfig(comfy.supported_models_base.BASE):
    """LGVI as the host describes a model."""

    unet_extra_config = {}

    def __init__(self, info: LGVIInfo, latent_format):
        super().__init__(info.config.to_dict())
        self.info = info
        self.latent_format = latent_format
        self.sampling_settings = sampling_settings(info.scheduler_config)
        # What the widest features take, beside Stable Diffusion 1.5's.
        self.memory_usage_factor = info.config.block_out_channels[0] / 320

    def get_model(self, state_dict, prefix="", device=None):
        return LGVIModel(self, device=device)

    def inpaint_model(self):
        return False


class LGVIModel(comfy.model_base.BaseModel):
    """The U-Net between the host's samplers and CONDITIONING."""

    def __init__(self, config: HostConfig, device=None):
        super().__init__(config, device=device, unet_model=HostUNet)
        self.lgvi = config.info
        self.model_sampling = make_model_sampling(config)
        self.found = self.diffusion_model.found

    def _apply_model(self, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **conds):
        options = {} if transformer_options is None else transformer_options
        sink = options.get(MASK_SINK)
        # As arguments: a network that is compiled does not look into transformer_options at every call.
        conds |= {"clips": len(options.get("cond_or_uncond", (0,))), "read_mask": sink is not None}
        self.found.mask = None
        denoised = super()._apply_model(x, t, c_concat, c_crossattn, control, options, **conds)
        mask, self.found.mask = self.found.mask, None
        if mask is not None:  # a cache of another node may have skipped the network
            sink(without_anchor(mask, options.get("context_window")), options)
        return denoised

    def extra_conds(self, **given):
        check_steering(given, self.lgvi.mark)
        if said := why_not([(None, given)]):
            raise InputError(f"{said}. There is nothing to sample; Video Inpaint Sampler would give the video back")
        out = super().extra_conds(**given)
        noise, text, video = given["noise"], given.get("cross_attn"), given.get("concat_latent_image")
        self._check_text(text, 1 if noise.ndim == 4 else noise.shape[0])
        if self.lgvi.config.is_inpainting:
            out["mask"] = comfy.conds.CONDNoiseShape(mask_like(noise, mask_of(given)))
        if video is None and self.lgvi.config.is_inpainting:
            video = given["latent_image"]  # the host has scaled it
        elif video is None:
            video = torch.zeros_like(noise)
        else:
            video = self.process_latent_in(video_like(noise, video.to(noise.device)))
        out["video"] = comfy.conds.CONDNoiseShape(video)
        return out

    def _check_text(self, text: Tensor | None, clips: int) -> None:
        width = self.lgvi.config.cross_attention_dim
        if text is None or text.ndim != 3 or text.shape[-1] != width:
            given = "none" if text is None else f"of shape {tuple(text.shape)}"
            raise InputError(
                f"the CONDITIONING's text features are {given}; this model takes (1, tokens, {width}): encode the "
                "prompt with the CLIP of the same Load LGVI node"
            )
        if text.shape[0] not in (1, clips):
            raise InputError(f"the CONDITIONING has {text.shape[0]} texts for {clips} clip(s): give one for each clip")


def video_like(noise: Tensor, video: Tensor) -> Tensor:
    """The video's latents in the layout of the noise, 4-D or 5-D; `InputError` if they are of another size."""
    given = video.shape
    if video.ndim == 4 and noise.ndim == 5:
        video = video.transpose(0, 1)[None]
    elif video.ndim == 5 and noise.ndim == 4 and video.shape[0] == 1:
        video = video[0].transpose(0, 1)
    if video.shape[1:] == noise.shape[1:] and video.shape[0] == 1:
        video = video.expand(noise.shape)
    if video.shape != noise.shape:
        raise InputError(
            f"the video in the CONDITIONING is {tuple(given)} latents, the LATENT to sample is {tuple(noise.shape)}: "
            "both must come from the same frames, VAE and size (LGVI Condition Encode gives both)"
        )
    return video


class HostAttention:
    """The host's attention; `options` are the `transformer_options` of the model call that is running."""

    def __init__(self):
        self.options = {}

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        if q.shape[0] > MAX_BATCH:
            parts = zip(q.split(MAX_BATCH), k.split(MAX_BATCH), v.split(MAX_BATCH))
            return torch.cat([self(*part, heads) for part in parts])
        attention = comfy.ldm.modules.attention.optimized_attention  # looked up here: other packs replace it
        return attention(q, k, v, heads, transformer_options=self.options)


class Found:
    """Where the network leaves the mask (B, 1, T, pH, pW) of its last call, if it was asked for one."""

    mask: Tensor | None = None


class HostUNet(InflatedUNet):
    """`InflatedUNet` as the host calls a diffusion model; `dtype` is the weights' type."""

    dtype: torch.dtype | None = None  # in place of the property: the host's weights may not be there yet

    def __init__(self, dtype=None, device=None, operations=None, **config):
        attention = HostAttention()
        super().__init__(UNetConfig.from_public(config), operations, attention, dtype, device)
        self.host_attention = attention
        self.found = Found()
        self.dtype = dtype

    def forward(self, x, timesteps, context=None, control=None, transformer_options=None, **conds):
        """x, video, mask: (B * T, C, H, W) with B `clips` that run together, or (B, C, T, H, W); see `_forward`."""
        transformer_options = {} if transformer_options is None else transformer_options
        wrappers = get_all_wrappers(WrappersMP.DIFFUSION_MODEL, transformer_options)
        executor = WrapperExecutor.new_class_executor(self._forward, self, wrappers)
        return executor.execute(x, timesteps, context, control, transformer_options, **conds)

    def _forward(
        self, x, timesteps, context, control, transformer_options, *, video, mask=None, clips=1, read_mask=False, **_
    ):
        frames_as_batch = x.ndim == 4
        seen = {"condition": video} if mask is None else {"masked_video": video, "mask": mask}
        if frames_as_batch:
            frames = x.shape[0] // clips
            x = x.unflatten(0, (clips, frames)).transpose(1, 2)
            seen = {name: part.unflatten(0, (clips, frames)).transpose(1, 2) for name, part in seen.items()}
            timesteps, context = timesteps[::frames], context[::frames]
        self.host_attention.options = transformer_options
        try:
            out = super().forward(x, timesteps, context, **seen, return_mask=read_mask)
        finally:
            self.host_attention.options = {}
        if read_mask:
            out, self.found.mask = out
        return out.transpose(1, 2).flatten(0, 1) if frames_as_batch else out


def without_anchor(mask: Tensor, window) -> Tensor:
    """The mask of a context window's own frames: the host may put one more frame in front, to be thrown away."""
    return mask if window is None else mask[:, :, -len(window.index_list) :]
