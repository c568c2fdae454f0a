"""Measures on arrays small enough to work out by hand."""

import math

import numpy as np
import pytest

from lgvi_core.metrics.removal import damaged, mask_iou, psnr, removed, squared_error

MASK = np.zeros((2, 4, 5), bool)
MASK[:, 1:3, 1:3] = True  # 8 of 40 pixels


def clip(value, mask=None):
    """Two frames of one grey, or of black with `value` inside a mask."""
    frames = np.zeros((*MASK.shape, 3), np.uint8)
    frames[... if mask is None else mask] = value
    return frames


def test_squared_error_is_the_mean_over_the_masks_values():
    frames = clip(10)
    frames[0, 1, 1] = [10, 13, 14]  # one of 8 pixels: 0, 9 and 16
    frames[0, 0, 0] = 255  # outside
    assert squared_error(frames, clip(10), MASK) == pytest.approx(25 / 24)


@pytest.mark.parametrize("output, truth", [(0, 255), (255, 0)])
def test_bytes_do_not_wrap_around(output, truth):
    assert squared_error(clip(output), clip(truth), MASK) == 255**2
    assert psnr(clip(output), clip(truth)) == 0


@pytest.mark.parametrize("error, decibels", [(1, 48.1308), (10, 28.1308), (51, 13.9794)])
def test_psnr(error, decibels):
    assert psnr(clip(100 + error), clip(100)) == pytest.approx(decibels, abs=1e-4)
    assert psnr(clip(100), clip(100 + error), MASK) == pytest.approx(decibels, abs=1e-4)


def test_psnr_inside_a_mask_and_over_the_frame():
    frames = clip(30, MASK)
    assert psnr(frames, clip(0), MASK) == pytest.approx(20 * math.log10(255 / 30), abs=1e-4)
    assert psnr(frames, clip(0)) == pytest.approx(20 * math.log10(255 / 30) + 10 * math.log10(40 / 8), abs=1e-4)
    assert psnr(frames, clip(0), ~MASK) == math.inf


def test_psnr_of_equal_frames_is_infinite():
    assert psnr(clip(7), clip(7)) == math.inf


@pytest.mark.parametrize("output, expected", [(0, True), (49, True), (50, False), (51, False), (255, False)])
def test_removed_is_less_than_a_quarter_of_the_squared_error(output, expected):
    source, truth = clip(100), clip(0)  # half the error is a quarter of its square
    assert removed(clip(output), source, truth, MASK) is expected


def test_removed_looks_inside_the_mask_alone():
    output = clip(255)
    output[MASK] = 0
    assert removed(output, clip(100), clip(0), MASK)
    assert not removed(255 - output, clip(100), clip(0), MASK)


@pytest.mark.parametrize("left, expected", [(100, False), (76, False), (75, False), (74, True), (0, True)])
def test_damaged_is_more_than_a_quarter_of_the_contrast_lost(left, expected):
    source, background = clip(150), clip(50)
    assert damaged(clip(50 + left), source, background, MASK) is expected
    assert damaged(clip(250 - left), clip(150), clip(250), MASK) is expected  # darker than the background


def test_an_object_that_is_moved_off_its_place_is_damaged_and_other_pixels_do_not_count():
    source, background = clip(200, MASK), clip(0)
    moved = np.roll(source, 2, axis=2)
    assert damaged(moved, source, background, MASK)
    assert not damaged(source | clip(255, ~MASK), source, background, MASK)


def test_iou_counts_pixels_over_the_whole_clip():
    found = np.zeros_like(MASK)
    found[0, 1:3, 1:4] = True  # 6 pixels, 4 of them right; the second frame's 4 are missed
    assert mask_iou(found, MASK) == pytest.approx(4 / 10)
    assert mask_iou(MASK, found) == pytest.approx(4 / 10)
    assert mask_iou(MASK, MASK) == 1


def test_iou_of_nothing():
    nothing = np.zeros_like(MASK)
    assert mask_iou(nothing, nothing) == 1
    assert mask_iou(MASK, nothing) == mask_iou(nothing, MASK) == 0
