"""Judging keyframes: what follows them scores, what does not follow them does not, at the cost of nothing else."""

import json
from functools import cache

import numpy as np
import pytest
import torch

from lgvi_core import checkpoints
from lgvi_core.errors import InputError
from lgvi_core.inpaint import DEMO
from lgvi_core.models import InflatedUNet, UNetConfig
from train import evaluate as command
from train.evaluation import propagate
from train.evaluation.fill import SEED, held_out
from train.evaluation.fill_checkpoint import of_checkpoint
from train.evaluation.measures import Networks

FRAMES, CLIPS = 3, 10


@cache
def clip(i):
    return held_out(SEED, i, FRAMES, tasks=propagate.TASKS)


def truth_of(frames):
    """The clip that these frames are of: what is outside of its mask tells."""
    at = next(i for i in range(CLIPS) if (frames[-1] == clip(i).frames[len(frames) - 1])[~clip(i).mask[0]].all())
    return clip(at)


def obedient(frames, mask, prompt, keyframe):
    """Follows keyframes and captions without a mistake; without either it draws nothing."""
    known = truth_of(frames)
    return known.clean[: len(frames)] if keyframe is not None or prompt else known.background[: len(frames)]


def careless(frames, mask, prompt, keyframe):
    """Has the truth's place, and its background, in other colours than a keyframe shows."""
    return obedient(frames, mask, "said", keyframe)[..., ::-1]


@cache
def reported():
    methods = {"obedient": obedient, "careless": careless}
    return propagate.evaluate(methods, CLIPS, FRAMES, networks=Networks(absent={"tc": "no weights"}))


def test_what_follows_the_keyframe_is_right_and_what_does_not_is_not():
    rows = reported()[0]["rows"]
    given, absent = rows[f"obedient, {propagate.GIVEN}"], rows[f"obedient, {propagate.ABSENT}"]
    assert min(given[name] for name in ("color", "shape", "both", "frames")) > 0.85
    assert absent["color"] == absent["shape"] == 0.0 and absent["psnr"] < 30
    assert rows["careless, the true keyframe"]["color"] < 0.6


def test_both_ways_to_edit_are_judged_by_what_the_caption_names():
    rows, clips = reported()[0]["rows"], [clip(i) for i in range(CLIPS)]
    direct, kive = rows[f"obedient, {propagate.DIRECT}"], rows[f"obedient, {propagate.KIVE}"]
    assert direct["both"] == kive["both"] > 0.85 and "psnr" not in direct
    known = [propagate.measure(one, one.clean, by_words=True) for one in clips]
    assert all(("color" in row) == (one.asked[1] is not None) for row, one in zip(known, clips))


def test_a_change_after_the_first_frame_is_seen():
    changed = clip(0).clean.copy()
    changed[1:] = clip(0).background[1:]
    assert propagate.measure(clip(0), changed)["as_first"] == 0.0
    assert propagate.measure(clip(0), clip(0).clean)["as_first"] == 1.0


def test_the_first_frame_itself_counts_for_nothing():
    spoilt = clip(0).clean.copy()
    spoilt[0] = 0
    row, whole = propagate.measure(clip(0), spoilt), propagate.measure(clip(0), clip(0).clean)
    assert {name: row[name] for name in ("both", "frames", "psnr", "bp")} == {
        name: whole[name] for name in ("both", "frames", "psnr", "bp")
    }


def test_bp_is_of_the_result_as_the_method_gives_it():
    brighter = np.minimum(clip(0).clean.astype(int) + 5, 255).astype(np.uint8)
    assert 3 < propagate.measure(clip(0), brighter)["bp"] <= 5
    assert propagate.measure(clip(0), clip(0).clean)["bp"] == 0.0


def test_the_moved_crop_goes_where_the_region_goes():
    row = reported()[0]["rows"]["the keyframe's crop, moved"]
    assert row["both"] > 0.85 and 15 < row["psnr"] < 40 and row["bp"] == 0.0
    one = clip(0)
    without = propagate.moved_crop(one.frames, one.mask, "", None)
    assert propagate.measure(one, without)["frames"] == 0.0


def test_the_table_says_what_is_left_out_and_why():
    text = propagate.table(reported()[0])
    assert "|obedient, its own keyframe|" in text and "Left out: TC, no weights." in text and "no words" in text
    json.dumps(reported()[0], allow_nan=False)


def test_the_sheet_shows_every_run():
    report, rows = reported()
    picture = propagate.pictures(report, rows, "obedient", obedient, most=1)
    assert picture.height == 2 * (20 + 6 * propagate.SIDE)


def test_too_little_to_judge_is_refused(tmp_path, caplog):
    for wrong in ({"clips": 0}, {"frames": 1}):
        with pytest.raises(InputError, match="at least 1 clip of 2 frames"):
            propagate.evaluate({}, **wrong)
    assert command.main(["propagate", "--output", str(tmp_path / "report.txt")]) == 2
    assert "must end in .json" in caplog.text


def test_the_command_judges_a_checkpoint_with_and_without_keyframe(tmp_path, capsys):
    torch.manual_seed(0)
    demo = checkpoints.load(DEMO)
    config = UNetConfig(
        in_channels=25, out_channels=12, block_out_channels=(8, 8), down_block_types=("CrossAttnDownBlock3D",) * 2,
        up_block_types=("CrossAttnUpBlock3D",) * 2, layers_per_block=1, cross_attention_dim=128, attention_head_dim=2,
        norm_num_groups=4, mask_decoder_type=None, temp_attn=False, frame_norm=True,
    )  # fmt: skip
    parts = {"vae": demo.vae, "text_encoder": demo.text_encoder, "scheduler_config": demo.scheduler_config}
    made = checkpoints.Checkpoint(config, InflatedUNet(config).eval(), **parts, training=demo.training, family="cococo")
    propagated = of_checkpoint(made, steps=1, device="cpu", keep_outside=False)
    given = clip(0).frames, clip(0).mask, ""
    result, other = propagated(*given, clip(0).clean[0]), propagated(*given, 255 - clip(0).clean[0])
    assert np.array_equal(result[0][clip(0).mask[0]], clip(0).clean[0][clip(0).mask[0]])
    assert not np.array_equal(result[1:], other[1:]) and not np.array_equal(result, propagated(*given))

    checkpoints.save(made, tmp_path / "tiny.safetensors")
    options = ["--clips", "1", "--frames", "2", "--steps", "1", "--device", "cpu", "--prompt", "a thing"]
    output = tmp_path / "out" / "report.json"
    assert command.main(["propagate", "--checkpoint", str(tmp_path / "tiny.safetensors"), *options,
                         "--output", str(output)]) == 0  # fmt: skip
    report = json.loads(output.read_text())
    assert report["prompt"] == "a thing" and len(report["rows"]) == 6
    assert report["rows"]["tiny, the true keyframe"]["bp"] > 0
    assert "colour right" in output.with_suffix(".md").read_text() and output.with_name("report-tiny.png").exists()
    assert "written to" in capsys.readouterr().out
