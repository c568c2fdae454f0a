"""What a run sees: which samples, frames, words and sides, in passes that no number of processes or workers changes."""

from collections import Counter

import numpy as np
import pytest
import small_datasets as datasets
import torch

from lgvi_core.errors import InputError
from train import config as configs
from train.data import mixing
from train.data.entries import Entry
from train.data.frames import choose, shape_of
from train.data.plan import CLIPS_PER_STEP, Plan
from train.data.synthetic import draw
from train.data.words import mirrored


def config(batches, data=None, **more):
    values = {"output": "unused", "steps": 6, "seed": 3, "workers": 0, "batches": batches, **more}
    if data is not None:
        values |= {"data": data, "watch": {"data": next(iter(data))}}
    return configs.build(configs.TrainConfig, values)


def passes(run, start=0, rank=0, world=1):
    return list(mixing.loader(run, start, rank, world))


def same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, other[name]), name
        else:
            assert value == other[name], name


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    rows = {i: {"captions": [f"remove thing {'abcdef'[i]} on the left", f"erase {'abcdef'[i]}"]} for i in range(6)}
    return datasets.triplets(tmp_path_factory.mktemp("triplets"), clips=6, rows=rows)


def triplets(folder, **settings):
    return {"mine": {"kind": "triplets", "root": str(folder), **settings}, "synthetic": {"kind": "synthetic"}}


FILES = {"data": "mine", "frames": 3, "width": 32, "height": 32}
DRAWN = {"frames": 2, "width": 32, "height": 32}


def test_synthetic_batches_are_the_clips_that_their_step_names():
    run = config([{**DRAWN, "size": 3}], steps=2)
    first, second = passes(run)
    assert (second["step"], second["kind"], second["last"], second["share"]) == (1, 0, True, 1.0)
    assert second["positions"].tolist() == [0, 1, 2] and second["broken"] == []
    for i in range(3):
        clip = draw(3, CLIPS_PER_STEP + i, 2, 32, 32, augment=True)
        np.testing.assert_array_equal(second["frames"][i], clip.frames)
        np.testing.assert_array_equal(second["clean"][i], clip.clean)
        np.testing.assert_array_equal(second["mask"][i], clip.mask)
        assert second["sentence"][i] == clip.sentence and second["name"][i] == f"synthetic:{CLIPS_PER_STEP + i}"


def test_recognition_gets_its_labels_and_asks_for_drawn_clips(folder):
    unet = {"block_out_channels": [8, 8, 8, 8]}
    recognition = {"blocks": ["up_blocks.1"], "cells": 8}
    (batch,) = passes(config([{**DRAWN, "size": 2}], steps=1, unet=unet, recognition=recognition))
    assert batch["owners"].shape == (2, 2, 8, 8) and batch["facts"].dtype == torch.int8
    assert batch["mentions"].dtype == torch.bool
    with pytest.raises(InputError, match="batches\\[0\\] is of data.mine"):
        passes(config([{**FILES, "size": 2}], triplets(folder), unet=unet, recognition=recognition))


def test_a_clip_to_fill_tells_what_is_asked_for_and_where():
    recognition = {"blocks": ["up_blocks.1"], "cells": 8}
    fill = {"fill": {"kind": "synthetic_fill", "kinds": {"instance": 1}, "tasks": {"add": 1}}}
    unet = {"block_out_channels": [8, 8, 8, 8]}
    (batch,) = passes(config([{**DRAWN, "data": "fill", "size": 4}], fill, steps=1, unet=unet, recognition=recognition))
    assert (batch["owners"].amax((1, 2, 3)) == 0).all()
    looks, rest = batch["facts"][:, 0, :3], batch["facts"][:, 0, 3:]
    assert ((looks >= 0).sum(1) == batch["mentions"].sum(1)).all() and (looks >= 0).any()
    assert (rest == -1).all() and (batch["facts"][:, 1:] == -1).all()


MIXED = [{**FILES, "size": 4, "share": 2.0}, {**DRAWN, "size": 2}]


def test_a_run_that_starts_later_sees_what_one_from_the_beginning_does(folder):
    run = config(MIXED, triplets(folder))
    whole = passes(run)
    assert {batch["kind"] for batch in whole} == {0, 1}
    for one, other in zip(passes(run, start=3), whole[3:], strict=True):
        same(one, other)


def test_workers_change_nothing(folder):
    run = config(MIXED, triplets(folder, flip=True), steps=4)
    several = config(MIXED, triplets(folder, flip=True), steps=4, workers=2)
    for one, other in zip(passes(several), passes(run), strict=True):
        same(one, other)


def test_processes_and_passes_share_out_what_one_sees_at_once(folder):
    data = triplets(folder, flip=True)
    whole = passes(config([{**FILES, "size": 4}], data, steps=3))
    parts = []
    for rank in (0, 1):
        own = passes(config([{**FILES, "size": 4, "micro": 1}], data, steps=3), rank=rank, world=2)
        assert [(b["step"], b["share"], b["last"]) for b in own[:2]] == [(0, 0.5, False), (0, 0.5, True)]
        parts += own
    for step, batch in enumerate(whole):
        own = sorted((b for b in parts if b["step"] == step), key=lambda b: b["positions"].tolist())
        assert torch.cat([b["positions"] for b in own]).tolist() == [0, 1, 2, 3]
        for name in ("frames", "clean", "mask"):
            assert torch.equal(torch.cat([b[name] for b in own]), batch[name])
        assert [b["sentence"][0] for b in own] == batch["sentence"]
    with pytest.raises(InputError, match="size is 4; 3 processes must divide it"):
        passes(config([{**FILES, "size": 4}], data), world=3)


def test_a_last_pass_that_is_smaller_counts_for_less(folder):
    own = passes(config([{**FILES, "size": 6, "micro": 2}], triplets(folder), steps=1), rank=0, world=2)
    assert [(round(b["share"], 4), len(b["positions"])) for b in own] == [(0.6667, 2), (0.3333, 1)]


def test_every_sample_comes_once_before_any_comes_again(folder):
    run = config([{**FILES, "size": 3, "share": 3.0}, {**DRAWN, "size": 1}], triplets(folder), steps=12)
    seen = [name for batch in passes(run) if batch["kind"] == 0 for name in batch["name"]]
    assert len(seen) >= 18
    for epoch in range(len(seen) // 6):
        assert len(set(seen[6 * epoch : 6 * epoch + 6])) == 6
    assert seen[:6] != seen[6:12]


def test_all_captions_of_a_sample_are_used(folder):
    run = config([{**FILES, "size": 6}], triplets(folder), steps=4)
    said = Counter(sentence.split()[0] for batch in passes(run) for sentence in batch["sentence"])
    assert said["remove"] > 5 and said["erase"] > 5


def test_a_flipped_sample_is_mirrored_in_pixels_and_words(folder):
    batches = [{**FILES, "size": 6, "frames": datasets.FRAMES, "width": datasets.SIDE, "height": datasets.SIDE}]
    turned = Counter()
    for batch in passes(config(batches, triplets(folder, flip=True), steps=3)):
        for i, (name, sentence) in enumerate(zip(batch["name"], batch["sentence"])):
            clip = datasets.clip(int(name[-1]))
            flipped = not np.array_equal(batch["frames"][i], clip.frames)
            turned[flipped] += 1
            side = slice(None, None, -1 if flipped else 1)
            for part in ("frames", "clean", "mask"):
                np.testing.assert_array_equal(batch[part][i], getattr(clip, part)[:, :, side])
            assert "left" not in sentence if flipped else "right" not in sentence
    assert min(turned.values()) >= 4
    for batch in passes(config(batches, triplets(folder), steps=2)):
        assert not any("right" in sentence for sentence in batch["sentence"])


def test_broken_files_are_reported_and_their_samples_are_missing(tmp_path):
    data = triplets(datasets.triplets(tmp_path, clips=3))
    run = config([{**FILES, "size": 3, "sampling": "first"}], data, steps=1)
    plan = Plan(run)  # the files break after the dataset was opened
    (tmp_path / "1/frames/00001.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    (tmp_path / "2/mask/00000.png").unlink()
    clips = mixing.Clips(plan, 0)
    (wanted,) = plan.passes(0, 0, 1)
    batch = clips[wanted]
    assert batch["name"] == ["mine:clip0"] and batch["share"] == 1.0
    assert len(batch["frames"]) == len(batch["positions"]) == len(batch["sentence"]) == 1
    assert sorted(name for name, _ in batch["broken"]) == ["mine:clip1", "mine:clip2"]
    assert "00001.png is a damaged picture" in dict(batch["broken"])["mine:clip1"] or "cannot be read" in str(batch)
    assert "00000.png" in dict(batch["broken"])["mine:clip2"]
    (tmp_path / "0/clean/00002.png").unlink()
    batch = clips[wanted]
    assert batch["frames"].shape == (0, 3, 32, 32, 3) and batch["mask"].shape == (0, 3, 32, 32)
    assert batch["sentence"] == [] and len(batch["broken"]) == 3


def test_clips_that_are_too_short_are_left_out_and_counted(tmp_path, caplog):
    root = datasets.triplets(tmp_path, clips=3)
    for part in ("frames", "clean", "mask"):
        (root / f"1/{part}/00004.png").unlink()
    run = config([{**FILES, "frames": 5, "size": 2}], triplets(root), steps=4)
    assert "mine:clip1" not in {name for batch in passes(run) for name in batch["name"]}
    assert "1 of 3 clips are too short for the 5 frames of batches[0]" in caplog.text
    assert "2 samples, each seen 4.0 times" in Plan(run).summary()[0]
    with pytest.raises(InputError, match="wants 6 frames.*the longest of the 3 clips of data.mine has 5"):
        passes(config([{**FILES, "frames": 6, "size": 2}], triplets(root)))


def test_buckets_put_one_shape_and_length_into_a_batch(tmp_path):
    rows = []
    for i, (frames, height, width) in enumerate([(5, 48, 48), (5, 32, 64), (2, 64, 32), (5, 32, 64), (1, 48, 48)]):
        datasets.triplets(tmp_path / f"{i}", clips=1, frames=frames, height=height, width=width)
        row = {"name": f"{i}", "caption": "remove it"}
        rows.append(row | {part: f"{i}/0/{folder}" for part, folder in PARTS.items()})
    (tmp_path / "captions.jsonl").write_text("\n".join(map(datasets.json.dumps, rows)))
    batch = {"data": "mine", "frames": 4, "width": 48, "height": 48, "buckets": True, "size": 2}
    run = config([batch], triplets(tmp_path), steps=24)
    shapes = {}
    for batch in passes(run):
        for name in batch["name"]:
            shapes.setdefault(name[-1], set()).add(tuple(batch["frames"].shape[1:4]))
    assert shapes == {
        "0": {(4, 48, 48)}, "1": {(4, 32, 64)}, "3": {(4, 32, 64)}, "2": {(2, 64, 32)}, "4": {(1, 48, 48)},
    }  # fmt: skip


PARTS = {"video": "frames", "mask": "mask", "clean": "clean"}


@pytest.mark.parametrize(
    "video, size",
    [
        ((720, 1280), (320, 512)),
        ((1280, 720), (512, 320)),
        ((500, 500), (384, 384)),
        ((320, 512), (320, 512)),
        ((200, 900), (192, 832)),
    ],
)
def test_a_bucket_has_the_shape_of_the_source_and_the_pixels_of_the_config(video, size):
    (batch,) = config([{"frames": 1, "size": 1, "width": 512, "height": 320, "buckets": True}]).batches
    frames, height, width = shape_of(batch, Entry("a", 9, *video, ("b",)))
    assert (frames, height, width) == (1, *size)
    assert 0.8 <= height * width / (512 * 320) <= 1


@pytest.mark.parametrize(
    "sampling, stride, allowed",
    [
        ("first", 1, [[0, 1, 2]]),
        ("random", 1, [[i, i + 1, i + 2] for i in range(8)]),
        ("stride", 3, [[i, i + 3, i + 6] for i in range(4)]),
        ("whole", 1, [[0, 4, 9]]),
    ],
)
def test_frames_are_chosen_as_the_sampling_says(sampling, stride, allowed):
    (batch,) = config([{"frames": 3, "size": 1, "sampling": sampling, "stride": stride}]).batches
    rng = np.random.default_rng(0)
    chosen = [choose(batch, 3, 10, rng) for _ in range(60)]
    assert sorted({tuple(c) for c in chosen}) == [tuple(a) for a in allowed]


@pytest.mark.parametrize(
    "sentence, turned",
    [
        ("Remove the dog on the left", "Remove the dog on the right"),
        ("remove the rightmost bird", "remove the leftmost bird"),
        ("remove the bird on left or to the Right of it", "remove the bird on right or to the Left of it"),
        ("REMOVE THE LEFT-HAND CUP", "REMOVE THE RIGHT-HAND CUP"),
        ("remove the cat", "remove the cat"),
        ("the man who left", None),
        ("the dog right behind the car", None),
        ("remove the text", None),
        ("remove player 23", None),
        ("the wheel that turns clockwise", None),
        ("the house to the east", None),
        ('the sign that says "left"', None),
        ("entferne den Bären links", None),
    ],
)
def test_words_turn_with_the_picture_or_forbid_it(sentence, turned):
    assert mirrored(sentence) == turned
    if turned is not None:
        assert mirrored(turned) == sentence
