"""The command: what it writes and prints, and for everything that is wrong one clear line and nothing half-written."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from unit.test_inpaint import frames_of, gated, hole, latent, tree
from unit.test_video import cut, make_video, no_frames, only_sound, sound_packets, write

from lgvi_core import __version__, checkpoints, inpaint, masks, standalone
from lgvi_core.__main__ import main
from lgvi_core.video import open_video

ROOT = Path(__file__).parents[2]
WORDS = "remove the red circle"
ERROR = re.compile(r"error: [^\n]+\n")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Checkpoints on disk, by what their masks find."""
    folder = tmp_path_factory.mktemp("models")
    for finds in ("everything", "nothing"):
        checkpoints.save(gated(finds), folder / f"{finds}.safetensors")
    checkpoints.save(latent(None), folder / "no_decoder.safetensors")
    return folder


@pytest.fixture
def folder(models, tmp_path, monkeypatch):
    """The current folder, with a clip, an earlier result and a checkpoint."""
    monkeypatch.chdir(tmp_path)
    make_video(tmp_path / "in.mp4", count=31, rate=Fraction(30000, 1001), sound=("aac",), size=(32, 24))
    (tmp_path / "out.mp4").write_bytes(b"an earlier result")
    (tmp_path / "model.safetensors").symlink_to(models / "everything.safetensors")
    return tmp_path


def command(*arguments, video="in.mp4", words=WORDS, output="out.mp4", checkpoint="model.safetensors"):
    return ["remove", video, words, "-o", output, "--checkpoint", checkpoint, *arguments]


def run(capsys, arguments):
    """Exit code, stdout, stderr of a command, in this process."""
    try:
        code = main(list(map(str, arguments)))
    except SystemExit as end:
        code = end.code
    said = capsys.readouterr()
    return code, said.out, said.err


def refused(capsys, arguments, *words):
    """Runs a command that must end with code 2 and one line on stderr that has all the words; nothing changes."""
    before = tree(Path())
    code, out, err = run(capsys, arguments)
    assert (code, out) == (2, "") and ERROR.fullmatch(err), err
    assert all(word in err for word in words), err
    assert tree(Path()) == before


# What works


def test_one_command_writes_video_mask_and_sheet(folder, capsys):
    arguments = command("--mask-output", "mask.mp4", "--sheet", "sheet.png", "--window", "10", "--overlap", "2")
    code, out, err = run(capsys, arguments)
    assert code == 0
    assert out == "out.mp4: 31 frames, mask covers 100.00 %\nmask: mask.mp4\nsheet: sheet.png\n"
    clip = open_video("out.mp4")
    assert (clip.frame_rate, len(list(clip)), clip.width, clip.height) == (Fraction(30000, 1001), 31, 32, 24)
    assert sound_packets("out.mp4") == sound_packets("in.mp4")
    assert (frames_of("mask.mp4") > 250).all()
    with Image.open("sheet.png") as sheet:
        assert sheet.format == "PNG"
    assert sorted(os.listdir()) == ["in.mp4", "mask.mp4", "model.safetensors", "out.mp4", "sheet.png"]
    shown = err.split("\r")
    assert "window 4 of 4: 100%" in shown[-1] and "4/4" in shown[-1] and "<00:00" in shown[-1]


def test_quiet_shows_no_bar(folder, capsys):
    code, out, err = run(capsys, command("--quiet"))
    assert (code, err) == (0, "") and out.startswith("out.mp4: 31 frames")


def test_every_option_reaches_the_model(folder, capsys, monkeypatch):
    given = {}

    def remember(*positional, **named):
        given.update(named, positional=positional)
        return inpaint.Result(1, 0.0, False, ())

    monkeypatch.setattr(inpaint, "inpaint", remember)
    arguments = command(
        "--mask", "mask.png", "--mask-output", "mask.mp4", "--sheet", "sheet.png", "--steps", "7", "--guidance", "2.5",
        "--image-guidance", "1.25", "--scheduler", "euler", "--seed", "9", "--size", "64x48", "--window", "12",
        "--overlap", "3", "--batch-passes", "--dilate", "5", "--feather", "1.5", "--no-keep-outside", "--device", "cpu",
        "--dtype", "bfloat16",
    )  # fmt: skip
    assert run(capsys, arguments)[0] == 0
    del given["callback"]
    assert given == {
        "positional": ("in.mp4", WORDS, "out.mp4"), "mask": "mask.png", "mask_output": "mask.mp4",
        "sheet": "sheet.png", "checkpoint": "model.safetensors", "device": "cpu", "dtype": "bfloat16", "steps": 7,
        "guidance_scale": 2.5, "image_guidance_scale": 1.25, "scheduler": "euler", "seed": 9, "size": (64, 48),
        "window": 12, "overlap": 3, "batch_passes": True, "dilate": 5.0, "feather": 1.5, "keep_outside": False,
    }  # fmt: skip
    given.clear()
    assert run(capsys, ["remove", "in.mp4", WORDS, "-o", "out.mp4"])[0] == 0
    assert "checkpoint" not in given  # the demo one is inpaint's own default
    defaults = {field.name: field.default for field in dataclasses.fields(inpaint.Settings)}
    assert {name: given[name] for name in defaults} == defaults


def test_the_same_seed_gives_the_same_bytes(folder, capsys):
    made = []
    for seed in (3, 3, 4):
        assert run(capsys, command("--seed", str(seed)))[0] == 0
        made.append(Path("out.mp4").read_bytes())
    assert made[0] == made[1] != made[2]


def test_nothing_found_is_said_and_gives_the_very_same_file(folder, models, capsys, caplog):
    code, out, _ = run(capsys, command(checkpoint=str(models / "nothing.safetensors")))
    assert code == 0 and "mask covers 0.00 %" in out
    assert f"nothing in the video matches {WORDS!r}: the video comes back unchanged" in caplog.text
    assert Path("out.mp4").read_bytes() == Path("in.mp4").read_bytes()


def test_a_checkpoint_without_mask_decoder_is_warned_of(folder, models, capsys, caplog):
    assert run(capsys, command(checkpoint=str(models / "no_decoder.safetensors")))[0] == 0
    assert "this checkpoint has no mask decoder" in caplog.text


def test_a_mask_file_decides_what_changes(folder, capsys):
    pictures = [np.repeat(frame[..., None], 3, axis=2).astype(np.uint8) * 255 for frame in hole()]
    write(folder / "mask", pictures)
    code, _, _ = run(capsys, command("--mask", "mask", "--dilate", "2", output="out"))
    changed = (frames_of("out") != frames_of("in.mp4")).any(axis=-1)
    assert code == 0 and changed.any() and not changed[~masks.dilate(hole(), 2)].any()


def test_a_truncated_video_is_used_as_far_as_it_goes_with_a_warning(folder, capsys, caplog):
    whole = make_video(folder / "whole.mp4", count=60, sound=("aac",), options={"movflags": "+faststart"})
    cut(whole, 0.6, folder / "cut.mp4")
    code, out, _ = run(capsys, command(video="cut.mp4"))
    count = len(frames_of("out.mp4"))
    assert code == 0 and 20 < count < 50 and f"out.mp4: {count} frames" in out
    assert f"{count} of 60 frames" in caplog.text


def test_an_unchanged_truncated_video_is_honest_about_its_count(folder, models, capsys):
    whole = make_video(folder / "whole.mp4", count=60, sound=("aac",), options={"movflags": "+faststart"})
    cut(whole, 0.6, folder / "cut.mp4")
    assert run(capsys, command(video="cut.mp4", checkpoint=str(models / "nothing.safetensors")))[0] == 0
    clip = open_video("out.mp4")
    assert clip.frame_count == len(list(clip)) < 50


# What is wrong with the input


VIDEOS = {
    "missing.mp4": (lambda path: None, "does not exist"),
    "text.mp4": (lambda path: path.write_text("hello " * 100), "cannot be read as a video"),
    "text.txt": (lambda path: path.write_text("hello\n" * 100), "is a text file"),
    "empty.mp4": (lambda path: path.write_bytes(b""), "cannot be read as a video"),
    "no_frames.mp4": (no_frames, "no frame that can be decoded"),
    "no_index.mp4": (lambda path: cut(make_video(path), 0.3, path), "moov"),
    "sound.m4a": (only_sound, "only sound"),
    "empty_folder": (lambda path: path.mkdir(), "no pictures"),
    "picture.png": (lambda path: path.write_text("hello"), "cannot be read as a picture"),
}


@pytest.mark.parametrize("name", VIDEOS)
def test_what_is_no_video_is_refused(folder, capsys, name):
    make, message = VIDEOS[name]
    make(folder / name)
    refused(capsys, command(video=name), name, message)


@pytest.mark.parametrize("words", ["", "   ", "\n\t"])
def test_an_empty_request_is_refused(folder, capsys, words):
    refused(capsys, command(words=words), "the request is empty", "remove the red circle")


OPTIONS = {
    "no steps": (["--steps", "0"], ["steps is 0", "1 to 1000"]),
    "fewer than no steps": (["--steps", "-3"], ["steps is -3"]),
    "too many steps": (["--steps", "5000"], ["steps is 5000", "1 to 1000"]),
    "steps in words": (["--steps", "many"], ["--steps", "'many'"]),
    "scheduler unknown": (["--scheduler", "magic"], ["'magic'", "ddim, "]),
    "scheduler does not fit": (["--scheduler", "pndm"], ["'pndm'", "'sample'", "these do: ddim"]),
    "window as overlap": (["--window", "8", "--overlap", "8"], ["window is 8 and overlap 8"]),
    "window shorter than overlap": (["--window", "4", "--overlap", "8"], ["window is 4 and overlap 8"]),
    "overlap below 0": (["--overlap", "-1"], ["overlap -1"]),
    "no window": (["--window", "0", "--overlap", "0"], ["window is 0"]),
    "dtype": (["--dtype", "float8"], ["'float8'", "float32, float16, bfloat16"]),
    "device": (["--device", "abacus"], ["'abacus'"]),
    "size in words": (["--size", "large"], ["'large'", "512x320"]),
    "size of one number": (["--size", "512"], ["'512'"]),
    "size 0": (["--size", "0x64"], ["'0x64'"]),
    "size below 0": (["--size=-64x64"], ["'-64x64'"]),
    "size too small": (["--size", "3x64"], ["size is 3x64", "at least 4"]),
    "dilate below 0": (["--dilate", "-1"], ["dilate is -1"]),
    "dilate not a number": (["--dilate", "nan"], ["dilate is nan"]),
    "feather below 0": (["--feather", "-2"], ["feather is -2"]),
    "sheet no picture": (["--sheet", "sheet.txt"], ["sheet.txt", ".png"]),
    "sheet without ending": (["--sheet", "sheet"], ["sheet", ".png"]),
    "mask missing": (["--mask", "mask.mp4"], ["mask.mp4 does not exist"]),
    "unknown option": (["--magic"], ["--magic"]),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_an_option_that_cannot_be_is_refused_before_any_work(folder, capsys, monkeypatch, case):
    arguments, words = OPTIONS[case]
    monkeypatch.setattr(standalone, "encode", lambda *_: pytest.fail("a window was begun"))
    refused(capsys, command(*arguments), *words)


@pytest.mark.parametrize("option", ["--guidance", "--image-guidance"])
def test_guidance_that_is_no_number_is_refused(folder, capsys, option):
    refused(capsys, command(option, "nan"), "guidance_scale is nan")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_cuda_where_there_is_none_is_refused(folder, capsys, device):
    refused(capsys, command("--device", device), f"'{device}'", "no CUDA", "--device cpu")


@pytest.mark.parametrize("count, size", [(30, (32, 24)), (32, (32, 24)), (31, (24, 32)), (31, (64, 48))])
@pytest.mark.parametrize("name", ["mask.mp4", "mask"])
def test_a_mask_of_another_length_or_size_is_refused(folder, capsys, name, count, size):
    write(folder / name, [np.full((*size[::-1], 3), 255, np.uint8)] * count)
    words = [f"{count} frames", "31"] if size == (32, 24) else ["{}x{}".format(*size), "32x24"]
    refused(capsys, command("--mask", name), f"the mask {name}", *words)


OUTPUTS = {
    "unknown ending": ("out.xyz", "unknown ending '.xyz'"),
    "picture": ("out.png", "can hold one picture, but there are 31 frames"),
    "below a file": ("in.mp4/out.mp4", "in.mp4 is a file, not a folder"),
    "the input": ("in.mp4", "is or holds in.mp4, which is read"),
    "the input by another way": ("./there/../in.mp4", "which is read"),
    "a folder of other things": (".", "which is read"),
    "a file without ending": ("plain", "is a file"),
    "a folder with foreign files": ("there", "no numbered PNG"),
}


@pytest.mark.parametrize("case", OUTPUTS)
def test_an_output_that_cannot_be_written_is_refused(folder, capsys, case):
    (folder / "there").mkdir()
    (folder / "there" / "diary.txt").write_text("dear diary")
    (folder / "plain").write_text("a file")
    output, message = OUTPUTS[case]
    refused(capsys, command(output=output), message)


@pytest.mark.parametrize("arguments", [[], ["--mask-output", "mask.mp4"], ["--sheet", "sheet.png"]])
def test_a_place_without_permission_is_refused(folder, capsys, monkeypatch, arguments):
    (folder / "allowed").mkdir()
    output = "allowed/out.mp4" if arguments else "out.mp4"
    # An administrator may write anywhere, so the answer is made up.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name == "allowed")
    refused(capsys, command(*arguments, output=output), "cannot be written", "no permission")


def test_too_little_disk_is_refused_with_both_figures(folder, capsys, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=5000))
    refused(capsys, command(), "too little disk for out.mp4", "MB needed", "MB free")
    refused(capsys, command(output="frames"), "too little disk for frames")


# What is wrong with the checkpoint


def broken(make):
    """A checkpoint file that `make` changes; it gets the path and the bytes of a good one."""

    def build(folder, models):
        path = folder / "broken.safetensors"
        make(path, (models / "everything.safetensors").read_bytes())
        return path

    return build


def nan_weights(path, data):
    path.write_bytes(data)
    weights, metadata = load_file(path), checkpoints.weights.read_metadata(path)
    next(iter(weights.values())).view(-1)[0] = float("nan")
    save_file(weights, path, metadata)


def unet_alone(folder, models):
    unet = latent().unet
    (folder / "unet").mkdir()
    config = {"_class_name": "UNet3DConditionModel", **unet.config.to_dict()}
    (folder / "unet" / "config.json").write_text(json.dumps(config))
    save_file(unet.state_dict(), folder / "unet" / "diffusion_pytorch_model.safetensors")
    return folder / "unet"


def stable_diffusion(folder, models):
    path = folder / "sd.safetensors"
    save_file({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(2)}, path)
    return path


CHECKPOINTS = {
    "missing": (lambda folder, models: folder / "none.safetensors", ["there is no checkpoint at"]),
    "other family": (stable_diffusion, ["a Stable Diffusion checkpoint", "not an LGVI checkpoint"]),
    "NaN": (broken(nan_weights), ["NaN"]),
    "half downloaded": (broken(lambda path, data: path.write_bytes(data[: len(data) // 2])), ["half downloaded"]),
    "header only": (broken(lambda path, data: path.write_bytes(data[:100])), ["half downloaded"]),
    "empty": (broken(lambda path, data: path.write_bytes(b"")), ["half downloaded", "empty"]),
    "web page": (broken(lambda path, data: path.write_text("<html>Not found</html>")), ["web page"]),
    "text": (broken(lambda path, data: path.write_text("these are no weights at all")), ["neither a safetensors"]),
    "video": (lambda folder, models: folder / "in.mp4", ["in.mp4 is neither a safetensors"]),
    "empty folder": (lambda folder, models: (folder / "none").mkdir() or folder / "none", ["is no checkpoint"]),
    "U-Net alone": (unet_alone, ["has no autoencoder", "not the U-Net alone"]),
}


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_a_checkpoint_that_cannot_be_used_is_refused(folder, models, capsys, case):
    make, words = CHECKPOINTS[case]
    path = make(folder, models)
    refused(capsys, command(checkpoint=str(path)), path.name, *words)


def test_the_default_checkpoint_is_the_demo(folder, capsys, monkeypatch):
    """With the demo taken away the message names where it should be."""
    monkeypatch.setitem(inpaint.inpaint.__kwdefaults__, "checkpoint", folder / "demo.safetensors")
    refused(capsys, ["remove", "in.mp4", WORDS, "-o", "out.mp4"], "there is no checkpoint at", "demo.safetensors")


def test_a_model_that_fails_gives_one_line_and_another_code(folder, capsys, monkeypatch):
    def fail(*_, **__):
        raise FloatingPointError("the model gave NaN\nor infinity: try --dtype float32")

    monkeypatch.setattr(standalone, "denoise", fail)
    before = tree(folder)
    assert run(capsys, command()) == (1, "", "error: the model gave NaN or infinity: try --dtype float32\n")
    assert tree(folder) == before


# Information, help


def test_info_tells_what_a_file_is(models, capsys):
    code, out, err = run(capsys, ["info", models / "everything.safetensors"])
    assert (code, err) == (0, "")
    for words in ("LGVI checkpoint", "mask decoder", "yes", "sample", "space to depth", "Apache-2.0", "gate"):
        assert words in out
    assert "no" in re.search(r"mask decoder +(.*)", run(capsys, ["info", models / "no_decoder.safetensors"])[1])[1]


def test_info_names_a_foreign_file(folder, models, capsys):
    code, out, err = run(capsys, ["info", stable_diffusion(folder, models)])
    assert (code, err) == (0, "") and "Not an LGVI checkpoint" in out and "Stable Diffusion" in out


@pytest.mark.parametrize(
    "name, message", [("none.safetensors", "no checkpoint at"), ("in.mp4", "neither a safetensors")]
)
def test_info_on_what_is_no_checkpoint_is_refused(folder, capsys, name, message):
    refused(capsys, ["info", name], name, message)


@pytest.mark.parametrize("arguments", [[], ["remove"], ["remove", "in.mp4"], ["remove", "in.mp4", WORDS], ["paint"],
                                       ["info"], ["info", "a", "b"]])
def test_arguments_that_are_missing_or_too_many_are_named_in_one_line(folder, capsys, arguments):
    refused(capsys, arguments, "--help")


@pytest.mark.parametrize("arguments", [["--help"], ["remove", "--help"], ["info", "--help"]])
def test_help_explains_itself(capsys, arguments):
    code, out, err = run(capsys, arguments)
    assert (code, err) == (0, "") and out.startswith("usage: python -m lgvi_core")


def test_the_version_is_told(capsys):
    assert run(capsys, ["--version"])[:2] == (0, f"{__version__}\n")


# In a process of its own


def start(folder, arguments, **options):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        [sys.executable, "-m", "lgvi_core", *arguments], cwd=folder, env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


def test_an_error_is_the_only_line_of_the_process(folder):
    before = tree(folder)
    process = start(folder, command("--device", "cuda", "--sheet", "sheet.png"))
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out) == (2, "") and ERROR.fullmatch(err) and "no CUDA" in err
    assert tree(folder) == before


def test_messages_have_lines_of_their_own(folder, models):
    process = start(folder, command(checkpoint=str(models / "nothing.safetensors")))
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out) == (0, "out.mp4: 31 frames, mask covers 0.00 %\n")
    lines = [line for line in re.split(r"[\r\n]+", err) if line.strip()]
    assert f"nothing in the video matches {WORDS!r}: the video comes back unchanged" in lines
    assert all(line.startswith(("window ", "nothing in")) for line in lines)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_with_130_and_leaves_the_earlier_result(folder, how):
    before = tree(folder)
    process = start(
        folder,
        command("--steps", "1000", "--window", "5", "--overlap", "1", "--mask-output", "mask.mp4", "--sheet", "s.png"),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job of a shell ignores it
    )
    try:
        shown = ""
        while "window 1 of 8" not in shown:
            shown += process.stderr.read(1) or pytest.fail(f"it ended early: {shown}")
        process.send_signal(how)
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
    assert (process.returncode, out) == (130, "")
    assert err.endswith("interrupted: no output was written\n") and "Traceback" not in err
    assert tree(folder) == before
