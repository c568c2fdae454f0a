"""Inputs that the nodes on whole videos share."""

from __future__ import annotations

from comfy_api.latest import io


def parts() -> list[io.Input]:
    """What a video and the words go through."""
    return [
        io.Model.Input("model", tooltip="An LGVI MODEL, from Load LGVI; LoRAs and patches go in between."),
        io.Vae.Input("vae", tooltip="The autoencoder that belongs to the MODEL."),
        io.MultiType.Input(
            "video", [io.Video, io.Image], tooltip="A VIDEO, or an IMAGE batch with the frames in order."
        ),
        io.Clip.Input("clip", optional=True, tooltip="The text encoder; needed unless CONDITIONING is given."),
        io.Conditioning.Input(
            "positive",
            optional=True,
            tooltip="The words as CONDITIONING, in place of the prompt. Without a CLIP, zeros stand for the empty "
            "prompt that guidance needs.",
        ),
    ]


def words() -> list[io.Input]:
    """The prompt and the seed."""
    return [
        io.String.Input(
            "prompt",
            multiline=True,
            default="remove the red circle on the left",
            tooltip="What to remove, in plain words. Parentheses are words too; they carry no weights.",
        ),
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=0xFFFFFFFFFFFFFFFF,
            control_after_generate=io.ControlAfterGenerate.fixed,
            tooltip="The same seed gives the same result.",
        ),
    ]


def cutting() -> list[io.Input]:
    """How a video is cut into windows, and its rate if it has none."""
    return [
        io.Int.Input(
            "window",
            default=24,
            min=1,
            max=1024,
            advanced=True,
            tooltip="Frames that the model sees at once. More take more memory.",
        ),
        io.Int.Input(
            "overlap",
            default=8,
            min=0,
            max=1023,
            advanced=True,
            tooltip="Frames that two windows share and are blended over; fewer than the window has.",
        ),
        io.Float.Input(
            "frame_rate",
            default=24.0,
            min=1.0,
            max=1000.0,
            step=0.001,
            advanced=True,
            tooltip="Frames a second, if the video is an IMAGE batch. A VIDEO keeps its own.",
        ),
    ]
