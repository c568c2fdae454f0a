"""The objects that must stay when a sample's own is removed."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from ..data.drawn import DrawnSource
from ..data.sources import FileSource


class OtherObjects:
    """Looks them up in a dataset: drawn clips know theirs, on disk they are the other samples of the same video."""

    def __init__(self, source: DrawnSource | FileSource):
        self.source = source
        self.samples = defaultdict(list)  # of each video
        if isinstance(source, FileSource):
            for i, record in enumerate(source.records):
                self.samples[record.video].append(i)

    def of(self, i: int, mask: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each other object of sample `i`: where it is and `mask` is not (T, H, W), and the video without it."""
        if isinstance(self.source, DrawnSource):
            clip = self.source.clip(i)
            others = [one[: len(mask)] for k, one in enumerate(clip.object_masks) if k not in clip.targets]
            found = [(one, clip.background[: len(mask)]) for one in others]
        else:
            others = [k for k in self.samples[self.source.records[i].video] if k != i]
            samples = [self.source.load(k, list(range(len(mask))), *mask.shape[1:]) for k in others]
            found = [(sample.mask & ~mask, sample.clean) for sample in samples]
        return [(where, behind) for where, behind in found if where.any()]
