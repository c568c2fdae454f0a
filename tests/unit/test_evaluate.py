"""`python -m train.evaluate` on small datasets made on the spot, with the real demo checkpoint."""

import json
import math
import re
import shutil

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from small_networks import small_clip, untrained_i3d

from lgvi_core.checkpoints import load
from lgvi_core.inpaint import DEMO, inpaint
from lgvi_core.metrics import i3d
from train.data.synthetic import draw
from train.evaluate import main
from train.evaluation import methods, paper_tables
from train.evaluation.methods import Clip, Folder, Model
from train.evaluation.sheet import ends

SIZE = 48
SYNTHETIC = ["--data", "synthetic", "frames=2", f"height={SIZE}", f"width={SIZE}", "augment=false", "held_out=true"]


def drawn(i):
    return draw(5, i, 3, SIZE, SIZE)


def write(folder, frames):
    folder.mkdir(parents=True)
    for t, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{t:03d}.png")


@pytest.fixture(autouse=True)
def away(tmp_path, monkeypatch):
    """Where there is no folder `weights`."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def triplets(tmp_path):
    """Three clips of three frames."""
    lines = []
    for i in range(3):
        clip = drawn(i)
        for part, frames in (("video", clip.frames), ("mask", np.uint8(clip.mask) * 255), ("clean", clip.clean)):
            write(tmp_path / "data" / part / f"clip{i}", frames)
        paths = {part: f"{part}/clip{i}" for part in ("video", "mask", "clean")}
        lines.append(json.dumps({**paths, "name": f"clips/{i}", "caption": clip.sentence}))
    (tmp_path / "data" / "captions.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path / "data"


def run(folder, *arguments):
    return main([*map(str, arguments), "--output", str(folder / "out.json")])


def report(folder):
    return json.loads((folder / "out.json").read_text("utf-8"))


def row(folder, method, composited=None):
    (found,) = (
        row for row in report(folder)["rows"] if row["method"] == method and composited in (None, row["composited"])
    )
    return found


def test_everything_stands_in_one_table(triplets, tmp_path, capsys):
    for i in range(3):
        write(tmp_path / "copies" / f"clips_{i}", drawn(i).clean)
    some = ["--method", "identity", "--method", "telea", "--results", tmp_path / "copies"]
    assert run(tmp_path, "--checkpoint", DEMO, "--steps", "1", "--data", triplets, *some) == 0
    rows = report(tmp_path)["rows"]
    names = ["lgvi-demo", "lgvi-demo", "identity", "telea", "copies", "copies"]
    modes = ["its own mask", "no", "no", "the true mask", "as it is", "the true mask"]
    assert [row["method"] for row in rows] == names and [row["composited"] for row in rows] == modes
    model, raw, identity, telea, _, _ = rows
    assert model["psnr_mask"] > model["psnr_mask_input"] + 5 and 0.5 < model["mask_iou"] <= 1
    assert 0 < model["bp"] < raw["bp"]
    assert identity["psnr_mask"] == identity["psnr_mask_input"] == pytest.approx(telea["psnr_mask_input"])
    assert (identity["bp"], identity["removed"]) == (0, 0)
    assert telea["psnr"] > identity["psnr"]
    assert "mask_iou" not in identity and "no mask of its own" in identity["left_out"]["mask_iou"]
    text = (tmp_path / "out.md").read_text("utf-8")
    assert text in capsys.readouterr().out
    assert f"|{model['psnr']:.2f}|{model['ssim']:.3f}|" in text
    assert "OpenCV DIS" in text and "SSIM window: 47" in text
    for name in dict.fromkeys(names):
        with Image.open(tmp_path / f"out-{name}.png") as sheet:
            assert sheet.width == 960 and sheet.height > 3 * 240


def test_the_numbers_are_pooled_over_frames_and_samples(triplets, tmp_path):
    shutil.rmtree(triplets / "video" / "clip2")
    for part in ("mask", "clean"):
        shutil.rmtree(triplets / part / "clip2")
    for part, frames in (
        ("video", drawn(2).frames),
        ("clean", drawn(2).clean),
        ("mask", np.uint8(drawn(2).mask) * 255),
    ):
        write(triplets / part / "clip2", frames[:1])  # a shorter clip counts less
    assert run(tmp_path, "--method", "identity", "--data", triplets) == 0
    pairs = [(f, c) for i, n in ((0, 3), (1, 3), (2, 1)) for f, c in zip(drawn(i).frames[:n], drawn(i).clean)]
    errors = [np.square(f.astype(float) - c).mean() for f, c in pairs]
    expected = np.mean([10 * math.log10(255**2 / error) for error in errors])
    assert row(tmp_path, "identity")["psnr"] == pytest.approx(expected)


def test_frames_identical_to_the_truth_are_counted_and_not_averaged(triplets, tmp_path):
    for i in range(3):
        output = drawn(i).clean
        output[0, 0, 0] ^= 1
        write(tmp_path / "results" / f"clips_{i}", output)
    assert run(tmp_path, "--results", tmp_path / "results", "--data", triplets) == 0
    found = row(tmp_path, "results", "as it is")
    assert found["psnr_identical"] == 6 and math.isfinite(found["psnr"])
    assert found["psnr_mask_identical"] == 3 and "psnr_mask" not in found
    assert "6 frames are identical to the truth" in (tmp_path / "out.md").read_text("utf-8")


def test_what_a_user_has_to_download_is_named_and_left_out(triplets, tmp_path):
    assert run(tmp_path, "--method", "identity", "--data", triplets, "--limit", 1) == 0
    left_out = row(tmp_path, "identity")["left_out"]
    assert i3d.URL in left_out["vfid"] and "weights/rgb_imagenet.pt" in left_out["vfid_paper"]
    assert "huggingface.co/openai/clip" in left_out["tc"] and "--clip" in left_out["clip_score"]
    text = (tmp_path / "out.md").read_text("utf-8")
    assert i3d.URL in text and "VFID ↓" not in text


def test_with_weights_there_are_vfid_and_what_clip_says(triplets, tmp_path):
    torch.save(untrained_i3d().state_dict(), tmp_path / "i3d.pt")
    (tmp_path / "clip").mkdir()
    small_clip(tmp_path / "clip")
    write(tmp_path / "truth" / "clips_0", drawn(0).clean)
    write(tmp_path / "truth" / "clips_1", drawn(1).clean)
    networks = ["--i3d", tmp_path / "i3d.pt", "--clip", tmp_path / "clip"]
    some = ["--method", "identity", "--results", tmp_path / "truth", "--limit", 2]
    assert run(tmp_path, "--data", triplets, *networks, *some) == 0
    truth, identity = row(tmp_path, "truth", "as it is"), row(tmp_path, "identity")
    for name in ("vfid", "vfid_paper"):
        assert truth[name] == pytest.approx(0, abs=1e-6) and identity[name] > 1e-3
    assert identity["vfid"] != identity["vfid_paper"]
    assert 0 < identity["tc"] <= 100 and abs(identity["clip_score"]) <= 100


def test_an_interrupted_evaluation_goes_on_and_gives_the_same(triplets, tmp_path, monkeypatch):
    command = ["--method", "identity", "--method", "telea", "--data", triplets]
    (tmp_path / "whole").mkdir()
    assert run(tmp_path / "whole", *command) == 0
    calls = []

    def interrupted(frames, mask):
        calls.append(frames)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return telea(frames, mask)

    telea = methods.telea
    monkeypatch.setattr(methods, "telea", interrupted)
    assert run(tmp_path, *command) == 130
    assert not (tmp_path / "out.json").exists()
    lines = (tmp_path / "out.jsonl").read_text("utf-8")
    (tmp_path / "out.jsonl").write_text(lines + lines.splitlines()[-1][:40])  # as if killed while it was writing
    assert run(tmp_path, *command) == 0
    assert len(calls) == 4  # the first sample is not done again
    assert report(tmp_path) == report(tmp_path / "whole")
    assert run(tmp_path, *command, "--limit", 2) == 0 and len(calls) == 4
    assert report(tmp_path)["samples"] == 2


@pytest.mark.parametrize(
    "changed, words", [(["--frames", 2], "frames was None, is 2"), (["--seed", 1], "seed was 0, is 1")]
)
def test_the_progress_of_another_evaluation_is_not_mixed_in(triplets, tmp_path, caplog, changed, words):
    command = ["--method", "identity", "--data", triplets]
    assert run(tmp_path, *command) == 0
    assert run(tmp_path, *command, *changed) == 2
    assert words in caplog.text and "--output" in caplog.text


def test_results_that_have_changed_since_are_not_mixed_with_what_is_measured(triplets, tmp_path, caplog):
    for i in range(3):
        write(tmp_path / "results" / f"clips_{i}", drawn(i).clean)
    command = ["--results", tmp_path / "results", "--data", triplets]
    assert run(tmp_path, *command) == 0
    Image.fromarray(drawn(0).frames[0]).save(tmp_path / "results" / "clips_0" / "000.png", compress_level=0)
    assert run(tmp_path, *command) == 2
    assert "has results of results from" in caplog.text


def test_a_damaged_file_is_reported_and_counted(triplets, tmp_path, caplog):
    picture = triplets / "video" / "clip1" / "001.png"
    picture.write_bytes(picture.read_bytes()[:200])
    assert run(tmp_path, "--method", "identity", "--data", triplets) == 0
    ((name, reason),) = report(tmp_path)["broken"]
    assert name == "clips/1" and str(picture) in reason
    assert report(tmp_path)["samples"] == 2
    assert "clips/1" in (tmp_path / "out.md").read_text("utf-8") and "clips/1" in caplog.text


def test_a_folder_of_results_may_hold_videos_and_folders_in_folders(triplets, tmp_path):
    write(tmp_path / "results" / "clips" / "0", drawn(0).clean)
    writer = cv2.VideoWriter(
        str(tmp_path / "results" / "clips_1.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 8, (SIZE, SIZE)
    )
    for frame in drawn(1).clean:
        writer.write(frame[..., ::-1])
    writer.release()
    assert run(tmp_path, "--results", tmp_path / "results", "--data", triplets, "--limit", 2) == 0
    assert row(tmp_path, "results", "as it is")["psnr"] > 25


@pytest.mark.parametrize(
    "frames, words",
    [
        (None, "has no result for 'clips/1'"),
        (
            np.zeros((3, SIZE, SIZE + 2, 3), np.uint8),
            f"is {SIZE + 2}x{SIZE} pixels, the sample 'clips/1' {SIZE}x{SIZE}",
        ),
        (np.zeros((2, SIZE, SIZE, 3), np.uint8), "has 2 frames, the sample 'clips/1' 3"),
    ],
)
def test_results_that_do_not_fit_are_refused_before_anything_is_measured(triplets, tmp_path, caplog, frames, words):
    write(tmp_path / "results" / "clips_0", drawn(0).clean)
    if frames is not None:
        write(tmp_path / "results" / "clips_1", frames)
    assert run(tmp_path, "--results", tmp_path / "results", "--data", triplets) == 2
    assert words in caplog.text
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "give --checkpoint, --method or --results"),
        (["--results", "nowhere"], "nowhere is not a folder"),
        (["--checkpoint", "nowhere"], "nowhere does not exist"),
        (["--method", "identity", "split"], "key=value"),
        (["--method", "identity", "--i3d", "nowhere"], "nowhere do not exist; download"),
    ],
)
def test_wrong_arguments_say_what_to_do(triplets, tmp_path, caplog, arguments, words):
    assert run(tmp_path, "--data", triplets, *arguments) == 2
    assert words in caplog.text


def test_pictures_have_no_motion_to_judge(triplets, tmp_path):
    assert run(tmp_path, "--method", "telea", "--data", triplets, "--frames", 1) == 0
    found = row(tmp_path, "telea")
    assert "e_warp" not in found and "single frame" in found["left_out"]["e_warp"]


def test_drawn_clips_tell_what_happens_to_the_other_objects(tmp_path):
    assert run(tmp_path, *SYNTHETIC, "clips=6", "--method", "identity", "--method", "telea", "--seed", 3) == 0
    assert row(tmp_path, "identity")["damaged"] == 0
    assert report(tmp_path)["data"]["held_out"] is True


def test_in_rovi_the_other_samples_of_a_video_are_what_must_not_be_damaged(tmp_path):
    rng = np.random.default_rng(0)
    behind = np.repeat(rng.integers(60, 90, (1, SIZE, SIZE, 3), dtype=np.uint8), 2, axis=0)
    numbers = np.zeros((2, SIZE, SIZE), np.uint8)
    numbers[:, 5:15, 5:15], numbers[:, 30:40, 25:40] = 1, 2
    video = np.where(numbers[..., None] > 0, np.uint8(200), behind)
    root = tmp_path / "rovi"
    write(root / "JPEGImages" / "v", video)
    write(root / "Annotations" / "v", numbers)
    for number in (1, 2):
        write(root / "InpaintImages" / "v" / str(number), np.where(numbers[..., None] == number, behind, video))
        write(tmp_path / "all gone" / f"v_{number}", behind)
    rows = [{"video": "v", "object": n, "expression": w} for n, w in ((1, "the left box"), (2, "the right box"))]
    (root / "test.json").write_text(json.dumps(rows))
    assert run(tmp_path, "--data", root, "--method", "telea", "--results", tmp_path / "all gone") == 0
    assert row(tmp_path, "telea")["damaged"] == 0
    assert row(tmp_path, "all gone", "as it is")["damaged"] == 1
    assert row(tmp_path, "all gone", "the true mask")["damaged"] == 0
    paper = report(tmp_path)["paper"]
    assert [len(rows) for rows in paper.values()] == [5, 9, 5]
    text = (tmp_path / "out.md").read_text("utf-8")
    assert "## The paper's table 2, referring video inpainting" in text and "|LGVI|22.85|0.756|0.308|0.901|" in text


def test_the_papers_tables_are_the_papers(shared):
    text = (shared / "papers" / "lgvi-2401.10226.txt").read_text("utf-8")
    for title, rows in paper_tables.TABLES.items():
        printed = text[text.index(f"{title.partition(',')[0]}. ") :][:1600]
        for name, *values in rows:
            numbers = rf"{values[0]:.2f}\D.*?{values[1]:.3f}.*?{values[2]:.3f}.*?{values[3]:.3f}"
            assert re.search(numbers, printed), (title, name)


def test_the_composited_result_is_what_a_user_gets():
    clip = draw(5, 0, 2, 72, 56)
    model = Model(DEMO, seed=4, steps=1, device="cpu")
    kept, raw = model.edit(Clip("a", clip.sentence, clip.frames, clip.clean, clip.mask))
    result = inpaint(clip.frames, clip.sentence, checkpoint=load(DEMO), seed=4, steps=1)
    assert (kept.mask == result.mask).all() and kept.mask.any()
    assert np.abs(kept.frames.astype(int) - result.frames).max() <= 1  # the bytes are rounded once more
    assert (raw.frames != kept.frames).any()


def test_a_checkpoint_is_called_by_its_file_or_by_the_run_it_came_from(tmp_path):
    (tmp_path / "run-a").mkdir()
    for file, name in (
        ("run-a/checkpoint.safetensors", "run-a"),
        ("run-a/best.safetensors", "best"),
        ("run-a", "run-a"),
    ):
        if "." in file:
            (tmp_path / file).touch()
        assert Model(tmp_path / file, 0, None, None).name == name


def test_worst_and_best_are_apart_and_in_order():
    def line(name, **values):
        return {"sample": name, "values": values}

    lines = [line("a", psnr_mask=20.0), line("b", psnr_mask=None), line("c", psnr_mask=5.0), line("d", psnr=[1.0])]
    by, worst, best = ends(lines)
    assert by == "psnr_mask"
    assert [one["sample"] for one in worst] == ["c", "a"] and [one["sample"] for one in best] == ["b"]
    by, worst, best = ends([line("a", psnr=[10.0, 20.0]), line("b", psnr=[12.0, 14.0])])
    assert (by, worst[0]["sample"], best[0]["sample"]) == ("psnr", "b", "a")


def test_the_fingerprint_of_a_folder_changes_with_a_file(tmp_path):
    write(tmp_path / "results" / "a", drawn(0).clean)
    before = Folder(tmp_path / "results").identity
    assert Folder(tmp_path / "results").identity == before
    (tmp_path / "results" / "a" / "000.png").unlink()
    assert Folder(tmp_path / "results").identity != before


def test_the_demo_domain_has_its_own_table(tmp_path, capsys):
    output = tmp_path / "demo.json"
    assert main(["demo", "--clips", "3", "--frames", "2", "--output", str(output)]) == 0
    rows = json.loads(output.read_text("utf-8"))["rows"]
    assert {"model", "untouched input", "Telea, the model's mask", "model, sentences swapped"} <= rows.keys()
    assert rows["model"]["psnr_mask"] > rows["untouched input"]["psnr_mask"]
    assert "PSNR of the frame, no compositing" in capsys.readouterr().out
