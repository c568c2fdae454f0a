"""The fill domain as a source. Settings, all optional:

clips     how many clips it is said to have (1000); training draws without end and does not ask
frames    length of a clip (8)
height, width  pixels (64)
held_out  textures that training leaves out (false)
kinds, tasks, regions  weights of kinds of clip, of what is asked for, and of shapes of the region: {name: weight}, the
          names and their usual weights are `KINDS`, `TASKS` and `REGIONS` of `synthetic_fill`
variety   from 0 to 1, how much things asked for differ among those of the same look (1.0)
settled   what captions and regions leave open is always the same (false)
outline   pixels of a dark line around every object (0.0)
"""

from __future__ import annotations

from lgvi_core.errors import InputError

from .drawn import Endless
from .synthetic_fill import KINDS, REGIONS, TASKS, FillClip, draw_fill

SETTINGS = {
    "clips": 1000, "frames": 8, "height": 64, "width": 64, "held_out": False, "kinds": KINDS, "tasks": TASKS,
    "regions": REGIONS, "variety": 1.0, "settled": False, "outline": 0.0,
}  # fmt: skip


class FillSource(Endless):
    """Clips of `synthetic_fill.draw_fill`. `clean` is the truth, `mask` the region to fill."""

    def __init__(self, settings: dict, seed: int):
        super().__init__(settings, seed)
        if settings["clips"] < 1:
            raise InputError(f"the fill domain needs clips from 1 on, got {settings['clips']}")
        ways = ("held_out", "kinds", "tasks", "regions", "variety", "settled", "outline")
        self._ways = {name: settings[name] for name in ways}
        self.clip(0)  # checks the settings

    def draw(self, index: int, frames: int, height: int, width: int, kind: str | None = None) -> FillClip:
        """Any clip of the domain, at any length and size, with all its truth."""
        if kind is not None:
            raise InputError(f"the fill domain has no kind {kind!r} of batch; give `tasks` and `kinds` as its settings")
        return draw_fill(self.seed, index, frames, height, width, **self._ways)
