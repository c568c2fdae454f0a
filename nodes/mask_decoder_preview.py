"""What the model will remove, before it is removed."""

from __future__ import annotations

import logging

import comfy.model_management
import numpy as np
import torch
from comfy_api.latest import io

from ..lgvi_core import masks
from ..lgvi_core.conditioning import to_bytes
from ..lgvi_core.editing import Windows, find
from ..lgvi_core.errors import InputError
from ..lgvi_core.region import EXAMPLE, parse
from ..lgvi_core.sheet import MASK_COLOUR
from . import inputs
from .frames import Clip
from .host import lgvi_of
from .host_editing import HostModel, LastResult, check_parts, encode_words, same, stop_if_interrupted, working_size
from .host_sampling import ddim
from .preview_video import show_picture, show_video
from .steering import why_not

logger = logging.getLogger(__name__)

last_mask = LastResult()


class MaskDecoderPreview(io.ComfyNode):
    """Reads the mask decoder over a few coarse steps of DDIM without guidance: one pass of the network a step.

    The steps start from the noise that Video Inpaint Sampler starts from. For a checkpoint that samples in one step,
    and without guidance, they are its very steps; others may find a slightly different mask when they sample.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LGVIMaskDecoderPreview",
            display_name="Mask Decoder Preview",
            category="lgvi",
            description="Shows what the words would remove, at the cost of a few passes of the network. Edit the MASK "
            "with any mask node and give it to Video Inpaint Sampler.",
            search_aliases=["preview mask", "what will be removed", "find object", "segment by words", "lgvi"],
            is_output_node=True,
            inputs=[
                *inputs.parts(),
                *inputs.words(),
                io.Int.Input(
                    "passes",
                    default=3,
                    min=1,
                    max=50,
                    tooltip="Passes of the network in each window of frames, at most as many as the checkpoint samples "
                    "steps: so many coarse steps without guidance, the mask being their mean.",
                ),
                io.Float.Input(
                    "threshold",
                    default=0.5,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    tooltip="How sure the model must be of a pixel. Lower finds more.",
                ),
                io.String.Input(
                    "region",
                    default="",
                    advanced=True,
                    socketless=True,  # the page hides the text behind its drawing: a link would override it unseen
                    tooltip="Keep the mask within a region drawn on the first frame; JSON in fractions of the frame: "
                    + EXAMPLE,
                ),
                *inputs.cutting(),
            ],
            outputs=[
                io.Mask.Output("mask", tooltip="What would be removed, 1 = remove. For Video Inpaint Sampler."),
                io.Mask.Output("soft_mask", display_name="soft mask", tooltip="How sure the model is, 0 to 1."),
                io.Image.Output("overlay", tooltip="The frames with the mask in colour."),
                io.Float.Output("area", tooltip="Share of all pixels that the mask covers, 0 to 1."),
            ],
        )

    @classmethod
    def execute(
        cls, model, vae, video, prompt, seed, passes, threshold, region, window, overlap, frame_rate, clip=None,
        positive=None,
    ) -> io.NodeOutput:  # fmt: skip
        info = lgvi_of(model)
        if info.config.is_inpainting:
            raise InputError(
                "this MODEL fills a mask, it finds none: connect an LGVI MODEL here, from a Load LGVI of its own, and "
                "give the mask to the sampler that fills"
            )
        if not info.has_mask_decoder:
            raise InputError(
                "this checkpoint has no mask decoder to read: run Video Inpaint Sampler, whose mask is where input and "
                "output differ"
            )
        source = Clip.read(video, frame_rate)
        count, height, width = source.images.shape[:3]
        working, windows = working_size(source.images, info), Windows(window, overlap)
        inside = region_mask(region, height, width)
        messages = [*source.messages, *check_parts(info, vae, clip, positive, prompt)]
        nothing = why_not(positive)
        sampler_and_sigmas = ddim(model, info, min(passes, info.sampling["steps"]))

        def make():
            if nothing:
                return [(torch.zeros(1, 1),)] * count
            words = encode_words(info, clip, positive, prompt)
            host = HostModel(model, info, vae, *words, *sampler_and_sigmas, 1.0, 1.0, windows, count)
            return find(source.images.numpy(), host, working, windows, seed)

        key = (source.fingerprint(), same(vae), same(clip), prompt, seed, passes, windows)
        found = last_mask.get(model, positive, key, make)

        soft = np.empty((count, height, width), np.float32)
        overlay = torch.empty_like(source.images, dtype=torch.float32)
        for i, (small,) in enumerate(found):
            stop_if_interrupted()
            soft[i] = masks.resize(small[None].numpy(), height, width)[0] * inside
            mask = masks.binarize(soft[i : i + 1], threshold)
            shown = masks.overlay(to_bytes(source.images[i].numpy())[None], mask, MASK_COLOUR)[0]
            overlay[i] = torch.from_numpy(shown).float() / 255
        mask = masks.binarize(soft, threshold)

        area = masks.area(mask)
        if not mask.any():
            messages.append(nothing or "the mask is empty: say it with other words, or lower the threshold")
        elif area.mean() > masks.NEARLY_ALL:
            covered = f"the mask covers {100 * area.mean():.0f} % of the video"
            messages.append(f"{covered}: name one thing, or raise the threshold")
        for message in messages:
            logger.warning("%s", message)
        shown = {
            "overlay": show_video(overlay.numpy(), source.frame_rate),
            "first_frame": show_picture(source.images[0].numpy()),
            "frame_rate": float(source.frame_rate),
            "frames": count,
            "area": area.tolist(),
            "message": "\n".join(messages),
        }
        device = comfy.model_management.intermediate_device()
        binary, soft = (torch.from_numpy(one).to(device, torch.float32) for one in (mask, soft))
        return io.NodeOutput(binary, soft, overlay.to(device), float(area.mean()), ui={"lgvi_mask": [shown]})


def region_mask(text: str, height: int, width: int) -> np.ndarray:
    """Where the mask may be, bool (height, width): in the region, everywhere without one."""
    region = parse(text)
    return region.mask(height, width) if region else np.ones((height, width), bool)
