"""What keyframes save is counted right, and long clips are measured by what they show."""

import numpy as np
import pytest
import torch

from benchmarks import keyframe_picture, long_clips, propagation
from lgvi_core import checkpoints
from lgvi_core.inpaint import DEMO
from lgvi_core.models import InflatedUNet, UNetConfig


def test_a_frame_costs_its_share_of_a_clip_and_a_clip_more_by_its_motion():
    short, long, full = propagation.jobs()
    assert (short.frames, long.frames, full.frames, full.pixels) == (8, 24, 16, 512) and full.passes == 2
    frame, clip = short.operations(1), short.operations(8)
    assert 8 * frame < clip < 12 * frame
    assert 1.5e9 < frame < 2e9  # the demo's U-Net at 32x32 latents


def test_tries_pay_from_the_second_on():
    frame, clip = propagation.PAPER.values()
    assert propagation.saving(frame, clip, 1) < 1 < propagation.saving(frame, clip, 2)
    assert propagation.saving(frame, clip, 3) == pytest.approx(3 * 17.1 / (3 * 1.5 + 17.1))
    assert propagation.saving(frame, clip, 10**6) == pytest.approx(17.1 / 1.5, rel=1e-4)


def test_costs_are_shown_in_units_that_fit():
    assert [propagation.in_flop(value) for value in (1.23e9, 4.5e13, 1.71e16, 3e5)] == [
        "1.23 GFLOP", "45 TFLOP", "17.1 PFLOP", "0.0003 GFLOP",
    ]  # fmt: skip
    text = propagation.cost_table([{"model": "a", "frame": 1.0, "clip": 8.0}], propagation.in_seconds)
    assert "|a|1 s|8 s|8.0|0.89|" in text


@pytest.fixture(scope="module")
def clip():
    return long_clips.held_out_thing(1, 24)


def test_the_truth_neither_drifts_nor_jumps(clip):
    row = long_clips.fate(clip, clip.clean)
    assert row["drift"] < 3 and row["same"] == row["same_end"] == 1.0 and row["psnr"] == long_clips.IDENTICAL


def test_a_drift_of_colour_is_measured_in_levels(clip):
    drifting = np.clip(clip.clean - np.arange(24)[:, None, None, None], 0, 255).astype(np.uint8)
    row = long_clips.fate(clip, drifting)
    end = np.mean(range(24 - long_clips.END, 24))
    assert row["drift"] == pytest.approx(end, abs=4) and np.argmax(row["curve"]) > 20
    assert row["psnr_end"] < row["psnr"]


def test_a_jump_is_seen_in_the_worst_step(clip):
    jumping = clip.clean.copy()
    jumping[12:] = np.minimum(jumping[12:].astype(int) + 60, 255)
    row, truth = long_clips.fate(clip, jumping), long_clips.fate(clip, clip.clean)
    assert row["worst"] < truth["worst"] - 3 and row["steps"] > truth["steps"] - 1


def test_the_command_measures_a_checkpoint_in_every_way(tmp_path, capsys, monkeypatch):
    torch.manual_seed(0)
    demo = checkpoints.load(DEMO)
    config = UNetConfig(
        in_channels=25, out_channels=12, block_out_channels=(8, 8), down_block_types=("CrossAttnDownBlock3D",) * 2,
        up_block_types=("CrossAttnUpBlock3D",) * 2, layers_per_block=1, cross_attention_dim=128, attention_head_dim=2,
        norm_num_groups=4, mask_decoder_type=None, temp_attn=False, frame_norm=True, motion_attention=("temporal",),
    )  # fmt: skip
    made = checkpoints.Checkpoint(
        config, InflatedUNet(config).eval(), demo.vae, demo.text_encoder, demo.scheduler_config,
        training={"width": 64, "height": 64, "frames": 8}, sampling={"steps": 1, "guidance_scale": 1.0},
        family="cococo",
    )  # fmt: skip
    checkpoints.save(made, tmp_path / "tiny.safetensors")
    monkeypatch.setattr(propagation, "REPEATS", 1)
    monkeypatch.setattr(propagation, "costs", lambda: [{"model": "counted", "frame": 1e9, "clip": 8e9}])
    options = ["--checkpoint", str(tmp_path / "tiny.safetensors"), "--device", "cpu", "--clips", "1", "--frames", "17"]
    assert propagation.main([*options, "--plot", str(tmp_path / "drift.png")]) == 0
    said = capsys.readouterr().out
    assert all(f"|{name}|" in said for name in (*long_clips.WAYS, "the truth", "counted"))
    assert "24 frames of 64x64, from a keyframe" in said and (tmp_path / "drift.png").stat().st_size > 5000
    assert propagation.main([*options[:-1], "3"]) == 2
    assert "--frames 3" in capsys.readouterr().err


def test_the_picture_shows_the_keyframe_and_grey_after_it(clip, tmp_path):
    shown = keyframe_picture.given(clip)
    assert np.array_equal(shown[0], clip.clean[0])
    assert (shown[1:][clip.mask[1:]] == 128).all()
    assert np.array_equal(shown[1:][~clip.mask[1:]], clip.frames[1:][~clip.mask[1:]])
    assert keyframe_picture.main(["-o", str(tmp_path / "given.png")]) == 0 and (tmp_path / "given.png").exists()
