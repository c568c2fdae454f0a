"""A mask for one frame followed through its clip by optical flow, without learned weights; needs OpenCV.

The clip is taken apart into two layers, each a picture that remembers what is hidden at the moment: the object, moved
by its own flow, and the background, moved as the camera does (a homography). A pixel belongs to the layer it looks like
within a few pixels of where that layer should be. The keyframe stays a second source for the object: the path back to
it is carried along, so that what is covered for a while is known again, and errors do not feed on themselves.
Three more hints count: which layer the pixel moves with on its way to the next frame, the keyframe's colours inside
and around the mask, and where the object was. Lengths are pixels at the working size.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from .errors import InputError
from .metrics.flow import dis_flow
from .scene_cuts import cuts

logger = logging.getLogger(__name__)

TRUSTED = 0.5  # trust below this means lost
WORKING_AREA = 432 * 240  # pixels that frames are brought to, but
ENLARGED = 2.0  # times a side at the most
CONSISTENT = 1.0  # pixels by which flow there and back may miss
OWN_MOTION = 1.5  # pixels a frame by which the object moves other than the camera
REACH, MOTION_REACH = 5, 2  # pixels around the expected place that are searched
PATCH = 5
UNLIKE = 60.0  # difference of patches, in levels of 255, that counts as nothing alike
ALIKE = 20.0  # and that still counts as the same
NOISE = 2.0  # levels of difference between the layers that make one e times as likely
MOTION_WEIGHT = 0.5
COLOUR_BINS, COLOUR_LIMIT, AROUND = 32, 2.0, 40
SPREAD = 8.0  # standard deviation over which an object's flow is smoothed
ENOUGH = 0.15  # of the keyframe's mask: from less no motion is learnt
WELL_SEEN = 0.5  # and from this much it replaces what was known
LITTLE = 0.1  # of the keyframe's mask: a smaller rest is trusted less
FORGET = 0.95  # a frame, of what was the object and is not seen


@dataclass(frozen=True)
class Track:
    """A mask over a clip, see `track`."""

    masks: np.ndarray  # (T, H, W) bool
    trust: np.ndarray  # (T,) float32 in [0, 1]; 1 at the keyframe
    lost_at: int | None  # the frame nearest to the keyframe with trust below TRUSTED


def track(frames: np.ndarray, mask: np.ndarray, index: int, across_cuts: bool = False) -> Track:
    """Follow the mask of frame `index` forwards and backwards through the clip.

    frames: uint8 (T, H, W, 3). mask: bool (H, W). Scene cuts end the track, unless `across_cuts`; beyond them masks
    are empty and trust is 0. Trust is how far a mask still shows what the keyframe's does: its colours, and the share
    of its pixels that are found again there. A warning says where a track is lost. Raises `InputError` for a mask of
    another size or type, an empty mask, an index outside the clip, and frames that are not uint8 or under 12 pixels a
    side.
    """
    _check(frames, mask, index)
    scale = min(ENLARGED, (WORKING_AREA / mask.size) ** 0.5)
    masks, trust = np.zeros(frames.shape[:3], bool), np.zeros(len(frames), np.float32)
    masks[index], trust[index] = mask, 1
    borders = [0, *([] if across_cuts else cuts(frames)), len(frames)]
    first = max(border for border in borders if border <= index)
    end = min(border for border in borders if border > index)
    reaches = []
    for places in (range(index, end), range(index, first - 1, -1)):
        lost = None
        for place, (soft, sure) in zip(places[1:], _follow(frames, mask, places, scale)):
            soft = cv2.resize(soft, mask.shape[::-1], interpolation=cv2.INTER_LINEAR)
            masks[place], trust[place] = soft > 0.5, sure
            if lost is None and sure < TRUSTED:
                lost = place
        if lost is None and places[-1] != (len(frames) - 1 if places.step > 0 else 0):
            lost = places[-1] + places.step
        if lost is not None:
            reaches.append(lost)
            way = "forwards" if places.step > 0 else "backwards"
            why = "there is a scene cut" if lost not in places else f"its trust is {trust[lost]:.2f}"
            logger.warning("the tracked mask cannot be trusted from frame %d on, %s from frame %d: %s; give a mask for "
                           "a frame there", lost, way, index, why)
    return Track(masks, trust, min(reaches, key=lambda place: abs(place - index), default=None))


def chained(frames: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The first frame's mask carried on by nothing but flow from frame to frame, bool (T, H, W): what to compare with.

    frames: uint8 (T, H, W, 3). mask: bool (H, W).
    """
    grid, out = _grid(mask.shape), [mask]
    for before, frame in zip(frames, frames[1:]):
        out.append(_sample(out[-1].astype(np.float32), grid + dis_flow(frame, before)) > 0.5)
    return np.stack(out)


def _follow(frames: np.ndarray, mask: np.ndarray, places: range, scale: float) -> Iterator[tuple[np.ndarray, float]]:
    """For each place but the first: how much a pixel is the object, float32 (h, w), and the trust in it."""

    def sized(picture: np.ndarray) -> np.ndarray:
        way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        return cv2.resize(picture, None, fx=scale, fy=scale, interpolation=way)

    if len(places) < 2:
        return
    inside = sized(mask.astype(np.float32))
    here, following = sized(frames[places[0]]), sized(frames[places[1]])
    layers = _Layers(here, inside >= min(0.5, inside.max()))
    for after in (*places[2:], None):
        before, here = here, following
        following = None if after is None else sized(frames[after])
        yield layers.step(before, here, following)


class _Layers:
    """The object and the background of a clip, as far as they have been seen; aligned with the latest frame."""

    def __init__(self, frame: np.ndarray, mask: np.ndarray):
        self.grid = _grid(mask.shape)
        self.mask, self.area = mask, mask.sum()
        self.key_mask, self.key_picture = mask, _smooth(frame)
        self.home = self.grid  # where each pixel, if it is the object's, was in the keyframe
        self.speed = np.zeros(2, np.float32)
        self.object_picture, self.object = self.key_picture, mask.astype(np.float32)
        self.ground_picture, self.ground = self.key_picture, (~mask).astype(np.float32)
        self.colours, self.key_colours = _colour_odds(frame, mask), _histogram(frame, mask)

    def step(self, before: np.ndarray, frame: np.ndarray, following: np.ndarray | None) -> tuple[np.ndarray, float]:
        """Move both layers from the frame before, decide whose each pixel is, and remember it."""
        picture = _smooth(frame)
        own, camera = self._motion(frame, before)
        self.home = _sample(self.home, own)
        self.object_picture, self.object = _sample(self.object_picture, own), _sample(self.object, own)
        self.ground_picture, self.ground = _sample(self.ground_picture, camera), _sample(self.ground, camera)
        expected = self.object > 0.5

        key_mask = _sample(self.key_mask.astype(np.float32), self.home) > 0.5
        unlike_key = _difference(picture, _sample(self.key_picture, self.home), REACH, key_mask)
        unlike_object = _difference(picture, self.object_picture, REACH, expected)
        unlike_ground = _difference(picture, self.ground_picture, REACH, self.ground > 0.5)
        odds = (unlike_ground - np.minimum(unlike_object, unlike_key)) / NOISE
        odds += 0.75 * np.clip(_depth(expected) / 6, -3, 1)
        odds += self.colours[_bins(frame)]
        if following is not None:
            odds += MOTION_WEIGHT / NOISE * self._moves_as_object(picture, frame, following, own)
        soft = 1 / (1 + np.exp(-np.clip(odds, -20, 20)))
        soft = _guided(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255, soft)
        soft *= _touching(soft > 0.5, expected)
        mask = soft > 0.5

        trust = self._trust(frame, mask, unlike_key)
        self.mask = mask
        self.object_picture = np.where(mask[..., None], picture, self.object_picture)
        self.object = np.where(mask, 1, self.object * FORGET).astype(np.float32)
        self.ground_picture = np.where(mask[..., None], self.ground_picture, picture)
        self.ground = np.where(mask, self.ground, 1).astype(np.float32)
        return soft, trust

    def _trust(self, frame: np.ndarray, mask: np.ndarray, unlike_key: np.ndarray) -> float:
        """How far the mask still shows what the keyframe's does, 0 to 1: its colours, and pixels found again."""
        if not mask.any():
            return 0.0
        colours = 1 - cv2.compareHist(_histogram(frame, mask), self.key_colours, cv2.HISTCMP_BHATTACHARYYA)
        found = (unlike_key[mask] < ALIKE).mean()
        enough = min(1.0, mask.sum() / (LITTLE * self.area))
        return float((colours * found) ** 0.5 * enough)

    def _motion(self, frame: np.ndarray, before: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where each pixel was in the frame before, float32 (h, w, 2) in pixels: as the object's, as the background's.

        The object moves by its flow where that is consistent and not the camera's, smoothed and continued; what has no
        such flow goes on as before.
        """
        flow, consistent = self._flow(frame, before)
        moved = _sample(self.mask.astype(np.float32), self.grid + flow) > 0.5
        camera = self._camera(flow, consistent, moved)
        seen = consistent & moved & (np.linalg.norm(self.grid + flow - camera, axis=-1) > OWN_MOTION)
        if seen.sum() < 0.1 * moved.sum():
            seen = consistent & moved  # it moves with the camera
        own = np.broadcast_to(self.speed, flow.shape)
        if seen.sum() >= max(5, ENOUGH * self.area):
            sure = min(1.0, seen.sum() / (WELL_SEEN * self.area))
            self.speed = self.speed + np.float32(sure) * (np.median(flow[seen], axis=0) - self.speed)
            weight = seen.astype(np.float32)
            spread = cv2.GaussianBlur((flow - self.speed) * weight[..., None], (0, 0), SPREAD)
            own = self.speed + spread / (cv2.GaussianBlur(weight, (0, 0), SPREAD) + 0.05)[..., None]
        return (self.grid + own).astype(np.float32), camera

    def _moves_as_object(self, picture, frame, following, own) -> np.ndarray:
        """How much better (levels) a pixel is found in the next frame moving as the object than as the camera."""
        flow, consistent = self._flow(frame, following)
        camera = self._camera(flow, consistent, self.object > 0.5)
        following, anywhere = _smooth(following), np.ones(flow.shape[:2], bool)
        onwards = 2 * self.grid - own  # its motion goes on
        as_camera = _difference(picture, _sample(following, camera), MOTION_REACH, anywhere)
        return as_camera - _difference(picture, _sample(following, onwards), MOTION_REACH, anywhere)

    def _flow(self, frame: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """DIS flow (h, w, 2) from one frame to the other, and where the way back agrees: what is seen in both."""
        there, back = dis_flow(frame, other), dis_flow(other, frame)
        missed = np.linalg.norm(there + _sample(back, self.grid + there), axis=-1)
        return there, missed < CONSISTENT

    def _camera(self, flow: np.ndarray, consistent: np.ndarray, moving: np.ndarray) -> np.ndarray:
        """Where the flow away from the object says the background lies, by RANSAC; unmoved where too little is seen."""
        far = consistent & ~(cv2.dilate(moving.astype(np.uint8), np.ones((15, 15))) > 0)
        points = self.grid[::4, ::4][far[::4, ::4]]
        if len(points) >= 40:
            there = points + flow[::4, ::4][far[::4, ::4]]
            homography, fitting = cv2.findHomography(points, there, cv2.RANSAC, 2.0)
            if homography is not None and fitting.sum() >= 40:
                return cv2.perspectiveTransform(self.grid, homography)
        return self.grid


def _difference(picture: np.ndarray, other: np.ndarray, reach: int, allowed: np.ndarray) -> np.ndarray:
    """The least difference of a pixel's patch to those of the other's allowed pixels within reach, in levels."""
    height, width = allowed.shape
    wide = cv2.copyMakeBorder(other, *[reach] * 4, cv2.BORDER_REPLICATE)
    forbidden = cv2.copyMakeBorder((~allowed).astype(np.uint8), *[reach] * 4, cv2.BORDER_CONSTANT, value=1) > 0
    mean, least = np.full((1, 3), 1 / 3, np.float32), np.full((height, width), UNLIKE, np.float32)
    for y in range(2 * reach + 1):
        for x in range(2 * reach + 1):
            here = slice(y, y + height), slice(x, x + width)
            difference = cv2.transform(cv2.absdiff(picture, wide[here]), mean)
            difference = cv2.blur(np.minimum(difference, UNLIKE, out=difference), (PATCH, PATCH))
            difference[forbidden[here]] = UNLIKE
            cv2.min(least, difference, least)
    return least


def _guided(guide: np.ndarray, soft: np.ndarray, radius: int = 3, smoothness: float = 1e-3) -> np.ndarray:
    """A soft mask that keeps to the edges of a grey picture (guided filter, He et al. 2010, equations 5, 6 and 8)."""

    def mean(x):
        return cv2.blur(x, (2 * radius + 1, 2 * radius + 1))

    slope = (mean(guide * soft) - mean(guide) * mean(soft)) / (mean(guide * guide) - mean(guide) ** 2 + smoothness)
    offset = mean(soft) - slope * mean(guide)
    return np.clip(mean(slope) * guide + mean(offset), 0, 1)


def _colour_odds(frame: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """For each bin of colours, the limited log of how much more likely it is in the mask than around it."""
    around = cv2.dilate(mask.astype(np.uint8), np.ones((2 * AROUND + 1, 2 * AROUND + 1))) > 0

    def shares(where):
        counts = np.bincount(_bins(frame)[where], minlength=COLOUR_BINS**3).astype(np.float32)
        for _ in range(3):  # blurred along one axis, then the next one's turn
            counts = cv2.GaussianBlur(counts.reshape(COLOUR_BINS, -1), (1, 9), 1.5).T
        return counts.ravel() / max(1, counts.sum()) + 1e-6

    return np.clip(np.log(shares(mask) / shares(around & ~mask)), -COLOUR_LIMIT, COLOUR_LIMIT)


def _histogram(frame: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return cv2.calcHist([frame], [0, 1, 2], mask.astype(np.uint8), [8] * 3, [0, 256] * 3)


def _bins(frame: np.ndarray) -> np.ndarray:
    red, green, blue = np.moveaxis(frame.astype(np.int32) // (256 // COLOUR_BINS), -1, 0)
    return (red * COLOUR_BINS + green) * COLOUR_BINS + blue


def _depth(mask: np.ndarray) -> np.ndarray:
    """Pixels from the edge of the mask, negative outside it; far outside where it is empty."""
    if mask.all() or not mask.any():
        return np.full(mask.shape, 1e3 if mask.any() else -1e3, np.float32)
    inside, outside = (cv2.distanceTransform(side.astype(np.uint8), cv2.DIST_L2, 5) for side in (mask, ~mask))
    return inside - outside


def _touching(mask: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """The connected parts of the mask that reach into where it is expected."""
    _, parts = cv2.connectedComponents(mask.astype(np.uint8))
    return mask & np.isin(parts, np.unique(parts[expected]))


def _smooth(frame: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(frame, (0, 0), 0.7).astype(np.float32)


def _sample(picture: np.ndarray, places: np.ndarray) -> np.ndarray:
    return cv2.remap(picture, places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _grid(shape: tuple[int, int]) -> np.ndarray:
    return np.stack(np.meshgrid(*(np.arange(side, dtype=np.float32) for side in shape[::-1])), axis=-1)


def _check(frames: np.ndarray, mask: np.ndarray, index: int):
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise InputError(f"frames are {frames.dtype} {frames.shape}; expected uint8 (T, H, W, 3)")
    if min(frames.shape[1:3]) < 12:
        raise InputError(f"frames are {frames.shape[2]}x{frames.shape[1]}; tracking needs 12 pixels a side")
    if mask.ndim != 2 or mask.dtype != bool:
        raise InputError(f"expected a bool mask (H, W) of one frame, got {mask.dtype} {mask.shape}: binarize it first")
    if mask.shape != frames.shape[1:3]:
        raise InputError(f"the mask is {mask.shape[1]}x{mask.shape[0]} pixels but the video is {frames.shape[2]}x"
                         f"{frames.shape[1]}: give a mask of the video's size")
    if not 0 <= index < len(frames):
        raise InputError(f"the mask is for frame {index}, but the video has frames 0 to {len(frames) - 1}")
    if not mask.any():
        raise InputError(f"the mask of frame {index} is empty: mark what is to be tracked")
