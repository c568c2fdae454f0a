"""Conversations about drawn clips: answers are right, what is gone is gone, every request means what it says."""

import re
from functools import cache

import numpy as np
import pytest

from lgvi_core.answer import parse
from lgvi_core.errors import InputError
from train.data.sources import open_source
from train.data.synthetic_talk import HISTORIES, TalkClip, dialogues, draw_talk
from train.data.synthetic_talk_requests import ABSENT, AMBIGUOUS, ANSWERABLE, KINDS, OTHER
from train.data.synthetic_talk_words import View, name, resolve
from train.data.synthetic_words import COLORS, SHAPES, SIZES, matching
from train.talk_held_out import ANSWERS

LOOKS = (("circle", "red", "small"), ("circle", "red", "large"), ("square", "blue", "small"))


@cache
def clips() -> list[TalkClip]:
    return [draw_talk(5, index, 2) for index in range(300)]


def of(kind: str, **wanted) -> list[TalkClip]:
    found = [clip for clip in clips() if clip.kind == kind]
    return [clip for clip in found if all(getattr(clip, key) == value for key, value in wanted.items())]


def looks(clip: TalkClip) -> list[tuple[str, str, str]]:
    return [(drawn.shape, drawn.color, drawn.size) for drawn in clip.objects]


def test_the_same_arguments_give_the_same_clip_and_others_another():
    again, other, held_out = draw_talk(5, 7, 2), draw_talk(6, 7, 2), draw_talk(5, 7, 2, held_out=True)
    assert again.dialogue == clips()[7].dialogue and np.array_equal(again.frames, clips()[7].frames)
    assert not np.array_equal(other.frames, again.frames) and not np.array_equal(held_out.frames, again.frames)


def test_every_kind_and_history_is_there_in_its_share():
    shares = [len(of(kind)) / len(clips()) for kind in KINDS]
    assert shares == pytest.approx([0.6, 0.15, 0.13, 0.12], abs=0.08)
    assert {clip.history for clip in clips()} == set(HISTORIES)
    assert all((clip.history == "none") == (not clip.dialogue.turns) for clip in clips())


def test_every_answer_reads_as_its_kind_and_its_prompt_names_the_targets():
    for clip in clips():
        answer = parse(clip.dialogue.answer)
        assert answer.kind == ANSWERS[clip.kind]
        assert resolve(answer.prompt, clip.view) == clip.targets if answer.met else not clip.targets


def test_earlier_turns_are_as_a_conversation_holds_them():
    for clip in clips():
        for asked, said in zip(clip.dialogue.turns[::2], clip.dialogue.turns[1::2]):
            assert (asked.role, said.role) == ("user", "assistant") and "{" not in said.text
            assert bool(said.prompt) == ("will go." in said.text)


def test_clean_has_the_targets_gone_and_all_else_as_it_was():
    for clip in clips():
        same = (clip.frames == clip.clean).all(-1)
        assert same.all() != bool(clip.targets)
        assert all(same[seen].mean() > 0.9 for i, seen in enumerate(clip.object_masks) if i not in clip.targets)
        assert not clip.mask.any() if not clip.targets else clip.mask.any((1, 2)).all()


def test_what_an_earlier_turn_removed_is_not_in_the_frame():
    for clip in of(ANSWERABLE, history="removed"):
        before, now = (
            said.partition("I see")[2].partition(".")[0].count(" a ")  # "I see a red circle and a blue square"
            for said in (clip.dialogue.turns[1].text, clip.dialogue.answer)
        )
        assert now == len(clip.objects) < before


@pytest.mark.parametrize(
    "about, request_, plain",
    [
        ("keeping", ".", r"everything but the .+"),
        ("color", ".", r"everything \w+"),
        ("emptier", ".", r"everything (on|at) the \w+"),
        ("beside", "(?i)above", r"everything above the .+"),
    ],
)
def test_an_answer_begins_with_what_was_understood(about, request_, plain):
    said = [c.dialogue for c in of(ANSWERABLE, about=about) if re.search(request_, c.dialogue.request)]
    assert said and all(re.match(rf"You mean {plain}\. I see ", dialogue.answer) for dialogue in said)


@pytest.mark.parametrize("about, part, values", [("color", 1, COLORS), ("shape", 0, SHAPES)])
def test_a_complaint_about_a_look_means_all_that_have_it(about, part, values):
    found = of(ANSWERABLE, about=about)
    assert found
    for clip in found:
        meant = {looks(clip)[i][part] for i in clip.targets}
        assert len(meant) == 1 and meant <= set(values)
        assert all(look[part] not in meant for i, look in enumerate(looks(clip)) if i not in clip.targets)
        assert about == "shape" or meant.pop() in clip.dialogue.request.lower()


def test_who_keeps_one_thing_loses_the_others():
    found = of(ANSWERABLE, about="keeping")
    assert found and all(0 < len(clip.targets) < len(clip.objects) for clip in found)


def test_an_emptier_side_loses_what_stands_there():
    found = of(ANSWERABLE, about="emptier")
    assert found
    for clip in found:
        side = next(side for side in ("left", "right", "top", "bottom") if side in clip.dialogue.request.lower())
        axis, sign = (0 if side in ("left", "right") else 1), (1 if side in ("left", "top") else -1)
        for i, centers in enumerate(clip.view.centers):
            assert (((32 - centers[:, axis]) * sign > 0).all()) == (i in clip.targets)


def test_an_ambiguous_request_fits_several_things_and_the_answer_asks():
    for clip in of(AMBIGUOUS):
        assert len(clip.candidates) > 1 and "Which one do you mean" in clip.dialogue.answer


def test_what_is_absent_is_named_and_nothing_is_of_it():
    for clip in of(ABSENT):
        missing = clip.dialogue.answer.split(", but no ")[1].split(".")[0].split()
        look = [next((word for word in missing if word in values), None) for values in (SHAPES, COLORS, SIZES)]
        assert any(look) and not matching(tuple(look), looks(clip))


def test_a_request_that_is_no_removal_is_refused():
    assert all("only remove" in clip.dialogue.answer for clip in of(OTHER))


def test_phrasing_is_rich():
    said = [clip.dialogue.request.lower().strip(".!?") for clip in clips()]
    assert len(set(said)) > 0.85 * len(said)


def view(*places):
    return View(LOOKS, np.array(places, float)[:, None], (64, 64), 5.0)


def test_names_are_as_short_as_they_can_be():
    assert [name(view((10, 10), (50, 10), (30, 50)), i) for i in range(3)] == [
        "the small red circle", "the large red circle", "the blue square"]  # fmt: skip
    twins = View((LOOKS[0], LOOKS[0]), np.array([[[10.0, 10]], [[50.0, 40]]]), (64, 64), 5.0)
    assert [name(twins, 0), name(twins, 1, axis=1)] == ["the red circle on the left", "the red circle at the bottom"]
    twins = View((LOOKS[0], LOOKS[0]), np.array([[[30.0, 30]], [[33.0, 32]]]), (64, 64), 5.0)
    assert name(twins, 0) is None


@pytest.mark.parametrize(
    "prompt, meant",
    [
        ("remove the blue square", (2,)),
        ("remove all the circles", (0, 1)),
        ("remove the tiny disc", (0,)),
        ("remove the leftmost red ball and the square", (0, 2)),
        ("remove everything but the box", (0, 1)),
        ("remove everything", (0, 1, 2)),
        ("remove the circle", None),
        ("remove the green cross", None),
        ("remove the dog", None),
    ],
)
def test_a_prompt_is_read_as_a_person_would(prompt, meant):
    assert resolve(prompt, view((10, 10), (50, 10), (30, 50))) == meant


def test_the_source_draws_the_same_and_refuses_what_it_has_not():
    settings = {"kind": "synthetic_talk", "frames": 2, "clips": 3, "kinds": {AMBIGUOUS: 1.0}, "augment": False}
    source = open_source("talk", settings, seed=5)
    assert source.clip(1).kind == AMBIGUOUS and source.entry(1).captions == (source.clip(1).dialogue.request,)
    assert source.load(1, [1], 64, 64).frames.shape == (1, 64, 64, 3)
    assert source.draw(4, 1, 32, 32, "absent").kind == ABSENT
    with pytest.raises(InputError, match="kinds is"):
        open_source("talk", {"kind": "synthetic_talk", "kinds": {"rude": 1.0}})
    with pytest.raises(InputError, match="kind is"):
        source.draw(4, 1, 32, 32, "rude")


def test_words_for_a_tokenizer_come_without_pictures():
    said = dialogues(5, 50)
    assert said == dialogues(5, 50) and len({each.answer for each in said}) > 40
