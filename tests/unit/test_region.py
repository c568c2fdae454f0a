"""Regions that a person marks: what is understood, and which pixels they cover."""

import json

import numpy as np
import pytest
import torch

from lgvi_core.errors import InputError
from lgvi_core.region import Region, Stroke, bounds, check_box, from_pixels, joined, parse


def stroke(width, *points):
    return json.dumps({"strokes": [{"width": width, "points": [list(point) for point in points]}]})


def near_line(height, width, start, end, radius):
    """Pixels whose centre is within `radius` pixels of a line between two points in pixels, by brute force."""
    mask = np.zeros((height, width), bool)
    places = [np.add(start, np.subtract(end, start) * part) for part in np.linspace(0, 1, 401)]
    for y in range(height):
        for x in range(width):
            mask[y, x] = min(np.hypot(x + 0.5 - px, y + 0.5 - py) for px, py in places) <= radius
    return mask


# What is understood


@pytest.mark.parametrize("text", ["", "  \n", "{}", '{"strokes": []}', '{"box": null, "strokes": null}'])
def test_nothing_marked_is_no_region(text):
    region = parse(text)
    assert not region and region == Region()
    assert not region.mask(4, 6).any()


def test_box_and_strokes_are_read():
    region = parse('{"box": [0.25, 0.5, 0.5, 0.25], "strokes": [{"width": 0.1, "points": [[0, 1], [0.5, 0.25]]}]}')
    assert region == Region((0.25, 0.5, 0.5, 0.25), (Stroke(0.1, ((0.0, 1.0), (0.5, 0.25))),))


def test_a_box_that_sticks_out_is_cut_at_the_frame():
    assert parse('{"box": [-0.5, 0.5, 1.0, 1.0]}').box == (0.0, 0.5, 0.5, 0.5)
    assert check_box((0, 0, 1.0000001, 1)) == (0, 0, 1, 1)


@pytest.mark.parametrize("text, message", [
    ("box", "not JSON"),
    ("[0, 0, 1, 1]", "keys box and strokes"),
    ('{"rect": [0, 0, 1, 1]}', "keys box and strokes"),
    ("[" * 100_000, "not JSON"),
    ('{"box": [0, 0, 1]}', r"\[x, y, width, height\]"),
    ('{"box": "0 0 1 1"}', r"\[x, y, width, height\]"),
    ('{"box": [0, 0, 1, true]}', "as numbers"),
    ('{"box": [0, 0, 1, NaN]}', "as numbers"),
    ('{"box": [0, 0, 1, 1' + "0" * 400 + "]}", "as numbers"),
    ('{"box": [10, 20, 300, 200]}', "not pixels"),
    ('{"box": [0.5, 0.5, 0, 0.1]}', "no area"),
    ('{"box": [0.5, 0.5, -0.1, 0.1]}', "no area"),
    ('{"box": [1.2, 0, 0.5, 0.5]}', "outside"),
    ('{"strokes": {"width": 0.1}}', "list of strokes"),
    ('{"strokes": [[0, 1]]}', "a stroke of the region"),
    ('{"strokes": [{"width": 0.1, "points": []}]}', "a stroke of the region"),
    ('{"strokes": [{"points": [[0, 0]]}]}', "stroke width"),
    ('{"strokes": [{"width": 0, "points": [[0, 0]]}]}', "above 0"),
    ('{"strokes": [{"width": 0.1, "points": [[0, 0, 0]]}]}', "stroke point"),
    ('{"strokes": [{"width": 0.1, "points": [[0, 1e300]]}]}', "stroke point"),
])  # fmt: skip
def test_what_is_no_region_is_named(text, message):
    with pytest.raises(InputError, match=message):
        parse(text)


# Which pixels are covered


def test_a_box_covers_the_pixels_inside_it():
    expected = np.zeros((8, 16), bool)
    expected[2:6, 4:12] = True
    np.testing.assert_array_equal(parse('{"box": [0.25, 0.25, 0.5, 0.5]}').mask(8, 16), expected)
    assert parse('{"box": [0, 0, 1, 1]}').mask(5, 7).all()


@pytest.mark.parametrize("box", [[0.5, 0.5, 1e-6, 1e-6], [0.999999, 0.999999, 1e-6, 1e-6], [0, 0, 1e-9, 1]])
def test_a_box_thinner_than_a_pixel_covers_one(box):
    mask = parse(json.dumps({"box": box})).mask(10, 10)
    assert mask.any() and mask.sum() <= 10


@pytest.mark.parametrize("start, end", [((0.2, 0.3), (0.8, 0.6)), ((0.5, 0.1), (0.5, 0.9)), ((0.9, 0.2), (0.1, 0.2))])
def test_a_stroke_covers_what_is_within_half_its_width(start, end):
    height, width, brush = 20, 30, 0.3  # of the shorter side: 6 pixels
    mask = parse(stroke(brush, start, end)).mask(height, width)
    expected = near_line(height, width, np.multiply(start, (width, height)), np.multiply(end, (width, height)), 3)
    assert (mask != expected).sum() <= 1  # a pixel right on the edge


def test_a_single_point_is_a_disc():
    mask = parse(stroke(0.5, (0.5, 0.5))).mask(40, 40)
    assert abs(mask.sum() - np.pi * 10**2) < 10
    assert bounds(mask) == (10, 10, 20, 20)


def test_the_thinnest_stroke_is_not_lost():
    for x in np.linspace(0, 1, 7):
        assert parse(stroke(1e-6, (x, 0.4))).mask(9, 9).any()
    assert parse(stroke(1e-6, (0, 0.5), (1, 0.5))).mask(9, 9).any(axis=0).all()


def test_a_stroke_may_leave_the_frame():
    mask = parse(stroke(0.2, (0.5, 0.5), (1.5, 0.5), (1.5, -1))).mask(20, 20)
    assert mask[9:11, 10:].all() and not mask[:5].any()


def test_box_and_strokes_are_joined():
    text = '{"box": [0, 0, 0.2, 0.2], "strokes": [{"width": 0.1, "points": [[0.8, 0.8]]}]}'
    box, disc = (region.mask(50, 50) for region in (Region((0, 0, 0.2, 0.2)), parse(stroke(0.1, (0.8, 0.8)))))
    np.testing.assert_array_equal(parse(text).mask(50, 50), box | disc)


def test_the_same_region_covers_the_same_share_at_every_size():
    region = parse('{"box": [0.1, 0.2, 0.5, 0.3], "strokes": [{"width": 0.2, "points": [[0.2, 0.8], [0.9, 0.7]]}]}')
    shares = [region.mask(height, width).mean() for height, width in [(90, 160), (180, 320), (361, 641)]]
    assert max(shares) - min(shares) < 0.005


# Boxes in pixels and masks from other nodes


def test_a_box_in_pixels_covers_those_pixels():
    mask = from_pixels({"x": 3, "y": 1, "width": 4, "height": 2, "score": 0.9}, 10, 20).mask(10, 20)
    assert bounds(mask) == (3, 1, 4, 2) and mask.sum() == 8
    assert bounds(from_pixels({"x": -5, "y": 8.2, "width": 8, "height": 90}, 10, 20).mask(10, 20)) == (0, 8, 3, 2)


def test_every_box_in_pixels_comes_back_from_its_mask():
    rng = np.random.default_rng(0)
    for height, width in [(7, 11), (480, 854), (1080, 1920)]:
        x, y = rng.integers(0, width), rng.integers(0, height)
        box = int(x), int(y), int(rng.integers(1, width - x + 1)), int(rng.integers(1, height - y + 1))
        region = from_pixels(dict(zip(("x", "y", "width", "height"), box)), height, width)
        assert bounds(region.mask(height, width)) == box


def test_an_empty_mask_has_no_bounds():
    assert bounds(np.zeros((3, 3), bool)) is None


def test_all_that_is_marked_is_joined():
    soft = torch.zeros(2, 10, 10)
    soft[1, 0, 0] = 0.25
    marked = joined((2, 10, 10), Region((0.5, 0.5, 0.1, 0.1)), {"x": 2, "y": 3, "width": 1, "height": 1}, soft)
    assert marked.dtype == np.float32 and marked.shape == (2, 10, 10)
    assert {tuple(place) for place in np.argwhere(marked[0])} == {(5, 5), (3, 2)}
    assert marked[1, 0, 0] == 0.25 and marked[1].sum() == 2.25
    assert soft.sum() == 0.25  # the given mask is left alone


def test_boxes_of_core_nodes_come_single_listed_or_per_frame():
    one, other = ({"x": x, "y": 0, "width": 1, "height": 1} for x in (0, 3))
    region = Region()
    for boxes, expected in [
        (None, [[], []]), ([], [[], []]), ([[]], [[], []]), (one, [[0], [0]]), ([one, other], [[0, 3], [0, 3]]),
        ([[one]], [[0], [0]]), ([[one], [other]], [[0], [3]]), ([[], [one, other]], [[], [0, 3]]),
    ]:  # fmt: skip
        marked = joined((2, 4, 4), region, boxes)
        assert [np.flatnonzero(frame.any(axis=0)).tolist() for frame in marked] == expected


@pytest.mark.parametrize("boxes, message", [
    ({"x": 1}, "in pixels"),
    ("box", "bounding box is box"),
    ([1, 2, 3, 4], "bounding box is"),
    ([[{"x": 0, "y": 0, "width": 1, "height": 1}]] * 3, "for 3 frames but 2 frames"),
    ({"x": 9, "y": 9, "width": 2, "height": 2}, "covers nothing of a frame of 4x4"),
    ({"x": 0, "y": 0, "width": 0, "height": 2}, "covers nothing"),
    ({"x": 0, "y": 0, "width": "4", "height": 2}, "numbers of pixels"),
    ({"x": 0, "y": 0, "width": float("nan"), "height": 2}, "numbers of pixels"),
])  # fmt: skip
def test_boxes_that_do_not_fit_are_named(boxes, message):
    with pytest.raises(InputError, match=message):
        joined((2, 4, 4), Region(), boxes)


def test_a_mask_of_another_size_is_named():
    with pytest.raises(InputError, match="5x4 pixels but the video is 4x4"):
        joined((2, 4, 4), Region(), None, torch.zeros(2, 4, 5))
