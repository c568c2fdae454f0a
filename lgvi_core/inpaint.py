"""From file to file, a window at a time: remove from a video what a sentence names, or fill a mask by a prompt."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .chained import Way, spread_video
from .checkpoints import Checkpoint
from .conditioning import work_size
from .editing import COCOCO_FRAMES, EMPTY_PROMPT, LGVI_FRAMES, RECOMMENDED, Edge, Windows, recommended
from .errors import InputError
from .keyframe_pictures import Given, read_keyframes
from .sources import source_of
from .standalone import Standalone, load
from .through import Places, Result, Work, edit_video
from .tracked_mask import Tracked
from .user_mask import Box, Colour, Shape, UserMask
from .video import VideoSource
from .word_mask import Words, replacement

DEMO = Path(__file__).parent / "demo" / "lgvi-demo.safetensors"
FILL_DEMO = DEMO.with_name("fill-demo.safetensors")
TALK_DEMO = DEMO.with_name("talk-demo.safetensors")  # reads requests for `DEMO`, and steers it
LANGUAGE_MODEL = "language model"  # among a checkpoint's notes, where it has one of its own
Pathlike = str | os.PathLike
OUTSIDE = ("keep", "blend")  # what becomes of what a keyframe has outside of the mask


@dataclass(frozen=True)
class Settings:
    """How to sample and to composite; None: what the checkpoint recommends, or fits its mask's resolution.

    size: (width, height) the model works at. window, overlap: frames; None: 24 to remove, as many as the checkpoint was
    trained at to fill, of which 8 are shared. dilate, feather: pixels of the source.
    """

    steps: int | None = None
    guidance_scale: float | None = None
    image_guidance_scale: float | None = None
    scheduler: str | None = None
    seed: int = 0
    size: tuple[int, int] | None = None
    window: int | None = None
    overlap: int | None = None
    batch_passes: bool | None = None
    dilate: float | None = None
    feather: float | None = None
    keep_outside: bool = True

    def __post_init__(self):
        if self.window is not None and self.overlap is not None:
            Windows(self.window, self.overlap)  # checks the two


def inpaint(
    video: Pathlike | VideoSource | np.ndarray | Tensor,
    request: str,
    output: Pathlike | None = None,
    *,
    features: Tensor | None = None,
    mask: Pathlike | np.ndarray | Tensor | None = None,
    mask_output: Pathlike | None = None,
    sheet: Pathlike | None = None,
    checkpoint: Pathlike | Checkpoint = DEMO,
    device: str | None = None,
    dtype: str | None = None,
    callback: Callable[[dict], None] | None = None,
    **settings,
) -> Result:
    """Remove what `request` names ("remove the red circle on the left") from a video.

    video: a path that `open_video` takes, or frames (T, H, W, 3), uint8 or float in [0, 1]. output: a path that
    `VideoWriter` takes; without one the frames come back in the result. features: (1, M, D) that steer in the place of
    the request's words, with zeros as the empty text (LGVI-I, see `understanding`). mask: where changes are kept, 1 =
    remove, as `UserMask` takes it; without one the model finds it. mask_output, sheet: paths for the mask as a video
    and for a contact sheet. checkpoint: a path or what `checkpoints.load` gave; by default the demo checkpoint. device:
    "cuda" where there is one, else "cpu". dtype: float16 on CUDA, else float32. Neither touches a checkpoint that is
    loaded already. settings: the fields of `Settings`.

    Outside the dilated mask every pixel is the source's own unless `keep_outside` is false. If nothing matches the
    words, the video comes back as it was and the result says so. With `output`, memory does not grow with the clip.

    callback gets a dict after each step: that of `sampling.denoise` and `window` of `windows` (None: not known). What
    it raises ends the call; no file is touched.

    Raises `InputError` for all that a person can mend, before long work starts.
    """
    if not request or not request.strip():
        raise InputError('the request is empty: say what to remove, for example "remove the red circle on the left"')
    settings = Settings(**settings)
    source, places = source_of(video), Places(output, mask_output, sheet)
    places.check(source, source.path, mask)
    user_mask = None if mask is None else UserMask(mask, source)
    checkpoint = load(checkpoint, device, dtype, fills=False, words=features is None)
    messages = [] if features is not None else _too_long(checkpoint, "request", request)
    if features is None and LANGUAGE_MODEL in checkpoint.notes:
        messages.append("this checkpoint was trained to be steered by its own language model: give it a --request")
    if mask is None and not checkpoint.config.has_mask_decoder:
        messages.append("this checkpoint has no mask decoder: the mask is where input and output differ")
    steering = _encoded(checkpoint, request.strip(), "") if features is None else _as_text(checkpoint, features)
    work = _work(source, steering, settings, checkpoint, callback, find_mask=mask is None)
    nothing = f"nothing in the video matches {request.strip()!r}" if mask is None else "the mask is empty"
    return edit_video(source, work, user_mask, places, nothing, messages)


def fill(
    video: Pathlike | np.ndarray | Tensor,
    prompt: str,
    output: Pathlike | None = None,
    *,
    mask: Pathlike | np.ndarray | Tensor | Colour | Box | None = None,
    mask_words: str | None = None,
    mask_checkpoint: Pathlike | Checkpoint = DEMO,
    mask_shape: str = "exact",
    mask_grow: float | None = None,
    track: bool = False,
    mask_frame: int | None = None,
    keyframes: Given = (),
    keyframe_outside: str = "keep",
    chain: bool = False,
    match_colours: bool = True,
    cross_cuts: bool = False,
    negative_prompt: str = "",
    mask_output: Pathlike | None = None,
    sheet: Pathlike | None = None,
    checkpoint: Pathlike | Checkpoint = FILL_DEMO,
    base: Pathlike | None = None,
    device: str | None = None,
    dtype: str | None = None,
    callback: Callable[[dict], None] | None = None,
    **settings,
) -> Result:
    """Fill a mask in a video with what `prompt` says ("a wooden boat"), by a checkpoint of the CoCoCo family.

    mask: what to fill, 1 = fill, as `UserMask` takes it. mask_words: in its place the words for a thing ("the red
    circle"), which the mask decoder of `mask_checkpoint`, an LGVI checkpoint, finds. With neither, the prompt says
    both: "replace the red circle with a yellow star". mask_shape, mask_grow: what is made of the mask, a
    `user_mask.Shape`. track: a mask of one frame is that of `mask_frame` (None: of the first keyframe, or 0), and
    tracked through the video; else it is for all frames. An empty prompt leaves it to the model what comes there; for
    background say so ("just the background"). negative_prompt: what is not wanted. base: as in `checkpoints.load`.

    keyframes: frames that are edited already, see `propagation.propagate`, with keyframe_outside. chain: windows that
    are done guide the next one, and are kept beside the output, so that the same call goes on where it stopped; else
    windows overlap and are blended. match_colours: drift of colour is put right, where windows are chained or there are
    keyframes; there, too, the windows do not reach over scene cuts unless `cross_cuts`.

    What is left is as in `inpaint`, but for `image_guidance_scale`, which has no meaning here. Where the mask is empty
    the model does not run.
    """
    if settings.get("image_guidance_scale") is not None:
        raise InputError("image_guidance_scale has no meaning here: the video is given to every pass of the model")
    if keyframe_outside not in OUTSIDE:
        raise InputError(f"keyframe_outside is {keyframe_outside!r}; allowed: {', '.join(OUTSIDE)}")
    settings, shape = Settings(**settings), Shape(mask_shape, mask_grow)
    named, prompt = replacement(prompt)
    if mask is not None and mask_words is not None:
        raise InputError("the mask is given twice, as a mask and in words: give one")
    if mask is None:
        words = named if mask_words is None else mask_words
        if words is None:
            raise InputError(
                "no mask is given: give one, or words for what it covers, or say both in the prompt, such as "
                '"replace the red circle with a yellow star"'
            )
        mask = Words(words, mask_checkpoint, device, dtype, settings.seed, callback)
    check_filling(checkpoint)
    source, places = source_of(video), Places(output, mask_output, sheet)
    places.check(source, source.path, mask, getattr(mask, "file", None))
    pictures, messages = read_keyframes(keyframes, source)
    spreads = chain or bool(pictures)
    nothing = f"nothing in the video matches {mask.words.strip()!r}" if isinstance(mask, Words) else "the mask is empty"
    if track:
        first = next(iter(pictures), 0) if mask_frame is None else mask_frame
        mask = Tracked(mask, first, cross_cuts)
    user_mask = UserMask(mask, source, shape)
    checkpoint = load(checkpoint, device, dtype, base, fills=True)
    negative_prompt = negative_prompt.strip()
    messages += [*_too_long(checkpoint, "prompt", prompt), *_too_long(checkpoint, "negative prompt", negative_prompt)]
    if not prompt and not pictures:
        messages.append(EMPTY_PROMPT)
    work = _work(source, _encoded(checkpoint, prompt, negative_prompt), settings, checkpoint, callback)
    if not spreads:
        return edit_video(source, work, user_mask, places, nothing, messages)
    by_words = bool(prompt) or not pictures
    way = Way(pictures, chain, cross_cuts, keyframe_outside == "blend", match_colours, by_words)
    return spread_video(source, work, user_mask, places, nothing, messages, way, (prompt, negative_prompt))


def check_filling(checkpoint) -> None:
    """Raises `InputError` for the built-in checkpoint that fills, where it is not there."""
    if checkpoint == FILL_DEMO and not FILL_DEMO.exists():
        raise InputError("there is no built-in checkpoint that fills: give one of the CoCoCo family (--checkpoint)")


def _work(
    source, steering: tuple[Tensor, Tensor], settings, checkpoint: Checkpoint, callback, find_mask: bool = False
) -> Work:
    """All made ready and checked before long work. steering: what of, and what guidance leads away from."""
    config, factor = checkpoint.config, checkpoint.vae.factor
    given = {name: value for name in RECOMMENDED if (value := getattr(settings, name)) is not None}
    best = checkpoint.training.get("frames", COCOCO_FRAMES) if config.is_inpainting else LGVI_FRAMES
    windows = Windows.fit(settings.window, settings.overlap, best)
    size = work_size(source.width, source.height, checkpoint.training, factor, settings.size)
    model = Standalone(
        checkpoint,
        *steering,
        **recommended(config, checkpoint.sampling) | given,
        batch_passes=settings.batch_passes,
        windows=windows,
        frames=source.frame_count,
        callback=callback,
    )
    mask_pixel = source.width / size.width * factor / config.mask_upscale
    edge = Edge.fit(mask_pixel, settings.dilate, settings.feather, settings.keep_outside)
    return Work(model, size, windows, edge, settings.seed, find_mask, config.is_inpainting)


@torch.no_grad()
def _encoded(checkpoint: Checkpoint, *words: str) -> tuple[Tensor, ...]:
    """The request or prompt, and what guidance leads away from, as text features (1, N, D)."""
    return tuple(checkpoint.text_encoder.encode([part]) for part in words)


def _as_text(checkpoint: Checkpoint, features: Tensor) -> tuple[Tensor, Tensor]:
    """Features in the place of the text's, and zeros in that of the empty one's; `InputError` for another width."""
    width = checkpoint.config.cross_attention_dim
    if features.ndim != 3 or len(features) != 1 or features.shape[-1] != width:
        raise InputError(f"the features have shape {tuple(features.shape)}; the checkpoint takes (1, tokens, {width})")
    features = features.to(next(checkpoint.unet.parameters()))
    return features, torch.zeros_like(features)


def _too_long(checkpoint: Checkpoint, name: str, words: str) -> list[str]:
    tokens, most = checkpoint.text_encoder.length(words), checkpoint.text_encoder.max_length
    return [f"the {name} has {tokens} tokens, the model reads {most}: its end is not read"] if tokens > most else []
