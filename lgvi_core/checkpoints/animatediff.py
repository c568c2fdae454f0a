"""AnimateDiff's motion modules as the first weights of motion blocks, as CoCoCo was trained from them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path

import torch

from ..errors import InputError
from ..models import InflatedUNet
from .cococo import bare_name
from .files import listing
from .fitting import read_values
from .weights import Weights, open_weights

ATTENTION = re.compile(r"(.*\.transformer_blocks\.0\.)(attention_blocks|norms)\.(\d+)\.(.*)")


@torch.no_grad()
def start_from(unet: InflatedUNet, path: str | Path) -> list[str]:
    """Puts the motion modules in a file (`mm_sd_v15_v2.ckpt`) into a U-Net's motion blocks (CoCoCo, section 4.1).

    AnimateDiff's n-th temporal attention becomes the block's n-th; norms, projections and feed-forward go over as they
    are. Position tables are computed. Returns lines that say what was taken, what stays new, and what of the file has
    no counterpart. Raises `InputError` for a file without motion modules, a U-Net without motion blocks, or a shape
    that does not fit.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise InputError(f"there are no motion modules at {path}: no such file")
    temporal = [i for i, kind in enumerate(unet.config.motion_attention) if kind == "temporal"]
    if not temporal:
        kinds = list(unet.config.motion_attention)
        raise InputError(f"motion_attention is {kinds}: without 'temporal' nothing can start from {path}")
    theirs = motion_weights(path)
    expected = {name: value for name, value in unet.state_dict().items() if ".motion_modules." in name}
    fitting = {ours: weight for name, weight in theirs.items() if (ours := counterpart(name, temporal)) in expected}
    wrong = [
        f"{name} is {weight.shape}, expected {tuple(expected[name].shape)}"
        for name, weight in fitting.items()
        if weight.shape != tuple(expected[name].shape)
    ]
    if wrong:
        raise InputError(f"{path} does not fit the U-Net's motion blocks; of another shape: {listing(wrong)}")
    if not next(unet.parameters()).is_meta:  # else names and shapes are all there is to see
        for name, value in read_values(fitting).items():
            expected[name].copy_(value)
    taken = {name for name in theirs if counterpart(name, temporal) in expected}
    return [
        f"{path}: {len(fitting)} of {len(expected)} tensors of the motion blocks",
        f"new, with no counterpart in the file: {without_counterpart(expected, fitting)}",
        f"in the file, with no counterpart in the U-Net: {without_counterpart(theirs, taken)}",
    ]


def motion_weights(path: Path) -> Weights:
    """The weights of motion modules in a file by their names in a U-Net, without position tables."""
    weights = {bare_name(name): weight for name, weight in open_weights(path).items()}
    motion = {name: one for name, one in weights.items() if "motion_modules." in name and "pe" not in name.split(".")}
    if not motion:
        raise InputError(f"{path} has no motion modules (names with motion_modules); give AnimateDiff's, for SD 1.5")
    return motion


def counterpart(name: str, temporal: list[int]) -> str | None:
    """The name in a motion block for AnimateDiff's, whose attentions are all temporal; None if there is none.

    temporal: which of the block's attentions are temporal, in order.
    """
    found = ATTENTION.fullmatch(name)
    if not found:
        return name
    number = int(found[3])
    return f"{found[1]}{found[2]}.{temporal[number]}.{found[4]}" if number < len(temporal) else None


def without_counterpart(names: Iterable[str], others: Collection[str]) -> str:
    """Which names are not among the others, in words: motion blocks that are new as a whole, else their sub-layers."""
    blocks = {name.partition(".temporal_transformer.")[0] for name in others}
    found = set()
    for name in names:
        block, _, inner = name.partition(".temporal_transformer.")
        if name not in others:
            found.add(block if block not in blocks else re.sub(r"^transformer_blocks\.0\.|(?<=\d)\..*", "", inner))
    return listing(sorted(found)) or "none"
