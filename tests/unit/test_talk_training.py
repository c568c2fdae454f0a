"""LGVI-I trains: the language model learns to answer, its states steer the U-Net as in use, a run goes on exactly."""

import json

import pytest
import torch
from safetensors.torch import load_file
from small_llava import small_encoder, write_transformers
from tiny_training import DEMO, overrides, tiny

from lgvi_core import checkpoints
from lgvi_core.answer import parse
from lgvi_core.checkpoints import request_file
from lgvi_core.conversation import Turn
from lgvi_core.errors import InputError
from lgvi_core.understanding import open_reader
from train import check, lgvi
from train import config as configs
from train.data.dialogues import Dialogue, in_mirror, read_dialogues
from train.data.mixing import loader
from train.data.synthetic_talk import draw_talk
from train.model import build
from train.objectives import make_objective
from train.talk_export import merged
from train.talk_held_out import TalkHeldOut
from train.talk_objective import read, tokens_of

CPU = torch.device("cpu")
ENCODER = {
    "vision": "{image_size: 32, patch_size: 8, hidden_size: 32, intermediate_size: 32, num_hidden_layers: 1, "
    "num_attention_heads: 2}",
    "text": "{hidden_size: 32, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2, "
    "max_position_embeddings: 512}",
    "tokenizer_sentences": "60",
    "tokenizer_size": "340",
    "system_prompt": "Remove it.",
    "sight": "0.1",
    "sight_cells": "4",
}
SIZE = "frames: 1, size: 4, width: 32, height: 32, data: talk"
TALK = [
    "train_text_encoder=false",
    "recognition.blocks=[]",
    "data={talk: {kind: synthetic_talk}}",
    "watch.data=talk",
    *(f"request_encoder.{name}={value}" for name, value in ENCODER.items()),
    f"batches=[{{{SIZE}, only: sight, end: 1}}, {{{SIZE}, only: language, start: 1, end: 3}}, "
    f"{{{SIZE}, kind: answerable, micro: 2, start: 2}}]",
]


def talk(folder, *more):
    return tiny(folder, *TALK, *more)


def records(folder):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {record["step"]: record for record in lines if "total" in record}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    lgvi.train(talk(folder, "saving.steps=2", "saving.keep_last=9"), "cpu")
    return folder


def test_each_batch_trains_its_part_and_the_rest_all(whole):
    found = records(whole)
    assert found[0]["sight"] > 0 == found[0]["diffusion"] == found[0]["language"]
    assert found[1]["language"] > 0 == found[1]["diffusion"]
    assert found[3]["language"] > 0 and found[3]["diffusion"] > 0 and found[3]["mask"] > 0
    said = found[3]
    weights = configs.load(DEMO).loss
    parts = sum(getattr(weights, name) * said[name] for name in ("diffusion", "mask", "dice", "inside", "decibel"))
    assert said["total"] == pytest.approx(parts + 0.1 * said["language"] + 0.1 * said["sight"], rel=1e-4)


def test_the_tower_stays_as_it_is_after_its_steps(tmp_path):
    lgvi.train(talk(tmp_path, "request_encoder.tower_steps=1", "saving.steps=1", "saving.keep_last=9"), "cpu")
    first, last = (load_file(tmp_path / "states" / f"step-00000{n}" / "model.safetensors") for n in (1, 4))
    same = {name: torch.equal(value, last[name]) for name, value in first.items()}
    assert all(same[name] for name in same if "vision_tower" in name)
    assert not any(same[name] for name in same if "projector" in name)


def test_a_run_that_is_cut_off_goes_on_bit_for_bit(tmp_path, whole):
    config = talk(tmp_path, "saving.steps=2", "saving.keep_last=9")
    assert lgvi.train(talk(tmp_path, "saving.steps=2", "saving.keep_last=9", "max_minutes=0.0"), "cpu") is None
    assert lgvi.train(config, "cpu") == tmp_path / "request-encoder.safetensors"
    for name in ("request-encoder.safetensors", "checkpoint.safetensors", "states/step-000004/model.safetensors"):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes(), name


def test_what_a_run_leaves_reads_requests_and_knows_its_unet(whole):
    file = whole / "request-encoder.safetensors"
    encoder = checkpoints.load_request_encoder(file)
    assert encoder.system_prompt == "Remove it." and encoder.head[2].out_features == 16
    source = checkpoints.open_source(whole / "checkpoint.safetensors")
    assert request_file.steers(file, source.unet)
    assert not request_file.steers(file, checkpoints.open_source(lgvi_demo()).unet)
    assert open_reader(file, whole / "checkpoint.safetensors", "cpu").steers
    assert not open_reader(file, lgvi_demo(), "cpu").steers
    clip = draw_talk(1, 0, 1, 32, 32)
    understood = open_reader(file, device="cpu")(clip.frames, clip.dialogue.request, clip.dialogue.turns)
    assert understood.answer and understood.kind in ("remove", "ask", "absent", "not a removal")
    with pytest.raises(InputError, match="whole, it takes no"):
        checkpoints.load_request_encoder(file, base=whole)


def lgvi_demo():
    from lgvi_core.inpaint import DEMO as demo

    return demo


def test_a_request_encoder_comes_back_as_it_was_saved(tmp_path):
    encoder = small_encoder()
    request_file.save(encoder, tmp_path / "it.safetensors")
    again = checkpoints.load_request_encoder(tmp_path / "it.safetensors")
    assert again.tokenizer.model == encoder.tokenizer.model and again.config == encoder.config
    for (name, value), other in zip(encoder.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(value, other), name


def test_a_tower_of_several_stages_comes_back_too(tmp_path):
    sizes = "image_size: 32, patch_size: 2, embed_dim: 8, depths: [1, 1, 1], num_heads: [1, 2, 2], window_size: 4"
    tower = f"{{model_type: swin, {sizes}}}"
    model = build(talk(tmp_path, f"request_encoder.vision={tower}")).model.eval()
    encoder, pixels = model.request_encoder, torch.rand(2, 3, 32, 32)
    request_file.save(encoder, tmp_path / "it.safetensors")
    again = checkpoints.load_request_encoder(tmp_path / "it.safetensors")
    with torch.no_grad():
        assert encoder.look(pixels).shape == (2, encoder.image_tokens, 32) and encoder.image_tokens == 16
        torch.testing.assert_close(again.look(pixels), encoder.look(pixels))


def test_a_file_of_another_version_or_without_its_metadata_is_refused(tmp_path):
    path = tmp_path / "it.safetensors"
    request_file.save(small_encoder(), path)
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"version":"1"', b'"version":"9"'))
    with pytest.raises(InputError, match="has version 9"):
        checkpoints.load_request_encoder(path)
    path.write_bytes(content.replace(b'"tokenizer":"', b'"tokeniser":"'))
    with pytest.raises(InputError, match="metadata cannot be read"):
        checkpoints.load_request_encoder(path)


def test_the_states_that_steer_in_training_are_those_that_steer_in_use(tmp_path):
    config = talk(tmp_path)
    model = build(config).model.eval()
    encoder, clip = model.request_encoder, draw_talk(3, 4, 1, 32, 32, kind="answerable")
    batch = {"frames": torch.from_numpy(clip.frames)[None], "dialogue": [clip.dialogue], "name": ["it"]}
    with torch.no_grad():
        words = read(encoder, batch, CPU)
        embeddings = encoder.embed(words.tokens, words.pixels)
        hidden = model._read(embeddings, torch.tensor([embeddings.shape[1]]))
        asked, said, _ = tokens_of(encoder, clip.dialogue)
        forced = iter(said)
        prompt = encoder.embed(torch.tensor([asked]), words.pixels)
        tokens, states = encoder.generate(prompt, lambda _: next(forced), len(said))
        reply = encoder.reply(tokens, states)
    assert parse(reply.text).prompt == clip.sentence
    torch.testing.assert_close(encoder.head(hidden[:, words.steering[0]]), reply.steering(), rtol=1e-3, atol=1e-4)


def test_padding_and_other_samples_change_no_loss(tmp_path):
    config = talk(tmp_path, "request_encoder.sight=0.0", f"batches=[{{{SIZE}, only: language}}]")
    model = build(config).model.eval()
    batch = next(iter(loader(config, 0)))
    alone = []
    for i in range(4):
        part = {name: batch[name][i : i + 1] for name in ("frames", "dialogue", "name")}
        alone.append(model(read(model.request_encoder, part, CPU))[2]["language"])
    together = model(read(model.request_encoder, batch, CPU))[2]["language"]
    torch.testing.assert_close(together, torch.stack(alone).mean(), rtol=1e-4, atol=1e-5)


def test_dropped_words_are_zeros(tmp_path):
    config = talk(tmp_path, "dropout={text: 1.0, both: 0.0, video: 0.0}", f"batches=[{{{SIZE}, kind: answerable}}]")
    parts = build(config)
    given = []
    parts.model.unet.register_forward_pre_hook(lambda _, inputs: given.append(inputs[2]))
    make_objective(config, parts, CPU)(parts.model, next(iter(loader(config, 0))), 1, 0)
    assert given and sum(len(text) for text in given) == 4 and not any(text.any() for text in given)


def test_a_handful_of_conversations_is_learnt(tmp_path):
    config = talk(tmp_path, f"batches=[{{{SIZE}, only: language}}]", "request_encoder.sight=0.0")
    parts = build(config)
    objective, batch = make_objective(config, parts, CPU), next(iter(loader(config, 0)))
    optimizer = torch.optim.AdamW(parts.model.request_encoder.parameters(), 3e-3)
    losses = []
    for _ in range(70):
        loss = objective(parts.model, batch, 1, 0)
        losses.append(float(loss.parts["language"]))
        loss.total.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.25 * losses[0]


def test_held_out_conversations_are_measured_and_shown(tmp_path):
    config = talk(tmp_path, "watch.samples=3")
    model = build(config).model
    found, rows = TalkHeldOut(config).run(model, None)
    assert found["loss"] > 1.5 and set(found) == {"loss"} and len(rows) == 3 and model.training


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llava")
    write_transformers(small_encoder(), folder)
    return folder


def from_llava(folder, llava, *more):
    base = ["request_encoder.vision={}", "request_encoder.text={}", f"request_encoder.base={llava}"]
    return talk(folder, *base, f"batches=[{{{SIZE}, kind: answerable}}]", "steps=1", *more)


def test_of_llava_embedding_projector_and_head_train_and_are_saved_as_lgvi_i_has_them(tmp_path, llava):
    config = from_llava(tmp_path, llava)
    trained = {name for name, p in build(config).model.request_encoder.named_parameters() if p.requires_grad}
    assert trained and all(("embed_tokens" in n) or ("projector" in n) or n.startswith("head.") for n in trained)
    assert lgvi.train(config, "cpu") == tmp_path / "llava" / "llava_weights.pth"
    encoder = checkpoints.load_request_encoder(tmp_path, base=llava)
    assert encoder.system_prompt == "Remove it." and encoder.head[2].out_features == 16
    again = from_llava(tmp_path / "again", llava, f"request_encoder.initialise={tmp_path}")
    torch.testing.assert_close(build(again).model.request_encoder.head.state_dict(), encoder.head.state_dict())


def test_adapters_are_merged_into_what_is_saved(tmp_path, llava):
    config = from_llava(tmp_path, llava, "request_encoder.lora={rank: 2, targets: q_proj|v_proj}")
    encoder = build(config).model.request_encoder
    added = [module for module in encoder.modules() if hasattr(module, "lora_B")]
    assert added
    for module in added:
        torch.nn.init.ones_(module.lora_B["default"].weight)
    request_file.save(encoder, tmp_path / "it.safetensors", values=merged(encoder.llava))
    plain = checkpoints.load_request_encoder(tmp_path / "it.safetensors")
    tokens, pixels = torch.tensor([[1, -200, 5, 9]]), torch.rand(1, 3, 28, 28)
    with torch.no_grad():
        torch.testing.assert_close(plain(tokens, pixels), encoder.eval()(tokens, pixels), rtol=1e-4, atol=1e-4)


def test_a_check_says_what_the_language_model_is_and_costs(tmp_path):
    lines = "\n".join(check.run(talk(tmp_path), "cpu"))
    assert "request encoder: new, a vocabulary of 340" in lines
    assert "time, from timed passes" in lines


@pytest.mark.parametrize(
    "more, message",
    [
        (["request_encoder.text={}"], "give initialise"),
        (["request_encoder.vision.hidden_size=33"], "no model can be made"),
        (["request_encoder.trainable=nothing"], "matches none of its parameters"),
        (["request_encoder.base=nowhere", "request_encoder.vision={}", "request_encoder.text={}"], "no folder nowhere"),
        (["train_text_encoder=true"], "leave out train_text_encoder"),
        (["request_encoder.unet=false", "trainable=conv"], "nothing of the U-Net trains"),
        (["request_encoder.language=0.0"], "whose language is not 0"),
        (["request_encoder.tower_steps=-1"], "tower_steps is -1"),
        (["request_encoder.sigt=1.0"], "did you mean request_encoder.sight"),
        (["batches=[{frames: 1, size: 4, data: talk, only: hearing}]"], "allowed: 'language', 'sight'"),
    ],
)
def test_what_cannot_be_is_said(tmp_path, more, message):
    with pytest.raises(InputError, match=message):
        build(talk(tmp_path, *more))


def test_clips_that_nobody_talks_about_are_refused(tmp_path):
    config = talk(tmp_path, "data.synthetic={kind: synthetic}", "batches=[{frames: 1, size: 4, data: synthetic}]")
    with pytest.raises(InputError, match="nobody says anything"):
        loader(config, 0)


def test_dialogues_are_read_and_turned_and_what_is_wrong_is_named(tmp_path):
    said = [
        {"role": "user", "text": "The left dog."},
        {"role": "assistant", "text": "Gone. {{prompt}} remove the left dog {{/prompt}}"},
        {"role": "user", "text": "And the one on the right?"},
        {"role": "assistant", "text": "Sure. {{prompt}} remove the right dog {{/prompt}}"},
    ]
    path = tmp_path / "dialogues.jsonl"
    path.write_text(json.dumps({"name": "a/1", "dialogue": said}) + "\n")
    (dialogue,) = read_dialogues(path)["a/1"]
    turns = (Turn("user", "The left dog."), Turn("assistant", "Gone.", "remove the left dog"))
    assert dialogue == Dialogue("And the one on the right?", said[-1]["text"], turns)
    assert in_mirror(dialogue).turns[1].prompt == "remove the right dog"
    assert in_mirror(Dialogue("It reads STOP.", "Fine.")) is None
    path.write_text('{"name": "a/1"}\n' + json.dumps({"name": "b", "dialogue": said[:1]}))
    with pytest.raises(InputError, match="line 1.*dialogue.*line 2: a dialogue ends with"):
        read_dialogues(path)


def test_the_command_trains(tmp_path):
    command = ["--config", str(DEMO), "--device", "cpu", *overrides(tmp_path, *TALK, "steps=1")]
    assert lgvi.main(command) == 0 and (tmp_path / "request-encoder.safetensors").is_file()
