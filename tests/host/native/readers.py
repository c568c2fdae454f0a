"""What the checks of Load Request Reader and MLLM Request→Prompt share: readers that say what they are made to say."""

import contextlib
import functools
import sys
from pathlib import Path
from unittest.mock import patch

from small import HOST, checkpoint_file, ours

TESTS = Path(__file__).parents[2]
sys.path += [str(TESTS), str(TESTS / "unit")]
from talking import write_talking  # noqa: E402

MET = ("Sure. ", "{{prompt}}", "remove the red circle", "{{/prompt}}")
ASKS = ("There are two. Which one? ", "{{ask}}")
REQUEST = "I like the white one better"
ASKED = {
    "request": REQUEST,
    "history": "",
    "region": "",
    "shown_frames": 1,
    "max_tokens": 64,
    "temperature": 0.0,
    "seed": 0,
}


@functools.cache
def reader_file(said=MET, kind="epsilon"):
    """A file of a reader that says this and steers the U-Net of a small checkpoint; kind None: of none."""
    path = HOST.work / f"reader-{len(list(HOST.work.glob('reader-*')))}.safetensors"
    unet = kind and ours("lgvi_core.checkpoints").load(checkpoint_file(kind)).unet
    return write_talking(path, list(said), unet, width=32)


@functools.cache
def reader(said=MET, kind="epsilon"):
    return ours("nodes.host_reader").load_reader(reader_file(said, kind))


def ask(one, frames, **inputs):
    """What MLLM Request→Prompt gives: (prompt, response, box, mask, met, history, conditioning)."""
    node = ours("nodes.request_to_prompt").RequestToPrompt
    return node.execute(clip=one, image=frames, **ASKED | inputs).result


@contextlib.contextmanager
def counting_answers():
    """The requests that a language model is asked, as a list that fills."""
    encoder = ours("lgvi_core.models.request_encoder").RequestEncoder
    inner, asked = encoder.answer, []

    def answer(self, frame, request, *rest):
        asked.append(request)
        return inner(self, frame, request, *rest)

    with patch.object(encoder, "answer", answer):
        yield asked
