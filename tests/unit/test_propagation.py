"""An edit that spreads from keyframes: what comes back, what a model is given, what stops it, and where it goes on."""

import copy
import gc
import os
import re
import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from unit.test_fill import filling, spy
from unit.test_inpaint import Live, as_pictures, frames_of, hole, tree
from unit.test_video import make_video, sound_packets, write

from lgvi_core import checkpoints, standalone
from lgvi_core.checkpoints import Checkpoint
from lgvi_core.errors import InputError
from lgvi_core.inpaint import fill
from lgvi_core.parts import Parts
from lgvi_core.propagation import propagate
from lgvi_core.user_mask import Box
from lgvi_core.video import Frame, VideoSource

PROMPT = "a yellow star"
WINDOWS = {"window": 8, "overlap": 3}
ROOT = Path(__file__).parents[2]


def smooth_clip(count=20, width=32, height=24, shade=0):
    """A slope of colours that drifts, without a cut; `shade` makes it another scene."""
    y, x = np.mgrid[:height, :width]
    frames = [np.stack([4 * x + i, 5 * y + shade, 90 + x - y + 0 * i], axis=-1) for i in range(count)]
    return np.stack(frames).clip(0, 255).astype(np.uint8)


def edited(clip, mask, frame, colour=(250, 220, 10)):
    """A frame of a clip with its mask painted."""
    picture = clip[frame].copy()
    picture[mask[frame]] = colour
    return picture


def spread(video, keyframes, output=None, prompt=PROMPT, **options):
    given = {"checkpoint": filling(), "dilate": 0, **WINDOWS, **options}
    return propagate(video, prompt, output, keyframes=keyframes, **given)


def instant():
    """A checkpoint of the family that makes something at once."""
    unet = copy.deepcopy(filling().unet)
    unet.forward = lambda noisy, *given, **named: noisy
    return Checkpoint(**{**vars(filling()), "unet": unet})


def said(result):
    """The messages but that of a model with random weights, whose colours are far off."""
    return [message for message in result.messages if "colours were off" not in message]


# What comes back


@pytest.mark.parametrize("chain", [True, False])
@pytest.mark.parametrize("places", [(9,), (19,), (0, 1, 2, 17)])
def test_keyframes_come_back_within_the_mask_and_the_rest_is_filled(places, chain):
    clip, mask = smooth_clip(), hole(20)
    given = {place: edited(clip, mask, place) for place in places}
    result = spread(clip, given, mask=mask, chain=chain)
    for place, picture in given.items():
        assert np.array_equal(result.frames[place], picture)
    assert np.array_equal(result.frames[~mask], clip[~mask])
    others = np.setdiff1d(np.arange(20), places)
    assert (result.frames[others] != clip[others])[mask[others]].any(axis=-1).mean() > 0.9
    assert said(result) == [] and np.array_equal(result.mask, mask)


def test_keyframes_come_back_to_the_bit_in_files_too(tmp_path):
    clip, mask = smooth_clip(), hole(20)
    source = write(tmp_path / "clip", list(clip))
    picture = edited(clip, mask, 5)
    Image.fromarray(picture).save(tmp_path / "edited.png")
    result = spread(source, {5: tmp_path / "edited.png"}, tmp_path / "out", mask=mask, mask_output=tmp_path / "used",
                    sheet=tmp_path / "sheet.png", dilate=3)
    out = frames_of(tmp_path / "out")
    assert np.array_equal(out[5][mask[5]], picture[mask[5]]) and result.frame_count == 20
    assert np.array_equal(frames_of(tmp_path / "used")[..., 0] > 0, mask)
    assert sorted(os.listdir(tmp_path)) == ["clip", "edited.png", "out", "sheet.png", "used"]


def test_rate_sound_and_length_reach_the_file(tmp_path):
    film = make_video(tmp_path / "film.mp4", count=21, sound=("aac",), size=(32, 24))
    clip = frames_of(film)
    spread(film, {-1: clip[20]}, tmp_path / "out.mp4", mask=hole(21), cross_cuts=True)
    assert len(frames_of(tmp_path / "out.mp4")) == 21 and sound_packets(tmp_path / "out.mp4") == sound_packets(film)


# What the model is given


@pytest.mark.parametrize("chain", [True, False])
def test_a_keyframe_is_a_frame_without_mask_whose_video_is_the_edited_frame(monkeypatch, chain):
    seen, clip, mask = [], smooth_clip(8), hole(8)
    monkeypatch.setattr(standalone, "denoise", spy(seen))
    picture = edited(clip, mask, 2)
    spread(clip, {2: picture}, mask=mask, chain=chain)
    (given,) = seen
    holes = mask[:, ::2, ::2].copy()
    holes[2] = False
    assert np.array_equal(given["mask"][0, 0].numpy(), holes)
    video = filling().vae.decode(given["masked_video"][0].transpose(0, 1)).permute(0, 2, 3, 1).numpy()
    assert np.allclose(video[2], picture / 127.5 - 1, atol=1e-5)
    assert (video[3][mask[3]] == 0).all() and np.allclose(video[3][~mask[3]], clip[3][~mask[3]] / 127.5 - 1, atol=1e-5)


def test_a_window_begins_with_the_last_frames_of_the_one_before(monkeypatch):
    seen, made, clip, mask = [], [], smooth_clip(13), hole(13)
    monkeypatch.setattr(standalone, "denoise", spy(seen))
    keep = Parts.keep
    monkeypatch.setattr(Parts, "keep", lambda parts, step, frames, pictures: (
        made.append((list(frames), pictures)), keep(parts, step, frames, pictures)))
    spread(clip, {0: edited(clip, mask, 0)}, mask=mask)
    assert [frames for frames, _ in made] == [[*range(1, 8)], [*range(8, 13)]]
    second = seen[1]
    assert second["mask"].amax(dim=(0, 1, 3, 4)).tolist() == [0, 0, 0, 1, 1, 1, 1, 1]
    video = filling().vae.decode(second["masked_video"][0].transpose(0, 1)).permute(0, 2, 3, 1)
    for place in range(3):
        here = mask[5 + place]
        assert np.allclose(video[place][here], made[0][1][4 + place][here] * 2 - 1, atol=2e-3)
        assert np.allclose(video[place][~here], clip[5 + place][~here] / 127.5 - 1, atol=1e-5)


@pytest.mark.parametrize("places", [(9,), (0, 10)])
def test_progress_never_goes_back_however_the_windows_lie(places):
    seen, clip, mask = [], smooth_clip(), hole(20)
    given = {place: edited(clip, mask, place) for place in places}
    spread(clip, given, mask=mask, window=8, overlap=2, callback=seen.append)
    assert sorted({step["window"] for step in seen}) == [*range(seen[0]["windows"])]
    assert [step["window"] for step in seen] == sorted(step["window"] for step in seen)


def test_nothing_runs_in_frames_without_mask_and_masks_may_vanish_and_come_back(monkeypatch):
    seen, clip, mask = [], smooth_clip(40), hole(40)
    mask[6:33] = False
    monkeypatch.setattr(standalone, "denoise", spy(seen))
    result = spread(clip, {0: edited(clip, mask, 0)}, mask=mask)
    assert np.array_equal(result.frames[6:33], clip[6:33]) and len(seen) < 5
    back = np.arange(33, 40)
    assert (result.frames[back] != clip[back])[mask[back]].any(axis=-1).mean() > 0.9


# Masks


def test_a_mask_of_one_frame_is_tracked_from_the_keyframe():
    count, rng = 12, np.random.default_rng(0)
    ground = rng.integers(60, 120, (48, 64, 3), dtype=np.uint8)
    thing = rng.integers(180, 256, (16, 16, 3), dtype=np.uint8)
    clip, mask = ground[None].repeat(count, axis=0), np.zeros((count, 48, 64), bool)
    for i in range(count):
        place = (slice(16, 32), slice(8 + 2 * i, 24 + 2 * i))
        clip[i][place], mask[i][place] = thing, True
    result = spread(clip, {4: edited(clip, mask, 4)}, mask=mask[4], window=12)
    overlaps = [(a & b).sum() / (a | b).sum() for a, b in zip(result.mask, mask)]
    assert np.array_equal(result.mask[4], mask[4]) and min(overlaps) > 0.7
    assert "the mask has one frame: it is that of frame 4, and tracked" in said(result)[0]
    whole = spread(clip, {4: edited(clip, mask, 4)}, mask=mask[4], window=12, track=False)
    assert np.array_equal(whole.mask, mask[4:5].repeat(count, axis=0)) and "used for all 12" in said(whole)[0]


def test_a_track_that_is_lost_is_said():
    clip, mask = smooth_clip(8, 64, 48), np.zeros((48, 64), bool)
    clip[4:] = 255 - clip[4:]
    mask[10:30, 10:30] = True
    result = spread(clip, {0: clip[0]}, mask=mask)
    assert "is not to be trusted" in said(result)[-1] and not result.mask[4:].any()


SHAPES = {"exact": 64, "box": 64, "expand": 96}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("run", [fill, propagate])
def test_a_mask_takes_its_shape(run, shape):
    clip, mask = smooth_clip(2), np.zeros((24, 32), bool)
    mask[8:16, 8:16] = True
    more = {"keyframes": {0: clip[0]}, "track": False} if run is propagate else {}
    grow = 1 if shape == "expand" else None
    result = run(clip, PROMPT, mask=mask, mask_shape=shape, mask_grow=grow, checkpoint=filling(), **more)
    assert result.mask[0].sum() == SHAPES[shape]
    with pytest.raises(InputError, match="does not grow"):
        run(clip, PROMPT, mask=mask, mask_shape="hull", mask_grow=3, checkpoint=filling(), **more)


# What a keyframe has outside of the mask


def test_what_a_keyframe_has_outside_of_the_mask_is_dropped_and_that_is_said():
    clip, mask = smooth_clip(), hole(20)
    picture = np.full_like(clip[6], 200)
    result = spread(clip, {6: picture}, mask=mask)
    assert np.array_equal(result.frames[~mask], clip[~mask]) and (result.frames[6][mask[6]] == 200).all()
    assert re.search("frame 6 differs from the video outside of the mask in [0-9.]+% of it: dropped", said(result)[0])


def test_what_a_keyframe_has_outside_of_the_mask_is_taken_over_and_fades():
    clip, mask = smooth_clip(40), hole(40)
    picture = np.full_like(clip[20], 200)
    result = spread(clip, {20: picture}, mask=mask, keyframe_outside="blend")
    assert np.array_equal(result.frames[20], picture) and "taken over" in said(result)[0]
    beside = ~mask[20:30].any(axis=0)
    distance = np.abs(result.frames[20:30].astype(int) - clip[20:30])[:, beside].mean(axis=(1, 2))
    assert (np.diff(distance) < 0).all() and distance[-1] == 0


# Cuts


def two_scenes():
    clip = np.concatenate([smooth_clip(10), 255 - smooth_clip(10, shade=80)])
    return clip, hole(20)


def test_an_edit_does_not_cross_a_cut_and_that_is_said(monkeypatch):
    clip, mask = two_scenes()
    seen = []
    monkeypatch.setattr(standalone, "denoise", spy(seen))
    left = spread(clip, {2: edited(clip, mask, 2)}, prompt="", mask=mask)
    assert np.array_equal(left.frames[10:], clip[10:]) and not left.mask[10:].any()
    assert "cut at frame 10" in said(left)[0] and "frames 10 to 19 have no keyframe" in said(left)[0]
    assert "left as they are" in said(left)[0] and all(given["latents"].shape[2] <= 8 for given in seen)
    by_words = spread(clip, {2: edited(clip, mask, 2)}, mask=mask)
    assert "filled by the prompt alone" in said(by_words)[0]
    assert (by_words.frames[10:] != clip[10:])[mask[10:]].any(axis=-1).mean() > 0.9
    both = spread(clip, {2: edited(clip, mask, 2), 15: edited(clip, mask, 15)}, prompt="", mask=mask)
    assert both.mask[10:].any() and "no keyframe" not in said(both)[0]


def test_an_edit_crosses_a_cut_when_told_to():
    clip, mask = two_scenes()
    result = spread(clip, {2: edited(clip, mask, 2)}, prompt="", mask=mask, cross_cuts=True)
    assert said(result) == [] and (result.frames[10:] != clip[10:])[mask[10:]].any(axis=-1).mean() > 0.9


# Going on where it stopped, in constant memory


def stop_after(windows):
    def callback(step):
        if step["window"] == windows:
            raise KeyboardInterrupt

    return callback


@pytest.mark.parametrize("options", [{}, {"chain": False}, {"keyframe_outside": "blend"}])
def test_an_interrupted_run_goes_on_to_the_same_bytes(tmp_path, options, monkeypatch, caplog):
    clip, mask = smooth_clip(30), hole(30)
    given = {12: edited(clip, mask, 12) // 2}
    spread(clip, given, tmp_path / "whole.mp4", mask=mask, **options)
    with pytest.raises(KeyboardInterrupt):
        spread(clip, given, tmp_path / "out.mp4", mask=mask, callback=stop_after(3), **options)
    assert "3 of " in caplog.text and "windows are kept" in caplog.text
    assert sorted(os.listdir(tmp_path)) == ["out.mp4.parts", "whole.mp4"]
    seen = []
    spread(clip, given, tmp_path / "out.mp4", mask=mask, callback=seen.append, **options)
    assert seen[0]["window"] == 3 and seen[-1]["window"] + 1 == seen[-1]["windows"]
    assert (tmp_path / "out.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["out.mp4", "whole.mp4"]


def test_a_run_that_was_killed_goes_on_to_the_same_bytes(tmp_path):
    clip, mask = smooth_clip(30), hole(30)
    write(tmp_path / "clip", list(clip)), write(tmp_path / "mask", as_pictures(mask))
    Image.fromarray(edited(clip, mask, 0)).save(tmp_path / "edited.png")
    checkpoints.save(filling(), tmp_path / "fill.safetensors")
    script = f"""
import os, signal
from lgvi_core.propagation import propagate
def kill(step):
    if step["window"] == 2:
        os.kill(os.getpid(), signal.SIGKILL)
propagate("clip", {PROMPT!r}, "out", mask="mask", keyframes={{0: "edited.png"}}, checkpoint="fill.safetensors",
          dilate=0, window=8, overlap=3, device="cpu", callback=kill)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    killed = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists() and (tmp_path / "out.parts" / "window-00001.npy").is_file()
    given = {"mask": tmp_path / "mask", "checkpoint": tmp_path / "fill.safetensors", "device": "cpu"}
    steps = []
    for name in ("out", "whole"):
        spread(tmp_path / "clip", {0: tmp_path / "edited.png"}, tmp_path / name, callback=steps.append, **given)
    assert steps[0]["window"] == 2 and np.array_equal(frames_of(tmp_path / "out"), frames_of(tmp_path / "whole"))
    assert not (tmp_path / "out.parts").exists()


def test_a_second_run_for_the_same_output_is_refused_and_the_first_is_not_disturbed(tmp_path):
    clip, mask = smooth_clip(20), hole(20)
    given, refused = {0: edited(clip, mask, 0)}, []

    def again(step):
        if step["window"] == 1:
            with pytest.raises(InputError) as error:
                spread(clip, given, tmp_path / "out.mp4", mask=mask, seed=1)
            refused.append(str(error.value))

    spread(clip, given, tmp_path / "whole.mp4", mask=mask)
    spread(clip, given, tmp_path / "out.mp4", mask=mask, callback=again)
    assert refused and all(f"is being made by process {os.getpid()} on " in said for said in refused)
    assert (tmp_path / "out.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["out.mp4", "whole.mp4"]


@pytest.mark.parametrize("changed", ["seed", "prompt", "video", "mask", "keyframes"])
def test_windows_of_another_run_are_refused_and_stay(tmp_path, changed):
    clip, mask = smooth_clip(20), hole(20)
    given = {"seed": 0, "prompt": PROMPT, "video": clip, "mask": mask, "keyframes": {0: edited(clip, mask, 0)}}
    other = {"seed": 1, "prompt": "a", "video": clip + 1, "mask": ~mask, "keyframes": {0: clip[5]}}
    with pytest.raises(KeyboardInterrupt):
        spread(output=tmp_path / "out", callback=stop_after(1), **given)
    before = tree(tmp_path)
    with pytest.raises(InputError, match=f"with another .*{changed}.*: give the same again"):
        spread(output=tmp_path / "out", **given | {changed: other[changed]})
    assert tree(tmp_path) == before and before


def test_a_run_without_a_window_done_leaves_nothing(tmp_path):
    clip, mask = smooth_clip(20), hole(20)
    with pytest.raises(KeyboardInterrupt):
        spread(clip, {0: clip[0]}, tmp_path / "out.mp4", mask=mask, callback=stop_after(0))
    assert tree(tmp_path) == {}
    (tmp_path / "out.mp4.parts").write_text("mine")
    with pytest.raises(InputError, match="is something else: move it away"):
        spread(clip, {0: clip[0]}, tmp_path / "out.mp4", mask=mask)
    assert tree(tmp_path) == {"out.mp4.parts": b"mine"}


def test_no_more_frames_are_held_of_a_long_clip_than_of_a_short_one(tmp_path, monkeypatch):
    take = Parts.__getitem__
    most = {}
    for count in (100, 1000):
        read, made = Live(), Live()

        def frames(source, count=count, read=read):
            for index in range(count):
                image = np.full((16, 16, 3), index % 250, np.uint8)
                read.watch(image)
                yield Frame(image, Fraction(index, 25))
                del image

        def watch_and_take(parts, frame, made=made):
            picture = take(parts, frame).numpy()
            made.watch(picture)
            return torch.from_numpy(picture)

        monkeypatch.setattr(Parts, "__getitem__", watch_and_take)
        source = VideoSource(tmp_path / "long", 16, 16, Fraction(25), count, False, None, Fraction(1), frames)
        given = {count // 2: np.zeros((16, 16, 3), np.uint8)}
        gc.collect()
        options = {"mask": Box(0, 0, 4, 4), "window": 40, "overlap": 8, "cross_cuts": True, "checkpoint": instant()}
        result = spread(source, given, tmp_path / f"{count}.mp4", **options)
        assert result.frame_count == count and read.seen == 2 * count and made.seen > count
        most[count] = read.most, made.most
    assert most[1000] == most[100] and max(most[1000]) <= 40
