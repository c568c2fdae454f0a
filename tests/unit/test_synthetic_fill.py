"""Drawn clips to fill: exact truth, regions that follow what stands in them, captions that tell no more."""

import re
from collections import Counter
from functools import cache

import numpy as np
import pytest

from lgvi_core.errors import InputError
from train.config import TrainConfig, build
from train.data import synthetic_fill_words as words
from train.data.labels import mentions
from train.data.mixing import CLIPS_PER_STEP, loader
from train.data.regions import boxes_of
from train.data.synthetic import draw
from train.data.synthetic_fill import DEFAULT, REGIONS, FillClip, draw_fill
from train.data.synthetic_fill_source import SETTINGS, FillSource
from train.data.synthetic_words import COLORS, SHAPES, SIZES

INSTANCE = {"instance": 1}


@cache
def clips() -> list[FillClip]:
    return [draw_fill(11, index) for index in range(300)]


def of(**wanted) -> list[FillClip]:
    return [clip for clip in clips() if all(getattr(clip, name) == value for name, value in wanted.items())]


def test_same_arguments_give_the_same_clip_and_others_another():
    again, other, held_out = draw_fill(11, 7), draw_fill(12, 7), draw_fill(11, 7, held_out=True)
    for name in ("frames", "clean", "mask", "object_mask"):
        assert np.array_equal(getattr(again, name), getattr(clips()[7], name))
    assert again.caption == clips()[7].caption
    assert not np.array_equal(other.clean, again.clean) and not np.array_equal(held_out.clean, again.clean)


def test_frames_are_the_truth_outside_of_the_region():
    for clip in clips():
        assert np.array_equal(clip.frames[~clip.mask], clip.clean[~clip.mask]), clip.task


def test_the_region_covers_what_is_asked_for_in_every_frame():
    for clip in clips():
        assert clip.mask.any((1, 2)).all()
        if clip.task != "random":
            assert not (clip.object_mask & ~clip.mask).any(), clip.region
        changed = (clip.clean != clip.background).any(-1) & clip.object_mask
        assert changed.sum() >= 0.9 * clip.object_mask.sum()


def test_the_region_moves_with_its_thing():
    for clip in of(task="keep") + of(task="replace"):
        boxes = boxes_of(clip.mask)
        travelled = (boxes[-1, :2] + boxes[-1, 2:] / 2) - (boxes[0, :2] + boxes[0, 2:] / 2)
        assert np.allclose(travelled, clip.centers[-1] - clip.centers[0], atol=2.5)


def test_deleted_things_leave_the_background():
    deleted = of(task="delete")
    assert deleted
    for clip in deleted:
        assert np.array_equal(clip.clean[clip.mask], clip.background[clip.mask])
        assert not clip.object_mask.any() and clip.look is None and clip.asked is None


def test_added_things_stand_where_nothing_stood():
    for clip in of(task="add"):
        assert np.array_equal(clip.frames[clip.mask], clip.background[clip.mask])
        assert clip.object_mask.any((1, 2)).all()


def test_a_replaced_thing_is_seen_before_and_another_one_after():
    replaced = of(task="replace")
    assert replaced
    for clip in replaced:
        assert (clip.frames != clip.clean).any(-1).any((1, 2)).all()
        assert (clip.frames != clip.background).any(-1).any((1, 2)).all()


def test_kinds_come_in_the_shares_of_the_paper():
    count = Counter("random" if clip.task == "random" else "text" if clip.caption else "none" for clip in clips())
    assert count["random"] / 300 == pytest.approx(0.2, abs=0.07)
    assert count["none"] / 300 == pytest.approx(0.1, abs=0.05)


def test_random_regions_hide_the_clip_itself_and_its_caption_is_of_the_whole():
    for clip in of(task="random"):
        assert np.array_equal(clip.frames, clip.clean)
        assert "clip of a" in clip.caption.lower()


def test_captions_say_what_is_asked_and_no_more():
    for clip in clips():
        if clip.asked is None:
            continue
        assert any(clip.asked)
        assert all(said in (None, true) for said, true in zip(clip.asked, clip.look))
        named = mentions(clip.caption)
        said = [value for value, there in zip((*SHAPES, *COLORS, *SIZES), named) if there]
        assert said == [value for value in clip.asked if value], clip.caption


def test_what_is_left_unsaid_shows_in_no_word_and_not_in_the_length():
    length = {"small": [], "large": []}
    for index in range(1500):
        rng = np.random.default_rng((5, index))
        size = ("small", "large")[index % 2]
        asked = words.named(rng, ("circle", "red", size))
        caption = words.thing(rng, asked)
        if asked[2] is None:
            length[size].append(len(caption.split()))
    assert np.mean(length["small"]) == pytest.approx(np.mean(length["large"]), abs=0.2)


def test_articles_fit_the_word_behind_them():
    for clip in clips():
        assert not re.search(r"\ba [aeiou]", clip.caption.lower()), clip.caption


def test_deletion_is_asked_in_several_ways_and_in_the_words_of_vivid():
    asked = {words.nothing(np.random.default_rng(i)) for i in range(200)}
    assert words.DELETION in asked and {"nothing", "background"} <= asked


def test_a_region_bigger_than_its_thing_does_not_show_the_shape_asked_for():
    filled = {shape: [] for shape in SHAPES}
    for index in range(400):
        clip = draw_fill(3, index, 1, kinds=INSTANCE, tasks={"replace": 1, "add": 1}, regions={"expand": 1})
        x, y, wide, high = boxes_of(clip.mask)[0]
        filled[clip.look[0]].append(clip.mask.sum() / (wide * high))
    means = [np.mean(values) for values in filled.values()]
    assert max(means) - min(means) < 0.09
    own = [c.mask.sum() / np.prod(boxes_of(c.mask)[:, 2:], 1).sum() for c in of(region="exact") if c.look]
    assert max(own) - min(own) > 0.2  # exact masks do


@pytest.mark.parametrize("region", REGIONS)
def test_every_shape_of_region_can_be_had_alone(region):
    task = {"keep": 1} if region == "exact" else {"add": 1}
    assert draw_fill(2, 0, 2, kinds=INSTANCE, tasks=task, regions={region: 1}).region == region


def test_without_variety_things_of_one_look_are_alike():
    colours = [
        np.median(clip.clean[clip.object_mask], 0)
        for clip in (draw_fill(4, i, 1, kinds=INSTANCE, tasks={"add": 1}, variety=0.0) for i in range(60))
        if clip.look[1] == "red"
    ]
    assert len(colours) > 3 and np.ptp(colours, 0).max() <= 8  # grain


def test_sizes_lengths_and_shapes_of_frames():
    clip = draw_fill(1, 0, 3, 96, 128)
    assert clip.frames.shape == (3, 96, 128, 3) and clip.mask.shape == (3, 96, 128) and clip.centers.shape == (3, 2)


@pytest.mark.parametrize(
    "wrong, names",
    [
        ({"frames": 0}, "frame"), ({"height": 16}, "32x32"), ({"variety": 2.0}, "variety"), ({"index": -1}, "index"),
        ({"tasks": {"paint": 1}}, "paint"), ({"kinds": {"instance": 0}}, "kinds"),
        ({"kinds": INSTANCE, "tasks": {"add": 1}, "regions": {"exact": 1}}, "exact"),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_is_named(wrong, names):
    with pytest.raises(InputError, match=names):
        draw_fill(**{"seed": 1, "index": 0} | wrong)


def test_outlines_are_drawn_around_everything_and_only_where_asked_for():
    plain, outlined = draw(5, 2, 2), draw(5, 2, 2, outline=1.5)
    assert np.array_equal(plain.frames, draw(5, 2, 2, outline=0.0).frames)
    dark = (outlined.frames.max(-1) < 70) & outlined.object_masks.any(0)
    assert dark.any((1, 2)).all() and outlined.object_masks.sum() > plain.object_masks.sum()
    with pytest.raises(ValueError, match="outline"):
        draw(5, 2, outline=9.0)


def test_examples_for_a_tokenizer_have_every_word_of_the_captions():
    known = set(re.findall("[a-z]+", " ".join(words.examples(0, 3000)).lower()))
    assert set(re.findall("[a-z]+", " ".join(clip.caption for clip in clips()).lower())) <= known


def test_the_source_gives_what_is_drawn():
    source = FillSource(SETTINGS | {"clips": 3, "frames": 4, "held_out": True}, 6)
    clip, entry, sample = source.clip(1), source.entry(1), source.load(1, [0, 2], 64, 64)
    assert len(source) == 3 and entry[1:] == (4, 64, 64, (clip.caption,))
    assert np.array_equal(sample.frames, clip.frames[[0, 2]]) and np.array_equal(sample.mask, clip.mask[[0, 2]])
    with pytest.raises(InputError, match="64x64"):
        source.load(1, [0], 32, 32)
    with pytest.raises(InputError, match="tasks"):
        FillSource(SETTINGS | {"tasks": {"fly": 1}}, 6)


def test_training_sees_the_clips_of_its_step_and_place_whatever_the_processes():
    config = build(
        TrainConfig,
        {
            "output": "out", "steps": 3, "workers": 0, "seed": 4,
            "batches": [{"frames": 2, "size": 2, "data": "fill"}],
            "data": {"fill": {"kind": "synthetic_fill", "tasks": {"add": 1}}}, "watch": {"data": "fill"},
        },
    )  # fmt: skip
    one = next(iter(loader(config, 2)))
    clip = draw_fill(4, 2 * CLIPS_PER_STEP + 1, 2, tasks={"add": 1})
    assert one["sentence"][1] == clip.caption and np.array_equal(one["clean"][1], clip.clean)
    other = next(iter(loader(config, 2, rank=1, world=2)))
    assert np.array_equal(other["mask"][0], clip.mask) and other["positions"].tolist() == [1]


def test_what_is_settled_leaves_nothing_to_chance():
    clips = [draw_fill(6, i, 3, kinds=INSTANCE, tasks={"replace": 1, "add": 1}, settled=True) for i in range(60)]
    for clip in clips:
        expected = tuple(default if said is None else said for said, default in zip(clip.asked, DEFAULT))
        assert clip.look == expected and not (clip.object_mask & ~clip.mask).any()
        beside = boxes_of(clip.object_mask) - boxes_of(clip.mask)
        middle = beside[:, :2] + beside[:, 2:] / 2
        assert np.abs(np.median(middle, axis=0)).max() <= 1
    assert {name for clip in clips for name in clip.look} >= {"cross", "blue", "small"}
