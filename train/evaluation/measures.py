"""The numbers of one result. The definitions are in `lgvi_core.metrics`, one module each."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lgvi_core.errors import InputError
from lgvi_core.metrics import background, clip_features, flow, i3d, removal, vfid
from lgvi_core.metrics.psnr import frame_psnr
from lgvi_core.metrics.ssim import frame_ssim, window_for
from lgvi_core.metrics.warping import Motion, motions, warping_error

from .methods import Clip, Edit

PLACE = "weights"  # where files that the user downloads are looked for, if nothing is said


@dataclass(frozen=True)
class Column:
    """A column of the table: title, with an arrow to where it is better; unit; and why a row can be without it."""

    title: str
    unit: str = ""
    digits: int = 3
    absent: str = ""


COLUMNS = {
    "psnr": Column("PSNR ↑", "dB", 2, "every frame is identical to the truth"),
    "ssim": Column("SSIM ↑"),
    "vfid_paper": Column("VFID, the papers' way ↓", absent="it takes two clips over 32 pixels or 8 frames"),
    "vfid": Column("VFID ↓", absent="it takes two clips"),
    "e_warp": Column("E_warp ×10⁻² ↓", absent="every sample is a single frame"),
    "mask_iou": Column("mask IoU ↑", absent="the method finds no mask of its own"),
    "psnr_mask": Column("PSNR in the mask ↑", "dB", 2, "every mask is empty, or its inside identical to the truth"),
    "psnr_mask_input": Column("the same of the input", "dB", 2, "every mask is empty, or the input is the truth"),
    "removed": Column("removed ↑", "%", 1, "every mask is empty, or there is nothing to remove in it"),
    "damaged": Column("another object damaged ↓", "%", 1, "the data names no other object of a video"),
    "untouched": Column("untouched when nothing matches ↑", "%", 1, "every sample has something to remove"),
    "bp": Column("BP ↓", digits=2, absent="the masks cover everything"),
    "tc": Column("TC ↑", digits=2, absent="every sample is a single frame"),
    "clip_score": Column("CLIP score of the request in the mask", digits=2, absent="every mask is empty"),
}


@dataclass
class Networks:
    """The networks that measures need. What a user has not downloaded is None, and `absent` says what to get."""

    flow: flow.Flow = flow.dis_flow
    flow_name: str = "OpenCV DIS, medium"
    i3d: i3d.I3D | None = None
    clip: clip_features.Clip | None = None
    absent: dict[str, str] = field(default_factory=dict)
    used: dict[str, str] = field(default_factory=dict)

    @classmethod
    def open(cls, i3d_file: Path | None, raft_file: Path | None, clip_folder: Path | None, device: str) -> Networks:
        """From the paths given, else from `weights/` if they are there; `InputError` for what is no such file."""
        networks = cls()
        place = _at(i3d_file, "rgb_imagenet.pt")
        if place:
            networks.i3d, networks.used["I3D"] = i3d.load(place).to(device), str(place)
        else:
            reason = f"no I3D weights: download {i3d.URL} to {PLACE}/rgb_imagenet.pt, or give --i3d FILE"
            networks.absent |= {"vfid_paper": reason, "vfid": reason}
        place = _at(raft_file, Path(flow.RAFT_URL).name)
        if place:
            networks.flow, networks.flow_name = flow.raft_flow(place, device), "RAFT large, torchvision"
        networks.used["optical flow"] = f"{networks.flow_name}{f' ({place})' if place else ''}"
        place = _at(clip_folder, "clip")
        if place:
            networks.clip, networks.used["CLIP"] = clip_features.Clip(place, device), str(place)
        else:
            reason = f"no CLIP weights: get the files of {clip_features.URL} into {PLACE}/clip, or give --clip FOLDER"
            networks.absent |= {"tc": reason, "clip_score": reason}
        return networks


def _at(given: Path | None, usual: str) -> Path | None:
    """The place a user names, or the usual one if there is something."""
    if given is not None:
        return given
    return Path(PLACE) / usual if (Path(PLACE) / usual).exists() else None


class Reference:
    """A clip with what all results on it are measured against, computed once; `others` as of `OtherObjects`."""

    def __init__(self, clip: Clip, networks: Networks, others: list[tuple[np.ndarray, np.ndarray]]):
        self.clip, self.networks, self.others = clip, networks, others
        self.motions: list[Motion] = motions(clip.frames, networks.flow)
        self.features = i3d_features(networks, clip.clean)


def i3d_features(networks: Networks, frames: np.ndarray) -> dict[str, np.ndarray]:
    """Per kind of VFID, the features of a clip."""
    if networks.i3d is None:
        return {}
    found = {"vfid": vfid.features(networks.i3d, frames, as_papers=False)}
    if vfid.can_normalise(*frames.shape[:3]):
        found["vfid_paper"] = vfid.features(networks.i3d, frames, as_papers=True)
    return found


def measure(reference: Reference, edit: Edit) -> dict:
    """The numbers of one result: by column, a number, or a list with one for each frame; None is an infinite PSNR.

    Columns that do not apply to the clip or the method are absent.
    """
    clip, networks = reference.clip, reference.networks
    if edit.frames.shape != clip.frames.shape:
        raise InputError(f"{clip.name}: the result has shape {edit.frames.shape}, the sample {clip.frames.shape}")
    row = {
        "psnr": [_finite(value) for value in frame_psnr(edit.frames, clip.clean)],
        "ssim": frame_ssim(edit.frames, clip.clean),
        "e_warp": warping_error(edit.frames, reference.motions),
        "bp": background.background_change(edit.frames, clip.frames, clip.mask),
    }
    covers = clip.mask.any()
    if not covers:
        row["untouched"] = bool((edit.frames == clip.frames).all())
    elif not edit.fills and (clip.frames[clip.mask] != clip.clean[clip.mask]).any():
        row["removed"] = removal.removed(edit.frames, clip.frames, clip.clean, clip.mask)
    if edit.mask is not None:
        row["mask_iou"] = removal.mask_iou(edit.mask, clip.mask)
    if reference.others:
        row["damaged"] = any(
            removal.damaged(edit.frames, clip.frames, behind, mask) for mask, behind in reference.others
        )
    if networks.clip is not None:
        row["tc"] = networks.clip.consistency(edit.frames)
        row["clip_score"] = networks.clip.score(edit.frames, clip.mask, clip.caption)
    row = {name: value for name, value in row.items() if value is not None}
    if covers:
        row["psnr_mask"] = _finite(removal.psnr(edit.frames, clip.clean, clip.mask))
        row["psnr_mask_input"] = _finite(removal.psnr(clip.frames, clip.clean, clip.mask))
    return row


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def mean(rows: list[dict]) -> dict:
    """The rows' means by column: lists are pooled; what is None is left out and counted as `<column>_identical`."""
    result = {}
    for name in COLUMNS:
        values = [row[name] for row in rows if name in row]
        values = [one for value in values for one in (value if isinstance(value, list) else [value])]
        finite = [float(value) for value in values if value is not None]
        if finite:
            result[name] = float(np.mean(finite))
        if len(finite) < len(values):
            result[f"{name}_identical"] = len(values) - len(finite)
    return result


def ssim_windows(sizes: set[tuple[int, int]]) -> list[int]:
    """The windows that SSIM took for frames of these (height, width), largest first."""
    return sorted({window_for(*size) for size in sizes}, reverse=True)
