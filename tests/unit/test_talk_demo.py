"""The shipped reader of requests converses about the shipped clip, and its words tell the shipped checkpoint what goes."""

import numpy as np
import pytest

from lgvi_core.chat import Chat
from lgvi_core.inpaint import DEMO, TALK_DEMO
from lgvi_core.understanding import EndToEnd, by_rules, open_reader
from train.data.synthetic_talk import draw_talk
from train.data.synthetic_talk_requests import ANSWERABLE
from train.evaluation.talk import SEED
from train.talk_held_out import judge

CLIPS = 60


@pytest.fixture(scope="module")
def reader():
    return open_reader(checkpoint=DEMO)


def test_it_is_small_and_the_demo_checkpoints_own(reader):
    assert TALK_DEMO.stat().st_size < 15_000_000
    assert isinstance(reader, EndToEnd) and not reader.steers
    assert open_reader("rules", DEMO) is by_rules


def test_it_understands_held_out_requests(reader):
    right, recognised = [], []
    for index in range(CLIPS):
        clip = draw_talk(SEED, index, 1, held_out=True)
        (found,) = judge(clip, reader(clip.frames, clip.dialogue.request, clip.dialogue.turns)).values()
        (right if clip.kind == ANSWERABLE else recognised).append(found)
    assert np.mean(right) > 0.5 and np.mean(recognised) > 0.75


def test_it_asks_and_removes_in_turns(reader, tmp_path):
    with Chat(DEMO.with_name("clip.mp4"), tmp_path / "out.mp4", reader) as chat:
        asked, first, second = (
            chat.say(request) for request in ("the circle bothers me", "the large one", "great, and the other circle?")
        )
    assert asked.understood.kind == "ask" and asked.output is None and "Which one" in asked.understood.answer
    assert first.understood.met and second.understood.met
    assert 0.06 < first.outcome.result.mask_area < 0.09 and 0.01 < second.outcome.result.mask_area < 0.03
