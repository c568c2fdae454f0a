"""A request in own words from file to file, and conversations: what each turn acts on, keeps, and takes back."""

import dataclasses
import io
import json
import os
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from small_chat import write_blind
from small_llava import small_encoder, write_trained, write_transformers
from unit.test_command_line import refused, run
from unit.test_inpaint import SMALL, autoencoder, frames_of, gated, make_unet, noise_clip, tree
from unit.test_video import make_video, sound_packets, write

from lgvi_core import checkpoints, requested
from lgvi_core.chat import Chat
from lgvi_core.conversation import REASONS, unseen
from lgvi_core.errors import InputError
from lgvi_core.inpaint import inpaint
from lgvi_core.models import RequestEncoder, UNetConfig
from lgvi_core.requested import remove
from lgvi_core.understanding import EndToEnd, Understanding, by_rules
from lgvi_core.video import open_video

CIRCLE = "could you take the red circle out, please?"
SIZE = (32, 24)


@pytest.fixture(scope="module")
def everything():
    return gated("everything")


@pytest.fixture(scope="module")
def nothing():
    return gated("nothing")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with a clip that has sound, and one in pictures."""
    monkeypatch.chdir(tmp_path)
    make_video(tmp_path / "in.mp4", count=9, rate=Fraction(30000, 1001), sound=("aac",), size=SIZE)
    write(tmp_path / "in", list(noise_clip(5, 16, 16)))
    return tmp_path


def steered(seed, width=32):
    """A reader whose understanding has features."""
    features = torch.randn(1, 3, width, generator=torch.Generator().manual_seed(seed))
    return lambda *_: Understanding("remove the dog", "Gladly.", kind="remove", features=features)


def never(*_, **__):
    pytest.fail("long work was begun")


# One request


def test_a_request_does_what_its_prompt_does(folder, everything):
    told = []
    outcome = remove("in", CIRCLE, "out", reader=by_rules, told=told.append, checkpoint=everything)
    direct = inpaint("in", "remove the red circle", checkpoint=everything)
    assert np.array_equal(frames_of("out"), direct.frames)
    assert told == [outcome.understood] and outcome.understood.prompt == "remove the red circle"
    assert not outcome.result.unchanged


@pytest.mark.parametrize("request_, kind, reason", [
    ("remove one of the dogs", "ask", "not clear what has to go"), ("add a boat", "not a removal", "not a removal"),
])  # fmt: skip
def test_a_request_that_is_not_met_leaves_the_very_file_and_says_so(folder, everything, monkeypatch, request_, kind,
                                                                    reason):  # fmt: skip
    monkeypatch.setattr(requested, "inpaint", never)
    places = {"mask_output": "mask", "sheet": "sheet.png"}
    outcome = remove("in.mp4", request_, "out.mp4", reader=by_rules, checkpoint=everything, **places)
    assert Path("out.mp4").read_bytes() == Path("in.mp4").read_bytes()
    assert outcome.understood.kind == kind and outcome.result.unchanged and outcome.result.mask_area == 0
    assert reason in outcome.result.messages[0] and "unchanged" in outcome.result.messages[0]
    assert frames_of("mask").shape == (9, 24, 32, 3) and not frames_of("mask").any() and Path("sheet.png").is_file()


def test_an_untouched_video_of_another_kind_has_the_same_frames(folder, everything):
    remove("in.mp4", "add a boat", "out", reader=by_rules, checkpoint=everything)
    assert np.array_equal(frames_of("out"), frames_of("in.mp4"))


def test_what_the_mask_decoder_does_not_find_is_not_seen(folder, nothing):
    outcome = remove("in.mp4", CIRCLE, "out.mp4", reader=by_rules, checkpoint=nothing)
    assert (outcome.understood.kind, outcome.understood.prompt) == ("absent", "") and outcome.result.unchanged
    assert outcome.understood.answer == unseen("remove the red circle")
    assert Path("out.mp4").read_bytes() == Path("in.mp4").read_bytes()


def test_features_steer_in_the_place_of_words_and_need_no_text_encoder(everything):
    clip, unread = noise_clip(3), dataclasses.replace(everything, text_encoder=None)
    options = {"guidance_scale": 2.0, "image_guidance_scale": 1.5, "steps": 2}
    first, again, other = (
        inpaint(clip, "remove the dog", checkpoint=unread, features=steered(seed)().features, **options).frames
        for seed in (0, 0, 1)
    )
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_features_of_another_width_are_refused(folder, everything):
    with pytest.raises(InputError, match=r"\(1, 3, 24\).* \(1, tokens, 32\)"):
        remove("in", "no dog", "out", reader=steered(0, 24), checkpoint=everything)
    assert not Path("out").exists()


def test_words_for_a_checkpoint_with_its_own_language_model_are_warned_of(everything):
    own = dataclasses.replace(everything, notes={"language model": "llava"})
    clip = noise_clip(2)
    assert "its own language model" in inpaint(clip, "remove the dog", checkpoint=own).messages[0]
    assert not inpaint(clip, "remove the dog", checkpoint=own, features=steered(0)().features).messages


@pytest.mark.parametrize("request_, options, said", [
    (" ", {}, "the request is empty"),
    ("no dog", {"window": 4, "overlap": 8}, "window is 4 and overlap 8"),
    ("no dog", {"checkpoint": "none.safetensors"}, "there is no checkpoint at"),
    ("no dog", {"sheet": "sheet.txt"}, "must be a file that ends in .png"),
    ("no dog", {"output": "in.mp4"}, "which is read"),
])  # fmt: skip
def test_what_cannot_be_is_refused_before_the_request_is_read(folder, everything, request_, options, said):
    before = tree(folder)
    with pytest.raises(InputError, match=said):
        remove("in.mp4", request_, **{"output": "out.mp4", "reader": never, "checkpoint": everything} | options)
    assert tree(folder) == before


def test_a_frame_of_ten_pixels_is_seen_by_a_real_model(folder, everything):
    write(folder / "ten", list(noise_clip(2, 10, 10)))
    outcome = remove("ten", "no dog", "out", reader=EndToEnd(small_encoder(), False, max_tokens=4),
                     checkpoint=everything)  # fmt: skip
    assert outcome.understood.answer and frames_of("out").shape == (2, 10, 10, 3)


# A conversation


def test_each_turn_acts_on_the_last_result_without_loss(folder, everything):
    with Chat("in", "out", by_rules, checkpoint=everything) as chat:
        first, second = chat.say(CIRCLE), chat.say("great, and the blue one too")
        assert second.understood.prompt == "remove the blue circle"
    once = inpaint("in", "remove the red circle", checkpoint=everything).frames
    twice = inpaint(once, "remove the blue circle", checkpoint=everything).frames
    assert np.array_equal(frames_of(first.output), once)
    assert np.array_equal(frames_of(second.output), twice) and np.array_equal(frames_of("out"), twice)
    assert first.sheet.is_file() and second.sheet.is_file()
    assert sorted(os.listdir()) == ["in", "in.mp4", "out", "out-turns"]
    assert sorted(os.listdir("out-turns")) == ["1", "1-sheet.png", "2", "2-sheet.png"]


def test_rate_sound_and_times_stay_over_all_turns(folder, everything):
    with Chat("in.mp4", "out.mp4", by_rules, checkpoint=everything) as chat:
        chat.say(CIRCLE)
        chat.say("and the blue one")
    before, after = open_video("in.mp4"), open_video("out.mp4")
    assert [frame.time for frame in after] == [frame.time for frame in before]
    assert after.frame_rate == before.frame_rate and sound_packets("out.mp4") == sound_packets("in.mp4")


def test_the_reader_is_told_of_earlier_turns_and_shown_the_last_result(folder, everything):
    asked = []

    def reader(frames, request, turns=(), box=None):
        asked.append((frames, turns))
        return by_rules(frames, request, turns)

    with Chat("in", "out", reader, checkpoint=everything) as chat:
        chat.say(CIRCLE)
        result = frames_of("out")
        chat.say("make it nicer")
        chat.say("and the blue one")
    assert [len(turns) for _, turns in asked] == [0, 2, 4]
    assert asked[2][1][1].prompt == "remove the red circle" and asked[2][1][3].prompt == ""
    assert np.array_equal(asked[0][0], frames_of("in")[:1]) and np.array_equal(asked[2][0], result[:1])


def test_undo_takes_back_video_and_words_and_keeps_what_the_turn_left(folder, everything):
    with Chat("in.mp4", "out.mp4", by_rules, checkpoint=everything) as chat:
        first = chat.say(CIRCLE)
        chat.say("and the blue one")
        assert chat.undo() and len(chat.turns) == 2
        assert np.array_equal(frames_of("out.mp4"), frames_of(first.output))
        assert chat.undo() and chat.turns == ()
        assert Path("out.mp4").read_bytes() == Path("in.mp4").read_bytes()
        assert not chat.undo()
        assert chat.say(CIRCLE).output == Path("out-turns/3.mp4")
    assert (folder / "out-turns/2.mp4").is_file()


def test_two_conversations_do_not_write_one_output(folder, everything):
    chats = [Chat("in", "out", by_rules, checkpoint=everything) for _ in range(2)]
    with chats[0], pytest.raises(InputError, match=f"is being made by process {os.getpid()}"), chats[1]:
        pass
    assert sorted(os.listdir()) == ["in", "in.mp4"]


def test_turns_that_are_not_met_change_nothing_and_are_remembered(folder, everything, nothing):
    Path("out.mp4").write_bytes(b"of an earlier run")
    with Chat("in.mp4", "out.mp4", by_rules, checkpoint=everything) as chat:
        said = chat.say("which one is blue?")
        assert said.output is None and said.understood.answer == REASONS["question"]
        assert Path("out.mp4").read_bytes() == Path("in.mp4").read_bytes()
        chat.say(CIRCLE)
        before = Path("out.mp4").read_bytes()
        chat.checkpoint = nothing
        said = chat.say("and the blue one")
        assert (said.understood.kind, said.output, said.sheet) == ("absent", None, None)
        assert chat.turns[-1].prompt == "" and len(chat.turns) == 6
    assert Path("out.mp4").read_bytes() == before
    assert sorted(os.listdir("out-turns")) == ["1-sheet.png", "1.mp4"]


def test_a_turn_that_fails_leaves_all_as_it_was(folder, everything):
    def stop(step):
        raise KeyboardInterrupt

    with Chat("in.mp4", "out.mp4", by_rules, checkpoint=everything) as chat:
        chat.say(CIRCLE)
        turns, before = chat.turns, tree(folder / "out-turns") | {"out": Path("out.mp4").read_bytes()}
        chat.options["callback"] = stop
        with pytest.raises(KeyboardInterrupt):
            chat.say("and the blue one")
        assert chat.turns == turns
        assert tree(folder / "out-turns") | {"out": Path("out.mp4").read_bytes()} == before
    assert sorted(os.listdir()) == ["in", "in.mp4", "out-turns", "out.mp4"]


# Commands


@pytest.fixture
def model(folder, everything):
    checkpoints.save(everything, folder / "model.safetensors")
    return ["--checkpoint", "model.safetensors", "--quiet"]


def test_remove_prints_the_answer_and_the_prompt(folder, model, capsys):
    code, out, _ = run(capsys, ["remove", "in.mp4", "--request", CIRCLE, "-o", "out.mp4", *model])
    assert code == 0 and out.splitlines() == [
        "answer: I will remove the red circle.", "prompt: remove the red circle",
        "out.mp4: 9 frames, mask covers 100.00 %",
    ]  # fmt: skip


def test_remove_prints_why_it_leaves_the_video_as_it_is(folder, model, capsys, caplog):
    code, out, _ = run(capsys, ["remove", "in.mp4", "--request", "add a boat", "-o", "out.mp4", *model])
    assert code == 0 and f"answer: {REASONS['add']}\nprompt: none (not a removal)\n" in out
    assert "the request is not a removal: the video comes back unchanged" in caplog.text


@pytest.mark.parametrize("arguments, said", [
    ([], "said not at all"), (["remove the dog", "--request", "no dog"], "said both ways"),
    (["remove the dog", "--request-model", "llava"], "--request-model is about reading a --request"),
    (["--request", ""], "the request is empty"), (["--request", "no dog", "--request-model", "llava"], "at llava"),
    (["--request", "no dog", "--request-bits", "4"], "no language model reads the request"),
])  # fmt: skip
def test_requests_said_twice_or_not_at_all_are_refused(folder, model, capsys, arguments, said):
    refused(capsys, ["remove", "in.mp4", *arguments, "-o", "out.mp4", *model], said)


def test_a_chat_model_reads_the_request(folder, model, capsys):
    write_blind(folder / "chat")
    arguments = ["remove", "in.mp4", "--request", "dog " * 5000, "-o", "out.mp4", "--request-model", "chat", *model]
    code, out, err = run(capsys, arguments)
    assert (code, out) == (2, "") and "tokens; chat holds 8192" in err and not Path("out.mp4").exists()


@pytest.fixture
def lgvi_i(folder):
    """The public folder: a U-Net and an autoencoder, no text encoder, and the language model with LLaVA beside it."""
    encoder, vae = small_encoder(), autoencoder()
    config = UNetConfig(**SMALL | {"cross_attention_dim": 24})
    for name, settings, module in (
        ("unet", config.to_dict(), make_unet(config, "everything")),
        ("vae", {"_class_name": "AutoencoderKL", **vae.config}, vae.vae),
    ):
        (folder / "lgvi-i" / name).mkdir(parents=True)
        (folder / "lgvi-i" / name / "config.json").write_text(json.dumps(settings))
        save_file(module.state_dict(), folder / "lgvi-i" / name / "diffusion_pytorch_model.safetensors")
    write_trained(encoder, folder / "lgvi-i")
    write_transformers(encoder, folder / "llava")
    return ["--checkpoint", "lgvi-i", "--steps", "2", "--size", "16x16", "--quiet"]


def test_lgvi_i_removes_end_to_end_from_its_public_folder(folder, lgvi_i, capsys, monkeypatch):
    def generate(encoder, *_):
        tokens = [*encoder.tokenizer.encode("Gladly. {{prompt}} remove the dog {{/prompt}}")[1:], encoder.tokenizer.eos]
        return tokens, torch.randn(1, len(tokens), 64, generator=torch.Generator().manual_seed(0))

    monkeypatch.setattr(RequestEncoder, "generate", generate)
    made = []
    for options in ([], ["--request-model", "llava"], ["--request-model", "lgvi-i"]):
        code, out, err = run(capsys, ["remove", "in", "--request", "no dog", "-o", "out", *lgvi_i, *options])
        assert code == 0, err
        assert "answer: Gladly.\nprompt: remove the dog\n" in out
        made.append(frames_of("out"))
    assert all(np.array_equal(made[0], other) for other in made) and not np.array_equal(made[0], frames_of("in"))


def test_lgvi_i_answers_as_it_does(folder, lgvi_i, capsys):
    code, out, err = run(capsys, ["remove", "in", "--request", "no dog", "-o", "out", *lgvi_i])
    assert code == 0 and out.startswith("answer: ") and "\nprompt: " in out, err
    shutil.rmtree("llava")
    refused(capsys, ["remove", "in", "--request", "no dog", "-o", "other", *lgvi_i], "there is no LLaVA folder")


def talk(monkeypatch, capsys, model, *lines):
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    return run(capsys, ["chat", "in.mp4", "-o", "out.mp4", *model])


def test_a_conversation_by_pipe_shows_answer_prompt_and_sheet_of_each_turn(folder, model, capsys, monkeypatch):
    code, out, _ = talk(monkeypatch, capsys, model, CIRCLE, "", "and the blue one", "bring it back", "undo", "quit",
                        "never read")  # fmt: skip
    assert code == 0 and out.splitlines()[1:] == [
        f"> {CIRCLE}", "answer: I will remove the red circle.", "prompt: remove the red circle",
        "out.mp4: mask covers 100.00 %", "this turn: out-turns/1.mp4", "sheet: out-turns/1-sheet.png",
        "> and the blue one", "answer: I will remove the blue circle.", "prompt: remove the blue circle",
        "out.mp4: mask covers 100.00 %", "this turn: out-turns/2.mp4", "sheet: out-turns/2-sheet.png",
        "> bring it back", f"answer: {REASONS['restore']}", "prompt: none (not a removal)",
        "undo takes back the last removal", "out.mp4: as before",
        "> undo", "out.mp4: back by a turn", "> quit",
    ]  # fmt: skip
    assert np.array_equal(frames_of("out.mp4"), frames_of("out-turns/1.mp4"))


def test_a_turn_that_cannot_be_read_is_one_line_and_the_conversation_goes_on(folder, model, capsys, monkeypatch):
    write_blind(folder / "chat", longest=64)
    code, out, err = talk(monkeypatch, capsys, [*model, "--request-model", "chat"], CIRCLE, "undo")
    assert code == 0 and "error: the request and the turns before it come to" in err
    assert out.endswith("> undo\nnothing to undo\n") and not Path("out.mp4").exists()


def test_an_interrupted_conversation_says_what_the_output_is(folder, model, capsys, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Chat, "say", stop)
    code, _, err = talk(monkeypatch, capsys, model, CIRCLE)
    assert code == 130 and err.endswith("interrupted: out.mp4 is as the last turn left it\n")


@pytest.mark.parametrize("arguments, said", [
    (["none.mp4", "-o", "out.mp4"], "none.mp4 does not exist"), (["in.mp4", "-o", "in.mp4"], "which is read"),
    (["in.mp4", "-o", "out.mp4", "--window", "4", "--overlap", "8"], "window is 4 and overlap 8"),
    (["in.mp4", "-o", "out.mp4", "--request-model", "none"], "there is no request model at none"),
    (["in.mp4", "-o", "out.xyz"], "unknown ending"),
])  # fmt: skip
def test_a_conversation_that_cannot_be_is_refused_at_once(folder, model, capsys, arguments, said):
    refused(capsys, ["chat", *arguments, *model], said)


def test_a_conversation_about_nothing_leaves_no_folder(folder, model, capsys, monkeypatch):
    assert talk(monkeypatch, capsys, model, "make it nicer")[0] == 0
    assert sorted(os.listdir()) == ["in", "in.mp4", "model.safetensors", "out.mp4"]
    Path("out-turns").write_text("a file")
    refused(capsys, ["chat", "in.mp4", "-o", "out.mp4", *model], "out-turns is a file")


def test_a_terminal_is_not_steered_by_an_answer(folder, model, capsys, monkeypatch):
    said = Understanding("", "Hm.\x1b[2J", kind="ask")
    monkeypatch.setattr("lgvi_core.understanding.open_reader", lambda *_: lambda *_: said)
    out = run(capsys, ["remove", "in.mp4", "--request", "no dog", "-o", "out.mp4", *model])[1]
    assert "answer: Hm. [2J\n" in out and "\x1b" not in out
