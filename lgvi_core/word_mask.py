"""A mask from words: what LGVI's mask decoder finds, and requests to replace one thing with another."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from . import masks, wording
from .checkpoints import Checkpoint
from .conditioning import work_size
from .editing import LGVI_FRAMES, Edge, Windows, find, mask_of, recommended
from .errors import InputError
from .standalone import Standalone, load
from .user_mask import Opened
from .video import VideoSource

STEPS = 3  # coarse ones, without guidance: enough to see where a thing is

REPLACE = re.compile(
    r"(?:please )?(?:(?:replace|substitute) (?P<a>.+?) (?:with|by)|(?:swap|exchange) (?P<b>.+?) (?:for|with)"
    r"|(?:turn|change|transform|convert) (?P<c>.+?) into) (?P<new>.+)",
    re.IGNORECASE | re.DOTALL,
)


def replacement(prompt: str) -> tuple[str | None, str]:
    """What is to be replaced, and with what: ("the red circle", "a star") of "replace the red circle with a star".

    A prompt of no such form is itself what is wanted, and replaces nothing that it names.
    """
    found = REPLACE.fullmatch(prompt.strip())
    if found is None:
        return None, prompt.strip()
    return (found["a"] or found["b"] or found["c"]).strip(), found["new"].strip().rstrip(".!")


@dataclass(frozen=True)
class Words:
    """The mask of what words name ("the red circle"), found by the mask decoder of an LGVI checkpoint.

    It is grown by one of the decoder's own pixels, so that no rim of the thing is left beside it. callback gets a dict
    after each step, as that of `inpaint.inpaint` does, with the words as `finding`.
    """

    words: str
    checkpoint: str | os.PathLike | Checkpoint
    device: str | None = None
    dtype: str | None = None
    seed: int = 0
    callback: Callable[[dict], None] | None = None

    def open(self, source: VideoSource) -> Opened:
        if not self.words.strip():
            raise InputError('no words name what the mask covers: say it, for example "the red circle on the left"')
        checkpoint = load(self.checkpoint, self.device, self.dtype, fills=False)
        if not checkpoint.config.has_mask_decoder:
            raise InputError(f"{checkpoint.path or 'the checkpoint'} has no mask decoder: words give no mask with it")
        return Opened(repr(self.words.strip()), lambda: self._found(source, checkpoint), source.frame_count)

    def _found(self, source: VideoSource, checkpoint: Checkpoint) -> Iterator[np.ndarray]:
        words = self.words.strip()
        request = wording.read(words).prompt or f"remove {words}"
        with torch.no_grad():
            text = checkpoint.text_encoder.encode([request])
        sampling = recommended(checkpoint.config, checkpoint.sampling)
        windows = Windows(LGVI_FRAMES, LGVI_FRAMES // 3)
        model = Standalone(
            checkpoint,
            text,
            text,
            min(STEPS, sampling["steps"]),
            guidance_scale=1.0,
            image_guidance_scale=1.0,
            scheduler="ddim",
            batch_passes=None,
            windows=windows,
            frames=source.frame_count,
            callback=None if self.callback is None else lambda step: self.callback(step | {"finding": words}),
        )
        working = work_size(source.width, source.height, checkpoint.training, checkpoint.vae.factor)
        mask_pixel = source.width / working.width * checkpoint.vae.factor / checkpoint.config.mask_upscale
        edge = Edge.fit(mask_pixel, None, None)
        images = (frame.image for frame in source)
        for (soft,) in find(images, model, working, windows, self.seed):
            yield masks.dilate(mask_of(soft, source.height, source.width)[None], edge.dilate)[0]
