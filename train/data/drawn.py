"""The synthetic domain as a source. Settings, all optional:

clips     how many clips it is said to have (1000); training draws without end and does not ask
frames    length of a clip (8)
height, width  pixels (64)
augment   tilts, colours, marks of JPEG and blur, see `synthetic.draw` (true)
held_out  textures that training leaves out (false)
hard      objects that may overlap and cross the border (false)
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from lgvi_core.errors import InputError

from .entries import Entry, Sample
from .synthetic import Clip, draw

SETTINGS = {
    "clips": 1000, "frames": 8, "height": 64, "width": 64, "augment": True, "held_out": False, "hard": False,
}  # fmt: skip


class Endless:
    """A source that draws whatever clip is asked for, by `draw(index, frames, height, width, kind)`.

    As a dataset it has clips 0, 1, ... of `seed`; the words belong to the clip as a whole, at the settings' size.
    """

    broken: list[tuple[str, str]] = []

    def __init__(self, settings: dict, seed: int):
        self.settings, self.seed = settings, seed

    def __len__(self):
        return self.settings["clips"]

    def clip(self, i: int):
        """The clip with all its truth."""
        if not 0 <= i < len(self):
            raise IndexError(f"clip {i} of {len(self)}")
        return _drawn(self, i)

    def entry(self, i: int) -> Entry:
        s = self.settings
        return Entry(f"{i:06d}", s["frames"], s["height"], s["width"], (self.clip(i).sentence,))

    def load(self, i: int, frames: list[int], height: int, width: int) -> Sample:
        s = self.settings
        if (height, width) != (s["height"], s["width"]):
            raise InputError(f"drawn clips are {s['width']}x{s['height']} here, not {width}x{height}")
        clip = self.clip(i)
        return Sample(*(np.ascontiguousarray(part[frames]) for part in (clip.frames, clip.clean, clip.mask)))


@lru_cache(maxsize=8)
def _drawn(source: Endless, i: int):
    return source.draw(i, *(source.settings[name] for name in ("frames", "height", "width")))


class DrawnSource(Endless):
    """Clips of `synthetic.draw`."""

    def __init__(self, settings: dict, seed: int):
        super().__init__(settings, seed)
        if min(settings["clips"], settings["frames"]) < 1 or min(settings["height"], settings["width"]) < 32:
            raise InputError(f"the synthetic domain needs clips and frames from 1 and sides from 32 on, got {settings}")

    def draw(self, index: int, frames: int, height: int, width: int, kind: str | None = None) -> Clip:
        """Any clip of the domain, at any length and size, with all its truth."""
        ways = {name: self.settings[name] for name in ("augment", "held_out", "hard")}
        return draw(self.seed, index, frames, height, width, kind=kind, **ways)
