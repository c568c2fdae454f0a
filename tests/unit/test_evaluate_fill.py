"""Judging fills: the judge knows what stands there, the truth scores best, trivial baselines do not pass."""

import json
from functools import cache

import numpy as np
import pytest
import torch

from lgvi_core import checkpoints
from lgvi_core.errors import InputError
from lgvi_core.inpaint import DEMO
from lgvi_core.models import InflatedUNet, UNetConfig
from train.data.synthetic_fill import draw_fill
from train.evaluation import fill, fill_judge
from train.evaluation.fill_checkpoint import of_checkpoint
from train.evaluation.fill_outline import dark_rim


def made_by_truth(frames, mask, prompt):
    """What fills without a mistake: finds the clip by its frames."""
    return next(clip.clean for clip in truths() if np.array_equal(clip.frames, frames))


@cache
def truths():
    return [fill.held_out(fill.SEED, i, 4) for i in range(24)]


@cache
def reported():
    return fill.evaluate({"perfect": made_by_truth}, clips=24, frames=4)


def test_the_judge_is_small_and_right_on_held_out_frames():
    assert fill_judge.FILE.stat().st_size < 300_000
    stated = fill_judge.accuracy()
    assert min(stated.values()) > 0.96
    found = fill_judge.test(fill_judge.load(), 150)
    assert all(found[name] == pytest.approx(stated[name], abs=0.06) for name in stated)


def test_the_judge_sees_a_thing_at_any_size_of_frame():
    for pixels in (64, 128):
        clips = [fill.held_out(5, i, 2, pixels) for i in range(12)]
        verdicts = [fill_judge.load().verdict(clip.clean, clip.centers).clip for clip in clips]
        right = [found == (clip.look or ("nothing",) * 3) for clip, found in zip(clips, verdicts)]
        assert np.mean(right) > 0.8


def test_the_truth_is_right_and_doing_nothing_is_not():
    rows = reported()[0]["rows"]
    assert rows["perfect"] == rows["the truth"]
    assert min(rows["the truth"][name] for name in ("color", "size", "steady", "nothing", "outside")) > 0.9
    assert rows["the truth"]["shape"] > 0.85
    assert rows["untouched input"]["all"] < 0.2
    assert rows["mean colour"]["all"] < 0.2 and rows["Telea"]["all"] < 0.2
    disc = rows["flat disc of the colour asked"]
    assert disc["color"] > 0.6 and disc["shape"] < 0.5


def test_deletion_is_judged_against_the_true_background():
    rows = reported()[0]["rows"]
    assert rows["perfect"]["psnr_deleted"] is None and rows["perfect"]["psnr_deleted_identical"] > 0
    assert rows["mean colour"]["psnr_deleted"] > rows["untouched input"]["psnr_deleted"]


def test_changes_outside_of_the_mask_are_seen_but_do_not_count_for_the_rest():
    clip = truths()[0]
    spoilt = np.where(clip.mask[..., None], clip.clean, 0).astype(np.uint8)
    spoilt_row, row = fill.measure(clip, spoilt), fill.measure(clip, clip.clean)
    assert not spoilt_row.pop("outside") and row.pop("outside")
    assert spoilt_row == row


def test_things_that_flicker_are_not_steady():
    clip = next(c for c in truths() if c.look)
    flickering = clip.clean.copy()
    flickering[1::2] = clip.background[1::2]
    assert not fill.measure(clip, flickering)["steady"] and fill.measure(clip, clip.clean)["steady"]
    assert fill.psnr_steps(flickering, clip) < fill.psnr_steps(clip.clean, clip) - 3


def test_results_of_another_shape_are_refused():
    clip = truths()[0]
    with pytest.raises(InputError, match="result is"):
        fill.measure(clip, clip.clean[:1])


def test_the_report_has_a_table_with_targets_and_pictures():
    report, rows = reported()
    text = fill.table(report)
    assert "|target|95.0 %|" in text and "perfect" in text and "24 held-out clips" in text
    json.dumps(report, allow_nan=False)
    few = {"seed": fill.SEED, "frames": 4, "size": [64, 64]}
    assert fill.pictures(few, rows["mean colour"][:3], fill.mean_fill).height > 300


def test_the_command_writes_report_table_and_sheets(tmp_path, capsys):
    fill.main(["--clips", "3", "--frames", "2", "--output", str(tmp_path / "out" / "fill.json")])
    assert json.loads((tmp_path / "out" / "fill.json").read_text())["clips"] == 3
    assert "colour right" in (tmp_path / "out" / "fill.md").read_text()
    assert len(list((tmp_path / "out").glob("fill-*.png"))) == len(fill.BASELINES)
    assert "written to" in capsys.readouterr().out
    with pytest.raises(InputError, match="json"):
        fill.main(["--output", str(tmp_path / "fill.txt")])


def test_outlines_are_told_from_none():
    share = {}
    for outline in (0.0, 1.5):
        ways = {"kinds": {"instance": 1}, "tasks": {"add": 1}, "held_out": True, "outline": outline}
        clips = [draw_fill(8, i, 1, **ways) for i in range(20)]
        share[outline] = np.mean([dark_rim(clip.clean, clip.background, clip.mask) for clip in clips])
        assert dark_rim(clips[0].background, clips[0].background, clips[0].mask) is None
    assert share[0.0] < 0.05 and share[1.5] > 0.5


def test_the_judge_learns_from_few_clips():
    judge = fill_judge.train(steps=60, clips=200)
    assert fill_judge.test(judge, 60)["color"] > 0.5


def test_a_checkpoint_that_fills_is_judged_and_one_that_removes_is_refused(demo):
    torch.manual_seed(0)
    config = UNetConfig(
        in_channels=25, out_channels=12, block_out_channels=(8, 8), down_block_types=("CrossAttnDownBlock3D",) * 2,
        up_block_types=("CrossAttnUpBlock3D",) * 2, layers_per_block=1, cross_attention_dim=128, attention_head_dim=2,
        norm_num_groups=4, mask_decoder_type=None, temp_attn=False, frame_norm=True,
    )  # fmt: skip
    parts = {"vae": demo.vae, "text_encoder": demo.text_encoder, "scheduler_config": demo.scheduler_config}
    unet = InflatedUNet(config).eval()
    checkpoint = checkpoints.Checkpoint(config, unet, **parts, training=demo.training, family="cococo")
    clip = truths()[0]
    made = of_checkpoint(checkpoint, steps=1, device="cpu")(clip.frames, clip.mask, clip.caption)
    assert np.array_equal(made[~clip.mask], clip.frames[~clip.mask])
    assert not np.array_equal(made[clip.mask], clip.frames[clip.mask])
    assert "outside" in fill.measure(clip, made)
    with pytest.raises(InputError, match="CoCoCo"):
        of_checkpoint(demo)


@pytest.fixture(scope="module")
def demo():
    return checkpoints.load(DEMO)
