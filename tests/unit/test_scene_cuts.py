"""Where a clip is cut: found in joined drawings, not in movement, light and flashes; nothing beside torch is needed."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from unit.drawn_clips import draw

from lgvi_core.errors import InputError
from lgvi_core.scene_cuts import cuts

ROOT = Path(__file__).parents[2]
SIZE = 96


def scene(seed, count=8):
    return draw(seed, 1, count, SIZE, SIZE).frames


def test_scenes_that_are_joined_are_told_apart_and_a_steady_one_has_no_cut():
    first, second = scene(3), 255 - scene(5)
    assert cuts(np.concatenate([first, second, first])) == [8, 16]
    assert cuts(first) == cuts(first[:1]) == []


@pytest.mark.parametrize("at", [1, 15])
def test_a_scene_of_one_frame_at_either_end_is_found(at):
    assert cuts(np.concatenate([scene(3, at), 255 - scene(5, 16 - at)])) == [at]


def test_light_that_goes_on_and_what_flashes_for_a_frame_is_no_cut():
    clip = scene(3).astype(int)
    lit, flash = clip.copy(), clip.copy()
    lit[4:] += 60
    flash[4] = 255 - clip[4]
    assert cuts(np.clip(lit, 0, 255).astype(np.uint8)) == cuts(flash.astype(np.uint8)) == []


def test_a_fast_pan_is_no_cut():
    large = draw(3, 0, 1, 4 * SIZE, 4 * SIZE).frames[0]
    assert cuts(np.stack([large[40 : 40 + SIZE, 10 * i : 10 * i + SIZE] for i in range(20)])) == []


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (3, 300)])
def test_frames_of_any_size_are_looked_at(size):
    noise = np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8)
    assert cuts(noise.repeat(3, axis=0)) in ([], [3])


@pytest.mark.parametrize("frames", [np.zeros((3, 8, 8), np.uint8), np.zeros((3, 8, 8, 3), np.float32)])
def test_what_are_no_frames_is_refused(frames):
    with pytest.raises(InputError, match="expected uint8"):
        cuts(frames)


def test_opencv_is_not_needed():
    code = "import sys; sys.modules['cv2'] = None; import lgvi_core.scene_cuts"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
