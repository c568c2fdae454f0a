"""What the U-Net's config allows, autoencoders there and back, sentences to features."""

import json

import pytest
import torch

from lgvi_core.errors import InputError
from lgvi_core.models import UNetConfig
from lgvi_core.models.autoencoder import SpaceToDepthAutoencoder, StableDiffusionAutoencoder, autoencoder_from_config
from lgvi_core.models.text_encoder import TextEncoder, read_tokenizer
from train.tokenizer import train_clip_tokenizer

VAE = {
    "block_out_channels": [8, 8, 16],
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "norm_num_groups": 4,
    "latent_channels": 4,
    "scaling_factor": 0.18215,
}


@pytest.fixture(scope="module", autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


# Config


@pytest.mark.parametrize("values, message", [
    ({"in_channels": 5}, r"in_channels is 5; with out_channels 4 it must be 4 \(added.*or 8 \(concatenated"),
    ({"in_channels": 4, "out_channels": 3}, "in_channels is 4; with out_channels 3"),
    ({"down_block_types": ("DownBlock3D",)}, r"down_block_types is \['DownBlock3D'\]; it must name 4 blocks"),
    ({"down_block_types": ("DownBlock2D",) * 4}, "down_block_types is .*'DownBlock2D'.* out of .*'DownBlock3D'"),
    ({"up_block_types": ("CrossAttnDownBlock3D",) * 4}, "up_block_types is .* out of .*'CrossAttnUpBlock3D'"),
    ({"block_out_channels": (320, 640)}, "down_block_types is .*; it must name 2 blocks"),
    ({"block_out_channels": (320, 640, 1280, 1000)}, "block_out_channels 1000 .* norm_num_groups 32"),
    ({"attention_head_dim": 7}, "block_out_channels 320 .* 7 heads of attention_head_dim"),
    ({"mask_channels": 100}, "mask_channels 100 must be divisible by mask_norm_groups 32"),
    ({"mask_decoder_type": "Other"}, "mask_decoder_type is 'Other'; known: 'MaskDecoder' or null"),
    ({"resnet_time_scale_shift": "ada"}, "resnet_time_scale_shift is 'ada'; known: 'default', 'scale_shift'"),
    ({"gate": True, "mask_decoder_type": None}, "gate is true but mask_decoder_type is null"),
    ({"gate": True, "mask_upscale": 3}, "mask_upscale 3 needs out_channels divisible by 9, not 4"),
])  # fmt: skip
def test_values_that_do_not_go_together_are_named(values, message):
    with pytest.raises(InputError, match=message):
        UNetConfig(**values)


def test_the_condition_is_added_or_concatenated_by_the_number_of_channels():
    assert UNetConfig().adds_condition
    assert not UNetConfig(in_channels=8).adds_condition


def test_a_public_config_may_carry_what_is_off_or_has_one_meaning_here():
    public = {
        **UNetConfig(lan_cross_attn=True).to_dict(),
        "_class_name": "UNet3DConditionModel",
        "_diffusers_version": "0.20.0",
        "_anything": True,
        "st_attn": False,
        "class_embed_type": None,
        "center_input_sample": False,
        "act_fn": "silu",
        "freq_shift": 0,
        "flip_sin_to_cos": True,
        "mid_block_type": "UNetMidBlock3DCrossAttn",
    }
    assert UNetConfig.from_public(public) == UNetConfig(lan_cross_attn=True)


@pytest.mark.parametrize("flag, value", [
    ("use_motion_module", True),
    ("st_attn", "sparse"),
    ("time_cond_proj_dim", 256),
    ("act_fn", "gelu"),
    ("freq_shift", 1),
    ("mid_block_type", "UNetMidBlock2DCrossAttn"),
])  # fmt: skip
def test_a_public_config_may_not_ask_for_more(flag, value):
    with pytest.raises(InputError, match=f"{flag}={value!r}"):
        UNetConfig.from_public({**UNetConfig().to_dict(), flag: value})


def test_every_flag_that_is_refused_is_in_one_message():
    with pytest.raises(InputError, match="act_fn='gelu', dual_cross_attention=True"):
        UNetConfig.from_public({"dual_cross_attention": True, "act_fn": "gelu"})


def test_a_config_survives_json():
    config = UNetConfig(
        in_channels=48,
        out_channels=48,
        block_out_channels=(64, 128, 192),
        down_block_types=("DownBlock3D", "CrossAttnDownBlock3D", "CrossAttnDownBlock3D"),
        up_block_types=("CrossAttnUpBlock3D", "CrossAttnUpBlock3D", "UpBlock3D"),
        mask_upscale=4,
        gate=True,
        resnet_time_scale_shift="scale_shift",
    )
    again = UNetConfig.from_public(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert hash(again) == hash(config)
    assert type(config.to_dict()["block_out_channels"]) is list


# Autoencoders


def test_space_to_depth_loses_nothing_and_keeps_pixels_in_their_places():
    autoencoder = SpaceToDepthAutoencoder(4, scaling_factor=0.5)
    pixels = torch.rand(2, 3, 8, 12) * 2 - 1
    latents = autoencoder.encode(pixels)
    assert latents.shape == (2, autoencoder.latent_channels, 2, 3)
    assert torch.equal(autoencoder.decode(latents), pixels)
    colour, row, column = 1, 2, 3  # within a square of 4x4
    assert torch.equal(latents[:, colour * 16 + row * 4 + column], 0.5 * pixels[:, colour, row::4, column::4])


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    return StableDiffusionAutoencoder(VAE).eval()


def test_encoding_samples_the_posterior_from_the_generator_alone(vae):
    pixels = torch.rand(2, 3, 16, 8) * 2 - 1

    def encode(seed):
        torch.randn(3)  # what else is drawn does not matter
        return vae.encode(pixels, torch.Generator().manual_seed(seed))

    assert torch.equal(encode(1), encode(1))
    assert not torch.equal(encode(1), encode(2))


def test_latents_are_scaled_by_the_configs_factor(vae):
    pixels, generators = torch.rand(1, 3, 16, 8) * 2 - 1, [torch.Generator().manual_seed(3) for _ in range(2)]
    assert (vae.factor, vae.latent_channels, vae.scaling_factor) == (4, 4, 0.18215)
    unscaled = vae.vae.encode(pixels).latent_dist.sample(generators[0])
    latents = vae.encode(pixels, generators[1])
    assert latents.shape == (1, 4, 4, 2)
    torch.testing.assert_close(latents, 0.18215 * unscaled)
    torch.testing.assert_close(vae.decode(latents), vae.vae.decode(unscaled).sample)


@pytest.mark.parametrize(
    "autoencoder", [SpaceToDepthAutoencoder(2, 0.25), StableDiffusionAutoencoder(VAE)], ids=lambda a: a.config["kind"]
)
def test_an_autoencoder_comes_back_from_its_config(autoencoder):
    config = json.loads(json.dumps(autoencoder.config))
    again = autoencoder_from_config(config)
    assert type(again) is type(autoencoder) and again.config == autoencoder.config
    assert config == autoencoder.config  # what was given is not taken apart
    for name in ("factor", "latent_channels", "scaling_factor"):
        assert getattr(again, name) == getattr(autoencoder, name)
    assert again.load_state_dict(autoencoder.state_dict())


@pytest.mark.parametrize("config", [{"kind": "vq"}, {}, {"factor": 4}])
def test_an_unknown_kind_of_autoencoder_is_named(config):
    kind = repr(config.get("kind"))
    with pytest.raises(InputError, match=f"kind {kind} is not known; known: .*'autoencoder_kl', 'space_to_depth'"):
        autoencoder_from_config(config)


# Text encoder


@pytest.fixture(scope="module")
def tokenizer_files():
    return train_clip_tokenizer(["remove the red circle", "erase the red square"] * 3, merges=20)


def text_config(files, **changes):
    size = len(json.loads(files["vocab.json"]))
    return {
        "vocab_size": size,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 8,
        "bos_token_id": size - 2,
        "eos_token_id": size - 1,
        "pad_token_id": size - 1,
        **changes,
    }


@pytest.fixture(scope="module")
def encoder(tokenizer_files):
    torch.manual_seed(0)
    return TextEncoder(text_config(tokenizer_files), tokenizer_files).eval()


def test_a_sentence_is_framed_and_padded_to_the_models_length(encoder):
    start, end = encoder.model.config.bos_token_id, encoder.model.config.eos_token_id
    ids = encoder.tokenize(["the red", ""]).tolist()
    assert [len(row) for row in ids] == [8, 8]
    assert ids[0][0] == start and ids[0].index(end) == encoder.length("the red") - 1
    assert ids[1] == [start] + 7 * [end]
    assert encoder.length("") == 2


def test_case_and_space_do_not_matter(encoder):
    assert torch.equal(encoder.tokenize(["Remove  the RED circle "]), encoder.tokenize(["remove the red circle"]))


def test_what_is_too_long_is_cut_off_and_its_length_still_told(encoder):
    long = "remove the red circle and the red square and the red circle"
    ids = encoder.tokenize([long])
    assert ids.shape == (1, 8) and ids[0, -1] == encoder.model.config.eos_token_id
    assert encoder.length(long) > 8


def test_any_characters_have_an_encoding(encoder):
    assert encoder.encode(["löse das 🦊 auf", "\n\t"]).isfinite().all()


def test_features_belong_to_their_sentence_alone(encoder):
    features = encoder.encode(["remove the red circle", "erase"])
    assert features.shape == (2, 8, 16)
    torch.testing.assert_close(features[1:], encoder.encode(["erase"]))
    assert not torch.allclose(features[0], features[1])


def test_features_are_the_last_layers_after_the_final_norm(encoder):
    features = encoder.encode(["erase"])
    torch.testing.assert_close(features.mean(dim=-1), torch.zeros(1, 8), atol=1e-5, rtol=0)
    torch.testing.assert_close(features.std(dim=-1, correction=0), torch.ones(1, 8), atol=1e-3, rtol=0)


@pytest.mark.parametrize("change, message", [
    ({"../evil.txt": "x"}, "'../evil.txt' is not known"),
    ({"merges.txt": None}, "the tokenizer has tokenizer_config.json, vocab.json; it needs vocab.json and merges.txt"),
])  # fmt: skip
def test_files_of_no_tokenizer_are_named(tokenizer_files, change, message):
    files = {name: text for name, text in (tokenizer_files | change).items() if text is not None}
    with pytest.raises(InputError, match=message):
        TextEncoder(text_config(tokenizer_files), files)


def test_a_tokenizer_with_more_tokens_than_the_encoder_is_refused(tokenizer_files):
    with pytest.raises(InputError, match="the tokenizer has 5[0-9]* tokens, the text encoder 100"):
        TextEncoder(text_config(tokenizer_files, vocab_size=100, pad_token_id=99, eos_token_id=99), tokenizer_files)


def test_a_tokenizer_is_read_from_its_folder_with_nothing_else(tokenizer_files, tmp_path):
    for name, text in tokenizer_files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "README.md").write_text("about")
    assert read_tokenizer(tmp_path) == tokenizer_files
    (tmp_path / "vocab.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read"):
        read_tokenizer(tmp_path)
