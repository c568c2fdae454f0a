"""`edit-frame`, `propagate` and pictures by command: what is written and printed, and one line for what is wrong."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from unit.test_command_line import refused, run
from unit.test_fill import filling
from unit.test_inpaint import as_pictures, frames_of, gated, hole, tree
from unit.test_propagation import edited, smooth_clip
from unit.test_video import write

from lgvi_core import checkpoints, frame_editing, propagation
from lgvi_core.__main__ import main
from lgvi_core.editing import DELETION
from lgvi_core.through import Result
from lgvi_core.video import Frame, VideoSource, open_video

CHECKPOINT = ["--checkpoint", "fill.safetensors"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    checkpoints.save(filling(), folder / "fill.safetensors")
    checkpoints.save(gated("everything"), folder / "remove.safetensors")
    return folder


@pytest.fixture
def folder(models, tmp_path, monkeypatch):
    """The current folder: a clip, its masks, edited frames, a photo, and checkpoints of both families."""
    monkeypatch.chdir(tmp_path)
    clip, mask = smooth_clip(12), hole(12)
    write(tmp_path / "clip", list(clip)), write(tmp_path / "mask", as_pictures(mask))
    for name, picture in {"edited": edited(clip, mask, 0), "also": edited(clip, mask, 7), "photo": clip[3]}.items():
        Image.fromarray(picture).save(f"{name}.png")
    Image.fromarray(np.full((48, 64, 3), 9, np.uint8)).save("large.png")
    Image.fromarray(mask[3]).save("one.png")
    for file in models.iterdir():
        (tmp_path / file.name).symlink_to(file)
    return tmp_path


# propagate


def carry(*arguments, keyframes=("0=edited.png",), mask="mask"):
    given = [part for one in keyframes for part in ("--keyframe", one)]
    return ["propagate", "clip", *(("--mask", mask) if mask else ()), *given, "-o", "out", *CHECKPOINT, *arguments]


def test_two_keyframes_are_carried_through_the_video(folder, capsys):
    arguments = carry("--dilate", "0", "--window", "8", keyframes=["0=edited.png", "7=also.png"])
    code, out, err = run(capsys, [*arguments, "a yellow star"])
    assert (code, out) == (0, "out: 12 frames, mask covers 8.33 %\n") and "window 2 of 2: 100%" in err
    result, clip, mask = frames_of("out"), frames_of("clip"), hole(12)
    for frame, name in ((0, "edited"), (7, "also")):
        assert np.array_equal(result[frame], np.array(Image.open(f"{name}.png")))
    assert np.array_equal(result[~mask], clip[~mask])


def test_a_keyframe_of_another_size_is_resized_and_that_is_said(folder, capsys):
    code, _, err = run(capsys, carry(keyframes=["11=large.png"]))
    assert code == 0 and "the keyframe of frame 11 is 64x48, the video is 32x24: it is resized" in err
    assert (frames_of("out")[11][hole(12)[11]] == 9).all()


def remembered(monkeypatch, module, name, arguments, result):
    given = {}

    def remember(*positional, **named):
        given.update(named, positional=positional)
        return result

    monkeypatch.setattr(module, name, remember)
    assert main(arguments) == 0
    del given["callback"]
    return given


def test_every_option_of_propagate_reaches_the_engine(folder, monkeypatch):
    options = ["--blend", "--no-match-colours", "--cross-cuts", "--no-track", "--mask-frame", "4", "--mask-shape",
               "hull_expand", "--mask-grow", "3", "--keyframe-outside", "blend", "--negative-prompt", "blur"]
    arguments = [*carry(*options, "--delete"), "--keyframe=-2=also.png"]
    given = remembered(monkeypatch, propagation, "propagate", arguments, Result(1, 0.0, False, ()))
    expected = {
        "positional": ("clip", DELETION, "out"), "keyframes": [(0, "edited.png"), (-2, "also.png")], "chain": False,
        "match_colours": False, "cross_cuts": True, "track": False, "mask_frame": 4, "mask_shape": "hull_expand",
        "mask_grow": 3.0, "keyframe_outside": "blend", "negative_prompt": "blur", "mask": "mask",
    }  # fmt: skip
    assert {name: given[name] for name in expected} == expected
    given = remembered(monkeypatch, propagation, "propagate", carry(), Result(1, 0.0, False, ()))
    assert (given["chain"], given["track"], given["keyframe_outside"]) == (True, True, "keep")
    assert given["positional"] == ("clip", "", "out")


REFUSED = {
    "no keyframe": ({"keyframes": ()}, ["no keyframe is given"]),
    "no mask": ({"mask": None}, ["no mask is given"]),
    "no number": ({"keyframes": ["edited.png"]}, ["'edited.png'", "N=PICTURE"]),
    "behind the end": ({"keyframes": ["12=edited.png"]}, ["a keyframe for frame 12", "frames 0 to 11"]),
    "twice": ({"keyframes": ["0=edited.png", "0=also.png"]}, ["two keyframes for frame 0"]),
    "absent": ({"keyframes": ["0=absent.png"]}, ["frame 0", "absent.png does not exist: give a picture"]),
    "a clip": ({"keyframes": ["0=clip"]}, ["more than one frame"]),
    "outside": ({"more": ["--keyframe-outside", "drop"]}, ["'drop'", "keep, blend"]),
    "no chain": ({"more": ["--overlap", "0"]}, ["overlap 0", "at least 1"]),
    "shape": ({"more": ["--mask-shape", "round"]}, ["'round'", "hull_expand"]),
    "growth": ({"more": ["--mask-grow", "3"]}, ["exact does not grow"]),
    "frame of the mask": ({"mask": "one.png", "more": ["--mask-frame", "12"]}, ["frame 12", "0 to 11"]),
    "family": ({"more": ["--checkpoint", "remove.safetensors"]}, ["fills nothing"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_carried_is_refused_in_one_line(folder, capsys, case):
    options, words = dict(REFUSED[case][0]), REFUSED[case][1]
    more = options.pop("more", [])
    refused(capsys, carry("--quiet", *more, **options), *words)


def test_the_same_frame_from_both_ends_is_refused(folder, capsys):
    refused(capsys, [*carry(keyframes=["11=edited.png"]), "--keyframe=-1=also.png"], "two keyframes for frame 11")


# edit-frame


def test_a_frame_is_edited_with_several_seeds_side_by_side(folder, capsys):
    arguments = ["edit-frame", "clip", "--frame", "3", "--mask", "mask", "a yellow star", "-o", "new/edited.png",
                 "--seeds", "3", "--seed", "5", "--dilate", "0", *CHECKPOINT]  # fmt: skip
    code, out, _ = run(capsys, arguments)
    names = [f"new/edited-{seed}.png" for seed in (5, 6, 7)]
    lines = [f"{name}: frame 3, seed {seed}" for name, seed in zip(names, (5, 6, 7))]
    assert code == 0 and out.splitlines() == [*lines, "sheet: new/edited-sheet.png"]
    pictures, clip, mask = [np.array(Image.open(name)) for name in names], frames_of("clip")[3], hole(12)[3]
    for picture in pictures:
        assert np.array_equal(picture[~mask], clip[~mask]) and (picture[mask] != clip[mask]).any()
    assert not np.array_equal(pictures[0], pictures[1])
    with Image.open("new/edited-sheet.png") as sheet:
        assert sheet.width == 4 * 32 * 7  # the frame, and one for each seed
    assert sorted(path.name for path in Path("new").iterdir()) == sorted(
        [*(Path(name).name for name in names), "edited-sheet.png"]
    )


def test_one_seed_of_a_picture_is_one_file(folder, capsys):
    arguments = ["edit-frame", "photo.png", "--mask", "one.png", "--delete", "-o", "edited2.png", "--seeds", "1"]
    code, out, _ = run(capsys, [*arguments, *CHECKPOINT])
    assert (code, out) == (0, "edited2.png: frame 0, seed 0\n")
    assert np.array(Image.open("edited2.png")).shape == (24, 32, 3)


def test_no_more_of_the_video_is_read_than_up_to_the_frame(tmp_path):
    read = []

    def frames(source):
        for index, image in enumerate(smooth_clip(12)):
            read.append(index)
            yield Frame(image, None)

    source = VideoSource(None, 32, 24, 24, 12, False, None, 1, frames)
    options = {"mask": hole(1)[0], "seeds": 1, "checkpoint": filling()}
    frame_editing.edit_frame(source, "a", tmp_path / "a.png", frame=4, **options)
    assert read == [0, 1, 2, 3, 4]
    assert frame_editing.edit_frame(source, "a", tmp_path / "b.png", frame=-2, **options).frame == 10


@pytest.mark.parametrize(
    "more, words",
    [
        (["--frame", "12"], ["no frame 12", "0 to 11"]),
        (["--frame=-13"], ["no frame -13"]),
        (["--seeds", "0"], ["seeds is 0"]),
        (["-o", "out.jpg"], ["out.jpg", "ends in .png"]),
    ],
)
def test_a_frame_that_cannot_be_edited_is_refused(folder, capsys, more, words):
    arguments = ["edit-frame", "clip", "a", "--mask", "mask", "-o", "out.png", *CHECKPOINT, "--quiet", *more]
    refused(capsys, arguments, *words)


# Pictures, and what may be left out


def test_a_picture_is_filled_into_a_picture(folder, capsys):
    command = ["fill", "photo.png", "--mask", "one.png", "a yellow star", "-o", "out.png", "--dilate", "0"]
    code, out, _ = run(capsys, [*command, "--mask-output", "used.png", *CHECKPOINT])
    assert (code, out) == (0, "out.png: 1 frames, mask covers 8.33 %\nmask: used.png\n")
    photo, result, mask = (np.array(Image.open(name).convert("RGB")) for name in ("photo.png", "out.png", "one.png"))
    assert np.array_equal(result[mask == 0], photo[mask == 0]) and (result[mask > 0] != photo[mask > 0]).mean() > 0.5
    assert np.array_equal(np.array(Image.open("used.png").convert("RGB")), mask)
    before = tree(folder)
    refused(capsys, ["fill", "clip", "a", "--mask", "mask", "-o", "many.png", *CHECKPOINT], "12 frames", "one picture")
    assert tree(folder) == before


def test_fill_may_chain_and_needs_words_or_delete(folder, capsys):
    command = ["fill", "clip", "--mask", "mask", "-o", "out", "--window", "8", *CHECKPOINT]
    refused(capsys, command, "no prompt is given", "--delete")
    code, out, err = run(capsys, [*command, "--chain", "--delete"])
    assert code == 0 and "window 2 of 2" in err and open_video("out").frame_count == 12
    code, _, err = run(capsys, [*command, "one", "two"])
    assert code == 2 and "unrecognized arguments: one two" in err
