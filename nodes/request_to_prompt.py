"""A request in the user's own words to the prompt, or the CONDITIONING, that LGVI removes by."""

from __future__ import annotations

import functools
import hashlib
from typing import Any

import comfy.sd1_clip
import numpy as np
import torch
from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker

from ..lgvi_core import understanding
from ..lgvi_core.conversation import Turn, read_turns, write_turns
from ..lgvi_core.errors import InputError
from ..lgvi_core.region import Box, bounds, joined
from ..lgvi_core.region import parse as parse_region
from ..lgvi_core.understanding import EndToEnd, TwoStage, Understanding, Written
from .frames import Clip
from .host_editing import LastAnswers
from .host_reader import Answering, RequestReader
from .preview_video import show_picture
from .request_reader import Reader

NO_FRAMES = (1, 64, 64)  # core's own size for a mask of nothing
NO_CONDITIONING = (
    "the conditioning of MLLM Request→Prompt is that of a reader which was trained together with LGVI (Load Request "
    "Reader). What reads the request here gives words alone: connect the prompt in its place"
)

answers = LastAnswers()


class RequestToPrompt(io.ComfyNode):
    """Asks a language model what a request means, or reads a direct request by plain rules."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LGVIRequestToPrompt",
            display_name="MLLM Request→Prompt",
            category="lgvi",
            description="Turns a request in your own words into a removal prompt. With a text-generation CLIP or a "
            "reader the model looks at the frames and answers; without one, direct requests are read by plain rules.",
            search_aliases=["llm", "chat", "conversation", "remove by words", "qwen", "gemma", "llava", "instruction"],
            is_output_node=True,
            inputs=[
                io.String.Input(
                    "request",
                    multiline=True,
                    default="please remove the red circle on the left, thanks",
                    tooltip="What you want in your own words. Without a model say it directly: 'remove the dog on the "
                    "left', 'keep only the pelican', 'and the other one'.",
                ),
                io.MultiType.Input(
                    "clip",
                    [io.Clip, Reader],
                    optional=True,
                    tooltip="A text-generation model such as Qwen-VL or Gemma from Load CLIP, or a reader from Load "
                    "Request Reader. Leave it open to read direct requests by plain rules.",
                ),
                io.MultiType.Input(
                    "image",
                    [io.Image, io.Video],
                    optional=True,
                    tooltip="The frames of the video. The model is shown the first one; the mask gets their size.",
                ),
                io.Custom(io.BoundingBox.io_type).Input(  # io.BoundingBox.Input has a box of 512x512 as its default
                    "bounding_box",
                    optional=True,
                    extra_dict={"forceInput": True},
                    tooltip="A region that the request is about, in pixels: one box, several, or several per frame.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="A region that the request is about, 1 = there: one mask for all frames or one per frame. "
                    "Joined with the box and the drawn region.",
                ),
                io.String.Input(
                    "history",
                    multiline=True,
                    default="",
                    advanced=True,
                    tooltip="Earlier turns: lines 'User: …' and 'Assistant: …', a JSON list, or the history of another "
                    "node like this.",
                ),
                io.String.Input(
                    "region",
                    default="",
                    advanced=True,
                    socketless=True,  # the page hides the text behind its drawing: a link would override it unseen
                    tooltip='A region drawn on the first frame. As text: {"box": [x, y, width, height]} in fractions '
                    "of the frame.",
                ),
                io.Int.Input(
                    "shown_frames",
                    default=1,
                    min=1,
                    max=16,
                    advanced=True,
                    tooltip="How many frames the model is shown, the first one and others evenly after it. More take "
                    "more time and memory.",
                ),
                io.Int.Input(
                    "max_tokens",
                    default=256,
                    min=16,
                    max=4096,
                    advanced=True,
                    tooltip="The longest answer of the model, in tokens. One that is cut off may lack its prompt.",
                ),
                io.Float.Input(
                    "temperature",
                    default=0.2,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    advanced=True,
                    tooltip="How freely the model words its answer; 0 always takes the likeliest word.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    advanced=True,
                    tooltip="The same seed gives the same answer. It has no effect at temperature 0.",
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="prompt", tooltip="What to remove, 'remove …'. Empty if the request is not met."
                ),
                io.String.Output(display_name="response", tooltip="The answer to you."),
                io.BoundingBox.Output(
                    display_name="bounding box", tooltip="The box around the mask; the whole frame if it is empty."
                ),
                io.Mask.Output(
                    display_name="mask",
                    tooltip="The region that the request is about, for every frame: yours, else the one that the model "
                    "named. Zeros if there is none, or the request is not met.",
                ),
                io.Boolean.Output(display_name="met", tooltip="Whether there is something to remove."),
                io.String.Output(
                    display_name="history", tooltip="All turns so far, for the history of another node like this."
                ),
                io.Conditioning.Output(
                    display_name="conditioning",
                    tooltip="From a reader that steers (LGVI-I): what it understood, in place of the prompt, for positive "
                    "of Video Inpaint Sampler. If the request is not met, the sampler gives the video back unchanged.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, request, history, region, shown_frames, max_tokens, temperature, seed,
        clip=None, image=None, bounding_box=None, mask=None,
    ) -> io.NodeOutput:  # fmt: skip
        turns = read_turns(history)
        frames = None if image is None else Clip.read(image, 24.0).images
        marked = _marked(region, bounding_box, mask, frames)
        shown = None if frames is None else frames[_spread(len(frames), shown_frames)]
        asked, writing = (request, turns, _fractions(marked)), (max_tokens, temperature, seed)
        understood, conditioning = answers.get(
            clip, (*asked, *writing, _digest(shown)), lambda: _read(clip, shown, asked, writing)
        )
        if not understood.met:
            marked = np.zeros_like(marked)
        elif understood.region and frames is not None and not marked.any():
            marked[:] = understood.region.mask(*marked.shape[1:])
        turns = (*turns, *understood.turns(request))
        return io.NodeOutput(
            understood.prompt,
            understood.answer,
            dict(zip(("x", "y", "width", "height"), _box(marked) or (0, 0, marked.shape[2], marked.shape[1]))),
            torch.from_numpy(marked),
            understood.met,
            write_turns(turns),
            conditioning or ExecutionBlocker(NO_CONDITIONING),
            ui={"lgvi_chat": [_chat(turns, understood, frames)]},
        )


def _read(clip, shown: torch.Tensor | None, asked: tuple, writing: tuple) -> tuple[Understanding, list | None]:
    """What a request means to a reader, a text-generation CLIP or, without either, the rules; and its CONDITIONING.

    asked: the request, earlier turns and a box. writing: the most tokens, temperature and seed.
    """
    if isinstance(clip, RequestReader):
        most, *drawn = writing
        understood = EndToEnd(Answering(clip, *drawn), bool(clip.mark), max_tokens=most)(shown, *asked)
        return understood, clip.conditioning(understood)
    if clip is None:
        read = functools.partial(understanding.by_rules, gone=False)  # the frames may be those of before
    else:
        read = TwoStage(lambda text, pictures: Written(_generate(clip, text, pictures, *writing)))
    return read(shown, *asked), None


def _chat(turns: tuple[Turn, ...], understood: Understanding, frames: torch.Tensor | None) -> dict[str, Any]:
    """What the page shows of the conversation."""
    return {
        "turns": [{"role": turn.role, "text": turn.text} for turn in turns],
        "prompt": understood.prompt,
        "met": understood.met,
        "first_frame": None if frames is None else show_picture(frames[0].numpy()),
    }


def _marked(text: str, boxes, mask: torch.Tensor | None, frames: torch.Tensor | None) -> np.ndarray:
    """All that the user marked as one soft mask (T, H, W); zeros if nothing is marked."""
    region = parse_region(text)
    size = NO_FRAMES
    if frames is not None:
        size = tuple(frames.shape[:3])
    elif mask is not None and mask.ndim in (2, 3):
        size = (1, *mask.shape)[-3:]
    elif region or boxes:
        raise InputError("a region is given but no image: connect the frames to image, so that their size is known")
    return joined(size, region, boxes, mask)


def _box(marked: np.ndarray) -> tuple[int, int, int, int] | None:
    return bounds(marked.any(axis=0))


def _fractions(marked: np.ndarray) -> Box | None:
    _, height, width = marked.shape
    box = _box(marked)
    return box and (box[0] / width, box[1] / height, box[2] / width, box[3] / height)


def _spread(count: int, shown: int) -> list[int]:
    """Which of `count` frames the model is shown: the first and, evenly, others up to the last."""
    return np.linspace(0, count - 1, min(shown, count)).round().astype(int).tolist()


def _digest(shown: torch.Tensor | None) -> tuple | None:
    """The same for frames of the same values."""
    return shown if shown is None else (*shown.shape, shown.dtype, hashlib.sha256(shown.contiguous().numpy()).digest())


def _generate(clip, text: str, frames: torch.Tensor | None, max_tokens: int, temperature: float, seed: int) -> str:
    """What the model writes. Core's tokenizers take pictures as `image`, that of Qwen-Image as `images`."""
    if not _writes(clip):
        kind = type(getattr(clip, "cond_stage_model", clip)).__name__
        raise InputError(
            f"this CLIP ({kind}) encodes text but cannot write any: connect a text-generation model such as Qwen-VL or "
            "Gemma with Load CLIP, or leave clip open to read direct requests by plain rules"
        )
    images = [] if frames is None else list(frames.split(1))
    tokens = clip.tokenize(text, image=frames, images=images, skip_template=False, min_length=1, thinking=False)
    sampling = {"do_sample": temperature > 0, "temperature": temperature, "seed": seed}
    return clip.decode(clip.generate(tokens, max_length=max_tokens, **sampling))


def _writes(clip) -> bool:
    """Whether a CLIP generates text: the host's wrappers all have `generate`, of the networks in them only some do."""
    model = getattr(clip, "cond_stage_model", None)
    wrappers = (comfy.sd1_clip.SD1ClipModel, comfy.sd1_clip.SDClipModel)
    return hasattr(model, "generate") and any(
        hasattr(module, "generate") for module in model.modules() if not isinstance(module, wrappers)
    )
