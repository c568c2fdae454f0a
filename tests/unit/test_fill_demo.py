"""The shipped checkpoint that fills does what its words say, follows keyframes, and takes on the shipped style."""

import numpy as np
import pytest

from lgvi_core import checkpoints
from lgvi_core.inpaint import FILL_DEMO, fill
from train.evaluation import fill as judged
from train.evaluation import propagate, style
from train.evaluation.fill_checkpoint import of_checkpoint

OUTLINE = FILL_DEMO.with_name("fill-outline.safetensors")
CLIPS = 24


@pytest.fixture(scope="module")
def demo():
    return checkpoints.load(FILL_DEMO)


def test_it_is_small_and_says_what_it_is(demo):
    assert FILL_DEMO.stat().st_size < 25_000_000 and OUTLINE.stat().st_size < 2_000_000
    assert demo.family == "cococo" and demo.config.motion_attention and demo.training["frames"] == 8


def test_it_fills_what_the_words_say(demo):
    report, _ = judged.evaluate({"model": of_checkpoint(demo)}, CLIPS)
    found, flat = report["rows"]["model"], report["rows"]["flat disc of the colour asked"]
    assert found["color"] >= 0.9 and found["size"] >= 0.85 and found["all"] >= 0.7
    assert found["shape"] > flat["shape"] + 0.3
    assert found["nothing"] >= 0.9 and found["outside"] == 1.0


def test_what_stands_in_later_frames_is_what_the_keyframe_shows(demo):
    report, _ = propagate.evaluate({"model": of_checkpoint(demo)}, CLIPS)
    given, absent = (report["rows"][f"model, {run}"]["both"] for run in (propagate.GIVEN, propagate.ABSENT))
    assert given > absent + 0.3


def test_the_style_draws_outlines_and_keeps_to_the_words():
    methods = style.merged(FILL_DEMO, [OUTLINE], [0.0, 1.5])
    report, _ = judged.evaluate(methods, CLIPS)
    plain, styled = report["rows"]["beta 0"], report["rows"]["beta 1.5"]
    assert styled["rim"] > plain["rim"] + 0.2
    assert styled["color"] >= 0.8 and styled["all"] >= 0.6


def test_without_a_checkpoint_named_it_is_the_one_that_fills():
    clip = judged.held_out(judged.SEED, 0)
    result = fill(clip.frames, "a large red circle", mask=clip.mask, dilate=0, feather=0)
    assert not result.unchanged and np.array_equal(result.frames[~clip.mask], clip.frames[~clip.mask])
