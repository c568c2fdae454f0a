"""The host's MODEL, CLIP and VAE as the model that edits, and the last result of a MODEL."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import comfy.model_management
import latent_preview
import node_helpers
import torch
from torch import Tensor

from ..lgvi_core.conditioning import WorkSize, work_size
from ..lgvi_core.editing import MASK_STEPS, Windows
from ..lgvi_core.errors import InputError
from .condition_encode import encode_text
from .guider import ThreeWay
from .host import MASK_SINK, LGVIInfo
from .steering import check_steering, steers

stop_if_interrupted = comfy.model_management.throw_exception_if_processing_interrupted


def working_size(images: Tensor, info: LGVIInfo) -> WorkSize:
    """The size the model works at for frames (T, H, W, 3)."""
    height, width = images.shape[1:3]
    return work_size(width, height, info.training, info.factor)


def check_parts(info: LGVIInfo, vae, clip, positive, prompt: str) -> list[str]:
    """What a person should know of the parts given; `InputError` where they cannot go together."""
    made = (vae.latent_channels, vae.spacial_compression_encode(), vae.latent_dim)
    wanted = (info.config.out_channels, info.factor, 2)
    if made != wanted:
        raise InputError(
            "this VAE makes {} latent channels of squares of {} pixels in {} dimensions, the MODEL takes {}, {} and "
            "{}: connect the VAE that belongs to the MODEL, such as that of its Load LGVI node".format(*made, *wanted)
        )
    if positive is None and not prompt.strip() and not info.config.is_inpainting:
        raise InputError('the prompt is empty: say what to remove, for example "remove the red circle on the left"')
    if positive is None and clip is None:
        raise InputError("a prompt needs a CLIP: connect that of Load LGVI, or CONDITIONING in place of the prompt")
    for _, options in positive or ():
        check_steering(options, info.mark)
    messages = []
    if positive is not None and prompt.strip():
        messages.append("CONDITIONING is connected: the prompt is not used")
    if clip is None and not steers(positive or ()):
        messages.append("no CLIP is connected: where guidance needs the empty prompt, zeros stand for it")
    return messages


def encode_words(
    info: LGVIInfo, clip, positive, prompt: str, negative=None, negative_prompt: str = ""
) -> tuple[list, list]:
    """CONDITIONING of the words, which are `positive` or else the prompt, and of what guidance leads away from.

    The latter is `negative`, or else the negative prompt, empty for LGVI; zeros beside a language model's states, as in
    LGVI-I, and without a CLIP.
    Raises `InputError` for features that the MODEL does not take.
    """
    words = _checked(info, encode_text(clip, prompt.strip()) if positive is None else positive)
    if negative is not None:
        return words, _checked(info, negative)
    if clip is None or steers(words):
        return words, [[torch.zeros_like(words[0][0]), {}]]
    return words, encode_text(clip, negative_prompt.strip())


def _checked(info: LGVIInfo, words: list) -> list:
    shapes = [tuple(text.shape) for text, _ in words]
    width = info.config.cross_attention_dim
    if not shapes or any(len(shape) != 3 or shape[-1] != width for shape in shapes):
        raise InputError(
            f"the words are encoded to {shapes}; this MODEL takes (1, tokens, {width}): use the CLIP that belongs to "
            "the MODEL, such as that of the same Load LGVI node"
        )
    return words


@dataclass
class HostModel:
    """An LGVI MODEL with its VAE as `lgvi_core.editing.Model`, sampled by the host. Latents are the VAE's, unscaled.

    words, no_words: CONDITIONING. sampler, sigmas: SAMPLER and SIGMAS. windows, frames: of the clip, for the progress.
    """

    model: object
    info: LGVIInfo
    vae: object
    words: list
    no_words: list
    sampler: object
    sigmas: Tensor
    guidance: float
    image_guidance: float
    windows: Windows
    frames: int

    device = torch.device("cpu")  # the host's VAE moves what it needs itself

    def __post_init__(self):
        self.steps = len(self.sigmas) - 1
        self.total = self.steps * self.windows.count(self.frames)
        self.show_step = latent_preview.prepare_callback(self.model, self.total)

    def encode(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        stop_if_interrupted()
        return self.vae.encode((pixels.movedim(1, -1) + 1) / 2).transpose(0, 1)[None]

    def denoise(self, number, noise, condition, generator, find_mask, hole=None):
        stop_if_interrupted()
        latents, noise = (x[0].transpose(0, 1) for x in (condition, noise))  # (T, C, h, w): frames as the batch
        video = {"concat_latent_image": latents}
        if hole is not None:
            video["concat_mask"] = hole[0].transpose(0, 1)
        guider = MaskReadingGuider(
            self.model,
            node_helpers.conditioning_set_values(self.words, video),
            node_helpers.conditioning_set_values(self.no_words, video),
            self.no_words,
            self.guidance,
            self.image_guidance,  # 1 for a MODEL that fills: no pass is without the video
        )
        if find_mask and self.info.has_mask_decoder:
            guider.reader = MaskReader(self.steps, len(latents))
        done = self.steps * number

        def after_step(step, denoised, x, steps):
            stop_if_interrupted()
            guider.steps_done = step + 1
            self.show_step(done + step, denoised, x, self.total)

        options = {"callback": after_step, "disable_pbar": True, "seed": generator.initial_seed()}
        samples = guider.sample(noise, torch.zeros_like(latents), self.sampler, self.sigmas, **options)
        samples = samples.to(comfy.model_management.intermediate_device())
        return samples.transpose(0, 1)[None], guider.reader and guider.reader.mean()

    def decode(self, latents: Tensor) -> Tensor:
        stop_if_interrupted()
        return self.vae.decode(latents[0].transpose(0, 1)).float()


class MaskReader:
    """Collects the mask decoder's masks of words and video, before some of a window's steps."""

    def __init__(self, steps: int, frames: int):
        count = min(MASK_STEPS, steps)
        self.due = [(2 * k + 1) * steps // (2 * count) for k in range(count)]  # steps done when one is to be read
        self.sums, self.counts = [0] * frames, [0] * frames

    def is_due(self, steps_done: int) -> bool:
        """Whether to read now; asking settles it."""
        before, self.due = self.due, [step for step in self.due if step > steps_done]
        return before != self.due

    def __call__(self, masks: Tensor, transformer_options: dict) -> None:
        window = transformer_options.get("context_window")
        frames = range(len(self.sums)) if window is None else window.index_list
        conds = transformer_options["cond_or_uncond"]
        for mask, cond in zip(masks.float().cpu().chunk(len(conds)), conds):
            if cond == 0:
                for frame, part in zip(frames, mask.unbind(dim=2)):
                    self.sums[frame] = self.sums[frame] + part
                    self.counts[frame] += 1

    def mean(self) -> Tensor:
        """(1, 1, T, h, w) in [0, 1]. Raises `InputError` where the sampler never ran the words on some frame."""
        if not all(self.counts):
            raise InputError("the sampler gave no mask: choose another sampler, or give a MASK")
        return torch.stack([total / count for total, count in zip(self.sums, self.counts)], dim=2)


class MaskReadingGuider(ThreeWay):
    """Three-way guidance that also reads the mask decoder, when `reader` wants it."""

    reader: MaskReader | None = None
    steps_done = 0

    def predict_noise(self, x, timestep, model_options=None, seed=None):
        model_options = model_options or {}
        if self.reader is not None and self.reader.is_due(self.steps_done):
            options = model_options.get("transformer_options", {}) | {MASK_SINK: self.reader}
            model_options = model_options | {"transformer_options": options}
        return super().predict_noise(x, timestep, model_options, seed)


class LastResult:
    """The last of a node's results that took long, while its MODEL lives: what follows can change without another."""

    def __init__(self):
        self.kept = weakref.WeakKeyDictionary()

    def get(self, model, positive, key: tuple, make: Callable[[], Iterable]) -> list:
        """`list(make())`; the last one again where MODEL and CONDITIONING are the same objects and the key is equal."""
        key = (model.patches_uuid, *key)
        kept = self.kept.get(model)
        if kept is None or kept[0] is not positive or kept[1] != key:
            self.kept.clear()
            kept = self.kept[model] = positive, key, list(make())
        return kept[2]


class LastAnswers:
    """The last answers of each language model, while it lives: what was asked already is not asked again."""

    def __init__(self, most: int = 8):
        self.most, self.kept = most, weakref.WeakKeyDictionary()

    def get(self, model, key: tuple, make: Callable[[], object]):
        """`make()`; its last value again where the model is the same object and the key is equal. None: always made."""
        if model is None:
            return make()
        answers = self.kept.setdefault(model, {})
        if key not in answers:
            answers[key] = make()
            if len(answers) > self.most:
                del answers[next(iter(answers))]
        return answers[key]


def same(thing) -> weakref.ref | None:
    """Part of a key: equal to another as long as both are of one living object."""
    return None if thing is None else weakref.ref(thing)


class Identity:
    """Part of a key: equal to another of the very same object, which it keeps."""

    def __init__(self, thing):
        self.thing = thing

    def __eq__(self, other) -> bool:
        return isinstance(other, Identity) and self.thing is other.thing

    __hash__ = None
