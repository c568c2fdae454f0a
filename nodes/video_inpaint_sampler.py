"""The whole way in one node: a video and words in; out comes the video without what they name, or filled with it."""

from __future__ import annotations

import hashlib
import logging

import comfy.model_management
import comfy.samplers
import numpy as np
import torch
from comfy_api.latest import io

from ..lgvi_core import masks
from ..lgvi_core.editing import Edge, Windows, edit, mask_of, put_into
from ..lgvi_core.errors import InputError
from ..lgvi_core.user_mask import is_soft, notes
from . import inputs
from .frames import Clip
from .host import LGVIInfo, lgvi_of
from .host_editing import (
    HostModel,
    Identity,
    LastResult,
    check_parts,
    encode_words,
    same,
    stop_if_interrupted,
    working_size,
)
from .host_sampling import ddim
from .preview_video import show_video

logger = logging.getLogger(__name__)

OWN_SAMPLER = "ddim (LGVI)"
OWN_SCHEDULER = "checkpoint's own"
PRESETS = {"checkpoint's own": 1, "fast": 1 / 3, "best": 2}  # times the steps that the checkpoint recommends
last_edit = LastResult()


class VideoInpaintSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        def pixels(name, tooltip):
            return io.Float.Input(name, default=-1.0, min=-1.0, max=1024.0, step=0.5, advanced=True, tooltip=tooltip)

        def scale(name, default, tooltip):
            return io.Float.Input(name, default=default, min=0.0, max=30.0, step=0.1, round=0.01, tooltip=tooltip)

        custom = [
            io.Int.Input("steps", default=50, min=1, max=1000, tooltip="Denoising steps in each window of frames."),
            scale("guidance", 3.0, "How strongly the words steer. At most 1: no guidance, a third of the time."),
            scale("image_guidance", 1.5, "How closely the result keeps to the video. Below 1: no guidance at all."),
        ]
        presets = {name: [] for name in PRESETS} | {"custom": custom}
        return io.Schema(
            node_id="LGVIVideoInpaintSampler",
            display_name="Video Inpaint Sampler",
            category="lgvi",
            description="Removes from a video what the words name (LGVI), or fills a mask with what they say (CoCoCo). "
            "Any length and size; sound, frame rate and every pixel outside of the mask stay as they are.",
            search_aliases=["remove object from video", "video inpainting", "erase", "fill mask", "lgvi", "cococo"],
            is_output_node=True,
            inputs=[
                *inputs.parts(),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where to remove or fill, 1 = change: a mask for each frame, or one for all, of the "
                    "video's size. Without it an LGVI model finds the mask; one that fills needs it.",
                ),
                *inputs.words(),
                io.DynamicCombo.Input(
                    "preset",
                    options=[io.DynamicCombo.Option(name, widgets) for name, widgets in presets.items()],
                    tooltip="checkpoint's own: steps and guidance that the checkpoint recommends. fast: a third of the "
                    "steps. best: twice the steps. custom: your own.",
                ),
                io.Combo.Input(
                    "sampler",
                    options=[OWN_SAMPLER, *comfy.samplers.SAMPLER_NAMES],
                    advanced=True,
                    tooltip="ddim (LGVI): the numbers of LGVI's command line with DDIM. The others are ComfyUI's.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=[OWN_SCHEDULER, *comfy.samplers.SCHEDULER_NAMES],
                    advanced=True,
                    tooltip="How the noise levels are spaced. checkpoint's own: as the checkpoint was trained for.",
                ),
                *inputs.cutting(),
                pixels("dilation", "Grow the mask by so many pixels of the video. -1: by how coarse the mask is."),
                pixels("feather", "Soften the edge of the grown mask over so many pixels. -1: half of the dilation."),
                io.Boolean.Input(
                    "keep_untouched",
                    default=True,
                    advanced=True,
                    tooltip="Keep the video's own pixels outside of the grown mask. Off: the model's everywhere.",
                ),
                io.Conditioning.Input(
                    "negative",
                    optional=True,
                    tooltip="For a model that fills: what is not wanted, in place of the negative prompt.",
                ),
                io.String.Input(
                    "negative_prompt",
                    default="",
                    multiline=True,
                    optional=True,
                    advanced=True,
                    tooltip="For a model that fills: what is not wanted in the mask.",
                ),
            ],
            outputs=[
                io.Video.Output("video", tooltip="The result, with the sound and the frame rate of the VIDEO."),
                io.Image.Output("frames", tooltip="The result's frames."),
                io.Mask.Output("mask", tooltip="What was removed or filled, before it is grown; 1 = changed."),
            ],
        )

    @classmethod
    def execute(
        cls, model, vae, video, prompt, seed, preset, sampler, scheduler, window, overlap, frame_rate, dilation,
        feather, keep_untouched, clip=None, positive=None, mask=None, negative=None, negative_prompt="",
    ) -> io.NodeOutput:  # fmt: skip
        info = lgvi_of(model)
        fills = info.config.is_inpainting
        source = Clip.read(video, frame_rate)
        count, height, width = source.images.shape[:3]
        working, windows = working_size(source.images, info), Windows(window, overlap)
        if fills and mask is None:
            raise InputError("this MODEL fills a mask, and none is connected: connect a MASK of what to fill")
        user_mask = None if mask is None else masks.binarize(masks.as_mask(mask, count, height, width))
        mask_pixel = width / working.width * info.factor / info.config.mask_upscale
        dilate, soft = (None if pixels < 0 else pixels for pixels in (dilation, feather))
        edge = Edge.fit(mask_pixel, dilate, soft, keep_untouched)
        messages = [*source.messages, *check_parts(info, vae, clip, positive, prompt)]
        find_mask = info.has_mask_decoder or mask is None  # even beside a MASK: taking that away needs no new run
        if not fills and (negative is not None or negative_prompt.strip()):
            messages.append("this model takes no negative words: they are not used")
            negative, negative_prompt = None, ""
        if mask is None and not info.has_mask_decoder:
            messages.append("this checkpoint has no mask decoder: the mask is where input and output differ")
        sampling = sampling_of(preset, info)
        sampler_and_sigmas = sampler_of(model, info, sampler, scheduler, sampling[0])

        def make():
            words = encode_words(info, clip, positive, prompt, negative, negative_prompt)
            host = HostModel(model, info, vae, *words, *sampler_and_sigmas, *sampling[1:], windows, count)
            return edit(source.images.numpy(), host, working, windows, seed, find_mask, user_mask if fills else None)

        settings = (prompt, negative_prompt, seed, *sampling, sampler, scheduler, windows, find_mask)
        filled = hashlib.sha256(np.packbits(user_mask)).hexdigest() if fills else None
        key = (source.fingerprint(), same(vae), same(clip), Identity(negative), filled, *settings)
        edited = last_edit.get(model, positive, key, make)

        images = torch.empty_like(source.images)
        found = np.empty((count, height, width), bool)
        for i, (picture, *soft) in enumerate(edited):
            stop_if_interrupted()
            found[i] = mask_of(*soft, height, width) if user_mask is None else user_mask[i]
            images[i] = torch.from_numpy(put_into(source.images[i].numpy(), picture, found[i], edge))

        covered = masks.area(found).mean()
        if unchanged := keep_untouched and not covered:
            words = repr(prompt.strip()) if positive is None else "the CONDITIONING"
            nothing = f"nothing in the video matches {words}" if mask is None else "the mask is empty"
            messages.append(f"{nothing}: the video comes back unchanged")
        elif covered > masks.NEARLY_ALL:
            messages.append(f"the mask covers {100 * covered:.0f} % of the video; 1 in a mask means change")
        if fills and not unchanged:
            messages += notes("the mask", mask.ndim == 2 or len(mask) == 1, is_soft(mask), count)
        for message in messages:
            logger.warning("%s", message)
        return finished(source, images, found, unchanged, messages)


def finished(source: Clip, images: torch.Tensor, mask: np.ndarray, unchanged: bool, messages: list[str]):
    """The node's output for the result's frames and its bool mask."""
    before = show_video(source.images.numpy(), source.frame_rate)
    shown = {
        "before": before,
        "after": before if unchanged else show_video(images.numpy(), source.frame_rate),
        "frame_rate": float(source.frame_rate),
        "frames": len(images),
        "message": "\n".join(messages),
    }
    device = comfy.model_management.intermediate_device()
    images, mask = images.to(device), torch.from_numpy(mask).to(device, torch.float32)
    video = source.given if unchanged and source.given is not None else source.video(images)
    return io.NodeOutput(video, images, mask, ui={"lgvi_compare": [shown]})


def sampling_of(preset: dict, info: LGVIInfo) -> tuple[int, float, float]:
    """Steps, guidance and image guidance of a preset."""
    own = info.sampling
    if preset["preset"] == "custom":
        image_guidance = own["image_guidance_scale"] if info.config.is_inpainting else preset["image_guidance"]
        return preset["steps"], preset["guidance"], image_guidance
    steps = max(1, round(own["steps"] * PRESETS[preset["preset"]]))
    return steps, own["guidance_scale"], own["image_guidance_scale"]


def sampler_of(model, info: LGVIInfo, sampler: str, scheduler: str, steps: int):
    """SAMPLER and SIGMAS; `InputError` for more steps than the checkpoint has timesteps."""
    own, sigmas = ddim(model, info, steps)
    if scheduler != OWN_SCHEDULER:
        sigmas = comfy.samplers.KSampler(model, steps, "cpu", sampler, scheduler).sigmas
    return own if sampler == OWN_SAMPLER else comfy.samplers.sampler_object(sampler), sigmas
