"""The whole way in one node: a video and words in; out comes the video without what they name, or filled with it."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from comfy_api.latest import io

from ..lgvi_core import masks
from ..lgvi_core.editing import EMPTY_PROMPT, Edge, Windows, edit, mask_of, put_into
from ..lgvi_core.errors import InputError
from ..lgvi_core.user_mask import is_soft, notes
from . import inputs, presets
from .comparison import finished
from .frames import Clip
from .host import lgvi_of
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
from .presets import sampler_of, sampling_of
from .steering import why_not

last_edit = LastResult()


class VideoInpaintSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
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
                *presets.choices(by_video=True),
                *inputs.cutting(),
                *inputs.edge(),
                *inputs.negative("For a model that fills: what is not wanted"),
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
        if fills and positive is None and not prompt.strip():
            messages.append(EMPTY_PROMPT)
        if said := why_not(positive):
            messages.append(f"{said}, the video comes back unchanged")
            return finished(source, source.images, np.zeros((count, height, width), bool), True, messages)
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
        if fills:
            single = mask.ndim == 2 or len(mask) == 1
            messages += notes("the mask", single and not unchanged, is_soft(mask), count)
        return finished(source, images, found, unchanged, messages)
