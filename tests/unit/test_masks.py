"""Masks at the edge: what is accepted, and that untouched pixels stay the source's own."""

import math

import numpy as np
import pytest
import torch

from lgvi_core import masks
from lgvi_core.errors import InputError


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def dots(*points, shape=(1, 40, 50)):
    mask = np.zeros(shape, bool)
    for frame, y, x in points:
        mask[frame, y, x] = True
    return mask


def true_distance(mask):
    """Distance of each pixel of (H, W) to the nearest one in the mask, by brute force."""
    y, x = np.nonzero(mask)
    rows, columns = np.mgrid[: mask.shape[0], : mask.shape[1]]
    return np.sqrt((rows[..., None] - y) ** 2 + (columns[..., None] - x) ** 2).min(-1)


# What is accepted


@pytest.mark.parametrize("shape", [(4, 6), (1, 4, 6), (3, 4, 6)])
@pytest.mark.parametrize("dtype", [bool, np.float32, np.float64, np.float16, np.uint8])
@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_masks_of_every_kind_are_accepted(rng, shape, dtype, kind):
    truth = rng.random(shape) > 0.5
    given = truth * np.uint8(255) if dtype is np.uint8 else truth.astype(dtype)
    mask = masks.as_mask(kind(given), 3, 4, 6)
    assert mask.dtype == np.float32
    np.testing.assert_array_equal(mask, np.broadcast_to(truth, (3, 4, 6)))


def test_soft_values_are_kept_and_grey_levels_scaled():
    soft = np.full((1, 2, 2), 0.25, np.float32)
    assert (masks.as_mask(soft, 1, 2, 2) == 0.25).all()
    assert masks.as_mask(np.full((2, 2), 51, np.uint8), 1, 2, 2) == pytest.approx(np.full((1, 2, 2), 0.2))
    assert (masks.as_mask(torch.full((2, 2), 0.25, dtype=torch.bfloat16), 1, 2, 2) == 0.25).all()


def test_bytes_of_zero_and_one_are_a_binary_mask():
    assert (masks.as_mask(np.ones((2, 2), np.uint8), 1, 2, 2) == 1).all()


@pytest.mark.parametrize("given, message", [
    (np.zeros((3, 4, 7), bool), "mask is 7x4 pixels but the video is 6x4"),
    (np.zeros((6, 4), bool), "mask is 4x6 pixels but the video is 6x4"),
    (np.zeros((2, 4, 6), bool), "mask has 2 frames but the video has 3"),
    (np.zeros((0, 4, 6), bool), "mask has 0 frames but the video has 3"),
    (np.zeros((3, 4, 6, 1), bool), "mask has shape"),
    (np.zeros(6, bool), "mask has shape"),
    (np.full((4, 6), 1.5), "values from 0 to 1.5"),
    (np.full((4, 6), -0.5), "values from -0.5 to 1"),
    (np.full((4, 6), math.nan), "values from nan to nan"),
    (np.zeros((4, 6), np.int64), "mask is of type int64"),
])  # fmt: skip
def test_a_mask_that_does_not_fit_is_named(given, message):
    if message.startswith("values from -0.5"):
        given = np.concatenate([given[:2], np.ones((2, 6))])
    with pytest.raises(InputError, match=message):
        masks.as_mask(given, 3, 4, 6)


# Size and time


def test_bool_masks_stay_bool_at_another_size(rng):
    mask = rng.random((2, 5, 7)) > 0.5
    grown = masks.resize(mask, 10, 14)
    assert grown.dtype == bool
    np.testing.assert_array_equal(grown, mask.repeat(2, axis=1).repeat(2, axis=2))
    np.testing.assert_array_equal(masks.resize(grown, 5, 7), mask)


def test_soft_masks_keep_their_area_at_another_size(rng):
    mask = np.zeros((2, 32, 32), np.float32)
    mask[:, 8:20, 10:23] = 1
    for size in [(64, 96), (16, 16), (15, 50), (7, 9)]:
        resized = masks.resize(mask, *size)
        assert resized.shape == (2, *size) and resized.dtype == np.float32
        assert resized.min() >= 0 and resized.max() <= 1
        assert resized.mean() == pytest.approx(mask.mean(), rel=0.1)
    np.testing.assert_allclose(masks.resize(mask, 32, 32), mask, atol=1e-6)


def test_a_thin_line_survives_shrinking_while_it_is_soft():
    mask = np.zeros((1, 64, 64), np.float32)
    mask[:, :, 31] = 1
    assert (masks.resize(mask, 16, 16).max(axis=2) > 0.1).all()


def test_smoothing_fills_a_gap_of_one_frame_and_keeps_a_flash_of_one_frame():
    gap, flash = np.array([1, 1, 0, 1, 1.0]), np.array([0, 0, 1, 0, 0.0])
    for values, expected in [(gap, [1, 1, 1, 1, 1]), (flash, [0, 0, 1, 0, 0])]:
        smooth = masks.smooth_in_time(np.ones((5, 2, 3)) * values[:, None, None])
        np.testing.assert_array_equal(masks.binarize(smooth)[:, 1, 2], np.array(expected, bool))


def test_smoothing_keeps_what_does_not_change_and_a_single_frame(rng):
    still = np.repeat(rng.random((1, 3, 4)).astype(np.float32), 5, axis=0)
    np.testing.assert_allclose(masks.smooth_in_time(still), still, rtol=1e-6)
    np.testing.assert_allclose(masks.smooth_in_time(still[:1]), still[:1], rtol=1e-6)


def test_the_threshold_itself_is_in_the_mask():
    assert masks.binarize(np.array([[[0.49, 0.5]]], np.float32)).tolist() == [[[False, True]]]
    for threshold in (0, -1, 1.1, math.nan):
        with pytest.raises(InputError, match="threshold"):
            masks.binarize(np.zeros((1, 1, 1)), threshold)


# Growing and feathering


@pytest.mark.parametrize("pixels", [0, 1, 2, 5, 7.5, 100, 1e9])
@pytest.mark.parametrize("shape", [(1, 40, 50), (1, 50, 41)])
def test_dilation_is_a_disc(pixels, shape):
    mask = dots((0, 3, 4), (0, 30, 40), (0, 20, 20), shape=shape)
    np.testing.assert_array_equal(masks.dilate(mask, pixels)[0], true_distance(mask[0]) <= pixels)


@pytest.mark.parametrize("shape", [(1, 1, 9), (1, 9, 1), (1, 1, 1), (1, 3, 300)])
def test_a_disc_reaches_over_frames_of_a_few_pixels(shape):
    mask = dots((0, 0, 0), shape=shape)
    np.testing.assert_array_equal(masks.dilate(mask, 4.5)[0], true_distance(mask[0]) <= 4.5)


def test_an_empty_and_a_full_mask_stay_as_they_are():
    for mask in (np.zeros((2, 9, 9), bool), np.ones((2, 9, 9), bool)):
        np.testing.assert_array_equal(masks.dilate(mask, 3), mask)
        np.testing.assert_array_equal(masks.soft_edge(mask, 3, 2), mask)


@pytest.mark.parametrize("dilate, feather", [(0, 0), (1, 0), (1, 1), (8, 3), (8, 8), (5, 50), (0, 4), (2.5, 1.5)])
def test_the_edge_is_one_on_the_mask_zero_outside_and_smooth_between(dilate, feather):
    mask = dots((0, 12, 12), (0, 13, 12), (0, 30, 40))
    alpha, distance = masks.soft_edge(mask, dilate, feather)[0], true_distance(mask[0])
    assert alpha.dtype == np.float32 and (alpha[mask[0]] == 1).all()
    assert (alpha[distance > dilate] == 0).all() and (alpha[distance <= dilate] > 0).all()
    inner = distance <= dilate - min(feather, dilate)
    assert (alpha[inner] == 1).all()
    order = np.argsort(distance, axis=None)
    assert (np.diff(alpha.ravel()[order]) <= 0).all()
    if 0 < feather <= dilate:
        assert (alpha[(distance <= dilate) & ~inner] < 1).all()


def test_the_edge_has_no_jump():
    mask = dots(*((0, y, x) for y in range(40) for x in range(10)))
    profile = masks.soft_edge(mask, dilate=20, feather=16)[0, 20]
    assert np.abs(np.diff(profile)).max() < 0.12


@pytest.mark.parametrize("pixels", [-1, math.nan, math.inf])
def test_pixels_must_be_a_number_from_zero_up(pixels):
    mask = dots((0, 1, 1))
    for call in (
        lambda: masks.dilate(mask, pixels),
        lambda: masks.soft_edge(mask, pixels, 0),
        lambda: masks.soft_edge(mask, 0, pixels),
    ):
        with pytest.raises(InputError, match=f"(dilate|feather) is {pixels}"):
            call()


def test_a_soft_mask_must_be_binarized_first():
    with pytest.raises(InputError, match="binarize it first"):
        masks.dilate(np.zeros((1, 4, 4), np.float32), 1)
    with pytest.raises(InputError, match="binarize it first"):
        masks.soft_edge(np.zeros((4, 4), bool), 1, 1)


# Pictures


def test_where_alpha_is_zero_the_bytes_are_the_sources_own(rng):
    source = rng.integers(0, 256, (2, 40, 50, 3), dtype=np.uint8)
    result = rng.normal(size=(2, 40, 50, 3)).astype(np.float32)
    mask = dots((0, 3, 4), (0, 30, 40), shape=(2, 40, 50))
    alpha = masks.soft_edge(mask, 6, 4)
    result[alpha == 0] = np.nan
    kept = source.copy()
    out = masks.composite(source, result, alpha)
    np.testing.assert_array_equal(source, kept)
    np.testing.assert_array_equal(out[alpha == 0], source[alpha == 0])
    assert out.dtype == np.uint8
    inside = alpha == 1
    np.testing.assert_array_equal(out[inside], np.round(np.clip(result[inside] * 255, 0, 255)).astype(np.uint8))
    between = (alpha > 0) & (alpha < 1)
    blend = source + alpha[..., None] * (np.clip(result * 255, 0, 255) - source)
    assert np.abs(out[between] - blend[between]).max() <= 0.501


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_float_source_keeps_its_type_and_its_own_values_outside(rng, dtype):
    source = rng.random((2, 40, 50, 3)).astype(dtype) * 1.25  # pictures between two others may leave 0 to 1
    result = rng.normal(size=source.shape).astype(np.float32)
    mask = dots((0, 3, 4), (1, 30, 40), shape=(2, 40, 50))
    alpha = masks.soft_edge(mask, 6, 4)
    out = masks.composite(source, result, alpha)
    assert out.dtype == dtype
    np.testing.assert_array_equal(out[alpha == 0], source[alpha == 0])
    blend = source + alpha[..., None] * (result.clip(0, 1) - source)
    np.testing.assert_allclose(out, blend, atol=1e-3 if dtype == np.float16 else 1e-6)


def test_bytes_survive_the_way_to_float_and_back():
    source = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    out = masks.composite(source[:, ::-1], (source / 255).astype(np.float32), np.ones((1, 16, 16), np.float32))
    np.testing.assert_array_equal(out, source)


def test_what_is_read_only_can_be_composited(rng, recwarn):
    source = rng.integers(0, 256, (1, 4, 4, 3), dtype=np.uint8)
    result, alpha = source / np.float32(255), np.broadcast_to(np.ones((1, 1, 1), np.float32), (1, 4, 4))
    source.flags.writeable = result.flags.writeable = False
    np.testing.assert_array_equal(masks.composite(source, result, alpha), source)
    assert not recwarn.list


def test_pictures_that_do_not_fit_are_refused():
    source, result, alpha = np.zeros((1, 4, 4, 3), np.uint8), np.zeros((1, 4, 4, 3), np.float32), np.zeros((1, 4, 4))
    for bad in [(source[:, :3], result, alpha), (source, result, alpha[:, :3]), (source.astype(int), result, alpha)]:
        with pytest.raises(InputError, match="cannot composite"):
            masks.composite(*bad)
    with pytest.raises(InputError, match="frames are uint8"):
        masks.overlay(source[:, :3], np.zeros((1, 4, 4), bool))


def test_the_overlay_tints_the_mask_outlines_it_and_leaves_the_rest():
    frames = np.full((1, 20, 20, 3), 100, np.uint8)
    mask = np.zeros((1, 20, 20), bool)
    mask[:, 5:10, 5:10] = True
    out = masks.overlay(frames, mask, colour=(255, 0, 0))
    assert out[0, 7, 7].tolist() == [177, 50, 50] and out[0, 4, 7].tolist() == [255, 0, 0]
    far = ~masks.dilate(mask, 1)
    np.testing.assert_array_equal(out[far], frames[far])


def test_area_is_a_fraction_of_each_frame():
    mask = np.zeros((2, 4, 5), bool)
    mask[1, :2] = True
    assert masks.area(mask).tolist() == [0, 0.5]
