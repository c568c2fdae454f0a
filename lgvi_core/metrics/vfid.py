"""VFID: the Frechet distance between the I3D features of two sets of clips (Wang et al. 2018)."""

from __future__ import annotations

import numpy as np
import torch

from ..errors import InputError
from .i3d import I3D


@torch.no_grad()
def features(network: I3D, frames: np.ndarray, as_papers: bool) -> np.ndarray:
    """I3D features (1024,) of a clip (T, H, W, 3) in 0..255.

    as_papers: with the network in training mode, as the papers' evaluator leaves it: each clip is then normalised by
    its own statistics. `vfid_paper` is made of these, `vfid` of those in evaluation mode.
    """
    device = next(network.parameters()).device
    clip = torch.from_numpy(frames).to(device).permute(3, 0, 1, 2)[None] / 255
    network.train(as_papers)
    try:
        return network(clip)[0].cpu().numpy()
    finally:
        network.eval()


def can_normalise(frames: int, height: int, width: int) -> bool:
    """Whether a clip leaves more than one value a channel, without which it has no statistics of its own."""
    return frames > 8 or max(height, width) > 32


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) of the Gaussians fitted to two sets of features (N, D).

    The trace of the root is the nuclear norm of the product of the two centred sets, which holds for fewer samples than
    dimensions too. Raises `InputError` for fewer than two samples.
    """
    if min(len(first), len(second)) < 2:
        raise InputError(f"a Frechet distance needs two samples a set; there are {len(first)} and {len(second)}")
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    means = first.mean(axis=0) - second.mean(axis=0)
    a, b = ((x - x.mean(axis=0)) / np.sqrt(len(x) - 1) for x in (first, second))
    distance = means @ means + (a**2).sum() + (b**2).sum() - 2 * np.linalg.norm(a @ b.T, "nuc")
    return max(0.0, float(distance))  # rounding can take it below
