"""A mask of one frame that is tracked through its video, for those that take a `UserMask`."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import torch

from . import masks
from .conditioning import resize_frames, to_bytes
from .parts import Spill
from .user_mask import Opened, open_mask
from .video import VideoSource

AREA = 432 * 240  # pixels that the tracker looks at


@dataclass(frozen=True)
class Tracked:
    """A mask as `UserMask` takes it; if it has one frame, it is that of frame `index` and `masks.track` does the rest.

    Such a mask fits one picture of a moving thing. A box for all frames, and a mask for each, stay as they are. The
    masks of all frames are held, at the size that the tracker works at.
    """

    mask: object
    index: int
    across_cuts: bool = False

    @property
    def file(self):
        """The file of the mask, where there is one."""
        return self.mask if isinstance(self.mask, (str, os.PathLike)) else getattr(self.mask, "file", None)

    def open(self, source: VideoSource) -> Opened:
        given = open_mask(self.mask, source)
        if given.length != 1 or given.chosen or source.frame_count == 1:
            return given
        mask = next(given.frames()).astype(np.float32) >= 0.5
        scale = min(1.0, (AREA / mask.size) ** 0.5)
        height, width = (round(side * scale) for side in mask.shape)
        frames = Spill()
        for frame in source:
            frames.add(_small(frame.image, height, width))
        small = masks.resize(mask[None].astype(np.float32), height, width)[0]
        small = small >= min(0.5, max(1e-6, small.max()))  # a thin mask is not lost
        found = masks.track(frames.array(), small, self.index, self.across_cuts)
        said = f"{given.name} has one frame: it is that of frame {self.index}, and tracked through the others"
        if found.lost_at is not None:
            said += f"; from frame {found.lost_at} on that is not to be trusted: give a mask for each frame"

        def read():
            for place, one in enumerate(found.masks):
                yield mask if place == self.index else masks.resize(one[None].astype(np.float32), *mask.shape)[0] >= 0.5

        return Opened(given.name, read, len(found.masks), said=(said,))


def _small(image: np.ndarray, height: int, width: int) -> np.ndarray:
    image = torch.from_numpy(to_bytes(image))[None].float()
    return resize_frames(image, height, width)[0].round().byte().numpy()
