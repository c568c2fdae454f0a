"""Some frames of a video with their masks, to be edited as pictures."""

from __future__ import annotations

import comfy.model_management
import torch
from comfy_api.latest import io

from ..lgvi_core import masks
from .frames import Clip, frame_numbers


class PickFrames(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LGVIPickFrames",
            display_name="Pick Frames",
            category="lgvi",
            description="Takes frames out of a video, with their masks, to be edited as pictures; Keyframe Propagate "
            "then carries the edit through the video.",
            search_aliases=["keyframe", "get frame", "extract frame", "first frame", "last frame", "image from video"],
            inputs=[
                io.MultiType.Input(
                    "video", [io.Video, io.Image], tooltip="A VIDEO, or an IMAGE batch with the frames in order."
                ),
                io.Mask.Input("mask", optional=True, tooltip="The video's masks: one for each frame, or one for all."),
                io.String.Input(
                    "indices",
                    default="0",
                    tooltip="Which frames, counted from 0, such as 0, 40; -1 is the last frame.",
                ),
            ],
            outputs=[
                io.Image.Output("images", tooltip="The frames, in the order in which they are named."),
                io.Mask.Output("mask", tooltip="The masks of these frames; empty ones if no mask is connected."),
                io.String.Output("indices", tooltip="Which frames they are, for Keyframe Propagate."),
            ],
        )

    @classmethod
    def execute(cls, video, indices, mask=None) -> io.NodeOutput:
        source = Clip.read(video, frame_rate=24.0)
        size = source.images.shape[:3]
        numbers = frame_numbers(indices, len(source.images))
        given = masks.as_mask(torch.zeros(size[1:]) if mask is None else mask, *size)
        picked = torch.from_numpy(given[numbers])
        device = comfy.model_management.intermediate_device()
        return io.NodeOutput(source.images[numbers].to(device), picked.to(device), ", ".join(map(str, numbers)))
