"""Where a clip jumps from one scene to another; needs OpenCV and no learned weights."""

from __future__ import annotations

import cv2
import numpy as np

from .errors import InputError
from .metrics.flow import dis_flow

WIDTH = 160  # pixels that frames are looked at
BINS = 8
OTHER_COLOURS = 0.25  # Hellinger distance of colour histograms, of 1
UNEXPLAINED = 0.5  # share of a frame's contrast that flow from the frame before does not explain


def cuts(frames: np.ndarray) -> list[int]:
    """The first frame of every scene but the clip's first.

    frames: uint8 (T, H, W, 3). A cut changes the colours and leaves a frame that optical flow cannot make from the one
    before: a pan keeps the one, a change of light the other. Slow fades are not found. Raises `InputError` for frames
    that are not uint8 (T, H, W, 3) or too small.
    """
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8:
        raise InputError(f"frames are {frames.dtype} {frames.shape}; expected uint8 (T, H, W, 3)")
    found, before = [], None
    for place, frame in enumerate(frames):
        frame = _small(frame)
        if before is not None and _differ(before, frame):
            found.append(place)
        before = frame
    return found


def _differ(before: np.ndarray, frame: np.ndarray) -> bool:
    return colour_change(before, frame) > OTHER_COLOURS and unexplained(before, frame) > UNEXPLAINED


def colour_change(before: np.ndarray, frame: np.ndarray) -> float:
    """Hellinger distance of the frames' colour histograms, 0 (the same) to 1 (no colour in common)."""
    histograms = [cv2.calcHist([one], [0, 1, 2], None, [BINS] * 3, [0, 256] * 3) for one in (before, frame)]
    return cv2.compareHist(*histograms, cv2.HISTCMP_BHATTACHARYYA)


def unexplained(before: np.ndarray, frame: np.ndarray) -> float:
    """Difference of the frame from the one before carried on by flow, as a share of its contrast; light evened out."""
    flow = dis_flow(frame, before)
    places = flow + np.stack(np.meshgrid(*map(np.arange, frame.shape[1::-1])), axis=-1)
    carried = cv2.remap(before, places.astype(np.float32), None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    first, second = (cv2.cvtColor(one, cv2.COLOR_RGB2GRAY).astype(np.float32) for one in (carried, frame))
    first, second = ((grey - grey.mean()) / max(1.0, grey.std()) for grey in (first, second))
    return float(np.abs(first - second).mean() / max(1e-6, np.abs(second).mean()))


def _small(frame: np.ndarray) -> np.ndarray:
    scale = WIDTH / max(frame.shape[:2])
    return cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else frame
