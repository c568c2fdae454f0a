"""A dataset is built from clips: the same however often it is stopped and by how many, with all that is left out."""

import json

import drawn_clips
import numpy as np
import pytest

from lgvi_core.errors import InputError
from lgvi_core.mask_shapes import SHAPES
from train.data import build_clips, build_page, build_vivid
from train.data.__main__ import main
from train.data.build_captions import from_label
from train.data.build_filters import Limits
from train.data.sources import open_source
from train.data.synthetic_fill_words import DELETION

LIMITS = Limits(least_side=64, least_frames=4)
OPTIONS = ["--least-side", "64", "--least-frames", "4", "--clips-per-shard", "3"]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    return root, drawn_clips.folder(root)


@pytest.fixture(scope="module")
def built(clips, tmp_path_factory):
    out = tmp_path_factory.mktemp("built") / "dataset"
    assert main(["build-vivid", str(clips[0]), "-o", str(out), *OPTIONS]) == 0
    return out


def opened(out):
    return open_source("it", {"kind": "shards", "root": str(out)})


def contents(out):
    return {path.name: path.read_bytes() for path in out.glob("shard-*")}


def test_every_object_comes_back_with_its_masks_in_six_shapes_and_its_label_as_caption(clips, built, capsys):
    source, drawn = opened(built), clips[1]
    samples = {entry.name: i for i, entry in enumerate(source.entries)}
    objects = ["numbered/1", "numbered/2", f"picture/{drawn_clips.words(drawn['picture'])} 0", "more/coded/object0",
               "tracked/masks"]  # fmt: skip
    assert set(objects) <= {name for name in samples if name.rpartition("/")[2] not in SHAPES}
    for name in objects:
        clip = drawn[name.rpartition("/")[0]]
        object_ = int(name[-1]) - 1 if "numbered" in name else 0
        entry = source.entry(samples[name])
        assert entry.captions == (f"a {drawn_clips.words(clip, object_)}".replace("a orange", "an orange"),)
        everything = range(entry.frames)
        exact = source.load(samples[name], list(everything), 64, 64)
        truth = clip.object_masks[object_]
        assert len(exact.mask) == len(clip.frames)
        overlap = (exact.mask & truth).sum() / (exact.mask | truth).sum()
        assert overlap > 0.8 if "tracked" in name else overlap == 1
        np.testing.assert_array_equal(exact.frames, exact.clean)
        assert abs(exact.frames.astype(int) - clip.frames).mean() < 6
        for shape in SHAPES[1:]:
            mask = source.masks(samples[f"{name}/{shape}"], list(everything), 64, 64)
            assert (mask >= exact.mask).all() and (mask.sum() > exact.mask.sum() or "expand" not in shape)
    assert main(["check", str(built)]) == 0
    assert f"{len(source)} samples; 0 errors in 0 samples, 0 warnings" in capsys.readouterr().out


def test_the_page_of_a_dataset_is_the_same_whenever_it_is_written(built):
    page = (built / "statistics.html").read_bytes()
    build_page.write(built)
    assert (built / "statistics.html").read_bytes() == page


def test_nothing_of_the_work_is_left_and_the_page_tells_what_there_is(clips, built):
    assert {path.name for path in built.iterdir()} == {
        "build.json", "statistics.html", "statistics.json", "shard-000000.json", "shard-000000.tar",
        "shard-000001.json", "shard-000001.tar",
    }  # fmt: skip
    said = json.loads((built / "statistics.json").read_text())
    assert said["counts"]["samples"] == len(opened(built)) == 6 * said["counts"]["objects"]
    assert said["counts"]["of them in pictures"] == len(clips[1]["picture"].objects)
    assert said["distributions"]["words of a caption"]["mean"] == 3
    page = (built / "statistics.html").read_text()
    for title in ("captions by length", "masks by size", "motion", "most frequent words of captions"):
        assert f"<h3>{title}</h3><svg" in page
    assert "data:image/webp;base64," in page


def build(root, out, captioner=from_label, world=1, per_shard=2, **limits):
    clips = build_clips.find(root, root)
    how = build_vivid.Build(build_clips.labels(root), Limits(**vars(LIMITS) | limits), captioner)
    build_vivid.begin(out, clips, per_shard, build_vivid.settings(how, "test", root))
    for rank in reversed(range(world)):
        build_vivid.run(clips, out, how, per_shard, rank, world)
    build_vivid.finish(out)
    return list(build_vivid.reports(out))


def test_a_run_that_is_killed_goes_on_and_several_processes_make_what_one_makes(clips, tmp_path):
    root = clips[0]
    asked, limit = [], 2  # the first clip has one object, the second two

    def captioner(frames, masks, label):
        if len(asked) == limit:
            raise KeyboardInterrupt
        asked.append(label)
        return [label]

    with pytest.raises(KeyboardInterrupt):
        build(root, tmp_path / "killed", captioner)
    assert not [path for path in (tmp_path / "killed").glob("*.tar")]  # the first shard has a clip to come
    limit = 100
    build(root, tmp_path / "killed", captioner)
    before, asked[:] = asked[:], []
    build(root, tmp_path / "once", captioner, world=2)
    assert contents(tmp_path / "killed") == contents(tmp_path / "once")
    assert len(before) == len(asked) + 1  # of all that was done, one object's clip was not finished
    asked.clear()
    build(root, tmp_path / "once", captioner)
    assert not asked


@pytest.mark.parametrize(
    ("limits", "reason", "where"),
    [
        ({"least_side": 65}, "the clip is too small", "clips"),
        ({"least_frames": 9}, "the clip is too short", "clips"),
        ({"smallest": 0.4}, "the object is too small", "objects"),
        ({"largest": 0.006}, "the object is too large", "objects"),
        ({"most_motion": 0.03}, "the object moves too fast", "objects"),
        ({"least_motion": 7.0}, "nothing moves", "objects"),
        ({"least_sharpness": 1e5}, "the object is blurred", "objects"),
        ({"most_words": 1}, "the caption is too long", "objects"),
        ({"least_score": 1.5}, "its score is too low", "objects"),
    ],
)
def test_what_is_left_out_is_counted_by_its_reason(limits, reason, where, clips, tmp_path):
    told = build(clips[0], tmp_path / "out", **limits)
    ones = told if where == "clips" else [one for clip in told for one in clip["objects"]]
    assert build_vivid.left_out(ones)[reason] >= 1
    assert reason in build_vivid.summary(told)
    if not list((tmp_path / "out").glob("*.tar")):
        build_page.write(tmp_path / "out")
        assert reason in (tmp_path / "out" / "statistics.html").read_text()


def test_a_clip_that_cannot_be_read_is_told_and_the_others_go_on(clips, tmp_path, caplog):
    root = tmp_path / "clips"
    drawn_clips.folder(root)
    (root / "more" / "coded.mp4").write_bytes(b"no video")
    (root / "numbered" / "masks" / "00002.png").write_bytes(b"no picture")
    told = build(root, tmp_path / "out")
    assert build_vivid.left_out(told) == {"it cannot be used": 2}
    assert len(opened(tmp_path / "out")) == 6 * (len(clips[1]["picture"].objects) + 1)
    assert "more/coded: " in build_vivid.summary(told) and "00002.png" in build_vivid.summary(told)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--smallest", "0.6"], "leave nothing"),
        (["--least-side", "-1"], "must be 0 or more"),
        (["--clips-per-shard", "0"], "at least 1"),
        (["--objects", "nowhere"], "nowhere is no folder"),
        (["--captions", "localhost"], "http://localhost:8080/v1"),
        (["--captions", "http://127.0.0.1:9/v1"], "does not answer"),
        (["--captions-model", "m"], "--captions"),
        (["--vocabulary", "nowhere"], "cannot be read"),
    ],
)
def test_bad_input_is_told_before_anything_is_made(options, said, clips, tmp_path, caplog):
    assert main(["build-vivid", str(clips[0]), "-o", str(tmp_path / "out"), *options]) == 2
    assert said in caplog.text and not (tmp_path / "out").exists()


def test_a_dataset_goes_on_only_as_it_was_begun(clips, built, tmp_path, caplog):
    before = contents(built)
    assert main(["build-vivid", str(clips[0]), "-o", str(built), *OPTIONS, "--smallest", "0.1"]) == 2
    assert "smallest 0.1 (then 0.005)" in caplog.text and contents(built) == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    assert main(["build-vivid", str(clips[0]), "-o", str(tmp_path / "other"), *OPTIONS]) == 2
    assert "is not empty" in caplog.text


def test_only_labels_of_the_vocabulary_stay(clips, tmp_path):
    root = clips[0]
    wanted = drawn_clips.words(clips[1]["tracked"])
    (tmp_path / "words").write_text(f"{wanted.upper()}\n\nzebra\n")
    words = ["--vocabulary", str(tmp_path / "words")]
    assert main(["build-vivid", str(root), "-o", str(tmp_path / "out"), *OPTIONS, *words]) == 0
    labels = {one["label"] for clip in build_vivid.reports(tmp_path / "out") for one in clip["objects"]
              if one["left_out"] != "its label is not in the vocabulary"}  # fmt: skip
    assert labels == {wanted}


def test_two_clips_of_one_name_and_a_folder_without_objects_are_refused(tmp_path):
    with pytest.raises(InputError, match="holds no video"):
        build_clips.find(tmp_path, tmp_path)
    for ending in ("png", "jpg"):
        (tmp_path / f"a.{ending}").touch()
    with pytest.raises(InputError, match="both named 'a'"):
        build_clips.find(tmp_path, tmp_path)
    (tmp_path / "a.png").unlink()
    with pytest.raises(InputError, match=r"none of the 1 clips .* neither a.json .* nor a/masks"):
        build_clips.find(tmp_path, tmp_path)


def test_samples_that_ask_for_nothing_are_made_of_masks_of_other_samples_beside_all_objects(clips, built):
    source = open_source("it", {"kind": "shards", "root": str(built), "deletion": 0.25})
    asking = len(opened(built))
    assert len(source) == round(asking / 0.75)
    tracked = clips[1]["tracked"]
    for i in range(asking, len(source)):
        entry = source.entry(i)
        assert entry.captions == (DELETION,)
        if entry.name.startswith("tracked"):
            mask = source.load(i, list(range(entry.frames)), 64, 64).mask
            assert mask[0].any() and (mask & tracked.object_masks[0]).mean() < 0.01
    with pytest.raises(InputError, match="deletion is 1.0; it is a share"):
        open_source("it", {"kind": "shards", "root": str(built), "deletion": 1.0})
