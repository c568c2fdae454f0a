"""`python -m lgvi_core fill`: every option reaches the engine, masks of every kind, and one line for what is wrong."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from unit.test_command_line import refused, run
from unit.test_fill import filling, red_square
from unit.test_inpaint import as_pictures, frames_of, gated, hole
from unit.test_video import make_video, sound_packets, write

from lgvi_core import checkpoints, inpaint
from lgvi_core.user_mask import Box, Colour
from lgvi_core.video import open_video


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    checkpoints.save(filling(), folder / "fill.safetensors")
    checkpoints.save(gated("everything"), folder / "remove.safetensors")
    return folder


@pytest.fixture
def folder(models, tmp_path, monkeypatch):
    """The current folder, with a clip, its mask and checkpoints of both families."""
    monkeypatch.chdir(tmp_path)
    make_video(tmp_path / "in.mp4", count=31, rate=Fraction(30000, 1001), sound=("aac",), size=(32, 24))
    write(tmp_path / "mask", as_pictures(hole()))
    for file in models.iterdir():
        (tmp_path / file.name).symlink_to(file)
    return tmp_path


def command(*arguments, words="a yellow star", checkpoint="fill.safetensors"):
    return ["fill", "in.mp4", words, "-o", "out.mp4", "--checkpoint", checkpoint, *arguments]


def test_one_command_writes_video_mask_and_sheet(folder, capsys):
    arguments = ["--mask", "mask", "--negative-prompt", "a circle", "--mask-output", "used", "--sheet", "sheet.png"]
    code, out, err = run(capsys, command(*arguments, "--window", "16", "--overlap", "1"))
    assert code == 0
    assert out == "out.mp4: 31 frames, mask covers 8.33 %\nmask: used\nsheet: sheet.png\n"
    clip = open_video("out.mp4")
    assert (clip.frame_rate, len(list(clip)), clip.width, clip.height) == (Fraction(30000, 1001), 31, 32, 24)
    assert sound_packets("out.mp4") == sound_packets("in.mp4")
    assert np.array_equal(frames_of("used")[..., 0] > 0, hole())
    assert Path("sheet.png").is_file() and "window 2 of 2: 100%" in err


def remembered(monkeypatch, capsys, *arguments, **options):
    given = {}

    def remember(*positional, **named):
        given.update(named, positional=positional)
        return inpaint.Result(1, 0.0, False, ())

    monkeypatch.setattr(inpaint, "fill", remember)
    assert run(capsys, command(*arguments, **options))[0] == 0
    del given["callback"]
    return given


def test_every_option_reaches_the_model(folder, capsys, monkeypatch):
    given = remembered(
        monkeypatch, capsys, "--base", "sd.ckpt", "--negative-prompt", "blur", "--mask", "mask.png", "--mask-output",
        "mask.mp4", "--sheet", "sheet.png", "--steps", "7", "--guidance", "2.5", "--scheduler", "euler", "--seed", "9",
        "--size", "64x48", "--window", "12", "--overlap", "3", "--batch-passes", "--dilate", "5", "--feather", "1.5",
        "--no-keep-outside", "--device", "cpu", "--dtype", "bfloat16", "--mask-shape", "box_expand", "--mask-grow", "4",
        "--chain", "--no-match-colours", "--cross-cuts", "--track", "--mask-frame", "6",
    )  # fmt: skip
    assert given == {
        "positional": ("in.mp4", "a yellow star", "out.mp4"), "mask": "mask.png", "mask_words": None,
        "negative_prompt": "blur", "base": "sd.ckpt", "mask_output": "mask.mp4", "sheet": "sheet.png",
        "checkpoint": "fill.safetensors", "device": "cpu", "dtype": "bfloat16", "steps": 7, "guidance_scale": 2.5,
        "scheduler": "euler", "seed": 9, "size": (64, 48), "window": 12, "overlap": 3, "batch_passes": True,
        "dilate": 5.0, "feather": 1.5, "keep_outside": False, "mask_shape": "box_expand", "mask_grow": 4.0,
        "chain": True, "match_colours": False, "cross_cuts": True, "track": True, "mask_frame": 6,
    }  # fmt: skip


def test_every_kind_of_mask_reaches_the_engine(folder, capsys, monkeypatch):
    def masks(*arguments):
        given = remembered(monkeypatch, capsys, *arguments)
        return given["mask"], given["mask_words"], given.get("mask_checkpoint")

    assert masks("--mask-colour", "#ff00ff") == (Colour((255, 0, 255)), None, None)
    assert masks("--mask-colour", "#ff00ff", "--mask", "m.png") == (Colour((255, 0, 255), "m.png"), None, None)
    assert masks("--mask-box", "1,2,30,40") == (Box(1, 2, 30, 40), None, None)
    assert masks("--mask-box=-.5,0,1,1") == (Box(-0.5, 0, 1, 1), None, None)
    words = ("--mask-words", "the boat", "--mask-checkpoint", "remove.safetensors")
    assert masks(*words) == (None, "the boat", "remove.safetensors")
    assert masks() == (None, None, None)


def test_a_colour_of_the_video_is_filled(folder, capsys):
    clip, mask = red_square(31)
    write(folder / "in.mp4", list(clip))
    assert run(capsys, command("--mask-colour", "ff00ff", "--mask-output", "used", "--dilate", "0"))[0] == 0
    found = frames_of("used")[..., 0] > 0
    assert (found & mask).sum() / (found | mask).sum() > 0.6


def test_replacing_takes_the_mask_from_words(folder, capsys):
    words = "replace the red circle with a yellow star"
    code, out, err = run(capsys, command("--mask-checkpoint", "remove.safetensors", words=words))
    assert code == 0 and out == "out.mp4: 31 frames, mask covers 100.00 %\n"
    assert "finding 'the red circle', window 2 of 2: 100%" in err and "\rwindow 1 of" in err


REFUSED = {
    "no mask": ([], {}, ["no mask is given", "replace the red circle"]),
    "two masks": (["--mask-box", "1,1,5,5", "--mask", "mask"], {}, ["given twice"]),
    "box and words": (["--mask-box", "1,1,5,5", "--mask-words", "a"], {}, ["given twice"]),
    "box outside": (["--mask-box", "90,90,5,5"], {}, ["covers nothing", "32x24"]),
    "no box": (["--mask-box", "1,1"], {}, ["'1,1'", "x,y,width,height"]),
    "no colour": (["--mask-colour", "pink"], {}, ["'pink'", "#ff00ff"]),
    "mask absent": (["--mask", "absent.png"], {}, ["absent.png does not exist"]),
    "another family": (["--mask", "mask"], {"checkpoint": "remove.safetensors"}, ["fills nothing", "use remove"]),
    "words by a checkpoint that fills": (
        ["--mask-words", "a", "--mask-checkpoint", "fill.safetensors"], {}, ["fill.safetensors", "removes nothing"]
    ),
    "a base for a whole file": (["--mask", "mask", "--base", "sd.ckpt"], {}, ["takes no base"]),
    "image guidance": (["--mask", "mask", "--image-guidance", "1.5"], {}, ["--image-guidance"]),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_in_one_line(folder, capsys, case):
    arguments, options, words = REFUSED[case]
    refused(capsys, command(*arguments, **options), *words)


def test_removing_with_a_checkpoint_that_fills_is_refused(folder, capsys):
    arguments = ["remove", "in.mp4", "remove the boat", "-o", "out.mp4", "--checkpoint", "fill.safetensors"]
    refused(capsys, arguments, "fill.safetensors", "use fill, with a mask")


def test_info_takes_a_base(folder, capsys):
    assert "CoCoCo checkpoint" in run(capsys, ["info", "fill.safetensors"])[1]
    refused(capsys, ["info", "fill.safetensors", "--base", "sd.ckpt"], "takes no base")


def test_help_explains_the_masks(capsys):
    code, out, _ = run(capsys, ["fill", "--help"])
    assert code == 0 and all(f"--mask{kind}" in out for kind in ("", "-colour", "-box", "-words", "-checkpoint"))
