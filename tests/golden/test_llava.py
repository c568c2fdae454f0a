"""LGVI-I's language model gives the numbers of the public code, from files in the public layout."""

import json
from types import SimpleNamespace

import pytest
import torch

from lgvi_core.checkpoints.llava import load_request_encoder, public_parts
from lgvi_core.checkpoints.llava_names import public_name, todays_name
from lgvi_core.models import RequestEncoder
from lgvi_core.models.request_encoder import picture
from lgvi_core.models.request_text import cut_start, write_prompt

FORWARD = ["full_prompt", "short_prompt", "image_first", "image_last", "batch2"]
FORCED = [f"forced_{i}" for i in range(7)] + ["forced_0_truncated", "forced_3_truncated"]


def near(got, expected):
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def llava(golden, tmp_path_factory):
    """The tiny model loaded from a public folder beside LLaVA's own layout and CLIP, and the golden prompts."""
    folder, source = tmp_path_factory.mktemp("models"), golden.folder / "llava"
    manifest = json.loads((source / "llava_manifest.json").read_text())
    prompts = json.loads((source / "llava_prompts.json").read_text())
    for name in ("lgvi-i/llava", "llava", "clip-vit-large-patch14-336"):
        (folder / name).mkdir(parents=True)

    (folder / "lgvi-i/llava/llava_weights.pth").write_bytes((source / "tiny_llava_weights.pth").read_bytes())
    (folder / "lgvi-i/llava/system_prompt.txt").write_text(prompts["system_prompt"])
    base = golden.weights(manifest["sources"]["llava_base_checkpoint"]["tensors"])
    config = {
        "model_type": "llava",
        "mm_vision_tower": "openai/clip-vit-large-patch14-336",
        **manifest["text_config"],
        **manifest["mm_config"],
    }
    (folder / "llava/config.json").write_text(json.dumps(config))
    (folder / "llava/tokenizer.model").write_bytes((source / "tokenizer/tokenizer.model").read_bytes())
    shards = {"pytorch_model-1.bin": list(base)[:9], "pytorch_model-2.bin": list(base)[9:]}
    for file, names in shards.items():
        torch.save({name: base[name] for name in names}, folder / "llava" / file)
    places = {name: file for file, names in shards.items() for name in names}
    (folder / "llava/pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))

    shapes = manifest["sources"]["clip_checkpoint"]["tensors"]
    clip = {name: golden.weights({f"clip.{name}": shape})[f"clip.{name}"] for name, shape in shapes.items()}
    torch.save(clip, folder / "clip-vit-large-patch14-336/pytorch_model.bin")
    (folder / "clip-vit-large-patch14-336/config.json").write_text(
        json.dumps({"model_type": "clip", "vision_config": manifest["vision_config"]})
    )
    encoder = load_request_encoder(folder / "lgvi-i")
    runs, about = golden.tensors("llava/llava_generate.safetensors")
    return SimpleNamespace(encoder=encoder, prompts=prompts, runs=runs, cases=json.loads(about["cases"]))


@pytest.fixture(scope="module")
def forward(golden):
    return golden.tensors("llava/llava_forward.safetensors")[0]


@pytest.mark.parametrize("case", FORWARD)
def test_a_text_and_a_picture_are_read_as_by_the_public_code(llava, forward, case):
    encoder = llava.encoder
    given = {name.removeprefix(f"{case}."): value for name, value in forward.items() if name.startswith(f"{case}.")}
    tokens, pixels, mask = given["input_ids"], given["images"], given.get("attention_mask")
    with torch.no_grad():
        near(encoder.look(pixels), given["image_features_projected"])
        near(encoder.embed(tokens, pixels), given["inputs_embeds"])
        read = encoder(tokens, pixels, mask)
    near(read.hidden, given["hidden_states.3"])
    near(read.logits, given["logits"])
    near(read.features, given["transfer_feature"])
    if mask is not None:
        assert torch.equal(encoder.spread(tokens, mask, True), given["attention_mask_expanded"])
    if "labels" in given:
        labels = encoder.spread(tokens, given["labels"], -100)
        assert torch.equal(labels, given["labels_expanded"])
        near(
            torch.nn.functional.cross_entropy(read.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()), given["loss"]
        )


@pytest.mark.parametrize("case", ["greedy_full", "greedy_short"])
def test_greedy_answers_are_the_public_code_s(llava, case):
    encoder, expected = llava.encoder, llava.cases[case]
    given = {name.removeprefix(f"{case}."): value for name, value in llava.runs.items() if name.startswith(f"{case}.")}
    assert encoder.tokenizer.encode(expected["prompt"]) == given["input_ids"][0].tolist()
    with torch.no_grad():
        embeddings = encoder.embed(given["input_ids"], given["images"])
    scores = []

    def choose(logits):
        scores.append(logits)
        return int(logits.argmax())

    tokens, hidden = encoder.generate(embeddings, choose, 12)
    assert tokens == given["generated_ids"][0].tolist()
    near(torch.stack(scores)[None], given["scores"])
    near(hidden, given["step_last_hidden"])
    reply = encoder.reply(tokens, hidden)
    assert (reply.text, reply.start) == (expected["text"], expected["prompt_id_start"])
    near(reply.features, given["transfer_feature"])
    near(reply.steering(), given["cut"])


@pytest.mark.parametrize("case", FORCED)
def test_an_answer_is_cut_at_its_prompt_tag_as_by_the_public_code(llava, case):
    encoder, expected = llava.encoder, llava.cases[case]
    given = {name.removeprefix(f"{case}."): value for name, value in llava.runs.items() if name.startswith(f"{case}.")}
    forced = given["generated_ids"][0].tolist()
    with torch.no_grad():
        embeddings = encoder.embed(given["input_ids"], given["images"])
    left = iter(forced)
    tokens, hidden = encoder.generate(embeddings, lambda logits: next(left), len(forced))
    reply = encoder.reply(tokens, hidden)
    near(hidden, given["step_last_hidden"])
    near(reply.features, given["transfer_feature"])
    assert (reply.text, reply.start) == (expected["text"], expected["prompt_id_start"])
    assert reply.ended == expected.get("ends_with_eos", True)
    if expected["cut_len"]:
        near(reply.steering(), given["cut"])
    else:
        assert reply.features[:, reply.start :].shape[1] == 0


def test_prompts_and_token_ids_are_the_public_code_s(llava):
    for request in llava.prompts["requests"]:
        text = write_prompt(llava.encoder.system_prompt, request["request"])
        assert text == request["prompt"]
        assert llava.encoder.tokenizer.encode(text) == request["input_ids"]


def test_the_cut_starts_where_the_public_code_has_it(llava):
    for case in llava.prompts["prompt_id_start"]:
        assert cut_start(llava.encoder.tokenizer, case["text"]) == case["start"], case["text"]


@pytest.mark.parametrize("name", ["336x336", "337x500", "512x320", "854x480"])
def test_pictures_are_prepared_as_by_the_public_code(golden, name):
    given = golden.tensors("llava/clip_preprocess.safetensors")[0]
    frame = given[f"{name}.source_uint8"]
    near(picture(frame, 56)[0], given[f"{name}.public_56"])
    near(picture(frame, 336)[0, :, ::8, ::8], given[f"{name}.public_336_every8"])
    near(picture(frame / 255, 56)[0], given[f"{name}.public_56"])


def test_names_and_shapes_of_the_7b_model_are_today_s(golden):
    mapping = json.loads((golden.folder / "llava/llava_name_mapping.json").read_text())
    layers = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    config = {
        "text_config": {"vocab_size": 32064},
        "vision_config": layers | {"image_size": 336, "patch_size": 14, "projection_dim": 768},
        "tie_word_embeddings": False,
    }
    with torch.device("meta"):
        encoder = RequestEncoder(config, (golden.folder / "llava/tokenizer/tokenizer.model").read_bytes(), "")
    shapes = {todays_name(name): list(value.shape) for name, value in encoder.llava.state_dict().items()}
    assert shapes == dict(mapping["v5_names_7b_vocab32064"])
    head = {name: list(value.shape) for name, value in encoder.head.state_dict().items()}
    assert head == mapping["mm_head_7b"]
    for name in shapes:
        assert todays_name(public_name(name)) == name
    parts = public_parts(encoder)
    shapes = {part: {name: list(value.shape) for name, value in values.items()} for part, values in parts.items()}
    shapes["language_embedding"]["weight"][0] = 32000  # the tokenizer here has fewer tokens
    assert shapes == mapping["llava_weights.pth_7b"]


def test_every_public_name_has_its_place(golden, llava):
    mapping = json.loads((golden.folder / "llava/llava_name_mapping.json").read_text())
    heads = {name for name in mapping["public_tiny_names"] if name.startswith("transfer_head.")}
    stored = {todays_name(name) for name in set(mapping["public_tiny_names"]) - heads} - {None}
    assert stored == {todays_name(name) for name in llava.encoder.llava.state_dict()}
    assert {name.removeprefix("transfer_head.") for name in heads} == set(llava.encoder.head.state_dict())
