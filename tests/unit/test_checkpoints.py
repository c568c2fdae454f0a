"""Checkpoints: every layout gives the same model, and what cannot be used says why."""

import dataclasses
import hashlib
import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from lgvi_core import checkpoints
from lgvi_core.checkpoints import Checkpoint, ForeignCheckpoint
from lgvi_core.errors import InputError
from lgvi_core.models import InflatedUNet, UNetConfig
from lgvi_core.models.autoencoder import SpaceToDepthAutoencoder, StableDiffusionAutoencoder
from lgvi_core.models.text_encoder import TextEncoder

SMALL = UNetConfig(
    sample_size=8,
    block_out_channels=(32, 64),
    down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
    up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
    layers_per_block=1,
    cross_attention_dim=32,
    mask_channels=32,
)
TEXT = {
    "vocab_size": 520,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 16,
    "bos_token_id": 516,
    "eos_token_id": 517,
    "pad_token_id": 517,
}
VAE = {
    "block_out_channels": [32, 32],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "latent_channels": 4,
    "scaling_factor": 0.18215,
}
SENTENCE = ["remove the red circle"]


def tokenizer_files():
    """A CLIP tokenizer of single bytes, four merges and the two special tokens."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(b) for b in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    merges = ["r e", "re d</w>", "t h", "th e</w>"]
    tokens = [*letters, *(letter + "</w>" for letter in letters), *(merge.replace(" ", "") for merge in merges)]
    vocabulary = {token: i for i, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    return {"vocab.json": json.dumps(vocabulary), "merges.txt": "\n".join(["#version: 0.2", *merges, ""])}


@pytest.fixture(scope="module")
def checkpoint():
    """A small model with every part; weights that start at zero are made to count."""
    torch.manual_seed(0)
    unet = InflatedUNet(SMALL)
    for parameter in unet.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return Checkpoint(
        SMALL,
        unet.eval(),
        StableDiffusionAutoencoder(VAE).eval(),
        TextEncoder(TEXT, tokenizer_files()).eval(),
        training={"width": 64, "height": 48, "frames": 8},
        sampling={"steps": 4, "guidance_scale": 1.0, "image_guidance_scale": 1.0, "scheduler": "ddim"},
        licence="Apache-2.0",
        notes={"seed": 7},
    )


@pytest.fixture(scope="module")
def public(checkpoint, tmp_path_factory):
    """The checkpoint in the public folder's layout, in safetensors."""
    folder = tmp_path_factory.mktemp("public") / "lgvi"
    write_part(folder / "unet", public_config(), checkpoint.unet.state_dict())
    write_part(folder / "vae", {"_class_name": "AutoencoderKL", **VAE}, checkpoint.vae.vae.state_dict())
    text = {f"text_model.{name}": value for name, value in text_weights(checkpoint).items()}
    text["text_model.embeddings.position_ids"] = torch.arange(16)[None]
    write_part(folder / "text_encoder", {"model_type": "clip_text_model", **TEXT}, text, "model.safetensors")
    (folder / "tokenizer").mkdir()
    for name, content in checkpoint.text_encoder.tokenizer_files.items():
        (folder / "tokenizer" / name).write_text(content)
    (folder / "scheduler").mkdir()
    scheduler = {"_class_name": "EulerDiscreteScheduler", "num_train_timesteps": 1000, "beta_schedule": "linear"}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    return folder


@pytest.fixture
def folder(public, tmp_path):
    """A copy of the public folder, to be spoilt."""
    return shutil.copytree(public, tmp_path / "lgvi")


@pytest.fixture
def unet_folder(public, tmp_path):
    return shutil.copytree(public / "unet", tmp_path / "unet")


@pytest.fixture(scope="module")
def native_file(checkpoint, tmp_path_factory):
    path = tmp_path_factory.mktemp("native") / "model.safetensors"
    checkpoints.save(checkpoint, path)
    return path


def public_config(**changes):
    ours = ("mask_channels", "mask_upscale", "gate", "pooled_text", "resnet_time_scale_shift")
    config = {name: value for name, value in SMALL.to_dict().items() if name not in ours}
    return {"_class_name": "SomeModel", **config, "mask_channels": 32, "st_attn": False, "act_fn": "silu", **changes}


def text_weights(checkpoint):
    state = checkpoint.text_encoder.model.state_dict()
    return {name.removeprefix("text_model."): value for name, value in state.items()}


def write_part(folder, config, weights, name="diffusion_pytorch_model.safetensors"):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file({key: value.contiguous() for key, value in weights.items()}, folder / name, {"format": "pt"})


def weights_of(folder):
    return folder / "diffusion_pytorch_model.safetensors"


def change_weights(folder, change):
    """Rewrites a part's weights with what `change` makes of the state dict, or does to it if it returns None."""
    weights = load_file(weights_of(folder))
    changed = change(weights)
    save_file(weights if changed is None else changed, weights_of(folder))


def without(*names):
    return lambda weights: {name: value for name, value in weights.items() if not name.startswith(names)}


def change_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


@torch.no_grad()
def outputs(checkpoint):
    """Prediction, mask, latents and text features for fixed inputs; what is absent is left out."""
    generator = torch.Generator().manual_seed(1)
    dtype = checkpoint.unet.dtype
    noisy, condition = (torch.randn(1, 4, 3, 6, 8, generator=generator).to(dtype) for _ in range(2))
    text = torch.randn(1, 5, 32, generator=generator).to(dtype)
    found = {}
    if checkpoint.config.has_mask_decoder:
        found["prediction"], found["mask"] = checkpoint.unet(noisy, 7, text, condition, return_mask=True)
    else:
        found["prediction"] = checkpoint.unet(noisy, 7, text, condition)
    if checkpoint.vae is not None:
        pixels = torch.rand(1, 3, 8, 8, generator=generator).to(dtype)
        found["latents"] = checkpoint.vae.encode(pixels, torch.Generator().manual_seed(2))
        found["pixels"] = checkpoint.vae.decode(found["latents"])
    if checkpoint.text_encoder is not None:
        found["tokens"] = checkpoint.text_encoder.tokenize(SENTENCE)
        found["features"] = checkpoint.text_encoder.encode(SENTENCE)
    return found


def assert_same(found, expected, names=None):
    names = names or expected.keys()
    assert found.keys() == set(names)
    for name in names:
        assert torch.equal(found[name], expected[name]), name


def refused(path, *words, **arguments):
    """The message of the InputError that loading `path` raises, which has all the words."""
    with pytest.raises(InputError) as caught:
        checkpoints.load(path, **arguments)
    message = str(caught.value)
    for word in (Path(path).name, *words):
        assert str(word) in message, message
    return message


# Our own file


def test_a_saved_checkpoint_comes_back_bit_for_bit(checkpoint, native_file):
    loaded = checkpoints.load(native_file)
    assert_same(outputs(loaded), outputs(checkpoint))
    same = ("config", "scheduler_config", "missing", "training", "sampling", "family", "licence", "notes")
    assert all(getattr(loaded, name) == getattr(checkpoint, name) for name in same)
    assert loaded.path == native_file
    assert not loaded.unet.training and not loaded.vae.training and not loaded.text_encoder.training
    assert all(parameter.requires_grad for parameter in loaded.unet.parameters())
    assert not any(t.is_meta for part in (loaded.unet, loaded.vae, loaded.text_encoder) for t in part.buffers())


def test_saving_twice_gives_the_same_bytes(checkpoint, native_file, tmp_path):
    checkpoints.save(checkpoints.load(native_file), tmp_path / "again.safetensors")
    digests = {hashlib.sha256(p.read_bytes()).digest() for p in (native_file, tmp_path / "again.safetensors")}
    assert len(digests) == 1


def test_the_file_has_public_names_and_its_config_in_the_metadata(native_file):
    with safe_open(native_file, "pt") as file:
        names, metadata = set(file.keys()), file.metadata()
    assert "unet.down_blocks.0.resnets.0.conv1.weight" in names
    assert "text_encoder.text_model.embeddings.token_embedding.weight" in names
    assert "vae.decoder.conv_out.weight" in names
    assert (metadata["format"], metadata["version"], metadata["family"]) == ("lgvi", "1", "lgvi")
    assert json.loads(metadata["unet_config"]) == SMALL.to_dict()
    assert metadata["licence"] == "Apache-2.0"


def test_text_weights_without_the_text_model_level_load_too(native_file, tmp_path, checkpoint):
    with safe_open(native_file, "pt") as file:
        metadata = file.metadata()
    weights = {name.replace("text_model.", ""): value for name, value in load_file(native_file).items()}
    save_file(weights, tmp_path / "other.safetensors", metadata)
    assert_same(outputs(checkpoints.load(tmp_path / "other.safetensors")), outputs(checkpoint))


def test_both_ways_that_transformers_names_text_weights(native_file, tmp_path, checkpoint, monkeypatch):
    class Nested(torch.nn.Module):
        """CLIPTextModel as older versions build it, one level deeper and with its position ids in the state dict."""

        def __init__(self, config):
            super().__init__()
            self.config = config
            self.text_model = CLIPTextModel(config)
            self.text_model.embeddings.register_buffer("position_ids", torch.arange(16)[None])

        def forward(self, ids):
            return self.text_model(ids)

    monkeypatch.setattr("transformers.CLIPTextModel", Nested)
    loaded = checkpoints.load(native_file)
    assert "text_model.embeddings.position_ids" in loaded.text_encoder.model.state_dict()
    assert_same(outputs(loaded), outputs(checkpoint))
    checkpoints.save(loaded, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == native_file.read_bytes()


def test_half_precision_halves_the_file_and_loads_as_float32_on_the_cpu(checkpoint, native_file, tmp_path):
    path = tmp_path / "half.safetensors"
    checkpoints.save(checkpoint, path, dtype=torch.float16)
    assert path.stat().st_size < 0.6 * native_file.stat().st_size
    loaded = checkpoints.load(path)
    parts = (loaded.unet, loaded.vae, loaded.text_encoder)
    assert {parameter.dtype for part in parts for parameter in part.parameters()} == {torch.float32}
    expected = outputs(checkpoint)
    for name, value in outputs(loaded).items():
        torch.testing.assert_close(value, expected[name], atol=2e-2, rtol=2e-2)
    assert checkpoints.load(path, dtype=torch.bfloat16).unet.dtype == torch.bfloat16
    assert checkpoints.load(path, dtype=torch.float16).text_encoder.model.dtype == torch.float16


def test_a_model_with_a_lossless_autoencoder_and_a_gate_round_trips(tmp_path):
    config = dataclasses.replace(SMALL, in_channels=48, out_channels=48, gate=True, mask_upscale=4, pooled_text=True)
    scheduler = {**checkpoints.SCHEDULER, "prediction_type": "sample"}
    model = Checkpoint(config, InflatedUNet(config).eval(), SpaceToDepthAutoencoder(4), scheduler_config=scheduler)
    checkpoints.save(model, tmp_path / "demo.safetensors")
    loaded = checkpoints.load(tmp_path / "demo.safetensors")
    assert loaded.config == config and loaded.text_encoder is None
    assert loaded.vae.config == model.vae.config
    for name, value in model.unet.state_dict().items():
        assert torch.equal(loaded.unet.state_dict()[name], value)


def test_a_checkpoint_can_be_saved_over_the_file_it_came_from(native_file, tmp_path, checkpoint):
    path = shutil.copy(native_file, tmp_path / "model.safetensors")
    loaded = checkpoints.load(path)
    checkpoints.save(loaded, path)
    assert_same(outputs(loaded), outputs(checkpoint))
    assert_same(outputs(checkpoints.load(path)), outputs(checkpoint))


@pytest.mark.parametrize("blow", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_an_interrupted_save_leaves_the_old_file_and_nothing_else(checkpoint, tmp_path, monkeypatch, blow):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"what was there")

    def fail(descriptor):
        raise blow

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(KeyboardInterrupt if isinstance(blow, KeyboardInterrupt) else InputError):
        checkpoints.save(checkpoint, path)
    assert path.read_bytes() == b"what was there"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.safetensors"]


def test_tensors_of_mixed_types_stay_aligned(checkpoint, tmp_path):
    unet = InflatedUNet(SMALL).half()  # an odd number of values: the mask decoder ends in one bias
    model = dataclasses.replace(checkpoint, unet=unet)
    checkpoints.save(model, tmp_path / "mixed.safetensors")
    content = (tmp_path / "mixed.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    entries = json.loads(content[8 : 8 + length])
    del entries["__metadata__"]
    assert length % 8 == 0 and {entry["dtype"] for entry in entries.values()} == {"F16", "F32"}
    assert all(entry["data_offsets"][0] * 8 % int(entry["dtype"][1:]) == 0 for entry in entries.values())
    features = load_file(tmp_path / "mixed.safetensors")["text_encoder.text_model.final_layer_norm.weight"]
    assert torch.equal(features, text_weights(checkpoint)["final_layer_norm.weight"])


def test_saving_refuses_what_is_not_finite(checkpoint, tmp_path):
    with torch.no_grad():
        unet = InflatedUNet(SMALL)
        unet.conv_out.bias[1] = float("nan")
    with pytest.raises(InputError, match="unet.conv_out.bias"):
        checkpoints.save(dataclasses.replace(checkpoint, unet=unet), tmp_path / "a.safetensors")
    with torch.no_grad():
        unet.conv_out.bias[1] = 1e6  # more than float16 can hold
    with pytest.raises(InputError, match="unet.conv_out.bias"):
        checkpoints.save(dataclasses.replace(checkpoint, unet=unet), tmp_path / "a.safetensors", torch.float16)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("where, words", [("no/such/model.safetensors", "no folder"), ("", "is a folder")])
def test_saving_where_no_file_can_be(checkpoint, tmp_path, where, words):
    with pytest.raises(InputError, match=words):
        checkpoints.save(checkpoint, tmp_path / where)


def test_parts_that_do_not_go_together_are_not_saved(checkpoint, tmp_path):
    cases = {
        "latent channels": {"vae": SpaceToDepthAutoencoder(4)},
        "prediction_type is 'velocity'": {"scheduler_config": {"prediction_type": "velocity"}},
        "notes of the metadata is 'some words'": {"notes": "some words"},
        "config is not its U-Net's": {"config": dataclasses.replace(SMALL, sample_size=9)},
    }
    for words, changes in cases.items():
        with pytest.raises(InputError, match=words):
            checkpoints.save(dataclasses.replace(checkpoint, **changes), tmp_path / "a.safetensors")


@pytest.fixture
def with_metadata(native_file, tmp_path):
    """Our file with entries of its metadata changed, or removed where the value is None."""

    def write(**changes):
        with safe_open(native_file, "pt") as file:
            metadata = file.metadata() | changes
        path = tmp_path / "changed.safetensors"
        save_file(load_file(native_file), path, {name: value for name, value in metadata.items() if value is not None})
        return path

    return write


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"version": "2"}, ["version 2", "reads up to 1"]),
        ({"version": None}, ["version none"]),
        ({"family": "cococo"}, ["'cococo'"]),
        ({"unet_config": "{"}, ["unet_config", "half downloaded"]),
        ({"unet_config": '{"in_channels": 5}'}, ["in_channels is 5"]),
        ({"unet_config": '{"block_out_channels": 3}'}, ["unet_config"]),
        ({"unet_config": '{"norm_num_groups": 0}'}, ["unet_config"]),
        ({"training": "[]"}, ["training of the metadata is []", "expected dict"]),
        ({"autoencoder_config": "null"}, ["does not describe", "vae."]),
        ({"autoencoder_config": '{"kind": "magic"}'}, ["'magic'"]),
        ({"autoencoder_config": '{"kind": "space_to_depth", "size": 3}'}, ["autoencoder", "'size'"]),
        ({"tokenizer": '{"../../escape": "x"}'}, ["../../escape", "not known"]),
        ({"tokenizer": '{"vocab.json": "{}"}'}, ["merges.txt"]),
        ({"tokenizer": '{"vocab.json": "{", "merges.txt": ""}'}, ["text encoder", "text encoder"]),
        ({"tokenizer": '{"vocab.json": "{}", "merges.txt": "a b\\nc"}'}, ["text encoder", "Merges text file"]),
        ({"tokenizer": '{"vocab.json": "{\\"a\\": 520}", "merges.txt": ""}'}, ["521 tokens", "520"]),
        ({"scheduler_config": '{"prediction_type": "guess"}'}, ["'guess'", "v_prediction"]),
        ({"text_encoder_config": json.dumps(TEXT | {"hidden_size": 64})}, ["text encoder", "of another shape"]),
    ],
)
def test_metadata_that_cannot_be_used(with_metadata, changes, words):
    refused(with_metadata(**changes), *words)


def test_a_gate_needs_sample_prediction(tmp_path, unet_folder):
    config = dataclasses.replace(SMALL, gate=True)
    with pytest.raises(InputError, match="must be 'sample'"):
        checkpoints.save(Checkpoint(config, InflatedUNet(config)), tmp_path / "gate.safetensors")
    change_config(unet_folder, gate=True)
    new = InflatedUNet(config).state_dict()
    change_weights(unet_folder, lambda w: w | {name: value for name, value in new.items() if "gate" in name})
    refused(unet_folder, "gate true", "'epsilon'", "must be 'sample'")
    with pytest.raises(InputError, match="must be 'sample'"):
        checkpoints.inspect(unet_folder)
    change_weights(unet_folder, without("mask_decoder."))
    refused(unet_folder, "missing: mask_decoder.")


# The public folder


def test_the_public_folder(public, checkpoint):
    loaded = checkpoints.load(public)
    assert_same(outputs(loaded), outputs(checkpoint))
    assert loaded.config == SMALL and loaded.missing == ()
    assert loaded.training == {"width": 512, "height": 320, "frames": 24}
    recommended = {"steps": 50, "guidance_scale": 3.0, "image_guidance_scale": 1.5, "scheduler": "euler"}
    assert loaded.sampling == recommended
    assert loaded.scheduler_config["beta_schedule"] == "linear"
    assert loaded.scheduler_config["prediction_type"] == "epsilon"


@pytest.mark.parametrize("legacy", [False, True])
def test_pytorch_files(folder, checkpoint, legacy):
    for part, new in (("unet", None), ("vae", None), ("text_encoder", "pytorch_model.bin")):
        old = next((folder / part).glob("*.safetensors"))
        target = folder / part / new if new else old.with_suffix(".bin")
        torch.save(load_file(old), target, _use_new_zipfile_serialization=not legacy)
        old.unlink()
    assert_same(outputs(checkpoints.load(folder)), outputs(checkpoint))


@pytest.mark.parametrize("ending", [".safetensors", ".bin"])
def test_shards(folder, checkpoint, ending):
    shard(folder / "unet", ending)
    assert_same(outputs(checkpoints.load(folder)), outputs(checkpoint))


def shard(folder, ending):
    """Splits the weights of a U-Net's folder in two; returns the second shard."""
    weights = load_file(weights_of(folder))
    weights_of(folder).unlink()
    files = [f"diffusion_pytorch_model-{i}-of-2{ending}" for i in (1, 2)]
    place = {name: files[i % 2] for i, name in enumerate(weights)}
    for file in files:
        part = {name: weights[name] for name in weights if place[name] == file}
        save_file(part, folder / file) if ending == ".safetensors" else torch.save(part, folder / file)
    index = folder / f"diffusion_pytorch_model{ending}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": place}))
    return folder / files[1]


def test_parts_may_be_absent(folder, checkpoint):
    for part in ("vae", "text_encoder", "tokenizer", "scheduler"):
        shutil.rmtree(folder / part)
    loaded = checkpoints.load(folder)
    assert loaded.vae is None and loaded.text_encoder is None
    assert_same(outputs(loaded), outputs(checkpoint), ["prediction", "mask"])
    assert loaded.scheduler_config == checkpoints.SCHEDULER
    assert loaded.sampling["scheduler"] == "pndm"


def test_a_text_encoder_without_a_tokenizer_is_left_out_with_a_warning(folder, caplog):
    shutil.rmtree(folder / "tokenizer")
    assert checkpoints.load(folder).text_encoder is None
    assert "no tokenizer folder" in caplog.text


def test_a_unet_folder_alone(public, checkpoint):
    loaded = checkpoints.load(public / "unet")
    assert_same(outputs(loaded), outputs(checkpoint), ["prediction", "mask"])
    assert loaded.scheduler_config == checkpoints.SCHEDULER


def test_the_mask_decoder_may_be_absent(unet_folder, checkpoint):
    change_weights(unet_folder, without("mask_decoder."))
    loaded = checkpoints.load(unet_folder)
    assert loaded.unet.mask_decoder is None and loaded.config.mask_decoder_type is None
    assert loaded.missing == tuple(n for n in checkpoint.unet.state_dict() if n.startswith("mask_decoder."))
    assert_same(outputs(loaded), outputs(checkpoint), ["prediction"])
    summary = checkpoints.inspect(unet_folder)
    assert summary.missing == loaded.missing and "no, weights absent" in str(summary)


def test_a_part_of_the_mask_decoder_may_not_be_absent(unet_folder):
    change_weights(unet_folder, without("mask_decoder.final_conv.bias"))
    refused(unet_folder, "1 missing: mask_decoder.final_conv.bias")


def test_old_names_of_the_autoencoders_attention(folder, checkpoint):
    def old(weights):
        for new, name in {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}.items():
            for key in [key for key in weights if f".{new}." in key]:
                value = weights.pop(key)
                if key.startswith("encoder") and key.endswith("weight"):
                    value = value[:, :, None, None]  # the oldest were 1x1 convolutions
                weights[key.replace(f".{new}.", f".{name}.")] = value.contiguous()

    change_weights(folder / "vae", old)
    assert any(".proj_attn." in name for name in load_file(weights_of(folder / "vae")))
    assert_same(outputs(checkpoints.load(folder)), outputs(checkpoint))


def test_flags_of_other_code_are_ignored_when_off_and_refused_when_on(unet_folder):
    change_config(unet_folder, use_magic=None)
    checkpoints.load(unet_folder)
    change_config(unet_folder, use_magic=True)
    refused(unet_folder, "config.json", "use_magic=True")


def test_parts_of_different_models_are_refused(folder):
    other = dict(TEXT, hidden_size=64)
    encoder = TextEncoder(other, tokenizer_files())
    shutil.rmtree(folder / "text_encoder")
    write_part(folder / "text_encoder", other, encoder.model.state_dict(), "model.safetensors")
    refused(folder, "width 64", "takes 32")


@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_a_conversion_holds_for_every_part(folder, dtype):
    for part in ("unet", "vae"):
        change_weights(folder / part, lambda w: {name: value.half() for name, value in w.items()})
    loaded = checkpoints.load(folder, dtype=dtype)
    assert loaded.unet.dtype == (dtype or torch.float32)
    assert {p.dtype for p in loaded.vae.parameters()} == {dtype or torch.float32}


# What does not fit


def test_everything_that_does_not_fit_is_in_one_message(unet_folder):
    def spoil(weights):
        for name in [name for name in weights if name.startswith("down_blocks.0.resnets")]:
            del weights[name]
        weights["conv_in.weight"] = torch.zeros(32, 8, 3, 3)
        weights["something.else"] = torch.zeros(1)

    change_weights(unet_folder, spoil)
    message = refused(unet_folder, "10 missing: down_blocks.0.resnets.0.", "and 2 more", "1 unexpected: something.else")
    assert "conv_in.weight is (32, 8, 3, 3), expected (32, 4, 3, 3)" in message


def test_a_part_beside_the_unet_that_does_not_fit(folder):
    change_weights(folder / "vae", without("encoder.conv_in.bias"))
    refused(folder, "autoencoder", "encoder.conv_in.bias")


def test_weights_that_are_not_finite(unet_folder):
    def spoil(weights):
        weights["conv_in.bias"][0] = float("nan")
        weights["conv_out.bias"][0] = float("-inf")

    change_weights(unet_folder, spoil)
    refused(unet_folder, "NaN or infinite", "in 2 of", "conv_in.bias", "conv_out.bias")


def test_quantised_weights(unet_folder):
    change_weights(unet_folder, lambda w: w | {"conv_in.weight": w["conv_in.weight"].to(torch.float8_e4m3fn)})
    refused(unet_folder, "conv_in.weight is F8_E4M3")


def test_a_wrong_file_fails_before_any_weights_are_read(unet_folder, monkeypatch):
    change_weights(unet_folder, without("conv_out.bias"))
    monkeypatch.setattr(checkpoints.weights.Weight, "__getattribute__", refuse_reading)
    refused(unet_folder, "conv_out.bias")


def refuse_reading(weight, name):
    assert name != "read"
    return object.__getattribute__(weight, name)


# Half downloaded


@pytest.mark.parametrize("keep", [0, 5, 300, -100])
@pytest.mark.parametrize("layout", ["native", "unet"])
def test_a_file_that_is_cut_off(native_file, unet_folder, tmp_path, keep, layout):
    path = tmp_path / "cut.safetensors" if layout == "native" else weights_of(unet_folder)
    whole = native_file.read_bytes() if layout == "native" else path.read_bytes()
    path.write_bytes(whole[:keep])
    refused(path if layout == "native" else unet_folder, "looks half downloaded", "Download it again")


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("keep", [0.01, 0.5, 0.99])
def test_a_pytorch_file_that_is_cut_off(unet_folder, keep, legacy):
    path = unet_folder / "diffusion_pytorch_model.bin"
    torch.save(load_file(weights_of(unet_folder)), path, _use_new_zipfile_serialization=not legacy)
    weights_of(unet_folder).unlink()
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    refused(unet_folder, "diffusion_pytorch_model.bin looks half downloaded")


@pytest.mark.parametrize(
    "content, words",
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 3\n", "Git LFS pointer"),
        (b"\n<!DOCTYPE html><html>Please log in</html>", "web page"),
        (bytes(1000), "starts with zeros"),
        (b"GGUF" + bytes(range(100)), "GGUF"),
        (b"just some words and nothing else", "neither a safetensors nor a PyTorch file"),
    ],
)
def test_a_file_that_is_something_else(unet_folder, tmp_path, content, words):
    weights_of(unet_folder).write_bytes(content)
    refused(unet_folder, words)
    (tmp_path / "lone.safetensors").write_bytes(content)
    refused(tmp_path / "lone.safetensors", words)


def test_shards_that_are_not_there(unet_folder):
    shard(unet_folder, ".safetensors").unlink()
    refused(unet_folder, "half downloaded", "diffusion_pytorch_model-2-of-2.safetensors")


def test_weights_that_the_shards_lack_are_not_taken_for_an_absent_mask_decoder(unet_folder):
    change_weights(unet_folder, without("mask_decoder."))
    shard(unet_folder, ".safetensors")
    path = unet_folder / "diffusion_pytorch_model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["mask_decoder.final_conv.bias"] = "diffusion_pytorch_model-1-of-2.safetensors"
    path.write_text(json.dumps(index))
    refused(unet_folder, "shards lack: mask_decoder.final_conv.bias")


def test_an_index_does_not_lead_out_of_its_folder(unet_folder):
    weights_of(unet_folder).unlink()
    index = unet_folder / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"conv_in.weight": "../secret.safetensors"}}))
    refused(unet_folder, "outside its folder", "../secret.safetensors")


def test_files_that_are_not_there(folder):
    weights_of(folder / "vae").unlink()
    refused(folder, "half downloaded", "no weights", "diffusion_pytorch_model.{safetensors,bin}")
    (folder / "vae" / "config.json").unlink()
    refused(folder, "no config.json")
    shutil.rmtree(folder / "vae")
    (folder / "tokenizer" / "merges.txt").unlink()
    refused(folder, "needs vocab.json and merges.txt")


def test_a_config_that_is_cut_off(unet_folder):
    (unet_folder / "config.json").write_text('{"in_channels": 4, "out')
    refused(unet_folder, "config.json", "not valid JSON")


@pytest.mark.parametrize("value", ["abc", [32, 63], {}, None])
def test_a_config_with_values_that_make_no_sense(unet_folder, value):
    change_config(unet_folder, block_out_channels=value)
    refused(unet_folder)


# Pickles


class Trap:
    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle"])
def test_a_pickle_with_code_is_refused_and_not_run(unet_folder, tmp_path, kind):
    trap = Trap()
    trap.target = tmp_path / "sprung"
    path = unet_folder / "diffusion_pytorch_model.bin"
    weights_of(unet_folder).unlink()
    content = {"conv_in.weight": torch.zeros(1), "trap": trap}
    if kind == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    refused(unet_folder, "diffusion_pytorch_model.bin is refused", "run code", ".safetensors")
    with pytest.raises(InputError):
        checkpoints.describe(path)
    assert not trap.target.exists()


# Other families, and what is no checkpoint

LORA = "lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight"
SPATIAL = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight"
MOTION = "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.{}.to_q.weight"


@pytest.mark.parametrize(
    "weights, family",
    [
        ({LORA: (4, 4)}, "LoRA"),
        ({"unet.down_blocks.0.to_q.lora_A.weight": (4, 4)}, "LoRA"),
        ({MOTION.format(0): (4, 4)}, "AnimateDiff"),
        ({"model.diffusion_model.input_blocks.0.0.weight": (4, 4, 3, 3)}, "LDM names"),
        (
            {"model.diffusion_model.input_blocks.0.0.weight": (4,), "conditioner.embedders.0.x.weight": (4,)},
            "Stable Diffusion XL",
        ),
        ({SPATIAL: (4, 4), "conv_in.weight": (4, 8, 3, 3)}, "InstructPix2Pix"),
        ({SPATIAL: (4, 4), "conv_in.weight": (4, 9, 3, 3)}, "Stable Diffusion for inpainting"),
        ({SPATIAL: (4, 4), "conv_in.weight": (4, 4, 3, 3)}, "Stable Diffusion"),
        ({"double_blocks.0.img_attn.qkv.weight": (4, 4)}, "Flux"),
        ({"model.mm_projector.0.weight": (4, 4)}, "LLaVA"),
        ({"decoder.up_blocks.0.resnets.0.conv1.weight": (4, 4)}, "autoencoder"),
        ({"text_model.embeddings.token_embedding.weight": (4, 4)}, "CLIP"),
    ],
)
def test_a_file_of_another_family_is_named(tmp_path, weights, family):
    path = tmp_path / "foreign.safetensors"
    save_file({name: torch.zeros(shape) for name, shape in weights.items()}, path)
    refused(path, family, "not an LGVI checkpoint")
    torch.save({"state_dict": {name: torch.zeros(shape) for name, shape in weights.items()}}, tmp_path / "f.ckpt")
    with pytest.raises(ForeignCheckpoint) as caught:
        checkpoints.inspect(tmp_path / "f.ckpt")
    assert family in caught.value.family
    assert family in checkpoints.describe(path)


def test_a_file_of_cococos_motion_blocks_without_its_base_says_what_it_stands_on(tmp_path):
    path = tmp_path / "motion.safetensors"
    save_file({"module." + MOTION.format(2): torch.zeros(4, 4)}, path)
    refused(path, "CoCoCo's weights without the model they stand on", "Stable Diffusion 1.5 for inpainting")


def test_the_language_models_part_of_lgvi_i_is_named(tmp_path):
    parts = {"language_embedding": {"weight": torch.zeros(2)}, "transfer_layer": {"2.weight": torch.zeros(2)}}
    torch.save(parts, tmp_path / "llava_weights.pth")
    assert "LGVI-I's language-model part" in checkpoints.describe(tmp_path / "llava_weights.pth")


@pytest.mark.parametrize(
    "config, family",
    [
        ({"_class_name": "UNet2DConditionModel", "in_channels": 8}, "InstructPix2Pix"),
        ({"_class_name": "UNet2DConditionModel", "in_channels": 9}, "inpainting"),
        ({"_class_name": "UNet2DConditionModel", "addition_embed_type": "text_time"}, "Stable Diffusion XL"),
        ({"use_motion_module": True, "in_channels": 9}, "CoCoCo"),
        ({"_class_name": "UNetMotionModel"}, "AnimateDiff"),
    ],
)
def test_a_folder_of_another_family_is_named_by_its_unet_config(folder, config, family):
    (folder / "unet" / "config.json").write_text(
        json.dumps({"block_out_channels": [32, 64], "cross_attention_dim": 32, **config})
    )
    refused(folder / "unet", family)
    with pytest.raises(ForeignCheckpoint):
        checkpoints.load(folder)
    assert family in checkpoints.describe(folder)


@pytest.mark.parametrize(
    "name, config, family",
    [
        ("config.json", {"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"]}, "LLaVA"),
        ("config.json", {"_class_name": "AutoencoderKL"}, "autoencoder"),
        ("config.json", {"model_type": "clip_text_model"}, "CLIP"),
        ("model_index.json", {"_class_name": "FluxPipeline"}, "Flux"),
        ("adapter_config.json", {"peft_type": "LORA"}, "LoRA"),
    ],
)
def test_a_folder_without_a_unet_is_named_by_its_config(tmp_path, name, config, family):
    (tmp_path / name).write_text(json.dumps(config))
    refused(tmp_path, family)


def test_a_unets_weights_without_their_config(public, tmp_path):
    refused(weights_of(public / "unet"), "without their config", "give the folder", public / "unet")
    path = shutil.copy(weights_of(public / "unet"), tmp_path / "lone.safetensors")
    refused(path, "put its config.json beside it")


def test_a_folder_of_another_familys_weights_is_named(tmp_path):
    torch.save({"module." + MOTION.format(0): torch.zeros(4)}, tmp_path / "mm_sd_v15_v2.ckpt")
    with pytest.raises(ForeignCheckpoint, match="AnimateDiff"):
        checkpoints.load(tmp_path)


def test_what_is_no_checkpoint_at_all(tmp_path, public):
    refused(tmp_path / "nothing.safetensors", "no such file or folder")
    refused(tmp_path, "nothing in it", "accepted are")
    (tmp_path / "clip.mp4").write_bytes(b"\x00\x00\x00\x20ftypisom" + bytes(100))
    refused(tmp_path, "it has clip.mp4", "unet/config.json")
    refused(tmp_path / "clip.mp4", "neither a safetensors nor a PyTorch file")
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    refused(tmp_path / "other.safetensors", "unknown model (weight)", "accepted are")
    refused(public.parent, "give what is in it", public)


def test_a_device_that_is_not_there(native_file):
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(InputError, match="'cuda' cannot be used"):
        checkpoints.load(native_file, device="cuda")


# In words


def test_describe_says_what_a_person_wants_to_know(native_file, public, tmp_path, checkpoint):
    half = tmp_path / "half.safetensors"
    checkpoints.save(checkpoint, half, torch.float16)
    text = checkpoints.describe(half)
    values = sum(p.numel() for p in checkpoint.unet.parameters()) / 1e6
    for words in ("LGVI checkpoint", f"{values:.1f} M values, float16", "64x48 pixels, 8 frames", "Apache-2.0"):
        assert words in text, text
    for words in ("steps 4", "epsilon", "scheduler ddim", "note: seed", "temporal attention", "autoencoder_kl"):
        assert words in text, text
    assert "one lgvi safetensors file" in text
    text = checkpoints.describe(public)
    for words in ("512x320 pixels, 24 frames", "the public LGVI folder", "steps 50", "CreativeML OpenRAIL-M"):
        assert words in text, text
    text = checkpoints.describe(public / "unet")
    for words in ("U-Net alone", "autoencoder   none", "float32"):
        assert words in text, text


def test_inspect_reads_no_weights(native_file, public, monkeypatch):
    monkeypatch.setattr(checkpoints.weights.Weight, "__getattribute__", refuse_reading)
    summary = checkpoints.inspect(native_file)
    assert summary.has_mask_decoder and summary.size == native_file.stat().st_size
    assert summary.parts.keys() == {"unet", "vae", "text_encoder"}
    assert checkpoints.inspect(public).config == SMALL


@pytest.mark.parametrize("variant", ["additive", "concat"])
def test_a_checkpoint_of_full_size_is_checked_by_its_header(golden, tmp_path, variant):
    manifest = json.loads((golden.folder / f"lgvi_unet_sd15_{variant}_manifest.json").read_text())
    header, end = {}, 0
    for name, shape in manifest["state_dict"].items():
        start, end = end, end + 4 * torch.Size(shape).numel()
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    (tmp_path / "config.json").write_text(json.dumps(manifest["config"]))
    with weights_of(tmp_path).open("wb") as file:  # a header and a hole
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    summary = checkpoints.inspect(tmp_path)
    assert summary.parts["unet"].values == end // 4
    assert summary.missing == ()
    assert "933.6 M values" in str(summary)
