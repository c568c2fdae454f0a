"""Conversations about drawn clips as a source. Settings, all optional:

clips      how many clips it is said to have (1000); training draws without end and does not ask
frames     length of a clip (8)
height, width  pixels (64)
augment    as of the synthetic domain, see `synthetic.draw` (true)
held_out   textures that training leaves out (false)
kinds, histories  weights of what requests are and of what was said before them: {name: weight}; names and usual weights
           are `SHARES` and `HISTORIES` of `synthetic_talk`
"""

from __future__ import annotations

from lgvi_core.errors import InputError

from .drawn import Endless
from .synthetic_talk import HISTORIES, SHARES, TalkClip, draw_talk

SETTINGS = {
    "clips": 1000, "frames": 8, "height": 64, "width": 64, "augment": True, "held_out": False, "kinds": SHARES,
    "histories": HISTORIES,
}  # fmt: skip


class TalkSource(Endless):
    """Clips of `synthetic_talk.draw_talk`."""

    def __init__(self, settings: dict, seed: int):
        super().__init__(settings, seed)
        if min(settings["clips"], settings["frames"]) < 1 or min(settings["height"], settings["width"]) < 32:
            raise InputError(f"drawn conversations need clips and frames from 1, sides from 32 on, got {settings}")
        self._ways = {name: settings[name] for name in ("augment", "held_out", "kinds", "histories")}
        self.clip(0)  # checks the settings

    def draw(self, index: int, frames: int, height: int, width: int, kind: str | None = None) -> TalkClip:
        """Any clip of the domain, at any length and size, with all its truth."""
        return draw_talk(self.seed, index, frames, height, width, kind=kind, **self._ways)
