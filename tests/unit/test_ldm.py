"""Names of Stable Diffusion checkpoints in one file, ours and LDM's, both ways."""

import json

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from lgvi_core.checkpoints import ForeignCheckpoint, ldm
from lgvi_core.checkpoints.fitting import bare_text_names, read_values
from lgvi_core.errors import InputError
from lgvi_core.models import UNetConfig

UNET = {
    "in_channels": 9,
    "sample_size": 64,
    "block_out_channels": (32, 64),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "cross_attention_dim": 64,
    "attention_head_dim": 8,
}
VAE = {
    "block_out_channels": (32, 64),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "layers_per_block": 1,
    "latent_channels": 4,
}
TEXT = {"vocab_size": 520, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 1}
SD15_UNET = {"cross_attention_dim": 768, "attention_head_dim": 8}
SD15_VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}


def small_parts():
    torch.manual_seed(0)
    text = CLIPTextModel(CLIPTextConfig(**TEXT, max_position_embeddings=16, hidden_act="quick_gelu"))
    return UNet2DConditionModel(**UNET), AutoencoderKL(**VAE), text


def as_ldm(unet, vae, text):
    """The state dict of one checkpoint file."""
    names = {name: ldm.rename(name, ldm.unet_modules(2, 1)) for name in unet.state_dict()}
    file = {ldm.UNET + names[name]: value for name, value in unet.state_dict().items()}
    for name, value in vae.state_dict().items():
        theirs = ldm.rename(name, ldm.vae_modules(2, 1))
        is_convolution = ".attn_1." in theirs and value.ndim == 2
        file[ldm.VAE + theirs] = value[:, :, None, None] if is_convolution else value
    bare = bare_text_names(text.state_dict())
    return file | {f"{ldm.TEXT}text_model.{name}": value for name, value in bare.items()}


@pytest.fixture(scope="module")
def parts():
    return small_parts()


@pytest.fixture
def file(parts, tmp_path):
    path = tmp_path / "inpainting.safetensors"
    save_file({name: value.contiguous() for name, value in as_ldm(*parts).items()}, path)
    return path


def equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    "config, levels, layers",
    [(UNET, 2, 1), (SD15_UNET, 4, 2), ({**SD15_UNET, "layers_per_block": 3}, 4, 3)],
    ids=["small", "sd15", "three layers"],
)
def test_unet_names_are_those_that_diffusers_reads(config, levels, layers):
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
    ours = unet.state_dict()
    table = ldm.unet_modules(levels, layers)
    theirs = {ldm.rename(name, table): name for name in ours}
    assert None not in theirs and len(theirs) == len(ours)
    read = convert_ldm_unet_checkpoint({ldm.UNET + name: name for name in theirs}, dict(unet.config))
    assert {name: theirs[value] for name, value in read.items()} == {name: name for name in ours}
    back = ldm.inverse(table)
    assert {ldm.rename(name, back) for name in theirs} == set(ours)


@pytest.mark.parametrize("config, levels, layers", [(VAE, 2, 1), (SD15_VAE, 4, 2)], ids=["small", "sd15"])
def test_autoencoder_names_are_those_that_diffusers_reads(config, levels, layers):
    with torch.device("meta"):
        vae = AutoencoderKL(**config)
    table = ldm.vae_modules(levels, layers)
    theirs = {ldm.rename(name, table): value for name, value in vae.state_dict().items()}
    assert None not in theirs and len(theirs) == len(vae.state_dict())
    read = convert_ldm_vae_checkpoint({ldm.VAE + name: value for name, value in theirs.items()}, dict(vae.config))
    assert {name: tuple(value.shape) for name, value in read.items()} == {
        name: tuple(value.shape) for name, value in vae.state_dict().items()
    }
    for name, value in vae.state_dict().items():
        assert read[name] is theirs[ldm.rename(name, table)], name
        assert value.shape == read[name].shape
    assert {ldm.rename(name, ldm.inverse(table)) for name in theirs} == set(vae.state_dict())


def test_the_spatial_names_of_the_public_unet_are_all_known(golden):
    manifest = json.loads((golden.folder / "cococo_unet_sd15_manifest.json").read_text())["state_dict"]
    spatial = [name for name in manifest if ".motion_modules." not in name]
    table = ldm.unet_modules(4, 2)
    theirs = [ldm.rename(name, table) for name in spatial]
    assert len(spatial) == 686 and None not in theirs
    assert [ldm.rename(name, ldm.inverse(table)) for name in theirs] == spatial
    places = dict(zip(spatial, theirs))
    assert places["down_blocks.1.resnets.0.conv_shortcut.weight"] == "input_blocks.4.0.skip_connection.weight"
    assert places["up_blocks.0.upsamplers.0.conv.bias"] == "output_blocks.2.1.conv.bias"
    assert places["up_blocks.1.upsamplers.0.conv.bias"] == "output_blocks.5.2.conv.bias"


def test_a_file_gives_every_part_back(parts, file):
    unet, vae, text = parts
    source = ldm.read(file)
    equal(read_values(source.unet), unet.state_dict())
    equal(read_values(source.vae), vae.state_dict())
    equal(read_values(source.text_encoder), bare_text_names(text.state_dict()))
    kinds = {name: tuple(kind.replace("2D", "3D") for kind in UNET[name]) for name in UNET if "types" in name}
    assert source.unet_config == UNetConfig(**UNET | kinds, temp_attn=False, mask_decoder_type=None)
    vae_config = dict(source.vae_config)
    assert vae_config.pop("kind") == "autoencoder_kl" and vae_config.pop("scaling_factor") == 0.18215
    assert vae_config == {name: list(v) if isinstance(v, tuple) else v for name, v in VAE.items()}
    assert TEXT.items() <= source.text_config.items()
    assert source.text_config["hidden_act"] == "quick_gelu"


def test_a_pickle_with_what_training_leaves_in_it_is_read_too(parts, tmp_path):
    state = as_ldm(*parts)
    state |= {"betas": torch.zeros(4), "model_ema.decay": torch.zeros(()), "state_dict_note": torch.zeros(1)}
    state[ldm.TEXT + "text_model.embeddings.position_ids"] = torch.arange(16)[None]
    torch.save({"state_dict": state, "global_step": 3}, tmp_path / "inpainting.ckpt")
    source = ldm.read(tmp_path / "inpainting.ckpt")
    equal(read_values(source.unet), parts[0].state_dict())
    assert "embeddings.position_ids" not in source.text_encoder


@pytest.mark.parametrize("part", [ldm.UNET, ldm.VAE, ldm.TEXT])
def test_a_part_that_is_absent_is_named(parts, tmp_path, part):
    state = {name: value.contiguous() for name, value in as_ldm(*parts).items() if not name.startswith(part)}
    save_file(state, tmp_path / "partial.safetensors")
    with pytest.raises(InputError, match=part if part != ldm.UNET else "autoencoder"):
        ldm.read(tmp_path / "partial.safetensors")


def test_a_name_that_is_not_known_is_named(parts, tmp_path):
    state = {name: value.contiguous() for name, value in as_ldm(*parts).items()}
    state[ldm.UNET + "label_emb.0.0.weight"] = torch.zeros(2)
    save_file(state, tmp_path / "more.safetensors")
    with pytest.raises(InputError, match=r"label_emb\.0\.0\.weight"):
        ldm.read(tmp_path / "more.safetensors")


@pytest.mark.parametrize(
    "name, family",
    [
        ("conditioner.embedders.0.transformer.text_model.weight", "Stable Diffusion XL"),
        ("double_blocks.0.img_attn.qkv.weight", "Flux"),
    ],
)
def test_another_family_is_named(tmp_path, name, family):
    save_file({name: torch.zeros(2), ldm.FIRST: torch.zeros(4, 4, 3, 3)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ForeignCheckpoint, match=family):
        ldm.read(tmp_path / "foreign.safetensors")
