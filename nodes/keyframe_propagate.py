"""Frames that were edited as pictures, and the edit carried from them through the whole video (VIDEO, VIVID)."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from comfy_api.latest import io

from ..lgvi_core.beside import said_of_keyframe, with_beside
from ..lgvi_core.editing import Edge, Windows, put_into
from ..lgvi_core.errors import InputError
from ..lgvi_core.keyframes import InMemory, plan, said_of_drift, spread
from . import inputs, presets
from .comparison import finished
from .frames import Clip, frame_numbers
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
from .keyframe_ground import Ground, ground_of, keyframes_at
from .presets import sampler_of, sampling_of

FOR_ALL, TRACKED = "for all frames", "tracked from the first keyframe"
CHAIN, BLEND = "chain", "blend"
KEEP, TAKE_OVER = "keep the video's", "take over the keyframes'"
last_spread = LastResult()


class KeyframePropagate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LGVIKeyframePropagate",
            display_name="Keyframe Propagate",
            category="lgvi",
            description="Carries an edit from frames that are edited already, by any program or model, through the "
            "whole video, forwards and backwards. The keyframes stay as given; sound, frame rate and every pixel "
            "outside of the mask stay the video's.",
            search_aliases=["keyframes", "propagate edit", "edit one frame", "vivid", "video editing", "first frame"],
            is_output_node=True,
            inputs=[
                *inputs.parts(),
                io.Mask.Input(
                    "mask",
                    tooltip="Where the edit is, 1 = change: a mask for each frame of the video, or one; of its size.",
                ),
                io.Image.Input(
                    "keyframes", tooltip="The edited frames. Of another size than the video they are resized."
                ),
                io.String.Input(
                    "indices",
                    default="0",
                    tooltip="Which frames of the video the keyframes are, in their order, counted from 0, such as "
                    "0, 40; -1 is the last frame.",
                ),
                *inputs.words("", "What the edit shows, such as: a wooden boat. May be empty: the keyframes show it."),
                *presets.choices(by_video=False),
                io.Combo.Input(
                    "windows_are",
                    options=[CHAIN, BLEND],
                    advanced=True,
                    tooltip="chain: a window takes the last frames of the one before as keyframes, so that the edit "
                    "goes on. blend: windows without a keyframe of their own follow the prompt, overlaps are blended.",
                ),
                *inputs.cutting(),
                *inputs.edge(),
                io.Combo.Input(
                    "one_mask",
                    options=[FOR_ALL, TRACKED],
                    advanced=True,
                    tooltip="What a single mask is for. Tracking needs OpenCV; core's SAM 3 nodes track better.",
                ),
                io.Combo.Input(
                    "outside_mask",
                    options=[KEEP, TAKE_OVER],
                    advanced=True,
                    tooltip="What becomes of what a keyframe changes outside of the mask: it is left out for the "
                    "video's own, or taken over, fading out over the frames near it.",
                ),
                io.Boolean.Input(
                    "cross_cuts",
                    default=False,
                    advanced=True,
                    tooltip="Carry the edit over scene cuts too. Off: a scene without a keyframe follows the prompt, "
                    "without one it stays as it is.",
                ),
                io.Boolean.Input(
                    "match_colours",
                    default=True,
                    advanced=True,
                    tooltip="Put right what a window drifts in colour, by the surroundings of the mask.",
                ),
                *inputs.negative("What is not wanted"),
            ],
            outputs=[
                io.Video.Output("video", tooltip="The result, with the sound and the frame rate of the VIDEO."),
                io.Image.Output("frames", tooltip="The result's frames."),
                io.Mask.Output("mask", tooltip="Where the video was changed, before it is grown; 1 = changed."),
            ],
        )

    @classmethod
    def execute(
        cls, model, vae, video, mask, keyframes, indices, prompt, seed, preset, sampler, scheduler, windows_are, window,
        overlap, frame_rate, dilation, feather, keep_untouched, one_mask, outside_mask, cross_cuts, match_colours,
        clip=None, positive=None, negative=None, negative_prompt="",
    ) -> io.NodeOutput:  # fmt: skip
        info = lgvi_of(model)
        if not info.config.is_inpainting:
            raise InputError(
                "this MODEL removes what words name; keyframes need one that fills a mask: choose a checkpoint of the "
                "CoCoCo family in Load LGVI"
            )
        source = Clip.read(video, frame_rate)
        windows, chained, blend = Windows(window, overlap), windows_are == CHAIN, outside_mask == TAKE_OVER
        plan((), (), windows, chained)  # checks the two
        edited, said = keyframes_at(frame_numbers(indices, len(source.images)), keyframes, source.images)
        messages = [*source.messages, *check_parts(info, vae, clip, positive, prompt), *said]
        sampling = sampling_of(preset, info)
        sampler_and_sigmas = sampler_of(model, info, sampler, scheduler, sampling[0])
        working = working_size(source.images, info)
        dilate, soft = (None if pixels < 0 else pixels for pixels in (dilation, feather))
        edge = Edge.fit(source.images.shape[2] / working.width * info.factor, dilate, soft, keep_untouched)

        by_words = bool(prompt.strip()) or positive is not None
        ground = ground_of(model, source, mask, edited, one_mask == TRACKED, cross_cuts, by_words)
        messages += ground.messages
        steps = plan(ground.filled, edited, windows, chained)
        images = source.images.numpy()
        for frame, picture in edited.items():
            messages += said_of_keyframe(frame, images[frame], picture, ground.holes[frame], edge, blend)
        if blend:
            images = taken_over(images, edited, ground)

        def make():
            words = encode_words(info, clip, positive, prompt, negative, negative_prompt)
            host = HostModel(model, info, vae, *words, *sampler_and_sigmas, *sampling[1:], steps, len(images))
            known, drift = InMemory(), 0.0
            for off in spread(steps, images, ground.holes, edited, known, host, working, seed, match=match_colours):
                stop_if_interrupted()
                drift = max(drift, float(off.abs().max()))
            return known, drift

        shown = tuple((frame, hashlib.sha256(picture).hexdigest()) for frame, picture in edited.items())
        settings = (prompt, negative_prompt, seed, *sampling, sampler, scheduler, steps, blend, match_colours)
        key = (*ground.key, shown, same(vae), same(clip), Identity(negative), *settings)
        known, drift = last_spread.get(model, positive, key, make)

        result = torch.empty_like(source.images)
        for frame, image in enumerate(images):
            stop_if_interrupted()
            picture = torch.as_tensor(edited.get(frame, known.get(frame, image)))
            result[frame] = torch.from_numpy(put_into(image, picture, ground.holes[frame], edge))

        unchanged = keep_untouched and not ground.holes.any() and not blend
        messages += ["the mask is empty: the video comes back unchanged"] if unchanged else ground.said_of_mask
        messages += said_of_drift(drift, match_colours)
        return finished(source, result, ground.holes, unchanged, messages)


def taken_over(images: np.ndarray, edited: dict, ground: Ground) -> np.ndarray:
    """The video's images (T, H, W, 3) with what keyframes have beside the mask, fading over the frames near them."""
    beside = {frame: (picture - images[frame]) * ~ground.holes[frame, ..., None] for frame, picture in edited.items()}
    return np.stack([with_beside(image, frame, beside, ground.scenes) for frame, image in enumerate(images)])
