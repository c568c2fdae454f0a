"""Which windows an edit spreads by, in which order, and how the drift of their colours is put right."""

import random

import numpy as np
import pytest
import torch

from lgvi_core.editing import Windows
from lgvi_core.errors import InputError
from lgvi_core.keyframes import bare_scenes, match_colours, plan, scenes_of


def spans(keyframes, frames=40, window=16, overlap=4, **options):
    """Of each window: where it starts and stops, and the first and last frame that it makes."""
    steps = plan([range(frames)], keyframes, Windows(window, overlap), **options).steps
    return [(step.start, step.stop, step.new[0], step.new[-1]) for step in steps]


def test_from_the_first_frame_each_window_goes_on_from_the_last_frames_of_the_one_before():
    assert spans([0]) == [(0, 16, 1, 15), (12, 28, 16, 27), (24, 40, 28, 39)]


def test_from_the_middle_it_goes_forwards_and_then_backwards():
    assert spans([20]) == [(20, 36, 21, 35), (24, 40, 36, 39), (8, 24, 8, 19), (0, 16, 0, 7)]


def test_between_two_keyframes_it_goes_from_both_and_the_last_window_knows_both_sides():
    windows = spans([0, 59], frames=60)
    start, stop, first, last = windows[-1]
    assert stop - start == 16 and first - start >= 3 and stop - 1 - last >= 3
    assert windows[0] == (0, 16, 1, 15) and any(first > 30 for _, _, first, _ in windows[:-1])


def test_keyframes_of_one_window_are_in_one_window():
    assert spans([3, 9], frames=16) == [(0, 16, 0, 15)]


def test_without_keyframes_it_begins_at_the_first_frame():
    assert spans([], frames=20, window=8, overlap=2) == [(0, 8, 0, 7), (6, 14, 8, 13), (12, 20, 14, 19)]


def test_blended_windows_lie_as_those_of_a_fill_do():
    assert spans([], frames=20, window=8, overlap=2, chained=False) == [(0, 8, 0, 7), (6, 14, 6, 13), (12, 20, 12, 19)]


def test_every_frame_is_made_once_from_what_is_known_and_no_window_crosses_a_cut():
    draw = random.Random(0)
    for _ in range(1000):
        frames, window = draw.randint(1, 70), draw.randint(2, 20)
        keyframes = draw.sample(range(frames), draw.randint(0, min(frames, 6)))
        cuts = sorted(draw.sample(range(1, frames), min(frames - 1, draw.randint(0, 2))))
        scenes, known = scenes_of(frames, cuts), set(keyframes)
        for step in plan(scenes, keyframes, Windows(window, draw.randint(1, window - 1))).steps:
            inside = set(range(step.start, step.stop))
            assert len(inside) <= window and any(inside <= set(scene) for scene in scenes)
            assert step.new and not known & set(step.new) and inside - set(step.new) <= known
            known |= inside
        assert known == set(range(frames))


def test_a_chain_needs_an_overlap():
    with pytest.raises(InputError, match="window is 8 and overlap 0; a chain needs"):
        plan([range(20)], [0], Windows(8, 0))


def test_scenes_with_nothing_to_change_or_a_keyframe_are_not_bare():
    scenes, asked = scenes_of(40, [10, 20, 30]), np.ones(40, bool)
    asked[20:30] = False
    assert bare_scenes(scenes, [5], asked) == [range(10, 20), range(30, 40)]
    assert bare_scenes(scenes, [5, 19, 39], asked) == []


def clip_and_hole():
    clip = torch.from_numpy(np.random.default_rng(0).random((3, 32, 40, 3), dtype=np.float32)) * 0.6 + 0.2
    hole = torch.zeros(3, 32, 40, dtype=torch.bool)
    hole[:, 10:22, 12:28] = True
    return clip, hole


def test_a_tint_around_the_mask_is_taken_out_of_the_fill_too():
    clip, hole = clip_and_hole()
    tint = torch.tensor([0.06, -0.04, 0.0])
    matched, drift = match_colours(clip * 0.9 + tint, clip, hole)
    assert torch.allclose(drift, tint - 0.1 * clip.mean(), atol=0.01)
    assert (matched - clip).abs().max() < 0.02 < (clip * 0.9 + tint - clip).abs().max()


def test_what_the_fill_itself_shows_is_no_drift_even_where_latents_carry_it_over_the_edge():
    clip, hole = clip_and_hole()
    made = clip.clone()
    made[:, 8:24, 10:30] = torch.tensor([1.0, 0.9, 0.0])  # two pixels beyond the hole
    matched, drift = match_colours(made, clip, hole, margin=2)
    assert torch.equal(drift, torch.zeros(3)) and torch.allclose(matched, made, atol=1e-6)


def test_without_surroundings_nothing_changes():
    clip, hole = clip_and_hole()
    matched, drift = match_colours(clip, 1 - clip, torch.ones_like(hole))
    assert matched is clip and not drift.any()
