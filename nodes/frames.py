"""VIDEO and IMAGE to frames that can be worked on, and back."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from fractions import Fraction

import torch
from comfy_api.latest import InputImpl, Types
from torch import Tensor

from ..lgvi_core.errors import InputError


@dataclass(frozen=True)
class Clip:
    """The frames (T, H, W, 3) of a VIDEO or IMAGE, on the CPU, their own values; what else the VIDEO has goes along."""

    images: Tensor
    components: Types.VideoComponents
    bit_depth: int
    given: object  # the VIDEO itself, None if it was an IMAGE
    messages: tuple[str, ...] = ()

    @classmethod
    def read(cls, given, frame_rate: float) -> Clip:
        """A VIDEO's or an IMAGE's frames; `frame_rate` is that of an IMAGE.

        Raises `InputError` for what is neither, for no frames, and for values that are no numbers.
        """
        is_image = isinstance(given, Tensor)
        if is_image:
            components = Types.VideoComponents(images=given, frame_rate=Fraction(frame_rate).limit_denominator(1001))
        elif hasattr(given, "get_components"):
            components = given.get_components()
        else:
            raise InputError(f"video is {type(given).__name__}; connect a VIDEO, or an IMAGE with the frames in order")
        images = components.images
        if images.ndim != 4 or images.shape[-1] not in (3, 4) or not images.numel():
            raise InputError(
                f"the video's frames are {tuple(images.shape)}; expected (frames, height, width, 3), at least one frame"
            )
        messages = ("the frames' alpha channel is left out",) if images.shape[-1] == 4 else ()
        images = images[..., :3].detach().cpu()
        images = images.float() if images.dtype == torch.bfloat16 else images  # numpy has no bfloat16
        for i, image in enumerate(images):
            if not image.isfinite().all():
                raise InputError(f"frame {i} of the video has values that are no numbers (NaN or infinity)")
        return cls(images, components, 8 if is_image else given.get_bit_depth(), None if is_image else given, messages)

    @property
    def frame_rate(self) -> Fraction:
        return self.components.frame_rate

    def video(self, images: Tensor):
        """Other frames, as many, as a VIDEO with this one's sound and frame rate."""
        return InputImpl.VideoFromComponents(dataclasses.replace(self.components, images=images), self.bit_depth)

    def fingerprint(self) -> str:
        """The same for the same frames, whatever object holds them."""
        digest = hashlib.sha256(str((self.images.shape, self.images.dtype)).encode())
        for image in self.images:
            digest.update(image.contiguous().numpy())
        return digest.hexdigest()


def frame_numbers(text: str, count: int) -> list[int]:
    """Which frames of `count` a text such as "0, 40, -1" names: counted from 0, and from the end where negative.

    Raises `InputError` for a text that names none, a frame that is not there, and one that is named twice.
    """
    try:
        named = [int(part) for part in text.replace(",", " ").split()]
    except ValueError:
        named = []
    if not named:
        raise InputError(f'the frame numbers are {text!r}; expected whole numbers, such as "0" or "0, 40, -1"')
    for number in named:
        if not -count <= number < count:
            raise InputError(f"there is no frame {number}: the video has {count} frames, 0 to {count - 1}")
    numbers = [number % count for number in named]
    for number in numbers:
        if numbers.count(number) > 1:
            raise InputError(f"frame {number} is named twice in {text!r}: name each frame once")
    return numbers
