"""Frames that were edited as pictures, and the edit carried from them through the whole video (VIDEO, VIVID)."""

from __future__ import annotations

import hashlib
import logging

import numpy as np
import torch
from comfy_api.latest import io

from ..lgvi_core import masks
from ..lgvi_core.beside import said_of_keyframe, with_beside
from ..lgvi_core.conditioning import resize_frames, to_bytes
from ..lgvi_core.editing import Edge, Windows, put_into
from ..lgvi_core.errors import InputError
from ..lgvi_core.keyframes import InMemory, plan, said_of_drift, said_of_scenes, scenes_of, spread
from ..lgvi_core.user_mask import is_soft, notes
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
from .presets import sampler_of, sampling_of

logger = logging.getLogger(__name__)

FOR_ALL, TRACKED = "for all frames", "tracked from the first keyframe"
CHAIN, BLEND = "chain", "blend"
KEEP, TAKE_OVER = "keep the video's", "take over the keyframes'"
SMALLEST = 12  # pixels a side, for the flow that tells a cut
last_look, last_spread = LastResult(), LastResult()


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
                    "without one it stays as it is. Finding cuts needs OpenCV.",
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
        count, height, width = source.images.shape[:3]
        working, windows = working_size(source.images, info), Windows(window, overlap)
        edited, said = keyframes_at(frame_numbers(indices, count), keyframes, source.images)
        messages = [*source.messages, *check_parts(info, vae, clip, positive, prompt), *said]
        holes = masks.binarize(masks.as_mask(mask, count, height, width))
        dilate, soft = (None if pixels < 0 else pixels for pixels in (dilation, feather))
        edge = Edge.fit(width / working.width * info.factor, dilate, soft, keep_untouched)
        sampling = sampling_of(preset, info)
        sampler_and_sigmas = sampler_of(model, info, sampler, scheduler, sampling[0])
        plan((), (), windows, windows_are == CHAIN)  # checks the two

        single = (mask.ndim == 2 or len(mask) == 1) and count > 1
        tracked = single and one_mask == TRACKED
        seen = (source.fingerprint(), hashlib.sha256(np.packbits(holes)).hexdigest(), tracked, cross_cuts, *edited)
        cuts, holes, said = last_look.get(
            model, None, seen, lambda: look_at(source.images, holes, next(iter(edited)), tracked, cross_cuts)
        )
        scenes, by_words = scenes_of(count, cuts), bool(prompt.strip()) or positive is not None
        bare = [scene for scene in scenes if not any(frame in scene for frame in edited)]
        left = [] if by_words else bare
        holes = holes.copy() if left else holes
        for scene in left:
            holes[scene.start : scene.stop] = False
        messages += [*said, *said_of_scenes(scenes, bare, by_words)]
        steps = plan([scene for scene in scenes if scene not in left], edited, windows, windows_are == CHAIN)

        images, blend = source.images.numpy(), outside_mask == TAKE_OVER
        for frame, picture in edited.items():
            messages += said_of_keyframe(frame, images[frame], picture, holes[frame], edge, blend)
        if blend:
            beside = {frame: (picture - images[frame]) * ~holes[frame, ..., None] for frame, picture in edited.items()}
            images = np.stack([with_beside(image, frame, beside, scenes) for frame, image in enumerate(images)])

        def make():
            words = encode_words(info, clip, positive, prompt, negative, negative_prompt)
            host = HostModel(model, info, vae, *words, *sampler_and_sigmas, *sampling[1:], steps, count)
            known, drift = InMemory(), 0.0
            for off in spread(steps, images, holes, edited, known, host, working, seed, match=match_colours):
                stop_if_interrupted()
                drift = max(drift, float(off.abs().max()))
            return known, drift

        shown = tuple((frame, hashlib.sha256(picture).hexdigest()) for frame, picture in edited.items())
        settings = (prompt, negative_prompt, seed, *sampling, sampler, scheduler, steps, blend, match_colours)
        key = (*seen, shown, same(vae), same(clip), Identity(negative), *settings)
        known, drift = last_spread.get(model, positive, key, make)

        result = torch.empty_like(source.images)
        for frame, image in enumerate(images):
            stop_if_interrupted()
            picture = edited.get(frame, known.get(frame, image))
            result[frame] = torch.from_numpy(put_into(image, torch.as_tensor(picture), holes[frame], edge))

        unchanged = keep_untouched and not holes.any() and not blend
        if unchanged:
            messages.append("the mask is empty: the video comes back unchanged")
        else:
            messages += notes("the mask", single and not tracked, is_soft(mask), count)
        messages += said_of_drift(drift, match_colours)
        for message in messages:
            logger.warning("%s", message)
        return finished(source, result, holes, unchanged, messages)


def keyframes_at(numbers: list[int], keyframes: torch.Tensor, images: torch.Tensor) -> tuple[dict, list[str]]:
    """The keyframes, float (H, W, 3), by frame, at the size of the video's images (T, H, W, 3); what is to be known.

    Raises `InputError` unless there are as many keyframes as numbers, each of them a picture.
    """
    if keyframes.ndim != 4 or keyframes.shape[-1] not in (3, 4) or len(keyframes) != len(numbers):
        raise InputError(
            f"the keyframes are {tuple(keyframes.shape)} and the indices name {len(numbers)} frames: give one edited "
            "frame (height, width, 3) for each index, in the same order"
        )
    pictures, messages = keyframes[..., :3].detach().cpu().float(), []
    if not pictures.isfinite().all():
        raise InputError("the keyframes have values that are no numbers (NaN or infinity)")
    (height, width), given = images.shape[1:3], pictures.shape[1:3]
    if given != (height, width):
        messages.append(f"the keyframes are {given[1]}x{given[0]}: they are resized to the video's {width}x{height}")
        pictures = resize_frames(pictures, height, width).clamp(0, 1)
    return {number: picture.numpy() for number, picture in zip(numbers, pictures)}, messages


def look_at(images: torch.Tensor, holes: np.ndarray, keyframe: int, tracked: bool, cross_cuts: bool) -> list:
    """Where the video's images (T, H, W, 3) are cut, each one's mask, bool (T, H, W), and what is to be known of them.

    tracked: the mask is that of the frame `keyframe`, and followed from there. Raises `InputError` if that cannot be.
    """
    cuts, messages = [], []
    frames = np.stack([to_bytes(image) for image in images.numpy()])
    if not cross_cuts and min(frames.shape[1:3]) >= SMALLEST:
        try:
            from ..lgvi_core import scene_cuts
        except ModuleNotFoundError as error:
            if error.name != "cv2":
                raise
            messages.append("OpenCV is not installed: cuts in the video are not looked for")
        else:
            cuts = scene_cuts.cuts(frames)
    if tracked:
        track = masks.track(frames, holes[0], keyframe, cross_cuts)
        holes = track.masks
        messages.append(f"the mask is that of frame {keyframe}, and tracked through the others")
        if track.lost_at is not None:
            messages.append(f"from frame {track.lost_at} on the tracked mask is not to be trusted: give one for each")
    return [cuts, holes, messages]
