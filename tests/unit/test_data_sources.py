"""Datasets on disk: each layout is read as it describes itself, and what is wrong with one is said by name."""

import json
import re

import numpy as np
import pytest
import small_datasets as datasets
from PIL import Image

from lgvi_core.errors import InputError
from train.data import shards
from train.data.__main__ import main
from train.data.sources import detect, open_source


def opened(root, **settings):
    return open_source("it", {"kind": detect(root), "root": str(root), **settings})


def whole(source, i):
    entry = source.entry(i)
    return source.load(i, list(range(entry.frames)), entry.height, entry.width)


def test_triplets_come_back_as_they_were_written(tmp_path):
    source = opened(datasets.triplets(tmp_path))
    assert detect(tmp_path) == "triplets" and len(source) == datasets.CLIPS
    drawn = datasets.clip(2)
    assert source.entry(2) == ("clip2", datasets.FRAMES, datasets.SIDE, datasets.SIDE, (drawn.sentence,))
    for got, wanted in zip(whole(source, 2), (drawn.frames, drawn.clean, drawn.mask)):
        np.testing.assert_array_equal(got, wanted)
    part = source.load(2, [3, 1], datasets.SIDE, datasets.SIDE)
    np.testing.assert_array_equal(part.frames, drawn.frames[[3, 1]])


def test_triplets_may_be_videos_and_single_pictures(tmp_path):
    drawn = datasets.clip(0, frames=6, height=64, width=64)
    white = drawn.mask[..., None].repeat(3, 3).astype(np.uint8) * 255
    for name, frames in (("in", drawn.frames), ("out", drawn.clean), ("what", white)):
        datasets.video(tmp_path / f"{name}.mp4", frames)
        datasets.pictures(tmp_path / name, frames[:1])
    rows = [
        {"video": "in.mp4", "mask": "what.mp4", "clean": "out.mp4", "captions": ["a", "b"]},
        {"video": "in/00000.png", "mask": "what/00000.png", "clean": "out/00000.png", "caption": "c"},
        {"video": "in.mp4", "mask": "what.mp4", "clean": "out.mp4", "caption": "d", "split": "test"},
    ]
    (tmp_path / "captions.jsonl").write_text("\n\n".join(map(json.dumps, rows)))
    source = opened(tmp_path)
    assert [entry.frames for entry in source.entries] == [6, 1]
    assert source.entry(0).captions == ("a", "b")
    assert [opened(tmp_path, split="test").entry(i).captions for i in range(1)] == [("d",)]
    sample = source.load(0, [4, 5], 64, 64)
    assert abs(sample.frames.astype(int) - drawn.frames[4:]).mean() < 6  # an mp4 loses a little
    assert (sample.mask ^ drawn.mask[4:]).mean() < 0.02
    np.testing.assert_array_equal(whole(source, 1).mask, drawn.mask[:1])


@pytest.mark.parametrize("size", [(24, 24), (96, 96), (24, 80)])
def test_samples_are_resized_and_masks_stay_masks(size, tmp_path):
    source = opened(datasets.triplets(tmp_path, clips=1))
    sample = source.load(0, [0], *size)
    assert sample.frames.shape == (1, *size, 3) and sample.mask.shape == (1, *size) and sample.mask.dtype == bool
    assert sample.mask.mean() == pytest.approx(datasets.clip(0).mask[0].mean(), rel=0.3)


SHAPES = {
    "rows": lambda found: [{"video": v, "obj_id": n, "expression": w} for v, n, w in found],
    "keys": lambda found: {v: {str(n): {"exps": [w, w]}} for v, n, w in found},
    "videos": lambda found: {
        "info": {"version": 1},
        "videos": {
            v: {"frames": ["00000"], "expressions": {"0": {"exp": w, "obj_id": str(n)}}} for v, n, w in found
        },
    },
    "own names": lambda found: [{"clip_no": v, "target": n, "words": w} for v, n, w in found],
}


@pytest.mark.parametrize("shape", SHAPES)
def test_rovi_is_read_whatever_its_json_looks_like(shape, tmp_path):
    found = datasets.rovi(tmp_path)
    (tmp_path / "train.json").write_text(json.dumps(SHAPES[shape](found)))
    fields = {"video": "clip_no", "object": "target", "caption": "words"} if shape == "own names" else {}
    source = opened(tmp_path, fields=fields)
    assert detect(tmp_path) == "rovi"
    assert [(e.name, e.captions) for e in source.entries] == [(f"{v}/{n}", (f"remove {w}",)) for v, n, w in found]
    drawn, sample = datasets.clip(1), whole(source, 1)
    np.testing.assert_array_equal(sample.mask, drawn.object_masks[drawn.targets[0]])
    np.testing.assert_array_equal(sample.clean, drawn.clean)


@pytest.mark.parametrize(
    "row, complaint",
    [
        ({"film": "a", "obj_id": 1, "exp": "b"}, "the video cannot be told; there are film, obj_id, exp"),
        ({"video": "a", "exp": "b"}, "the object cannot be told.*fields: {object: NAME}"),
        ({"video": "a", "obj": 1, "said": "b"}, "an object without a caption|the caption cannot be told"),
        ({"video": "a", "obj": "dog", "exp": "b"}, "'dog' of a is no number"),
    ],
)
def test_unknown_fields_of_rovi_are_named(row, complaint, tmp_path):
    datasets.rovi(tmp_path, clips=1)
    (tmp_path / "train.json").write_text(json.dumps([row]))
    with pytest.raises(InputError, match=complaint):
        opened(tmp_path)


def test_refer_youtube_vos_takes_the_objects_that_have_results(tmp_path, caplog):
    caplog.set_level("INFO")
    source = opened(datasets.refer_youtube_vos(tmp_path))
    assert detect(tmp_path) == "refer_youtube_vos" and len(source) == datasets.CLIPS
    assert "1 objects have no inpainted video" in caplog.text
    entry = source.entry(1)
    assert entry.frames == datasets.FRAMES - 1  # the frames that the JSON names
    assert entry.captions == ("remove the thing number 1", "remove also the thing number 1")
    drawn = datasets.clip(1)
    np.testing.assert_array_equal(whole(source, 1).mask, drawn.object_masks[drawn.targets[0]][:-1])
    (tmp_path / "train" / "InpaintImages").rename(tmp_path / "mine")
    with pytest.raises(InputError, match="inpainted by a tool of yours"):
        opened(tmp_path)
    assert len(opened(tmp_path, inpainted=str(tmp_path / "mine"))) == datasets.CLIPS


def test_frames_of_refer_youtube_vos_that_are_missing_are_named(tmp_path, capsys):
    root = datasets.refer_youtube_vos(tmp_path)
    (root / "train/JPEGImages/video2/00001.jpg").unlink()
    (root / "train/Annotations/video3/00002.png").unlink()
    assert main(["check", str(root)]) == 1
    out = capsys.readouterr().out
    assert re.search("error +video2/. *: video: .*video2/00001.jpg cannot be read", out)
    assert re.search("error +video3/. *: .*video3 has no picture for 1 of the 4 frames: 00002", out)


def test_gqa_inpaint_asks_only_for_what_its_words_single_out(tmp_path):
    source = opened(datasets.gqa_inpaint(tmp_path))
    assert detect(tmp_path) == "gqa_inpaint"
    assert {entry.name: entry.captions for entry in source.entries} == {
        "100/7": ("remove the chair",),
        "200/1": ("remove the red chair", "remove the chair behind the table"),
    }  # of two cups nothing tells number 4
    sample = whole(source, 0)
    assert (sample.mask ^ datasets.clip(0, frames=1).mask).mean() < 0.02


@pytest.mark.parametrize("layout", ["triplets", "refer_youtube_vos", "gqa_inpaint"])
def test_shards_hold_the_same_as_what_they_were_made_from(layout, tmp_path):
    source = opened(getattr(datasets, layout)(tmp_path / "in"))
    assert main(["shard", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--samples", "3"]) == 0
    packed = opened(tmp_path / "out")
    assert detect(tmp_path / "out") == "shards" and packed.entries == source.entries
    for i in range(len(source)):
        for got, wanted in zip(whole(packed, i), whole(source, i)):
            np.testing.assert_array_equal(got, wanted)
    assert main(["shard", str(tmp_path / "in"), "-o", str(tmp_path / "out")]) == 2  # there is something already


def test_shards_of_video_files_hold_the_frames_as_they_decode(tmp_path):
    drawn = datasets.clip(0)
    for name, frames in (("a", drawn.frames), ("b", drawn.clean)):
        datasets.video(tmp_path / "in" / f"{name}.mp4", frames)
    datasets.pictures(tmp_path / "in" / "m", drawn.mask)
    row = {"video": "a.mp4", "mask": "m", "clean": "b.mp4", "caption": "remove it"}
    (tmp_path / "in" / "captions.jsonl").write_text(json.dumps(row))
    source = opened(tmp_path / "in")
    shards.write(source, tmp_path / "out")
    np.testing.assert_array_equal(whole(opened(tmp_path / "out"), 0).frames, whole(source, 0).frames)


def remove_a_frame(root):
    (root / "1/mask/00002.png").unlink()


def remove_a_folder(root):
    (root / "1/clean").rename(root / "elsewhere")


def shrink_the_masks(root):
    for file in (root / "1/mask").iterdir():
        Image.open(file).resize((24, 24)).save(file)


def empty_a_video(root):
    for file in (root / "1/frames").iterdir():
        file.unlink()


def silence(root):
    text = (root / "captions.jsonl").read_text()
    (root / "captions.jsonl").write_text(text.replace(json.dumps(datasets.clip(1).sentence), '"  "'))


@pytest.mark.parametrize(
    "damage, complaint",
    [
        (remove_a_frame, "mask has no picture for 1 of the 5 frames: 00002"),
        (remove_a_folder, "clean does not exist"),
        (shrink_the_masks, "its mask is 24x24, the video 48x48.*resize=true"),
        (empty_a_video, "holds no pictures"),
        (silence, "it has no caption"),
    ],
)
def test_samples_that_do_not_fit_stop_a_run_unless_it_is_told_to_go_on(damage, complaint, tmp_path, caplog):
    damage(datasets.triplets(tmp_path))
    with pytest.raises(InputError, match=f"1 of 4 samples cannot be used, such as clip1: .*{complaint}"):
        opened(tmp_path)
    source = opened(tmp_path, skip_broken=True)
    assert [entry.name for entry in source.entries] == ["clip0", "clip2", "clip3"]
    assert source.broken[0][0] == "clip1" and "clip1" in caplog.text


def test_masks_of_another_size_are_resized_where_that_is_asked_for(tmp_path):
    shrink_the_masks(datasets.triplets(tmp_path))
    assert whole(opened(tmp_path, resize=True), 1).mask.shape == (datasets.FRAMES, datasets.SIDE, datasets.SIDE)


@pytest.mark.parametrize(
    "settings, complaint",
    [
        ({"kind": "rovy"}, "kind is 'rovy'; allowed: synthetic, synthetic_fill"),
        ({"kind": "triplets"}, "root is '', which is no folder; give the folder that has captions.jsonl"),
        ({"kind": "rovi", "root": "/nowhere"}, "huggingface.co/datasets/jianzongwu/rovi"),
        ({"kind": "triplets", "root": ".", "flp": True}, "did you mean flip"),
        ({"kind": "triplets", "root": ".", "flip": "yes"}, "flip is 'yes'; expected bool"),
        ({"kind": "triplets", "root": "."}, "captions.jsonl does not exist"),
        ({"kind": "synthetic", "clips": 0}, "clips"),
    ],
)
def test_settings_that_are_wrong_are_named(settings, complaint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=complaint):
        open_source("it", settings)


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("", "has no samples"),
        ('{\n["a"]', "line 1 is no JSON.*line 2 is .*expected an object"),
        ('{"video": "a"}', "line 1 has no text for mask, clean; its fields are video"),
        ('{"video": "a", "mask": "b", "clean": "c"}', "line 1 has caption"),
        ("[]", "expected an object"),
    ],
)
def test_captions_that_cannot_be_read_are_named_by_their_line(text, complaint, tmp_path):
    (tmp_path / "captions.jsonl").write_text(text)
    with pytest.raises(InputError, match=complaint):
        opened(tmp_path)


def test_a_folder_of_no_known_layout_is_told_what_layouts_look_like(tmp_path):
    with pytest.raises(InputError, match="in no layout that is known.*captions.jsonl.*meta_expressions"):
        detect(tmp_path)


def test_the_synthetic_domain_is_a_source_too():
    source = open_source("it", {"kind": "synthetic", "clips": 3, "frames": 4, "height": 32, "width": 48}, seed=5)
    assert len(source) == 3 and source.entry(1)[1:4] == (4, 32, 48)
    assert source.load(1, [0, 3], 32, 48).frames.shape == (2, 32, 48, 3)
    np.testing.assert_array_equal(source.load(1, [0], 32, 48).clean, source.clip(1).clean[:1])


# The command


def test_check_finds_nothing_wrong_with_what_is_right(tmp_path, capsys):
    assert main(["check", str(datasets.triplets(tmp_path)), "--sheet", str(tmp_path / "sheet.png")]) == 0
    assert "4 samples; 0 errors in 0 samples" in capsys.readouterr().out
    assert Image.open(tmp_path / "sheet.png").width > 3 * 240


def test_check_says_what_is_wrong_file_by_file(tmp_path, capsys):
    root = datasets.triplets(tmp_path, clips=9, rows={7: {"caption": "entfernt den Bären"}, 8: {"caption": " "}})
    (root / "0/frames/00003.png").write_bytes((root / "0/frames/00003.png").read_bytes()[:300])
    remove_a_frame(root)
    Image.fromarray(np.zeros((9, 9), bool)).save(root / "2/mask/00001.png")
    datasets.pictures(root / "3/clean", datasets.clip(3).frames)
    datasets.pictures(root / "4/mask", np.zeros_like(datasets.clip(4).mask))
    datasets.pictures(root / "5/clean", datasets.clip(4).clean)
    remove = root / "6/mask/00000.png"
    Image.fromarray(np.zeros((datasets.SIDE,) * 2, bool)).save(remove)
    assert main(["check", str(root)]) == 1
    lines = capsys.readouterr().out.splitlines()
    for wanted in (
        "error +clip0: video: .*0/frames/00003.png is a damaged picture",
        "error +clip1: .*has no picture for 1 of the 5 frames: 00002",
        "error +clip2: mask: pictures of another size than the first: .*00001.png",
        "error +clip3: the clean video equals the input",
        "error +clip4: its mask is empty in all frames",
        "error +clip5: the clean video differs from the input outside the mask",
        "warning clip6: its mask is empty in 1 of 5 frames: 0",
        "warning clip7: the caption .* has characters that CLIP splits: ä",
        "error +clip8: it has an empty caption",
    ):
        assert sum(bool(re.match(wanted, line)) for line in lines) == 1, wanted
    assert "9 samples; 7 errors in 7 samples" in lines[-1]


def test_a_damaged_first_frame_is_named_like_any_other(tmp_path, capsys):
    root = datasets.triplets(tmp_path, clips=2)
    (root / "0/frames/00000.png").write_bytes((root / "0/frames/00000.png").read_bytes()[:300])
    assert main(["check", str(root)]) == 1
    assert re.search("error +clip0: .*0/frames/00000.png is a damaged picture", capsys.readouterr().out)


def test_the_sheet_leaves_out_what_cannot_be_read(tmp_path, caplog):
    root = datasets.triplets(tmp_path, clips=2)
    shrink_the_masks(root)
    assert main(["check", str(root), "resize=true"]) == 0
    remove_a_folder(root)
    assert main(["check", str(root), "--sheet", str(tmp_path / "sheet.png")]) == 1
    assert "clip1 is not on the sheet" in caplog.text and (tmp_path / "sheet.png").is_file()


def test_check_of_what_is_no_dataset_ends_with_2(tmp_path, caplog):
    assert main(["check", str(tmp_path)]) == 2
    assert "in no layout that is known" in caplog.text


def test_check_names_captions_that_mean_two_objects_of_a_video(tmp_path, capsys):
    same = {"video": "0/frames", "caption": "remove it"}
    assert main(["check", str(datasets.triplets(tmp_path, clips=2, rows={0: same, 1: same}))]) == 1
    assert "the same caption, 'remove it', belongs to clip1" in capsys.readouterr().out


def test_check_that_is_interrupted_says_how_far_it_came(tmp_path, capsys, monkeypatch):
    from train.data import inspection

    look, seen = inspection.of, []

    def interrupted(record, resize):
        seen.append(record)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return look(record, resize)

    monkeypatch.setattr(inspection, "of", interrupted)
    assert main(["check", str(datasets.triplets(tmp_path))]) == 130
    assert "4 samples, stopped after 2" in capsys.readouterr().out


def test_pictures_belong_together_by_name_or_else_by_order(tmp_path):
    root = datasets.triplets(tmp_path, clips=2)
    for file in sorted((root / "0/clean").iterdir()):
        file.rename(file.with_name(f"{int(file.stem) + 9}.result.png"))
    (root / "1/clean/00000.png").rename(root / "1/clean/extra.png")
    (root / "1/frames/00000.png").unlink()
    (root / "1/mask/00000.png").unlink()
    source = opened(root)
    np.testing.assert_array_equal(whole(source, 0).clean, datasets.clip(0).clean)
    np.testing.assert_array_equal(whole(source, 1).clean, datasets.clip(1).clean[1:])
