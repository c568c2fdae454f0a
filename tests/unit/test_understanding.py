"""Two ways to one understanding of a request: rules, chat models, LGVI-I's own; and what none of them can read."""

import json
import logging

import numpy as np
import pytest
import torch
from small_chat import write_blind, write_seeing
from small_llava import small_encoder, write_public, write_trained, write_transformers

from lgvi_core.answer import CUT_OFF
from lgvi_core.chat_model import ChatModel
from lgvi_core.conversation import REASONS, Turn, instruction
from lgvi_core.errors import InputError
from lgvi_core.understanding import EndToEnd, TwoStage, Written, by_rules, open_reader

FRAMES = np.random.default_rng(0).integers(0, 256, (1, 40, 60, 3), dtype=np.uint8)
DONE = (Turn("user", "no dog on the left"), Turn("assistant", "I will.", "remove the dog on the left"))
MET = "Gladly. {{prompt}} remove the dog on the left {{/prompt}}"
UNMET = {
    "ask": "There are two dogs. Which one? {{ask}}",
    "absent": "I see a park, but no dog. {{absent}}",
    "not a removal": "I can only remove things. {{other}}",
}


@pytest.fixture(scope="module")
def encoder():
    return small_encoder()


@pytest.fixture(scope="module")
def folders(encoder, tmp_path_factory):
    """LGVI-I with LLaVA beside it, LLaVA in its own layout, and two chat models."""
    folder = tmp_path_factory.mktemp("models")
    write_trained(encoder, folder / "lgvi-i")
    write_transformers(encoder, folder / "llava-hf")
    write_public(encoder, folder / "own/llava")
    write_blind(folder / "chat/blind")
    write_seeing(folder / "chat/seeing")
    return folder


def saying(encoder, monkeypatch, text, ended=True):
    """The end-to-end reader of a model that writes this text; the states it is chosen from are any."""
    tokens = [*encoder.tokenizer.encode(text)[1:], *([encoder.tokenizer.eos] if ended else [])]
    states = torch.randn(1, len(tokens), 64, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(encoder, "generate", lambda *_: (tokens, states))
    return EndToEnd(encoder)


# The rules


def test_rules_give_words_for_clip_and_no_features():
    understood = by_rules(None, "I only want the blue one to stay")
    assert understood.met and understood.features is None and understood.region is None
    assert understood.text == understood.prompt == "remove everything but the blue one"
    assert understood.answer == "I will remove everything but the blue one."


def test_the_other_of_two_needs_no_place_once_the_first_is_gone():
    assert by_rules(None, "great, and the other dog?", DONE).prompt == "remove the dog"
    before = by_rules(None, "great, and the other dog?", DONE, gone=False)  # the frames may be those of before
    assert before.prompt == "remove the dog on the right"


@pytest.mark.parametrize("request_, kind", [
    ("remove one of the dogs", "ask"), ("and the other one", "ask"), ("quita el perro", "ask"), ("dog " * 5000, "ask"),
    ("make it nicer", "not a removal"), ("add a boat", "not a removal"), ("is there a dog?", "not a removal"),
])  # fmt: skip
def test_rules_say_what_kind_of_request_they_cannot_meet(request_, kind):
    understood = by_rules(None, request_)
    assert (understood.kind, understood.prompt, understood.text) == (kind, "", "") and understood.answer


# Any chat model


def test_a_chat_model_is_told_of_the_conversation_and_shown_the_frames():
    asked = []

    def write(text, frames):
        asked.append((text, frames))
        return Written(MET)

    understood = TwoStage(write)(FRAMES, "and the other dog?", DONE, box=(0, 0, 0.5, 0.5))
    assert asked == [(instruction("and the other dog?", DONE, (0, 0, 0.5, 0.5), frames=1), FRAMES)]
    assert "Done already" in asked[0][0] and "remove the dog on the left" in asked[0][0]
    assert (understood.text, understood.answer) == ("remove the dog on the left", "Gladly.")
    TwoStage(write, sees=False)(FRAMES, "no dog")
    assert asked[1] == (instruction("no dog", frames=0), None)


@pytest.mark.parametrize("kind", UNMET)
def test_a_chat_model_that_asks_back_removes_nothing(kind):
    understood = TwoStage(lambda *_: Written(UNMET[kind]))(FRAMES, "no dog")
    assert (understood.kind, understood.met, understood.text) == (kind, False, "")
    assert understood.answer and "{{" not in understood.answer


def test_a_stated_region_is_handed_on():
    said = MET + "<Region>(0.1, 0.2, 0.5, 0.9)</Region>"
    assert TwoStage(lambda *_: Written(said))(FRAMES, "no dog").region.box == pytest.approx((0.1, 0.2, 0.4, 0.7))


@pytest.mark.parametrize("said", ["Gladly. {{prompt}}remove the do", "dog " * 10_000])
def test_an_answer_that_is_cut_off_is_not_guessed_from(said):
    understood = TwoStage(lambda *_: Written(said, ended=False))(FRAMES, "no dog")
    assert understood.kind == "ask" and understood.answer.endswith(CUT_OFF)


@pytest.mark.parametrize("reader", [TwoStage(lambda *_: pytest.fail("it was asked")), EndToEnd(None)])
def test_an_empty_request_is_answered_without_a_model(reader):
    assert reader(FRAMES, " \n").answer == REASONS["empty"]


# LGVI-I's own language model


def test_hidden_states_steer_where_the_model_was_trained_with_the_u_net(encoder, monkeypatch):
    reader = saying(encoder, monkeypatch, MET)
    understood = reader(FRAMES, "no dog, please")
    reply = encoder.reply(*encoder.generate())
    assert understood.met and understood.text == "" and understood.prompt == "remove the dog on the left"
    assert torch.equal(understood.features, reply.steering())
    assert torch.equal(EndToEnd(encoder, between_tags=True)(FRAMES, "no dog").features, reply.steering(True))
    words = EndToEnd(encoder, steers=False)(FRAMES, "no dog")
    assert words.features is None and words.text == understood.prompt


@pytest.mark.parametrize("said, prompt", [
    ("Sure. <PROMPT>remove the dog</PROMPT>", "remove the dog"),
    ("{{prompt}}remove a cat{{/prompt}} or {{prompt}}remove the dog{{/prompt}}", "remove the dog"),
    ("Sure. {{prompt}} remove the dog", "remove the dog"),
    ("Remove the dog.", "remove the dog"),  # no tag, but a direct request itself
])  # fmt: skip
def test_one_two_foreign_or_open_tags_are_read(encoder, monkeypatch, said, prompt):
    understood = saying(encoder, monkeypatch, said)(FRAMES, "no dog")
    assert understood.prompt == prompt and understood.features.shape[1] > 0


def test_tags_of_the_paper_s_spelling_steer_by_what_is_between_them(encoder, monkeypatch):
    reader = saying(encoder, monkeypatch, "Sure. <PROMPT>remove the dog</PROMPT> Done.")
    reply = encoder.reply(*encoder.generate())
    assert torch.equal(reader(FRAMES, "no dog").features, reply.steering(between_tags=True))


@pytest.mark.parametrize("kind", UNMET)
def test_lgvi_i_asks_instead_of_steering(encoder, monkeypatch, kind):
    understood = saying(encoder, monkeypatch, UNMET[kind])(FRAMES, "no dog")
    assert (understood.kind, understood.features) == (kind, None)


def test_an_answer_of_lgvi_i_that_is_cut_off_does_not_steer(encoder, monkeypatch):
    understood = saying(encoder, monkeypatch, "Sure. {{prompt}} remove the do", ended=False)(FRAMES, "no dog")
    assert understood.kind == "ask" and understood.features is None and understood.answer.endswith(CUT_OFF)


def test_a_real_answer_is_always_an_understanding(encoder):
    for frames in (FRAMES, FRAMES[:, :10, :10]):
        understood = EndToEnd(encoder, max_tokens=5)(frames, "no dog", DONE)
        assert understood.answer and understood.met == bool(understood.prompt)


def test_lgvi_i_needs_a_frame_and_a_request_that_it_can_hold(encoder):
    with pytest.raises(InputError, match="looks at the video"):
        EndToEnd(encoder)(None, "no dog")
    with pytest.raises(InputError, match="Say it shorter, or begin a new conversation"):
        EndToEnd(encoder)(FRAMES, "dog " * 5000)


# Which reader a folder is


def test_without_a_model_the_checkpoint_s_own_or_the_rules_read(folders):
    assert open_reader() is by_rules and open_reader(checkpoint=folders / "llava-hf") is by_rules
    own = open_reader(checkpoint=folders / "lgvi-i")
    assert isinstance(own, EndToEnd) and own.steers


def test_lgvi_i_steers_its_own_u_net_alone(folders):
    assert open_reader(folders / "lgvi-i", folders / "lgvi-i").steers
    assert not open_reader(folders / "lgvi-i").steers


@pytest.mark.parametrize("base", ["llava-hf", "own/llava"])
def test_llava_goes_beneath_lgvi_i_s_part(folders, base):
    reader = open_reader(folders / base, folders / "lgvi-i")
    assert isinstance(reader, EndToEnd) and reader.steers


def test_chat_models_answer_whether_they_see_or_not(folders, caplog):
    for name, sees in (("seeing", True), ("blind", False)):
        caplog.clear()
        reader = open_reader(folders / "chat" / name)
        reader.write.max_tokens = 4
        assert isinstance(reader, TwoStage) and reader.sees is sees
        assert ("does not see the video" in caplog.text) is not sees
        for frames in (FRAMES, FRAMES[:, :10, :10]):
            assert reader(frames, "no dog", DONE).answer


def test_what_a_chat_model_sees_and_reads_changes_what_it_writes(folders):
    model = ChatModel(folders / "chat/seeing", max_tokens=12)
    said = model("no dog", FRAMES)
    assert model("no dog", FRAMES) == said and not said.ended
    assert len({said.text, model("no dog", 255 - FRAMES).text, model("no cat", FRAMES).text}) > 1


def test_a_chat_model_says_when_it_came_to_an_end(folders):
    model = ChatModel(folders / "chat/blind", max_tokens=4)
    with torch.no_grad():
        model.model.lm_head.weight.zero_()  # then the first token, which ends an answer, is as likely as any
    assert model("no dog", None) == Written("", True)


@pytest.mark.parametrize("name", ["seeing", "blind"])
def test_a_request_longer_than_a_chat_model_holds_is_refused(folders, name):
    with pytest.raises(InputError, match=r"\d+ tokens; .* holds 8192"):
        ChatModel(folders / "chat" / name)("dog " * 5000, None)


def test_a_frame_that_no_model_can_see_is_refused(folders):
    with pytest.raises(InputError, match="one side may be 100 times the other"):
        ChatModel(folders / "chat/seeing")("no dog", np.zeros((1, 2, 500, 3), np.uint8))


# What is no reader


def lose_shard(folder):
    write_seeing(folder, max_shard_size="200KB")
    sorted(folder.glob("model-*.safetensors"))[0].unlink()


def lose_weights(folder):
    write_blind(folder)
    (folder / "model.safetensors").unlink()


def deepen(folder):
    write_blind(folder)
    change(folder, num_hidden_layers=3)


def no_template(folder):
    write_blind(folder, template=None)


def no_tokenizer(folder):
    write_blind(folder)
    for file in folder.glob("*token*"):
        file.unlink()


def no_eyes(folder):
    write_seeing(folder)
    (folder / "processor_config.json").unlink()


def own_code(folder):
    write_blind(folder)
    change(folder, model_type="homemade", auto_map={"AutoModelForCausalLM": "homemade.Model"})


def no_words(folder):
    write_blind(folder)
    change(folder, model_type="clip_vision_model")


def change(folder, **values):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize("make, said", [
    (lambda folder: folder.mkdir(), "no language model: it has no config.json"),
    (lose_shard, "names shards that are not there: model-00001"),
    (lose_weights, "half downloaded: it has no weights"),
    (deepen, "the weights .* lack model.layers.2"),
    (no_template, "no chat template"),
    (no_tokenizer, "the tokenizer or image processor of .* cannot be read"),
    (no_eyes, "the tokenizer or image processor of .* cannot be read|sees, but has no"),
    (own_code, "type 'homemade', which the installed transformers does not know"),
    (no_words, "type 'clip_vision_model', which writes no text"),
])  # fmt: skip
def test_a_folder_that_is_no_chat_model_says_what_is_wrong(tmp_path, make, said):
    make(tmp_path / "model")
    with pytest.raises(InputError, match=said):
        open_reader(tmp_path / "model")


def test_models_that_are_not_there_or_answer_not_here_are_refused(folders, tmp_path):
    with pytest.raises(InputError, match="there is no request model at"):
        open_reader(tmp_path / "none")
    with pytest.raises(InputError, match="LLaVA as its authors lay it out"):
        open_reader(folders / "own/llava")
    with pytest.raises(InputError, match="bits is 4, but no language model"):
        open_reader(bits=4)
    with pytest.raises(InputError, match="no CUDA|cannot be used|abacus"):
        open_reader(folders / "chat/blind", device="abacus")


def test_a_chat_model_in_few_bits_says_what_to_install(folders, monkeypatch):
    monkeypatch.setattr("lgvi_core.checkpoints.quantised.find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install bitsandbytes"):
        open_reader(folders / "chat/blind", bits=4)


def test_llava_with_missing_shards_beneath_lgvi_i_is_refused(encoder, folders, tmp_path):
    write_transformers(encoder, tmp_path / "llava", max_shard_size="200KB")
    sorted((tmp_path / "llava").glob("model-*.safetensors"))[0].unlink()
    with pytest.raises(InputError, match="names shards that are not there"):
        open_reader(tmp_path / "llava", folders / "lgvi-i")


def test_loading_is_said(folders, caplog):
    with caplog.at_level(logging.INFO):
        open_reader(checkpoint=folders / "lgvi-i")
    assert "loading the language model of" in caplog.text
