"""The reader of requests: what it answers, what of the answer steers, and how it is read from public folders."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from small_llava import PROMPT, small_encoder, write_public, write_trained, write_transformers

from lgvi_core.checkpoints import describe, load, load_request_encoder
from lgvi_core.checkpoints.llava import public_parts, read_request_encoder
from lgvi_core.checkpoints.llava_names import public_name, todays_name
from lgvi_core.conversation import Turn
from lgvi_core.errors import InputError
from lgvi_core.models import InflatedUNet, RequestEncoder, UNetConfig
from lgvi_core.models.request_encoder import picture
from lgvi_core.models.request_text import IMAGE, between_tags, write_prompt

FRAME = (torch.arange(40 * 60 * 3) % 251).reshape(40, 60, 3).to(torch.uint8)


@pytest.fixture(scope="module")
def encoder():
    return small_encoder(padding=4)


@pytest.fixture(scope="module")
def folders(encoder, tmp_path_factory):
    """lgvi-i/ beside llava-hf/ in transformers' layout, and own/llava/ in LLaVA's own, with CLIP beside it."""
    folder = tmp_path_factory.mktemp("models")
    write_trained(encoder, folder / "lgvi-i")
    write_transformers(encoder, folder / "llava-hf")
    write_public(encoder, folder / "own/llava")
    return folder


def reply_of(encoder, text):
    """The reply of a model that writes this text; the states are any."""
    tokens = [*encoder.tokenizer.encode(text)[1:], encoder.tokenizer.eos]
    states = torch.randn(1, len(tokens), 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return encoder.reply(tokens, states)


def words(encoder, reply, between=True):
    """The text of the tokens whose features steer."""
    steering = reply.steering(between_tags=between)
    start = next(i for i in range(len(reply.tokens)) if torch.equal(reply.features[:, i], steering[:, 0]))
    return encoder.tokenizer.decode(reply.tokens[start : start + steering.shape[1]])


def test_importing_the_networks_does_not_import_transformers():
    code = "import sys, lgvi_core.models, lgvi_core.checkpoints; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_answer_has_a_feature_for_every_token_and_is_the_same_again(encoder):
    counted = []
    reply = encoder.answer(FRAME, "remove the dog", max_tokens=6, callback=counted.append)
    assert counted == list(range(1, len(reply.tokens) + 1))
    assert reply.features.shape == (1, len(reply.tokens), 24)
    assert encoder.answer(FRAME, "remove the dog", max_tokens=6).tokens == reply.tokens


def test_features_of_an_answer_are_those_of_reading_it_at_once(encoder):
    reply = encoder.answer(FRAME, "remove the dog", max_tokens=6)
    prompt = encoder.tokenizer.encode(write_prompt(PROMPT, "remove the dog"))
    with torch.no_grad():
        read = encoder(torch.tensor([[*prompt, *reply.tokens]]), encoder.picture(FRAME))
    first = len(prompt) - 2 + encoder.image_tokens
    torch.testing.assert_close(read.features[:, first : first + len(reply.tokens)], reply.features, atol=1e-5, rtol=0)


def test_what_is_trained_gets_gradients_from_words_and_features():
    encoder = small_encoder()
    tokens = torch.tensor([encoder.tokenizer.encode("User: <image>\nno dog Assistant: I will.")])
    labels = encoder.spread(tokens, tokens, -100)
    read = encoder(tokens, encoder.picture(FRAME))
    loss = torch.nn.functional.cross_entropy(read.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    (loss + read.features.square().mean()).backward()
    trained = [encoder.llava.get_input_embeddings(), encoder.llava.model.multi_modal_projector, encoder.head]
    assert all(parameter.grad.any() for module in trained for parameter in module.parameters())


def test_the_picture_and_earlier_turns_change_what_is_read(encoder):
    def first(frame, turns=()):
        return encoder.answer(frame, "the other one too", turns, max_tokens=1).features

    turns = [Turn("user", "remove the dog"), Turn("assistant", "I will.", "remove the dog")]
    assert not torch.allclose(first(FRAME), first(255 - FRAME), atol=1e-4)
    assert not torch.allclose(first(FRAME), first(FRAME, turns), atol=1e-4)


def test_drawn_answers_follow_the_generator(encoder):
    def draw(seed):
        generator = torch.Generator().manual_seed(seed)
        return encoder.answer(FRAME, "remove it", max_tokens=8, temperature=2.0, generator=generator).tokens

    assert draw(1) == draw(1)
    assert len({draw(seed) for seed in range(3)}) == 3


def test_rows_that_pad_the_vocabulary_are_never_chosen():
    biased = small_encoder(padding=4)
    known = len(biased.tokenizer)
    with torch.no_grad():
        row = biased.llava.lm_head.weight[:known].abs().max()
        biased.llava.lm_head.weight[known:] = row * torch.ones(4, 64)
        biased.llava.lm_head.weight[known + 1 :] *= -1
    reply = biased.answer(FRAME, "remove it", max_tokens=5)
    assert max(reply.tokens) < known


def test_earlier_turns_and_their_prompts_stand_in_the_prompt():
    turns = [Turn("user", "no dog"), Turn("assistant", "I will.", "remove the dog")]
    assert write_prompt("Help.", " now the cat<image></s> ", turns) == (
        "Help. User: <image>\nno dog Assistant: I will. {{prompt}} remove the dog {{/prompt}}</s>"
        "User: now the cat Assistant:"
    )


def test_a_picture_and_ends_are_single_tokens(encoder):
    tokens = encoder.tokenizer.encode("Help. User: <image>\nno dog Assistant: I will.</s>User: the cat")
    assert tokens[0] == encoder.tokenizer.bos
    assert tokens.count(IMAGE) == 1 and tokens.count(encoder.tokenizer.eos) == 1


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("Sure. {{prompt}} remove the dog {{/prompt}}", "remove the dog"),
        ("Sure. <PROMPT>remove the dog</PROMPT> Done.", "remove the dog"),
        ("{{prompt}} remove the cat {{/prompt}} or {{prompt}} remove the dog {{/prompt}} then", "remove the dog"),
        ("Sure. {{prompt}} remove the dog", "remove the dog"),
        ("I see a park.", "I see a park."),
    ],
)
def test_between_tags_is_the_last_prompt_or_the_whole_answer(encoder, text, inside):
    assert words(encoder, reply_of(encoder, text)).strip() == inside


def test_from_the_tag_on_goes_to_the_end_of_the_answer(encoder):
    reply = reply_of(encoder, "Sure. {{prompt}} remove the dog {{/prompt}} Done.")
    text = words(encoder, reply, between=False)
    assert text.endswith("remove the dog {{/prompt}} Done.") and "Sure" not in text


@pytest.mark.parametrize("text", ["", "Sure. {{prompt}}{{/prompt}}"])
def test_an_answer_without_a_prompt_does_not_steer(encoder, text):
    reply = reply_of(encoder, text)
    with pytest.raises(InputError, match="no removal prompt to steer with"):
        reply.steering(between_tags=bool(text))


def test_a_long_answer_is_cut_off():
    encoder = small_encoder(longest=100)
    reply = encoder.answer(FRAME, "remove it", max_tokens=10_000)
    assert reply.ended or len(reply.tokens) < 100
    tokens = [7] * 10_000
    assert between_tags(encoder.tokenizer, tokens) == slice(0, 10_000)


@pytest.mark.parametrize(
    ("request_", "said"), [(" ", "the request is empty"), ("dog " * 5000, r"\d+ tokens; the language model holds 512")]
)
def test_a_request_that_cannot_be_read_says_why(encoder, request_, said):
    with pytest.raises(InputError, match=said):
        encoder.answer(FRAME, request_)


def test_settings_that_make_no_answer_say_what_is_allowed(encoder):
    with pytest.raises(InputError, match="max_tokens is 0"):
        encoder.answer(FRAME, "remove it", max_tokens=0)


@pytest.mark.parametrize("size", [(10, 10), (10, 300), (300, 10)])
def test_frames_of_any_size_become_a_square_picture(size):
    assert picture(torch.full((*size, 3), 0.5), 28).shape == (1, 3, 28, 28)


@pytest.mark.parametrize("shape", [(10, 10), (10, 10, 4), (0, 10, 3), (1, 500, 3)])
def test_what_is_no_frame_is_refused(shape):
    with pytest.raises(InputError, match="the frame has"):
        picture(torch.zeros(shape), 28)


@pytest.mark.parametrize("tokens", [[1, 5, 6], [1, IMAGE, IMAGE]])
def test_a_text_needs_one_picture(encoder, tokens):
    with pytest.raises(InputError, match="write <image> once"):
        encoder.embed(torch.tensor([tokens]), encoder.picture(FRAME))


def test_names_go_both_ways(encoder):
    names = [todays_name(name) for name in encoder.llava.state_dict()]
    assert [todays_name(public_name(name)) for name in names] == names
    for old in ("language_model.model.norm.weight", "model.norm.weight", "model.language_model.norm.weight"):
        assert todays_name(old) == "model.language_model.norm.weight"
    for old in ("vision_tower.vision_model.a", "vision_model.a", "vision_tower.a", "model.vision_tower.vision_model.a"):
        assert todays_name(old) == "model.vision_tower.a"
    assert todays_name("model.layers.0.self_attn.rotary_emb.inv_freq") is None


@pytest.mark.parametrize("base", ["llava-hf", "own/llava"])
def test_both_layouts_read_as_the_same_model(encoder, folders, base):
    loaded = load_request_encoder(folders / "lgvi-i", folders / base)
    expected = encoder.answer(FRAME, "remove the dog", max_tokens=4)
    reply = loaded.answer(FRAME, "remove the dog", max_tokens=4)
    assert reply.tokens == expected.tokens
    torch.testing.assert_close(reply.features, expected.features, atol=1e-5, rtol=0)


def test_the_trained_part_replaces_the_base_s(encoder, folders, tmp_path):
    trained = small_encoder(padding=4)
    with torch.no_grad():
        for parameter in (trained.llava.get_input_embeddings().weight, *trained.head.parameters()):
            parameter.add_(1)
        trained.llava.model.multi_modal_projector.linear_1.bias.add_(1)
    file = write_trained(trained, tmp_path)
    loaded = load_request_encoder(file, folders / "llava-hf")
    ours, theirs = public_parts(loaded), public_parts(trained)
    assert {part: list(values) for part, values in ours.items()} == {
        "language_embedding": ["weight"],
        "vision_embedding": ["0.weight", "0.bias", "2.weight", "2.bias"],
        "transfer_layer": ["0.weight", "0.bias", "2.weight"],
    }
    assert all(torch.equal(ours[part][name], theirs[part][name]) for part in ours for name in ours[part])
    known = len(encoder.tokenizer)
    rows = [model.llava.get_input_embeddings().weight[known:] for model in (loaded, encoder)]
    assert torch.equal(*rows) and len(rows[0]) == 4


def test_a_base_beside_the_public_folder_is_found(folders):
    assert read_request_encoder(folders / "lgvi-i").path == folders / "llava-hf"


def test_an_instruction_other_than_the_public_one_is_warned_of(folders, caplog):
    source = read_request_encoder(folders / "lgvi-i")
    assert source.system_prompt == PROMPT and "not the instruction" in caplog.text
    assert read_request_encoder(folders / "lgvi-i", system_prompt="Help.").system_prompt == "Help."


def test_bfloat16_computes_nearly_the_same(encoder, folders):
    loaded = load_request_encoder(folders / "lgvi-i", dtype=torch.bfloat16)
    features = loaded.answer(FRAME, "remove the dog", max_tokens=1).features
    assert features.dtype == torch.bfloat16
    expected = encoder.answer(FRAME, "remove the dog", max_tokens=1).features
    torch.testing.assert_close(features.float(), expected, atol=0.05, rtol=0)


@pytest.mark.parametrize(("bits", "error"), [(8, 0.1), (4, 0.3)])
def test_quantised_layers_compute_nearly_the_same(encoder, folders, bits, error):
    pytest.importorskip("bitsandbytes")
    loaded = load_request_encoder(folders / "lgvi-i", dtype=torch.float32, bits=bits)
    layer = loaded.llava.model.language_model.layers[0].mlp.up_proj
    assert layer.weight.element_size() * layer.weight.numel() == 128 * 64 * bits // 8
    expected = encoder.answer(FRAME, "remove the dog", max_tokens=1).features
    features = loaded.answer(FRAME, "remove the dog", max_tokens=1).features
    assert 0 < (features - expected).norm() / expected.norm() < error


def test_bits_without_bitsandbytes_say_what_to_install(folders, monkeypatch):
    monkeypatch.setattr("lgvi_core.checkpoints.quantised.find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install bitsandbytes"):
        load_request_encoder(folders / "lgvi-i", bits=4)
    with pytest.raises(InputError, match="bits is 3; allowed: 8, 4"):
        load_request_encoder(folders / "lgvi-i", bits=3)


def broken(folders, tmp_path, change):
    """A copy of the public folder and its base, changed."""
    base = tmp_path / "llava"
    write_transformers(small_encoder(padding=4), base, max_shard_size="200KB")
    file = write_trained(small_encoder(padding=4), tmp_path / "lgvi-i")
    change(base, file)
    return tmp_path / "lgvi-i"


def lose_shard(base, file):
    sorted(base.glob("model-*.safetensors"))[0].unlink()


def cut_shard(base, file):
    shard = sorted(base.glob("model-*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-100])


def lose_vision(base, file):
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config["text_config"] | {"model_type": "llama"}))


def lose_tokenizer(base, file):
    (base / "tokenizer.model").unlink()


def damage_tokenizer(base, file):
    (base / "tokenizer.model").write_bytes(b"version https://git-lfs.github.com/spec/v1")


def deepen(base, file):
    config = json.loads((base / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 3
    (base / "config.json").write_text(json.dumps(config))


def lose_head(base, file):
    parts = torch.load(file, weights_only=True)
    del parts["transfer_layer"]
    torch.save(parts, file)


def widen_head(base, file):
    parts = torch.load(file, weights_only=True)
    parts["transfer_layer"]["0.weight"] = torch.zeros(40, 40)
    torch.save(parts, file)


def lose_prompt(base, file):
    (file.parent / "system_prompt.txt").unlink()


def cut_file(base, file):
    file.write_bytes(file.read_bytes()[:3000])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lose_shard, "names shards that are not there: model-00001"),
        (cut_shard, "model-00001.*looks half downloaded"),
        (lose_vision, "'llama', not LLaVA with its vision tower"),
        (lose_tokenizer, "it has no tokenizer.model"),
        (damage_tokenizer, "no SentencePiece model"),
        (deepen, r"9 missing: model.language_model.layers.2"),
        (lose_head, "llava_weights.pth lacks transfer_layer.0.bias"),
        (widen_head, r"llava_weights.pth does not fit.*0.weight is \(40, 40\), expected \(64, 64\)"),
        (lose_prompt, "the instruction that the weights were trained with"),
        (cut_file, "llava_weights.pth looks half downloaded"),
    ],
)
def test_what_is_missing_or_damaged_is_named(folders, tmp_path, change, said):
    path = broken(folders, tmp_path, change)
    with pytest.raises(InputError, match=said):
        read_request_encoder(path, tmp_path / "llava")


def test_a_folder_without_the_language_model_or_its_base_is_refused(folders, tmp_path, encoder):
    with pytest.raises(InputError, match="there is no llava/llava_weights.pth"):
        load_request_encoder(tmp_path)
    write_trained(encoder, tmp_path / "deep/models/lgvi-i")
    with pytest.raises(InputError, match="there is no LLaVA folder; give the folder of LLaVA-1.5-7B"):
        load_request_encoder(tmp_path / "deep/models/lgvi-i")


def test_llava_s_own_layout_without_clip_says_where_to_put_it(folders, tmp_path, encoder):
    write_public(encoder, tmp_path / "own/llava")
    (tmp_path / "own/clip-vit-large-patch14-336").rename(tmp_path / "clip")
    with pytest.raises(InputError, match="clip-vit-large-patch14-336, a model of its own that is not there"):
        load_request_encoder(folders / "lgvi-i", tmp_path / "own/llava")
    load_request_encoder(folders / "lgvi-i", tmp_path / "own/llava", vision=tmp_path / "clip")


def test_a_base_that_carries_its_vision_needs_clip_s_config_alone(folders, tmp_path, encoder):
    own, clip = tmp_path / "llava", tmp_path / "clip-vit-large-patch14-336"
    write_public(encoder, own)
    weights = torch.load(own / "pytorch_model.bin") | torch.load(clip / "pytorch_model.bin")
    vision = "model.vision_tower.vision_tower."
    torch.save(
        {vision + name if name.startswith("vision_model.") else name: value for name, value in weights.items()},
        own / "pytorch_model.bin",
    )
    (clip / "pytorch_model.bin").unlink()
    loaded = load_request_encoder(folders / "lgvi-i", own)
    torch.testing.assert_close(loaded.look(loaded.picture(FRAME)), encoder.look(encoder.picture(FRAME)))


def test_layers_keep_the_type_that_llava_stores_them_in(folders, tmp_path, encoder):
    half = small_encoder(padding=4).to(torch.bfloat16)
    write_transformers(half, tmp_path / "llava")
    loaded = load_request_encoder(folders / "lgvi-i", tmp_path / "llava")  # whose trained part is float32
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
    loaded.answer(FRAME, "remove the dog", max_tokens=2)


def test_a_model_without_vision_is_refused(encoder):
    config = {name: value for name, value in encoder.config.items() if name != "vision_config"}
    with pytest.raises(InputError, match="no vision tower"):
        RequestEncoder(config, encoder.tokenizer.model, PROMPT)


def test_a_tokenizer_larger_than_the_model_is_refused(encoder):
    config = encoder.config | {"text_config": encoder.config["text_config"] | {"vocab_size": 20}}
    with pytest.raises(InputError, match="they do not belong together"):
        RequestEncoder(config, encoder.tokenizer.model, PROMPT)


def test_the_public_folder_loads_as_a_u_net_that_the_answer_steers(folders):
    config = UNetConfig(
        sample_size=8,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        layers_per_block=1,
        cross_attention_dim=24,
        mask_decoder_type=None,
    )
    part = folders / "lgvi-i/unet"
    part.mkdir()
    (part / "config.json").write_text(json.dumps(config.to_dict()))
    save_file(InflatedUNet(config).state_dict(), part / "diffusion_pytorch_model.safetensors")
    assert "language model" in describe(folders / "lgvi-i") and "load_request_encoder" in describe(folders / "lgvi-i")

    checkpoint, encoder = load(folders / "lgvi-i"), load_request_encoder(folders / "lgvi-i")
    text = encoder.answer(FRAME, "remove the dog", max_tokens=5).steering()
    noisy = torch.randn(1, 4, 2, 8, 8)
    with torch.no_grad():
        steered, empty = (checkpoint.unet(noisy, 500, given, noisy) for given in (text, torch.zeros_like(text)))
    assert steered.isfinite().all() and not torch.equal(steered, empty)


def test_the_trained_part_alone_is_described_as_what_it_is(folders):
    assert "LGVI-I's language-model part" in describe(folders / "lgvi-i/llava")
