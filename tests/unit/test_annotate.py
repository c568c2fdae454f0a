"""A chat model writes conversations for a dataset: what fits is kept as it is, what does not is dropped and counted."""

import json
import logging
import re

import numpy as np
import pytest
import small_datasets as datasets
import torch
from small_chat import write_blind, write_seeing
from test_talk_training import TALK, records
from tiny_training import DEMO, tiny

from lgvi_core.chat_model import ChatModel
from lgvi_core.errors import InputError
from lgvi_core.understanding import Written
from train import lgvi
from train.data import annotate_command, annotate_run
from train.data.__main__ import main
from train.data.annotate import Annotator, Scene, Unfit
from train.data.dialogues import read_dialogues
from train.data.sources import detect, open_source

FRAME = np.zeros((1, 32, 32, 3), np.uint8)
SCENE = Scene("it", FRAME, ("remove the brown dog",), ("remove the brown dog", "remove a ball"))
DESCRIPTION = "A brown dog sits beside a white one."
REQUEST = "<request>I only want to see the white one here.</request>"
ANSWER = "The brown one beside it goes.\n{{prompt}} remove the brown dog {{/prompt}}"


class Code:
    """A chat model of plain code; `said` replaces what it writes in a step, by a list that is gone through once."""

    sees = True

    def __init__(self, **said):
        self.said, self.asked, self.seeds = said, [], []

    def __call__(self, text, frames):
        thing, prompt = re.search(r"Has to go: (.+)$", text), re.search(r"^{{prompt}} .+ {{/prompt}}$", text, re.M)
        step = (
            "request" if thing or "not in it" in text else "answer" if prompt or "{{absent}}" in text else "description"
        )
        self.asked.append((step, text, frames))
        self.seeds.append(torch.initial_seed())
        usual = {
            "description": DESCRIPTION,
            "request": f"<request>It is {thing[1] if thing else 'the zebra'} that bothers me there.</request>",
            "answer": f"I see it, and it goes.\n{prompt[0]}" if prompt else "I see no zebra in it. {{absent}}",
        }
        replies = self.said.get(step)
        reply = replies.pop(0) if replies else usual[step]
        return reply if isinstance(reply, Written) else Written(reply)


@pytest.fixture
def mine(tmp_path):
    """Drawn clips on disk; two are about one video."""
    rows = {0: {"captions": ["remove the one", "please erase the one thing"]}, 3: {"video": "2/frames"}}
    return datasets.triplets(tmp_path / "mine", rows=rows)


@pytest.fixture
def by_code(monkeypatch):
    """The command's chat model is plain code."""
    model = Code()
    monkeypatch.setattr(annotate_command, "_open", lambda given, place: model)
    return model


def annotate(data, out, *more):
    return main(["annotate", "--model", "code", "-o", str(out), str(data), *more])


def opened(root):
    return open_source("it", {"kind": detect(root), "root": str(root)})


# One sample


def test_the_frame_is_described_a_request_invented_and_answered():
    model = Code(request=[REQUEST], answer=[ANSWER])
    told = Annotator(model)(SCENE)
    assert told["said"] == [{"request": "I only want to see the white one here.", "answer": ANSWER}]
    assert told["description"] == DESCRIPTION and not told["left_out"]
    (_, _, seen), (_, invent, _), (_, reply, _) = model.asked
    assert [step for step, _, _ in model.asked] == ["description", "request", "answer"] and seen is FRAME
    assert DESCRIPTION in invent and invent.endswith("Has to go: the brown dog")
    assert DESCRIPTION in reply and "I only want to see the white one here." in reply and "<request>" not in reply


def test_a_model_without_eyes_is_told_what_is_known_instead():
    model = Code()
    told = Annotator(model, sees=False)(SCENE)
    assert len(told["said"]) == 1 and told["description"] == ""
    assert [step for step, _, _ in model.asked] == ["request", "answer"]
    for _, text, frames in model.asked:
        assert frames is None and "You cannot see the video. It is known to show: the brown dog; a ball." in text


WRONG = {
    "the description is cut off": {"description": Written("A brown dog that", ended=False)},
    "the description is empty": {"description": "<think>What is there?</think> "},
    "the description speaks for both sides": {"description": "A brown dog.\nUser: And what else?"},
    "the description is longer than 400 words": {"description": "dog " * 401},
    "the request does not stand once between its tags": {"request": "I only want to see the white one."},
    "the request is empty": {"request": "<request> </request> is my request."},
    "the request has tags or quotation marks": {"request": '<request>"I want the white one."</request>'},
    "the request repeats the caption": {"request": "<request>Please, could you Remove the brown dog?</request>"},
    "the request is that of an example": {"request": "<request>Nobody else should be there.</request>"},
    "the answer is cut off": {"answer": Written(ANSWER, ended=False)},
    "the answer does not have one prompt": {"answer": "The brown one goes. <PROMPT>remove the brown dog</PROMPT>"},
    "the answer's prompt is not the caption": {"answer": ANSWER.replace("brown dog", "dog")},
    "the answer goes on after its prompt": {"answer": ANSWER + "\nIs there anything else?"},
    "the answer has nothing but its prompt": {"answer": "{{prompt}} remove the brown dog {{/prompt}}"},
    "the answer is not understood as a removal": {"answer": ANSWER.replace("it goes", "it goes {{ask}}")},
}


@pytest.mark.parametrize("reason", WRONG)
def test_what_does_not_fit_is_asked_for_again_by_other_chance_and_dropped_in_the_end(reason):
    ((step, wrong),) = WRONG[reason].items()
    model = Code(**{step: [wrong] * 3})
    told = Annotator(model, tries=3)(SCENE)
    (left,) = told["left_out"]
    assert left["reason"].startswith(reason) and not told["said"]
    assert left["why"] == (wrong if isinstance(wrong, str) else wrong.text)[:500]
    tried = [seed for (kind, _, _), seed in zip(model.asked, model.seeds) if kind == step]
    assert len(tried) == len(set(tried)) == 3
    assert len(Annotator(Code(**{step: [wrong] * 3}), tries=4)(SCENE)["said"]) == 1


def test_an_order_in_other_words_is_no_request_to_learn_from():
    model = Code(request=["<request>Could you take the brown dog out, please?</request>", REQUEST])
    assert "white one" in Annotator(model)(SCENE)["said"][0]["request"]


def test_several_requests_differ_and_take_the_captions_in_turn():
    scene = Scene("it", FRAME, ("remove the brown dog", "remove the sitting dog"))
    once = "<request>The white one should be alone in it.</request>"
    model = Code(request=[REQUEST, REQUEST, once])
    said = Annotator(model, requests=2)(scene)["said"]
    assert [one["request"] for one in said] == [
        "I only want to see the white one here.", "The white one should be alone in it."
    ]  # fmt: skip
    assert ["brown dog" in said[0]["answer"], "sitting dog" in said[1]["answer"]] == [True, True]
    assert said[0]["request"] in model.asked[3][1]  # it is told what was said


def test_captions_that_no_answer_can_have_as_its_prompt_are_left_out():
    told = Annotator(Code())(Scene("it", FRAME, ("make the dog blue",)))
    assert [left["reason"] for left in told["left_out"]] == ["its caption is not understood as a removal"]


def test_what_is_not_there_is_asked_for_and_refused():
    said = "I see no cat, only two dogs. {{absent}}"
    request = ["<request>The cat has to go from this.</request>"]
    model = Code(
        request=request * 3, answer=["I see no cat.", f"{said} {{{{prompt}}}} remove it {{{{/prompt}}}}", said]
    )
    (one,) = Annotator(model, absent=True)(SCENE)["said"]
    assert one == {"request": "The cat has to go from this.", "answer": said}


# A dataset


def test_from_a_dataset_to_a_step_of_training(mine, by_code, tmp_path, capsys):
    out = tmp_path / "dialogues.jsonl"
    assert annotate(mine, out) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"mine", "dialogues.jsonl", "dialogues.html"}
    source, said = opened(mine), read_dialogues(out)
    assert list(said) == [entry.name for entry in source.entries]
    for entry in source.entries:
        assert said[entry.name][0].answer.endswith(f"{{{{prompt}}}} {entry.captions[0]} {{{{/prompt}}}}")
    row = json.loads(out.read_text().splitlines()[0])
    assert row["description"] == DESCRIPTION and row["model"] == "code"
    page = (tmp_path / "dialogues.html").read_text()
    assert page.count("data:image/webp;base64,") == len(source) and "It is the one that bothers me" in page
    frames = next(frames for step, _, frames in by_code.asked if step == "description")
    np.testing.assert_array_equal(frames, source.load(0, [0], datasets.SIDE, datasets.SIDE).frames)

    assert main(["check", str(mine), f"dialogues={out}", "resize=true"]) in (0, 1)
    assert "dialogues.jsonl" not in capsys.readouterr().out
    absent = tmp_path / "absent.jsonl"
    assert annotate(mine, absent, "--absent") == 0
    said = read_dialogues(absent)["clip2"][0]
    assert (said.request, said.answer) == ("It is the zebra that bothers me there.", "I see no zebra in it. {{absent}}")
    files = {"mine": out, "absent": absent}
    data = (f"{name}: {{kind: triplets, root: {mine}, dialogues: {file}}}" for name, file in files.items())
    size = "frames: 1, size: 4, width: 32, height: 32"
    batches = f"batches=[{{{size}, data: absent, only: language, end: 1}}, {{{size}, data: mine, start: 1}}]"
    more = ["watch.data=mine", "request_encoder.sight=0.0", "steps=2"]
    config = tiny(tmp_path / "run", *TALK, f"data={{{', '.join(data)}}}", batches, *more)
    assert lgvi.train(config, "cpu") == tmp_path / "run" / "request-encoder.safetensors"
    first, second = records(tmp_path / "run").values()
    assert first["language"] > 0 == first["diffusion"] and second["language"] > 0 < second["diffusion"]


def test_a_killed_run_goes_on_where_it_stopped_and_several_processes_write_the_same(mine, by_code, tmp_path, caplog):
    whole, killed, several = (tmp_path / f"{name}.jsonl" for name in ("whole", "killed", "several"))
    assert annotate(mine, whole) == 0
    calls = len(by_code.asked)
    usual, by_code.asked[:] = Code.__call__, []

    def stops(self, text, frames):
        if len(self.asked) == 7:
            raise KeyboardInterrupt
        return usual(self, text, frames)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Code, "__call__", stops)
        assert annotate(mine, killed) == 130
    part = tmp_path / "killed.jsonl.work" / "part-000.jsonl"
    assert part.read_text().count("\n") == 2 and not killed.exists()
    with part.open("a") as file:
        file.write('{"sample": 2, "name": "cl')
    assert annotate(mine, killed, "--tries", "2", "--seed", "1") == 2
    assert "tries 2 (then 4); seed 1 (then 0)" in caplog.text
    by_code.asked.clear()
    assert annotate(mine, killed) == 0 and len(by_code.asked) == calls // 2
    assert killed.read_bytes().replace(b"killed", b"whole") == whole.read_bytes()
    assert annotate(mine, killed) == 2 and "is there already" in caplog.text

    scenes, work = annotate_run.Scenes(opened(mine)), tmp_path / "work"
    annotate_run.begin(work, scenes.source, {})
    for rank in (1, 0):
        annotate_run.run(scenes, Annotator(Code()), work, [], rank, world=2)
    annotate_run.write(annotate_run.told(work), "code", several)
    assert several.read_bytes() == whole.read_bytes()


def test_the_frame_is_one_that_has_what_is_to_go(tmp_path):
    root = datasets.triplets(tmp_path, clips=2)
    drawn = datasets.clip(0)
    empty = np.zeros_like(drawn.mask)
    datasets.pictures(root / "0/mask", np.concatenate([empty[:3], drawn.mask[3:]]).astype(np.uint8) * 255)
    datasets.pictures(root / "1/clean", datasets.clip(1).frames)
    scenes = annotate_run.Scenes(opened(root))
    frame, mask = scenes.frame(0)
    place = 3 + drawn.mask[3:].sum((1, 2)).argmax()
    np.testing.assert_array_equal(frame, drawn.frames[place])
    assert mask.any()
    with pytest.raises(Unfit, match="nothing is removed"):
        scenes[1]


def test_what_is_known_of_a_video_is_what_all_its_samples_say(mine):
    source = opened(mine)
    captions = [source.entry(i).captions for i in range(4)]
    scenes = annotate_run.Scenes(source)
    assert scenes[2].beside == scenes[3].beside == (*captions[2], *captions[3])
    assert scenes[0].beside == captions[0] == ("remove the one", "please erase the one thing")


def test_what_cannot_be_read_is_counted_and_the_rest_goes_on(mine, tmp_path):
    scenes, work = annotate_run.Scenes(opened(mine)), tmp_path / "work"
    (mine / "1/frames/00000.png").write_bytes(b"no picture")
    annotate_run.begin(work, scenes.source, {})
    annotate_run.run(scenes, Annotator(Code()), work, [])
    said = annotate_run.summary(annotate_run.told(work))
    assert "3 of 4 conversations, about 3 of 4 samples" in said
    assert re.search(r"1 left out: it cannot be used, as clip1: .*00000.png cannot be read as a picture", said)


def test_drawn_clips_of_a_config_are_annotated_too(by_code, tmp_path):
    settings = ["clips=3", "frames=2", "height=32", "width=32"]
    assert annotate(DEMO, tmp_path / "out.jsonl", *settings, "--data", "synthetic") == 0
    assert set(read_dialogues(tmp_path / "out.jsonl")) <= {"000000", "000001", "000002"}


@pytest.mark.parametrize("layout", ["rovi", "refer_youtube_vos", "gqa_inpaint"])
def test_public_datasets_are_annotated_by_their_names(layout, by_code, tmp_path):
    root = tmp_path / "data"
    found = getattr(datasets, layout)(root)
    if layout == "rovi":
        rows = [{"video": video, "obj_id": number, "expression": words} for video, number, words in found]
        (root / "train.json").write_text(json.dumps(rows))
    assert annotate(root, tmp_path / "out.jsonl") == 0
    source, said = opened(root), read_dialogues(tmp_path / "out.jsonl")
    assert list(said) == [entry.name for entry in source.entries]
    assert all(entry.captions[0] in said[entry.name][0].answer for entry in source.entries)


@pytest.mark.parametrize("eyes", [write_blind, write_seeing])
def test_a_real_model_is_driven_and_its_babble_is_dropped(eyes, mine, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    eyes(tmp_path / "model")
    out, short = tmp_path / "out.jsonl", ["--max-tokens", "12", "--tries", "2", "--device", "cpu"]
    assert main(["annotate", str(mine), "--model", str(tmp_path / "model"), "-o", str(out), *short]) == 1
    step = "request" if eyes is write_blind else "description"
    assert re.search(rf"0 of 4 conversations(.*\n)+ +4 left out: the {step} is cut off", caplog.text)
    assert "no conversation came of it" in caplog.text and not out.exists()


def test_words_are_drawn_by_the_seed(tmp_path):
    write_blind(tmp_path)
    model = ChatModel(tmp_path, max_tokens=8, temperature=1.0)
    said = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        said.append(model("What is there?", None).text)
    assert said[0] == said[1] != said[2]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--requests", "0"], "--requests is 0"),
        (["--temperature", "0"], "must be above 0"),
        (["-o", "dialogues.json"], "ends in .jsonl"),
        (["--data", "mine"], "give a FILE.yaml"),
        (["--model", "nowhere"], "nowhere is no language model"),
        (["split=test"], "no samples in the split 'test'"),
        (["tries=3"], "data.mine.tries does not exist"),
    ],
)
def test_bad_options_are_told_before_anything_is_made(more, message, mine, tmp_path, caplog):
    given = ["annotate", str(mine), "--model", "nowhere", "-o", str(tmp_path / "out.jsonl")]
    assert main([*given[:2], *[one for one in more if "=" in one], *given[2:], *[m for m in more if "=" not in m]]) == 2
    assert message in caplog.text and {path.name for path in tmp_path.iterdir()} == {"mine"}


def test_a_model_without_eyes_cannot_know_what_is_not_there(mine, by_code, tmp_path, caplog):
    by_code.sees = False
    assert annotate(mine, tmp_path / "out.jsonl", "--absent") == 2
    assert "--absent needs a model that looks at pictures" in caplog.text


def test_samples_of_one_name_are_refused(mine, tmp_path):
    source = opened(mine)
    source.entries = [entry._replace(name="same") for entry in source.entries]
    with pytest.raises(InputError, match="several samples have one name.*same"):
        annotate_run.begin(tmp_path / "work", source, {})


# What `check` says of dialogues


def test_check_says_what_is_wrong_with_dialogues_line_by_line(tmp_path, capsys):
    root = datasets.triplets(tmp_path / "mine")
    captions = [entry.captions[0] for entry in opened(root).entries]

    def line(name, request, answer):
        return json.dumps(
            {"name": name, "dialogue": [{"role": "user", "text": request}, {"role": "assistant", "text": answer}]}
        )

    right = f"It goes. {{{{prompt}}}} {captions[0]} {{{{/prompt}}}}"
    path = tmp_path / "said.jsonl"
    path.write_text("\n".join([
        line("clip0", "It bothers me.", right),
        line("clip0", "It bothers me.", right),
        line("clip0", " ", right),
        line("clip0", captions[0].upper() + ".", right),
        line("clip0", "It bothers me too.", "It goes. {{prompt}} remove the zebra {{/prompt}}"),
        line("clip0", "Which is it?", "I do not know what you mean by it"),
        line("clip1", "There is a zebra in it.", "I see no zebra. {{absent}}"),
        line("clip0", "Away with it.", f"It goes. <PROMPT>{captions[0]}</PROMPT>"),
        line("clip9", "It bothers me.", right),
        '{"name": "clip0"}',
        "no JSON",
        "",
    ]))  # fmt: skip
    assert main(["check", str(root), f"dialogues={path}"]) == 1
    lines = capsys.readouterr().out.splitlines()
    for wanted in (
        "warning clip0: line 2 of said.jsonl is the same as line 1",
        "error +clip0: line 3 of said.jsonl: the request is empty",
        "warning clip0: line 4 of said.jsonl: the request is the caption",
        "warning clip0: line 5 of said.jsonl: the answer's prompt is 'remove the zebra', the caption ",
        "error +clip0: line 6 of said.jsonl: no removal is read from the answer, and it has none of {{ask}}",
        "warning clip0: line 8 of said.jsonl: the answer's prompt does not stand once between {{prompt}}",
        "warning clip9: line 9 of said.jsonl is about a sample that is not in the dataset",
        "error +line 10 of said.jsonl: it has no 'dialogue'",
        "error +line 11 of said.jsonl: Expecting value",
        "warning said.jsonl: 2 of 4 samples have no dialogue.*: clip2, clip3",
        r"warning said.jsonl: answers that remove nothing \(1 'ask', 1 'absent'\).*only: language",
    ):
        assert sum(bool(re.match(wanted, line)) for line in lines) == 1, wanted
    assert len(lines) == 12 and "4 errors" in lines[-1]
    assert main(["check", str(root), "dialogues=nowhere.jsonl"]) == 2


def test_drawn_clips_have_no_files_to_check(caplog):
    assert main(["check", str(DEMO), "--data", "synthetic"]) == 2
    assert "which the code draws: it has no files" in caplog.text
    assert main(["check", str(DEMO), "--data", "rovi"]) == 2
    assert "--data is 'rovi'; the config" in caplog.text
