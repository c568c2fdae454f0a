"""Backgrounds of the drawn clips: muted textures that stand still or pan, with a vignette and grain on some.

Lengths are pixels of a 64-pixel frame and grow with the frame.
"""

import numpy as np

from .synthetic_words import pick

MAX_PAN = 1.2  # pixels a frame and axis
MIN_CONTRAST = 0.3  # distance in RGB of an object's color from the background's


def draw_background(
    rng, frames, height, width, scale, held_out, objects
) -> tuple[np.ndarray, np.ndarray | float, bool]:
    """The background (T, H, W, 3) from 0 to 255 in float32, the grain to add to it, and whether it stands still."""
    ranges = _Ranges(rng, held_out)
    still = bool(rng.random() < 0.5)
    pan = np.zeros(2) if still else MAX_PAN * scale * (2 * rng.random(2) - 1)
    offsets = np.arange(frames)[:, None] * pan - np.minimum(pan * (frames - 1), 0)  # (T, 2), never negative
    tall, wide = (np.ceil(offsets.max(0))[::-1].astype(int) + (height, width) + (not still)).tolist()

    low, high = _two_colors(ranges, np.array([drawn.rgb for drawn in objects]))
    blend = pick(rng, TEXTURES)(ranges, tall, wide, scale)[..., None]
    canvas = 255 * (low + blend * (high - low)).astype(np.float32)
    if rng.random() < 0.3:
        hues = 1 if rng.random() < 0.5 else 3
        canvas += 255 * ranges.between(0.01, 0.04) * _smooth(rng, tall, wide, ranges.between(3, 24) * scale, hues)
    vignette, follows = rng.random() < 0.3, rng.random() < 0.5
    if vignette and follows:
        canvas *= _vignette(ranges, tall, wide)
    sigma = 0.5 + 2.5 * rng.random() if rng.random() < 0.7 else 0.0
    fixed, channels = rng.random() < 0.5, 1 if rng.random() < 0.5 else 3
    if sigma and fixed:
        canvas += sigma * rng.standard_normal((tall, wide, channels), np.float32)

    view = np.empty((frames, height, width, 3), np.float32)
    for t, (x, y) in enumerate(offsets.tolist()):
        view[t] = canvas if still else _window(canvas, x, y, height, width)
    if vignette and not follows:
        view *= _vignette(ranges, height, width)
    fresh = sigma > 0 and not fixed
    grain = sigma * rng.standard_normal((frames, height, width, channels), np.float32) if fresh else np.float32(0)
    return view, grain, still


class _Ranges:
    """Draws textures' parameters: training leaves out two bands of every range, held-out clips use only those."""

    def __init__(self, rng: np.random.Generator, held_out: bool):
        self.rng, self.held_out = rng, held_out

    def between(self, low: float, high: float) -> float:
        if self.held_out:
            part = 0.2 * self.rng.random()
            part += 0.25 if part < 0.1 else 0.55  # 0.25 to 0.35, 0.65 to 0.75
        else:
            part = 0.8 * self.rng.random()
            part += 0.1 * (part >= 0.25) + 0.1 * (part >= 0.55)
        return low + (high - low) * part


def _two_colors(ranges: _Ranges, objects: np.ndarray) -> np.ndarray:
    """Two muted colors (2, 3); none of the objects' (N, 3) comes near them or a blend of them."""
    while True:
        level, contrast = ranges.between(0.15, 0.75), ranges.between(0.1, 0.65)
        if ranges.rng.random() < 0.5:
            contrast = -contrast
        tints = ranges.rng.standard_normal((2, 3))
        tints[1] = 0.6 * tints[0] + 0.4 * tints[1]
        tints -= tints.mean(1, keepdims=True)
        tints *= ranges.between(0.0, 0.25) / np.linalg.norm(tints, axis=1).max()
        colors = np.clip(tints + [[level], [level + contrast]], 0.06, 0.8)
        line = colors[1] - colors[0]
        nearest = np.clip((objects - colors[0]) @ line / (line @ line), 0, 1)[:, None] * line + colors[0]
        if (((objects - nearest) ** 2).sum(1) >= MIN_CONTRAST**2).all():
            return colors


def _noise(ranges: _Ranges, height: int, width: int, scale: float) -> np.ndarray:
    field = _smooth(ranges.rng, height, width, ranges.between(6, 24) * scale, 1)
    if ranges.rng.random() < 0.5:
        share = ranges.between(0.2, 0.6)
        field = (1 - share) * field + share * _smooth(ranges.rng, height, width, ranges.between(2.5, 8) * scale, 1)
    return np.clip(0.5 + 0.4 * field[..., 0], 0, 1)


def _stripes(ranges: _Ranges, height: int, width: int, scale: float) -> np.ndarray:
    period, angle, phase = ranges.between(5, 22) * scale, ranges.between(0, np.pi), ranges.rng.random()
    x, y = _axes(height, width, angle)
    return 0.5 + 0.5 * _wave(ranges, x / period + phase, period)


def _checks(ranges: _Ranges, height: int, width: int, scale: float) -> np.ndarray:
    period, phases = ranges.between(7, 28) * scale, ranges.rng.random(2)
    angle = ranges.between(0, np.pi / 2) if ranges.rng.random() < 0.4 else 0.0
    x, y = _axes(height, width, angle)
    return 0.5 + 0.5 * _wave(ranges, x / period + phases[0], period) * _wave(ranges, y / period + phases[1], period)


def _linear(ranges: _Ranges, height: int, width: int, scale: float) -> np.ndarray:
    x, _ = _axes(height, width, ranges.between(0, 2 * np.pi))
    return np.clip(0.5 + x / (ranges.between(0.7, 1.6) * max(height, width)), 0, 1)


def _radial(ranges: _Ranges, height: int, width: int, scale: float) -> np.ndarray:
    x, y = _axes(height, width, 0.0)
    x, y = x - width * ranges.between(-0.5, 0.5), y - height * ranges.between(-0.5, 0.5)
    return np.clip(np.sqrt(x * x + y * y) / (ranges.between(0.5, 1.2) * max(height, width)), 0, 1)


TEXTURES = {_noise: 40, _stripes: 24, _checks: 20, _linear: 8, _radial: 8}


def _axes(height: int, width: int, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of the pixels from the middle of the canvas, turned by `angle`."""
    x = np.arange(width, dtype=np.float32) - width / 2
    y = np.arange(height, dtype=np.float32)[:, None] - height / 2
    cos, sin = float(np.cos(angle)), float(np.sin(angle))
    return x * cos + y * sin, y * cos - x * sin


def _wave(ranges: _Ranges, cycles: np.ndarray, period: float) -> np.ndarray:
    """A sine from -1 to 1, or in half of the draws a square wave whose edges are about a pixel wide."""
    wave = np.sin(2 * np.pi * cycles)
    return wave if ranges.rng.random() < 0.5 else np.clip(wave * period / np.pi, -1, 1)


def _smooth(rng: np.random.Generator, height: int, width: int, step: float, channels: int) -> np.ndarray:
    """(H, W, C) noise of unit variance: a cubic B-spline over random knots `step` pixels apart."""
    rows, cols = _spline(height, step, rng.random()), _spline(width, step, rng.random())
    knots = rng.standard_normal((channels, rows.shape[1], cols.shape[1]), np.float32)
    return (rows @ knots @ cols.T).transpose(1, 2, 0) / 0.48


def _spline(size: int, step: float, phase: float) -> np.ndarray:
    """(size, knots) weights of the uniform cubic B-spline."""
    place = np.arange(size) / step + phase
    knot = place.astype(int)
    f = place - knot
    weights = np.zeros((size, knot[-1] + 4), np.float32)
    near = np.stack([(1 - f) ** 3, 3 * f**3 - 6 * f**2 + 4, 1 + 3 * f + 3 * f**2 - 3 * f**3, f**3], 1) / 6
    weights[np.arange(size)[:, None], knot[:, None] + np.arange(4)] = near
    return weights


def _vignette(ranges: _Ranges, height: int, width: int) -> np.ndarray:
    x, y = _axes(height, width, 0.0)
    return (1 - ranges.between(0.1, 0.45) * (x * x / width**2 + y * y / height**2) * 2)[..., None]


def _window(canvas: np.ndarray, x: float, y: float, height: int, width: int) -> np.ndarray:
    """The bilinear view of `canvas` whose first pixel lies at (x, y)."""
    left, top = int(x), int(y)
    view = canvas[top:top + height + 1, left:left + width + 1]
    view = view[:-1] + np.float32(y - top) * (view[1:] - view[:-1])
    return view[:, :-1] + np.float32(x - left) * (view[:, 1:] - view[:, :-1])
