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
            tooltip="The words as CONDITIONING, in place of the prompt; also that of MLLM Request→Prompt. Without a "
            "CLIP, zeros stand for the empty prompt that guidance needs.",
        ),
    ]


def words(
    default: str = "remove the red circle on the left", what: str = "What to remove, in plain words."
) -> list[io.Input]:
    """The prompt and the seed."""
    return [
        io.String.Input(
            "prompt",
            multiline=True,
            default=default,
            tooltip=f"{what} Parentheses are words too; they carry no weights.",
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


def edge() -> list[io.Input]:
    """How far beyond the mask the result shows."""

    def pixels(name, tooltip):
        return io.Float.Input(name, default=-1.0, min=-1.0, max=1024.0, step=0.5, advanced=True, tooltip=tooltip)

    return [
        pixels("dilation", "Grow the mask by so many pixels of the video. -1: by how coarse the mask is."),
        pixels("feather", "Soften the edge of the grown mask over so many pixels. -1: half of the dilation."),
        io.Boolean.Input(
            "keep_untouched",
            default=True,
            advanced=True,
            tooltip="Keep the video's own pixels outside of the grown mask. Off: the model's everywhere.",
        ),
    ]


def negative(what: str) -> list[io.Input]:
    """What guidance leads away from, as CONDITIONING and as words."""
    return [
        io.Conditioning.Input("negative", optional=True, tooltip=f"{what}, in place of the negative prompt."),
        io.String.Input(
            "negative_prompt",
            default="",
            multiline=True,
            optional=True,
            advanced=True,
            tooltip=f"{what} in the mask.",
        ),
    ]
