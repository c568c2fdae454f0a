"""What of a clip is left out of a dataset that is built, and why; how much moves in what stays.

VIVID filters every stage of its pipeline (arXiv 2411.15260, section 3.4). Sizes are shares of the frame, motions are
percent of the frame's diagonal from one frame to the next.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass, field, fields

import cv2
import numpy as np

from lgvi_core import masks as mask_tools
from lgvi_core.errors import InputError
from lgvi_core.metrics.flow import DIS_SMALLEST, dis_flow

from .inspection import WORDS

WIDTH = 256  # pixels that frames are brought to for motion and sharpness
PAIRS = 12  # of neighbouring frames whose flow is looked at, spread over a sample


def _limit(value, what: str):
    return field(default=value, metadata={"help": f"{what} (default: {value})"})


@dataclass(frozen=True)
class Limits:
    """What a clip and an object must keep to; 0 as a least value lets everything pass."""

    least_side: int = _limit(256, "least pixels of the frame's shorter side; VIVID's is 720")
    least_frames: int = _limit(16, "least length of a sample of a video; pictures pass; VIVID's is 5 seconds")
    most_frames: int = _limit(240, "clips are used up to this frame")
    least_score: float = _limit(0.2, "least score of a detection")
    smallest: float = _limit(0.005, "least share of the frame that an object covers, mean over its frames")
    largest: float = _limit(0.5, "greatest such share")
    most_alike: float = _limit(0.8, "greatest overlap (IoU) with an object of the clip that stays")
    least_motion: float = _limit(0.02, "least motion of object or background, percent of the diagonal a frame")
    most_motion: float = _limit(8.0, "greatest motion of the object, percent of the diagonal a frame")
    least_sharpness: float = _limit(10.0, "least variance of the Laplacian at the object, grey levels at 256 pixels")
    most_words: int = _limit(WORDS, "most words of a caption")

    @classmethod
    def options(cls, parser: argparse.ArgumentParser) -> None:
        """Add one option for each limit."""
        group = parser.add_argument_group("filters")
        for one in fields(cls):
            name, kind = "--" + one.name.replace("_", "-"), type(one.default)
            group.add_argument(name, type=kind, default=one.default, metavar="N", help=one.metadata["help"])

    @classmethod
    def of(cls, options: argparse.Namespace) -> Limits:
        """The limits that options say. Raises `InputError` for values below 0 and ranges without anything in them."""
        limits = cls(**{one.name: getattr(options, one.name) for one in fields(cls)})
        for name, value in asdict(limits).items():
            if not value >= 0:
                raise InputError(f"--{name.replace('_', '-')} is {value}; it must be 0 or more")
        pairs = (("smallest", "largest"), ("least_frames", "most_frames"), ("least_motion", "most_motion"))
        for low, high in pairs:
            if getattr(limits, low) >= getattr(limits, high):
                names = (f"--{name.replace('_', '-')} {getattr(limits, name)}" for name in (low, high))
                raise InputError(f"{' and '.join(names)} leave nothing: the first must be below the second")
        return limits


def size(height: int, width: int, limits: Limits) -> str:
    """Why a clip of this size is left out, "" where it is not; optical flow has a least size of its own."""
    return "the clip is too small" if min(height, width) < max(limits.least_side, DIS_SMALLEST) else ""


def length(frames: int, end: str, limits: Limits) -> str:
    """Why so many frames of a clip, which ended by `end`, are left out; pictures pass."""
    return (end or "the clip is too short") if frames < limits.least_frames and (frames > 1 or end) else ""


def covered(masks: np.ndarray, limits: Limits) -> str:
    """Why masks (T, H, W) bool are left out, by what they cover."""
    share = float(mask_tools.area(masks).mean())
    if not share or share < limits.smallest:
        return "the object is too small"
    return "the object is too large" if share > limits.largest else ""


def alike(mask: np.ndarray, others: list[np.ndarray], limits: Limits) -> str:
    """Why a mask (H, W) is left out beside others that stay."""
    for other in others:
        union = (mask | other).sum()
        if union and (mask & other).sum() / union > limits.most_alike:
            return "the object is there twice"
    return ""


def moves(motion: dict[str, float] | None, limits: Limits) -> str:
    """Why a sample of this `motion` is left out; pictures, None, are not."""
    if motion is None:
        return ""
    if max(motion["foreground"], motion["background"]) < limits.least_motion:
        return "nothing moves"
    return "the object moves too fast" if motion["foreground"] > limits.most_motion else ""


def blurred(frames: np.ndarray, masks: np.ndarray, limits: Limits) -> str:
    """Why a sample is left out by its sharpness where the object is, median over three frames."""
    found = [_sharpness(frames[t], masks[t]) for t in (0, len(frames) // 2, len(frames) - 1)]
    return "the object is blurred" if np.median(found) < limits.least_sharpness else ""


def motion(frames: np.ndarray, masks: np.ndarray, objects: np.ndarray) -> dict[str, float] | None:
    """How an object and what is behind it move, percent of the diagonal a frame; None of a picture.

    frames: uint8 (T, H, W, 3). masks, objects: bool (T, H, W), the object's and those of all objects. The lengths of
    the median flow (DIS) on the object ("foreground"), off all objects ("background", off this one where they leave
    nothing), and of the difference of the two ("relative"), means over up to 12 pairs of frames.
    """
    if len(frames) < 2:
        return None
    scale = min(1.0, WIDTH / frames.shape[2])
    found = []
    for t in sorted(set(np.linspace(0, len(frames) - 2, PAIRS).round().astype(int).tolist())):
        small = [_small(frame, scale) for frame in frames[t : t + 2]]
        flow = dis_flow(*small) * 100 / np.hypot(*small[0].shape[:2])
        inside, taken = (_small(part[t].astype(np.uint8) * 255, scale) > 127 for part in (masks, objects))
        if not inside.any():
            continue
        outside = ~taken if not taken.all() else ~inside
        foreground = np.median(flow[inside], axis=0)
        background = np.median(flow[outside], axis=0) if outside.any() else foreground
        found.append([np.linalg.norm(part) for part in (foreground, background, foreground - background)])
    if not found:
        return None
    return dict(zip(("foreground", "background", "relative"), np.mean(found, axis=0).tolist()))


def _sharpness(frame: np.ndarray, mask: np.ndarray) -> float:
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return 0.0
    scale = min(1.0, WIDTH / frame.shape[1])
    grey = cv2.cvtColor(_small(frame, scale), cv2.COLOR_RGB2GRAY)
    top, left = int(rows[0] * scale), int(columns[0] * scale)
    part = grey[top : int(rows[-1] * scale) + 2, left : int(columns[-1] * scale) + 2]
    return float(cv2.Laplacian(part, cv2.CV_32F).var())


def _small(picture: np.ndarray, scale: float) -> np.ndarray:
    return picture if scale == 1 else cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
