"""Drawn clips: exact truth, sentences that single out their targets, the same bytes for the same arguments."""

import re
from collections import Counter
from functools import cache

import numpy as np
import pytest

from train.data.synthetic import MARGIN, Clip, draw, sentences
from train.data.synthetic_textures import _Ranges

SHAPE_WORDS = {
    "circle": "circle|circles|disc|discs|ball|balls|round", "square": "square|squares|box|boxes",
    "triangle": "triangle|triangles|triangular", "diamond": "diamond|diamonds|rhombus|rhombuses|diamond-shaped",
    "cross": "cross|crosses|plus|pluses|cross-shaped",
}
COLOR_WORDS = {"red": "red", "green": "green", "blue": "blue", "yellow": "yellow", "purple": "purple|violet",
               "white": "white"}
SIZE_WORDS = {"small": "small|little|tiny", "large": "large|big"}
SIDE_WORDS = {"left": "left|leftmost", "right": "right|rightmost", "top": "top|upper|topmost", "bottom": "bottom|lower"}


@cache
def normal_clips() -> list[Clip]:
    return [draw(11, index) for index in range(500)]


@cache
def hard_clips() -> list[Clip]:
    return [draw(12, index, hard=True) for index in range(200)]


def spoken(words: list[str], table: dict[str, str]) -> str | None:
    found = [name for name, spellings in table.items() if set(spellings.split("|")) & set(words)]
    assert len(found) <= 1, words
    return found[0] if found else None


def referred(noun: str, clip: Clip, scale: float) -> set[int]:
    """The objects one noun phrase means, read from its words alone."""
    words = noun.split()
    shape, color, size = (spoken(words, table) for table in (SHAPE_WORDS, COLOR_WORDS, SIZE_WORDS))
    group = {
        i for i, drawn in enumerate(clip.objects)
        if shape in (None, drawn.shape) and color in (None, drawn.color) and size in (None, drawn.size)
    }
    side = spoken(words, SIDE_WORDS)
    if "both" in words:
        assert len(group) == 2, noun
    if side is not None and group:
        assert len(group) > 1, noun
        axis, sign = {"left": (0, -1), "right": (0, 1), "top": (1, -1), "bottom": (1, 1)}[side]
        places = {i: sign * clip.objects[i].centers(len(clip.frames))[:, axis] for i in group}
        group = {
            i for i in group if all((places[i] - places[j] > MARGIN * scale).all() for j in group if j != i)
        }
        assert len(group) == 1, noun
    if not {"all", "both", "every", "everything"} & set(words) and not words[-1].endswith(("s", "ses")):
        assert len(group) <= 1, noun
    return group


def understood(clip: Clip, scale: float = 1.0) -> set[int]:
    text = re.sub(r"[.?,]", "", clip.sentence.lower())
    verbs = "remove|erase|delete|get rid of|take out|take away|clear|drop|i don't want to see|i don't want"
    text = re.sub(rf"^(please |can you please |can you |could you )?({verbs}) ", "", text)
    text = re.sub(r" (please|should go|should be gone)$", "", text)
    everything, *kept = re.split(" (?:but|except) ", text)
    if kept:
        return referred(everything, clip, scale) - referred(kept[0], clip, scale)
    return set().union(*(referred(noun, clip, scale) for noun in text.split(" and ")))


def same(one: Clip, other: Clip) -> bool:
    names = ("frames", "clean", "background", "mask", "object_masks")
    return one.sentence == other.sentence and all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in names
    )


def grown(masks: np.ndarray, by: int = 1) -> np.ndarray:
    for _ in range(by):
        wide = np.pad(masks, [(0, 0)] * (masks.ndim - 2) + [(1, 1), (1, 1)])
        rows = wide[..., :-2, :] | wide[..., 1:-1, :] | wide[..., 2:, :]
        masks = rows[..., :-2] | rows[..., 1:-1] | rows[..., 2:]
    return masks


def test_same_arguments_give_the_same_clip_in_any_order():
    first = [draw(3, index, augment=True) for index in range(8)]
    assert all(same(draw(3, index, augment=True), first[index]) for index in reversed(range(8)))


def test_another_index_seed_or_split_gives_another_clip():
    clips = [draw(3, 0), draw(3, 1), draw(4, 0), draw(3, 0, held_out=True), draw(3, 0, hard=True)]
    assert not any(same(clips[i], clips[j]) for i in range(5) for j in range(i))


def test_held_out_textures_use_the_bands_training_leaves_out():
    rng = np.random.default_rng(0)
    train = {int(_Ranges(rng, held_out=False).between(0, 20)) for _ in range(500)}
    held_out = {int(_Ranges(rng, held_out=True).between(0, 20)) for _ in range(500)}
    assert held_out == {5, 6, 13, 14}
    assert train == set(range(20)) - held_out


def test_clean_differs_from_the_frames_only_where_targets_were():
    for clip in normal_clips() + hard_clips():
        changed = (clip.frames != clip.clean).any(-1)
        assert not (changed & ~grown(clip.mask, by=2)).any(), clip.sentence
        difference = clip.frames.astype(float) - clip.clean
        assert not clip.mask.any() or np.linalg.norm(difference[clip.mask], axis=-1).mean() > 50, clip.sentence


def test_clean_is_the_background_when_every_object_is_a_target():
    clips = [clip for clip in normal_clips() if len(clip.targets) == len(clip.objects)]
    assert clips
    assert all(np.array_equal(clip.clean, clip.background) for clip in clips)


def test_nothing_changes_when_nothing_matches():
    for clip in (draw(5, index, kind="none", augment=True) for index in range(30)):
        assert clip.targets == ()
        assert not clip.mask.any()
        assert np.array_equal(clip.frames, clip.clean)


def test_mask_is_the_union_of_the_targets_masks():
    for clip in normal_clips() + hard_clips():
        assert np.array_equal(clip.mask, clip.object_masks[list(clip.targets)].any(0))
        assert (clip.object_masks.sum(0) <= 1).all()


@pytest.mark.parametrize("frames, height, width, count", [(8, 64, 64, 300), (24, 64, 64, 30), (72, 64, 96, 8)])
def test_objects_touch_neither_each_other_nor_the_border(frames, height, width, count):
    for index in range(count):
        clip = draw(6, index, frames, height, width, augment=index % 2 == 0)
        near = grown(clip.object_masks)
        assert near.sum(0).max() == 1
        assert not near[..., [0, -1], :].any() and not near[..., [0, -1]].any()
        assert clip.object_masks.any((2, 3)).all()


@pytest.mark.parametrize("index", range(10))
def test_objects_move_in_straight_lines_within_the_speed_limit(index):
    for drawn, masks in zip(normal_clips()[index].objects, normal_clips()[index].object_masks):
        assert max(map(abs, drawn.velocity)) <= 1.8
        rows, cols = (masks.any(axis) for axis in (2, 1))
        seen = [[np.flatnonzero(line)[[0, -1]].mean() + 0.5 for line in lines] for lines in (cols, rows)]
        np.testing.assert_allclose(np.transpose(seen), drawn.centers(8), atol=0.8)


def test_words_mean_exactly_the_targets():
    for clip in normal_clips() + hard_clips():
        assert understood(clip) == set(clip.targets), clip.sentence


@pytest.mark.parametrize("kind", ["attributes", "position", "several", "none"])
def test_a_kind_can_be_asked_for(kind):
    for clip in (draw(8, index, 24, 64, 96, kind=kind) for index in range(20)):
        assert clip.kind == kind
        assert understood(clip) == set(clip.targets), clip.sentence
        assert kind == "several" or len(clip.targets) == (kind != "none")


def test_kinds_counts_and_motion_have_their_shares():
    clips = normal_clips()
    kinds = Counter(clip.kind for clip in clips)
    for kind, share in {"attributes": 0.4, "position": 0.3, "several": 0.15, "none": 0.15}.items():
        assert abs(kinds[kind] / 500 - share) < 0.06
    assert {len(clip.objects) for clip in clips} == {2, 3}
    assert {len(clip.objects) for clip in hard_clips()} == {1, 2, 3, 4}
    objects = [drawn for clip in clips for drawn in clip.objects]
    assert abs(np.mean([drawn.velocity == (0, 0) for drawn in objects]) - 0.25) < 0.06
    assert abs(np.mean([clip.still for clip in clips]) - 0.5) < 0.08


def test_distractors_often_share_shape_or_color_with_the_target():
    clips = [clip for clip in normal_clips() if clip.kind == "attributes"]
    pairs = [(clip.objects[clip.targets[0]], other) for clip in clips for i, other in enumerate(clip.objects)
             if i not in clip.targets]
    shape, color = (np.array([getattr(a, name) == getattr(b, name) for a, b in pairs]) for name in ("shape", "color"))
    assert (shape | color).mean() > 0.5
    assert (shape & color).mean() > 0.1


def test_objects_stand_out_from_the_background():
    for clip in normal_clips() + hard_clips():
        for masks in clip.object_masks:
            difference = clip.frames[masks].astype(float) - clip.background[masks]
            assert np.linalg.norm(difference, axis=-1).mean() > 0.25 * 255


def test_background_stands_still_or_pans():
    for clip in normal_clips()[:100]:
        change = np.abs(clip.background[0].astype(float) - clip.background[-1]).mean()
        assert change < 5 or not clip.still  # grain alone stays below


def test_hard_objects_overlap_and_cross_the_border_but_stay_visible():
    clips = hard_clips()
    assert any((grown(clip.object_masks).sum(0) > 1).any() for clip in clips)
    assert any(clip.object_masks[..., 0].any() for clip in clips)
    assert min(clip.object_masks.sum((2, 3)).min() for clip in clips) >= 8


def test_larger_clips_are_enlarged_small_ones():
    for index in range(10):
        small, large = draw(9, index), draw(9, index, height=256, width=256)
        assert small.sentence == large.sentence
        for a, b in zip(small.objects, large.objects):
            np.testing.assert_allclose([4 * a.radius, *(4 * v for v in a.start + a.velocity)],
                                       [b.radius, *(b.start + b.velocity)])
        shrunk = large.mask[:, 2::4, 2::4]
        assert (shrunk != small.mask).sum() <= 0.15 * small.mask.sum()


def test_scale_sets_the_size_of_the_drawing():
    clip = draw(9, 0, height=128, width=128, scale=1.0)
    assert all(4.5 <= drawn.radius <= 10.5 for drawn in clip.objects)


@pytest.mark.parametrize("frames, height, width", [(1, 48, 80), (3, 100, 36), (5, 32, 33)])
def test_any_size_can_be_drawn(frames, height, width):
    for index in range(10):
        clip = draw(10, index, frames, height, width, augment=True)
        assert clip.frames.shape == clip.clean.shape == clip.background.shape == (frames, height, width, 3)
        assert clip.mask.shape == (frames, height, width)
        assert understood(clip, min(height, width) / 64) == set(clip.targets)


def test_augmented_clips_keep_clean_and_frames_equal_away_from_the_targets():
    changed = 0
    for index in range(60):
        clip, plain = draw(13, index, augment=True), draw(13, index)
        far = ~grown(clip.mask, by=5)
        assert np.array_equal(clip.frames[far], clip.clean[far])
        changed += not np.array_equal(clip.background, plain.background)
    assert changed >= 5


def test_sentences_are_those_of_the_clips():
    assert sentences(11, 50) == [clip.sentence for clip in normal_clips()[:50]]


def test_wording_varies_and_the_main_words_dominate():
    texts = [text.lower() for text in sentences(14, 600)]
    assert len(set(texts)) > 450
    assert np.mean(["object" in text for text in texts]) > 3 * np.mean(["thing" in text for text in texts])
    assert all(any(verb in text for text in texts) for verb in ("remove", "erase", "delete", "get rid of", "take out"))


@pytest.mark.parametrize("argument, value", [
    ("frames", 0), ("height", 31), ("width", 16), ("seed", -1), ("index", -2), ("scale", 0.0), ("scale", 2.0),
    ("kind", "colour"),
])
def test_bad_arguments_are_named(argument, value):
    with pytest.raises(ValueError, match=f"{argument}.*{value}"):
        draw(**{"seed": 0, "index": 0, argument: value})
