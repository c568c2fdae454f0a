"""A mask tracked through drawn clips, and what is said where that cannot be."""

import logging
import sys

import cv2
import numpy as np
import pytest

import lgvi_core
from benchmarks.tracking import overlap
from lgvi_core import masks
from lgvi_core.errors import InputError
from lgvi_core.scene_cuts import cuts
from lgvi_core.tracking import TRUSTED, chained, track
from train.data.synthetic import draw

SIZE = 96


@pytest.fixture(autouse=True)
def one_thread():
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    yield
    cv2.setNumThreads(before)


def scene(start, velocity, count=12, side=22):
    """A patchwork square that moves over a still, drawn background: frames, and where it is."""
    ground = draw(5, 0, 1, SIZE, SIZE).background[0]
    frames, truth = np.stack([ground] * count), np.zeros((count, SIZE, SIZE), bool)
    rows, columns = np.indices((SIZE, SIZE))
    patches = np.random.default_rng(0).integers(0, 256, (-(-side // 6), -(-side // 6), 3))
    for t in range(count):
        x, y = columns - round(start[0] + velocity[0] * t), rows - round(start[1] + velocity[1] * t)
        truth[t] = (x >= 0) & (x < side) & (y >= 0) & (y < side)
        frames[t][truth[t]] = patches[y[truth[t]] // 6, x[truth[t]] // 6]
    return frames, truth


@pytest.mark.parametrize("number", [0, 2, 6])
def test_drawn_objects_are_followed_both_ways_from_a_frame_in_the_middle(number):
    clip = draw(3, number, 10, SIZE, SIZE)
    for truth in clip.object_masks:
        found = track(clip.frames, truth[4], 4)
        after, before = overlap(found.masks[4:], truth[4:]), overlap(found.masks[4::-1], truth[4::-1])
        assert after.mean() > 0.85 and before.mean() > 0.85
        assert np.array_equal(found.masks[4], truth[4]) and found.trust[4] == 1
        assert found.lost_at is None and found.trust.min() >= TRUSTED


def test_following_is_better_than_chained_flow_where_objects_cross():
    clip = draw(3, 3, 10, SIZE, SIZE, hard=True)
    for truth in clip.object_masks[:2]:
        ours = overlap(track(clip.frames, truth[0], 0).masks, truth).mean()
        assert ours > 0.8 and ours > overlap(chained(clip.frames, truth[0]), truth).mean()


def test_an_object_that_passes_behind_another_is_found_again():
    frames, truth = scene((4, 36), (6, 0))
    bar = slice(36, 62)
    frames[:, :, bar] = draw(6, 1, 1, SIZE, SIZE).background[0][:, bar]
    truth[:, :, bar] = False
    hidden = ~truth.any((1, 2))
    found = track(frames, truth[0], 0)
    assert hidden.any() and not hidden[-3:].any()
    assert found.trust[hidden].max() < TRUSTED < found.trust[-1]
    assert overlap(found.masks[-4:], truth[-4:]).min() > 0.7


def test_an_object_that_leaves_the_frame_is_lost_there(caplog):
    frames, truth = scene((60, 40), (7, 0))
    gone = int(np.flatnonzero(~truth.any((1, 2)))[0])
    found = track(frames, truth[0], 0)
    assert overlap(found.masks[: gone - 1], truth[: gone - 1]).mean() > 0.75
    assert found.masks[gone:].mean() < 0.2 * truth[0].mean() and found.trust[gone:].max() < TRUSTED
    assert gone - 2 <= found.lost_at <= gone
    assert f"cannot be trusted from frame {found.lost_at} on, forwards from frame 0" in caplog.text


def test_an_object_that_vanishes_is_lost_there():
    frames, truth = scene((20, 30), (3, 2))
    frames[7:] = draw(5, 0, 1, SIZE, SIZE).background[0]
    found = track(frames, truth[0], 0)
    assert overlap(found.masks[:7], truth[:7]).min() > 0.8
    assert found.masks[7:].mean() < 0.2 * truth[0].mean() and found.trust[7:].max() < TRUSTED
    assert found.lost_at == 7


def test_a_track_ends_at_a_cut_unless_told_to_cross_it(caplog):
    clip, other = draw(3, 0, 8, SIZE, SIZE), draw(3, 50, 5, SIZE, SIZE)
    frames = np.concatenate([other.frames, clip.frames, other.frames])
    assert cuts(frames) == [5, 13]
    found = track(frames, clip.object_masks[0][2], 7)
    inside = found.masks.any((1, 2))
    assert inside[5:13].all() and not inside[:5].any() and not inside[13:].any()
    assert not found.trust[:5].any() and not found.trust[13:].any() and found.lost_at == 4
    assert "from frame 13 on, forwards from frame 7: there is a scene cut" in caplog.text
    crossed = track(frames, clip.object_masks[0][2], 7, across_cuts=True)
    assert np.array_equal(crossed.masks[5:12], found.masks[5:12])
    assert crossed.trust[13:].max() < TRUSTED


def test_large_frames_are_tracked_at_a_smaller_size_and_given_back_at_theirs():
    clip = draw(3, 2, 3, 480, 640)
    truth = clip.object_masks[0]
    found = masks.track(clip.frames, truth[0], 0)
    assert found.masks.shape == truth.shape and np.array_equal(found.masks[0], truth[0])
    assert overlap(found.masks, truth).min() > 0.85


def test_a_clip_of_one_frame_has_the_mask_given(caplog):
    clip = draw(3, 0, 1, SIZE, SIZE)
    found = track(clip.frames, clip.object_masks[0][0], 0)
    assert np.array_equal(found.masks, clip.object_masks[0]) and found.trust.tolist() == [1] and found.lost_at is None
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_mask_that_covers_the_frame_is_followed_without_a_background():
    clip = draw(3, 0, 3, 48, 48)
    assert track(clip.frames, np.ones((48, 48), bool), 0).masks.mean() > 0.9


WHOLE = np.ones((32, 40), bool)


@pytest.mark.parametrize(
    "frames, mask, index, message",
    [
        ((5, 32, 40, 3), np.ones((40, 32), bool), 0, "mask is 32x40 pixels but the video is 40x32"),
        ((5, 32, 40, 3), ~WHOLE, 1, "mask of frame 1 is empty"),
        ((5, 32, 40, 3), WHOLE, 5, "frame 5, but the video has frames 0 to 4"),
        ((5, 32, 40, 3), WHOLE, -1, "frame -1, but the video has frames 0 to 4"),
        ((5, 32, 40, 3), WHOLE.astype(np.float32), 0, "expected a bool mask"),
        ((32, 40, 3), WHOLE, 0, "expected uint8"),
        ((0, 32, 40, 3), WHOLE, 0, "expected uint8"),
        ((5, 8, 40, 3), np.ones((8, 40), bool), 0, "40x8; tracking needs 12 pixels a side"),
    ],
)
def test_what_cannot_be_tracked_is_refused(frames, mask, index, message):
    with pytest.raises(InputError, match=message):
        track(np.zeros(frames, np.uint8), mask, index)


def test_without_opencv_it_is_said_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "lgvi_core.tracking")
    monkeypatch.delattr(lgvi_core, "tracking")
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(InputError, match="pip install opencv-python-headless"):
        masks.track(np.zeros((5, 32, 40, 3), np.uint8), WHOLE, 0)
