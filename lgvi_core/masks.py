"""Masks at the edge, in pixels: from what a user has or the model gives to the composited picture.

Masks are numpy arrays (T, H, W), 1 = remove: float32 in [0, 1] while soft, bool once `binarize`d. Frames are uint8
(T, H, W, 3). Nothing here but `smooth_in_time` looks at more than one frame: a clip may come in pieces of any length.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

from .errors import InputError

NEARLY_ALL = 0.9  # share of a clip from which on its mask is likely a mistake


def as_mask(mask, frames: int, height: int, width: int) -> np.ndarray:
    """A user's mask as float32 (frames, height, width) in [0, 1].

    mask: array or tensor (H, W) or (1, H, W) for all frames alike, or (T, H, W); bool, float in [0, 1], or uint8 in
    0..255 (uint8 with no value above 1 counts as 0 and 1). Raises `InputError` for any other, naming both sizes.
    """
    if isinstance(mask, torch.Tensor):
        mask = mask.detach().cpu()
        mask = (mask.float() if mask.is_floating_point() else mask).numpy()
    mask = np.asarray(mask)
    if mask.ndim == 2:
        mask = mask[None]
    if mask.ndim != 3:
        raise InputError(f"the mask has shape {mask.shape}; expected (height, width) or (frames, height, width)")
    if mask.shape[1:] != (height, width):
        raise InputError(
            f"the mask is {mask.shape[2]}x{mask.shape[1]} pixels but the video is {width}x{height}: "
            "give a mask of the video's size"
        )
    if len(mask) not in (1, frames):
        raise InputError(
            f"the mask has {len(mask)} frames but the video has {frames}: give one mask for each frame, or one for all"
        )
    if mask.dtype == np.uint8:
        mask = mask.astype(np.float32) / (1 if mask.max(initial=0) <= 1 else 255)
    elif mask.dtype == bool or np.issubdtype(mask.dtype, np.floating):
        mask = mask.astype(np.float32)
        low, high = mask.min(initial=0), mask.max(initial=0)
        if not (low >= 0 and high <= 1):  # NaN fails both
            raise InputError(f"the mask has values from {low:g} to {high:g}; float masks must be within 0 to 1")
    else:
        raise InputError(f"the mask is of type {mask.dtype}; give bool, float (0 to 1) or uint8 (0 to 255)")
    return np.broadcast_to(mask, (frames, height, width))


def resize(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """The mask at another size: soft ones bilinear, antialiased where they shrink; bool ones to the nearest pixel.

    A thin object can get lost when a bool mask shrinks: resize the soft mask, then `binarize`.
    """
    if height < 1 or width < 1:
        raise InputError(f"cannot resize a mask to {width}x{height} pixels: both must be at least 1")
    x = torch.from_numpy(np.array(mask, np.float32))[:, None]
    if mask.dtype == bool:
        return F.interpolate(x, (height, width), mode="nearest-exact")[:, 0].numpy() > 0.5
    return F.interpolate(x, (height, width), mode="bilinear", antialias=True)[:, 0].clamp(0, 1).numpy()


def from_difference(before: torch.Tensor, after: torch.Tensor, threshold: float = 0.1) -> torch.Tensor:
    """Soft mask (T, H, W) of where two clips (T, H, W, 3) in [0, 1] differ; 0.5 where they do by `threshold`.

    The largest difference over the colours, averaged over a neighbourhood of a 32nd of the frame's shorter side.
    """
    difference = (before - after).abs().amax(dim=-1)
    side = max(1, min(difference.shape[1:]) // 32) // 2 * 2 + 1
    near = F.avg_pool2d(difference, side, stride=1, padding=side // 2, count_include_pad=False)
    return (near / (2 * threshold)).clamp(0, 1)


def smooth_in_time(mask: np.ndarray) -> np.ndarray:
    """Each frame's mask as a quarter of its neighbours' and half of its own; the ends neighbour themselves.

    At the threshold 0.5 a pixel that is missing in one frame only is filled and one that is on in one frame only stays.
    """
    mask = np.asarray(mask, np.float32)
    padded = np.concatenate([mask[:1], mask, mask[-1:]])
    return 0.25 * padded[:-2] + 0.5 * padded[1:-1] + 0.25 * padded[2:]


def binarize(mask: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """Where the mask reaches the threshold, as bool. Raises `InputError` for a threshold outside (0, 1]."""
    if not 0 < threshold <= 1:
        raise InputError(f"mask threshold is {threshold}; it must be above 0 and at most 1")
    return mask >= threshold


def dilate(mask: np.ndarray, pixels: float) -> np.ndarray:
    """The bool mask grown by a disc: every pixel whose centre is within `pixels` of one in the mask."""
    _check(mask, dilate=pixels)
    out = np.zeros_like(mask)
    for frame, grown in zip(mask, out):
        near = _distance(frame, pixels)
        if near is not None:
            box, distance = near
            grown[box] = distance <= pixels
    return out


def soft_edge(mask: np.ndarray, dilate: float, feather: float) -> np.ndarray:
    """Opacity float32 (T, H, W) of a bool mask dilated by a disc: 1 on the mask, exactly 0 outside the dilated mask.

    The outermost `feather` pixels of the dilated mask fall off smoothly (raised cosine of the distance). A feather
    wider than `dilate` counts as `dilate`, so that the mask itself is always replaced as a whole.
    """
    _check(mask, dilate=dilate, feather=feather)
    feather = min(feather, dilate)
    alpha = np.zeros(mask.shape, np.float32)
    for frame, out in zip(mask, alpha):
        near = _distance(frame, dilate)
        if near is not None:
            box, distance = near
            part = (distance <= dilate).astype(np.float32)
            ring = (distance > dilate - feather) & (distance <= dilate)
            part[ring] = 0.5 - 0.5 * np.cos(np.pi * (dilate + 1 - distance[ring]) / (feather + 1))
            out[box] = part
    return alpha


def composite(source: np.ndarray, result: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """`result` over `source`, of the source's type (T, H, W, 3); where alpha is 0, the source's own values.

    source: uint8, or float nominally in [0, 1], (T, H, W, 3). result: float (T, H, W, 3), nominally in [0, 1].
    alpha: float (T, H, W).
    """
    is_picture = source.dtype == np.uint8 or np.issubdtype(source.dtype, np.floating)
    if source.shape != result.shape or source.shape != (*alpha.shape, 3) or not is_picture:
        raise InputError(
            f"cannot composite a result of {result.shape} over a {source.dtype} source of {source.shape} with an alpha "
            f"of {alpha.shape}; expected (T, H, W, 3), the same as uint8 or float, and (T, H, W)"
        )
    full = 255 if source.dtype == np.uint8 else 1
    out = source.copy()
    for i, opacity in enumerate(alpha):
        box = _box(opacity > 0)
        if box is not None:
            old = torch.from_numpy(out[i][box])
            new = torch.tensor(result[i][box], dtype=torch.float32).mul_(full).clamp_(0, full)
            weight = torch.tensor(opacity[box], dtype=torch.float32)[..., None]
            mixed = torch.lerp(old.float(), new, weight)
            mixed = (mixed.round_() if full == 255 else mixed).to(old.dtype).numpy()
            np.copyto(out[i][box], mixed, where=(opacity[box] > 0)[..., None])
    return out


def overlay(frames: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int] = (255, 64, 64)) -> np.ndarray:
    """uint8 frames (T, H, W, 3) with the bool mask shown: tinted in `colour`, with an outline around it."""
    _check(mask)
    if frames.shape != (*mask.shape, 3) or frames.dtype != np.uint8:
        raise InputError(f"frames are {frames.dtype} {frames.shape}; expected uint8 {(*mask.shape, 3)}, as the mask is")
    out = frames.copy()
    colour = np.array(colour, np.uint8)
    outline = dilate(mask, max(1, min(mask.shape[1:]) // 240)) & ~mask
    out[mask] = ((out[mask].astype(np.uint16) + colour) // 2).astype(np.uint8)
    out[outline] = colour
    return out


def area(mask: np.ndarray) -> np.ndarray:
    """How much of each frame the mask covers, float (T,) in [0, 1]."""
    return mask.mean(axis=(1, 2), dtype=np.float64)


def track(frames: np.ndarray, mask: np.ndarray, index: int, across_cuts: bool = False):
    """Follow the mask of one frame through the clip, see `lgvi_core.tracking.track`; needs OpenCV.

    Raises `InputError` where OpenCV is not installed, and for what cannot be tracked.
    """
    try:
        from . import tracking
    except ModuleNotFoundError as error:
        if error.name != "cv2":
            raise
        raise InputError("tracking a mask needs OpenCV: pip install opencv-python-headless") from error
    return tracking.track(frames, mask, index, across_cuts)


def _distance(frame: np.ndarray, reach: float) -> tuple[tuple[slice, slice], np.ndarray] | None:
    """(box, distance to the mask of each pixel in it), the box being the mask's, `reach` wider; None if it is empty.

    Euclidean; exact up to `reach`, beyond it any value above `reach`. Along the rows first, then the least of the
    squares down the columns (Saito and Toriwaki 1994), no further than `reach`.
    """
    margin = math.ceil(reach)
    box = _box(frame, margin)
    if box is None:
        return None
    mask = frame[box]
    columns = np.arange(mask.shape[1], dtype=np.int32)
    far = np.int32(min(margin, sum(mask.shape)) + 1)  # further than anything that counts
    left = np.maximum.accumulate(np.where(mask, columns, -far), axis=1)
    right = np.minimum.accumulate(np.where(mask, columns, columns[-1] + far)[:, ::-1], axis=1)[:, ::-1]
    across = np.minimum(np.minimum(columns - left, right - columns), far) ** 2
    nearest = across.copy()
    for down in range(1, min(margin, len(mask) - 1) + 1):
        np.minimum(nearest[down:], across[:-down] + down**2, out=nearest[down:])
        np.minimum(nearest[:-down], across[down:] + down**2, out=nearest[:-down])
    return box, np.sqrt(nearest, dtype=np.float32)


def _box(frame: np.ndarray, margin: int = 0) -> tuple[slice, slice] | None:
    """Rows and columns of a bool frame (H, W) that hold all that is true, `margin` wider; None if nothing is."""
    rows, columns = np.flatnonzero(frame.any(axis=1)), np.flatnonzero(frame.any(axis=0))
    if not len(rows):
        return None
    return tuple(slice(max(0, found[0] - margin), found[-1] + 1 + margin) for found in (rows, columns))


def _check(mask: np.ndarray, **pixels: float):
    if mask.ndim != 3 or mask.dtype != bool:
        raise InputError(f"expected a bool mask (T, H, W), got {mask.dtype} {mask.shape}: binarize it first")
    for name, value in pixels.items():
        if not (math.isfinite(value) and value >= 0):
            raise InputError(f"{name} is {value}; it must be a number of pixels, 0 or more")
