"""What a run starts from: what is loaded computes what it did, what is new adds nothing, what does not fit says so."""

import json
import shutil

import pytest
import torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from test_cococo_checkpoints import write_file, write_shards, write_tokenizer
from test_ldm import UNET, small_parts
from transformers import CLIPTextConfig, CLIPTextModel

from lgvi_core import checkpoints
from lgvi_core.errors import InputError
from lgvi_core.models import InflatedUNet, UNetConfig
from lgvi_core.models.autoencoder import StableDiffusionAutoencoder
from train import config as configs
from train.initialise import start
from train.tokenizer import train_clip_tokenizer

SCALE = 0.18215
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 12,
    "projection_dim": 32,
}
VAE = {
    "block_out_channels": [32, 32],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "latent_channels": 4,
    "scaling_factor": SCALE,
}
MASK = {"mask_channels": 32}
TINY = {
    "in_channels": 12,
    "out_channels": 12,
    "sample_size": 8,
    "block_out_channels": [16, 16],
    "down_block_types": ["DownBlock3D", "CrossAttnDownBlock3D"],
    "up_block_types": ["CrossAttnUpBlock3D", "UpBlock3D"],
    "layers_per_block": 1,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
    "mask_channels": 8,
    "mask_norm_groups": 4,
}


def flat_unet(channels):
    torch.manual_seed(channels)
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=channels,
        out_channels=4,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=8,
    ).eval()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Small InstructPix2Pix and Stable Diffusion folders, as diffusers and transformers write them; "fill" is for
    inpainting."""
    root = tmp_path_factory.mktemp("flat")
    files = train_clip_tokenizer(["Remove the red circle, please"] * 3, 20)
    size = len(json.loads(files["vocab.json"]))
    for name, channels in (("edit", 8), ("plain", 4), ("fill", 9)):
        flat_unet(channels).save_pretrained(root / name / "unet")
        AutoencoderKL(**VAE).save_pretrained(root / name / "vae")
        special = {"bos_token_id": size - 2, "eos_token_id": size - 1, "pad_token_id": size - 1}
        CLIPTextModel(CLIPTextConfig(**TEXT, vocab_size=size, **special)).save_pretrained(root / name / "text_encoder")
        PNDMScheduler(beta_schedule="scaled_linear", skip_prk_steps=True).save_pretrained(root / name / "scheduler")
        (root / name / "tokenizer").mkdir()
        for file, text in files.items():
            (root / name / "tokenizer" / file).write_text(text)
    return root


def config(initialise, **changes):
    values = {"output": "unused", "steps": 1, "batches": [{"frames": 1, "size": 1}], "tokenizer_sentences": 50}
    return configs.build(configs.TrainConfig, {**values, "initialise": str(initialise), **changes})


def inputs(frames=1, clips=2):
    generator = torch.Generator().manual_seed(5)
    noisy, condition = torch.randn(2, clips, 4, frames, 8, 8, generator=generator)
    return noisy, condition, torch.tensor([17, 903])[:clips], torch.randn(clips, 6, 32, generator=generator)


@pytest.mark.parametrize("unet", [{}, {"in_channels": 4}], ids=["concatenated", "added"])
def test_an_instruct_pix2pix_start_computes_what_it_did(folders, unet):
    begun = start(config(folders / "edit", unet={**MASK, **unet}))
    assert begun.unet.config.adds_condition == bool(unet) and begun.unet.config.temp_attn
    noisy, condition, timesteps, text = inputs()
    with torch.no_grad():
        found, mask = begun.unet(noisy, timesteps, text, condition, return_mask=True)
        # Its video is in latents before scaling, LGVI's after.
        video = torch.cat([noisy, condition / SCALE], dim=1)[:, :, 0]
        wanted = flat_unet(8)(video, timesteps, text).sample
    torch.testing.assert_close(found[:, :, 0], wanted, atol=1e-5, rtol=1e-5)
    assert mask.shape == (2, 1, 1, 8, 8)
    report = "\n".join(begun.report)
    assert "InstructPix2Pix" in report and "new: " in report
    assert "attn_temp (4 times)" in report and "mask_decoder" in report and "0.18215" in report


@pytest.mark.parametrize("unet", [{}, {"in_channels": 8}], ids=["added", "concatenated"])
def test_a_stable_diffusion_start_sees_no_video_yet(folders, unet):
    begun = start(config(folders / "plain", unet={**MASK, **unet}))
    noisy, condition, timesteps, text = inputs()
    with torch.no_grad():
        found = begun.unet(noisy, timesteps, text, condition)
        wanted = flat_unet(4)(noisy[:, :, 0], timesteps, text).sample
    torch.testing.assert_close(found[:, :, 0], wanted, atol=1e-5, rtol=1e-5)
    first = begun.unet.conv_in.weight[:, 4:] if unet else begun.unet.condition_conv_in.weight
    assert first.shape[1] == 4 and not first.any()


def test_the_other_parts_and_the_schedule_come_along(folders):
    begun = start(config(folders / "edit", unet=MASK, scheduler={"rescale_betas_zero_snr": True}))
    assert begun.scheduler["beta_schedule"] == "scaled_linear" and begun.scheduler["rescale_betas_zero_snr"]
    assert begun.autoencoder.scaling_factor == SCALE
    assert not any(p.requires_grad for p in begun.autoencoder.parameters())
    saved = load_file(folders / "edit" / "text_encoder" / "model.safetensors")
    (table,) = (value for name, value in saved.items() if name.endswith("token_embedding.weight"))
    assert torch.equal(begun.text_encoder.model.get_input_embeddings().weight, table)
    assert begun.text_encoder.encode(["remove the red circle"]).shape == (1, 12, 32)


def test_what_is_new_depends_on_the_seed_alone(folders):
    one, same, other = (start(config(folders / "edit", unet=MASK, seed=seed)).unet for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters()))
    assert not torch.equal(one.mask_decoder.final_conv.weight, other.mask_decoder.final_conv.weight)
    assert torch.equal(one.conv_in.weight, other.conv_in.weight)


def test_without_weights_the_same_is_made_on_the_meta_device(folders):
    dry, whole = (start(config(folders / "edit", unet=MASK), weights=weights) for weights in (False, True))
    assert dry.report == whole.report and dry.unet.config == whole.unet.config
    assert all(value.is_meta for value in dry.unet.parameters())
    shapes = [{name: value.shape for name, value in begun.unet.state_dict().items()} for begun in (dry, whole)]
    assert shapes[0] == shapes[1]


@pytest.fixture(scope="module")
def trained(folders, tmp_path_factory):
    """A checkpoint of ours, none of its weights zero."""
    begun = start(config(folders / "plain", unet=MASK))
    generator = torch.Generator().manual_seed(3)
    for parameter in begun.unet.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    path = tmp_path_factory.mktemp("trained") / "model.safetensors"
    parts = {"vae": begun.autoencoder, "text_encoder": begun.text_encoder}
    checkpoints.save(checkpoints.Checkpoint(begun.unet.config, begun.unet, **parts), path)
    return path


def test_our_own_checkpoint_goes_on_as_it_is(trained):
    begun, loaded = start(config(trained)), checkpoints.load(trained)
    for name, value in loaded.unet.state_dict().items():
        assert torch.equal(begun.unet.state_dict()[name], value), name
    assert begun.text_encoder.tokenizer_files == loaded.text_encoder.tokenizer_files
    assert not any("new" in line or "left over" in line for line in begun.report)


@pytest.mark.parametrize("changes", [{"in_channels": 8}, {"coordinates": True, "pooled_text": True}])
def test_options_that_a_checkpoint_lacks_add_nothing_at_first(trained, changes):
    begun, loaded = start(config(trained, unet=changes)), checkpoints.load(trained)
    noisy, condition, timesteps, text = inputs(frames=3)
    with torch.no_grad():
        found = begun.unet(noisy, timesteps, text, condition)
        wanted = loaded.unet(noisy, timesteps, text, condition)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    assert any(f"{name} is" in line for name in changes for line in begun.report)


def test_parts_that_the_config_switches_off_are_left_over(trained):
    begun = start(config(trained, unet={"temp_attn": False, "mask_decoder_type": None}))
    assert begun.unet.mask_decoder is None
    (line,) = (line for line in begun.report if "left over" in line)
    assert "attn_temp (4 times)" in line and "norm_temp (4 times)" in line and "mask_decoder" in line


def test_the_public_folder_without_its_mask_decoder_gets_a_new_one(folders, tmp_path):
    folder = shutil.copytree(folders / "edit", tmp_path / "lgvi")
    inflated = start(config(folders / "edit", unet=MASK)).unet
    weights = {k: v for k, v in inflated.state_dict().items() if not k.startswith("mask_decoder.")}
    save_file(weights, folder / "unet" / "diffusion_pytorch_model.safetensors")
    public = {"_class_name": "LGVI", **inflated.config.to_dict()}
    (folder / "unet" / "config.json").write_text(json.dumps(public))
    begun = start(config(folder))
    assert begun.unet.mask_decoder is not None
    assert [line for line in begun.report if "new: mask_decoder" in line]
    assert torch.equal(begun.unet.conv_in.weight, inflated.conv_in.weight)
    with pytest.raises(InputError, match="lora trains adapters alone.*mask_decoder"):
        start(config(folder, lora={}))
    assert start(config(folder, lora={}, unet={"mask_decoder_type": None})).unet.mask_decoder is None


def test_from_nothing_everything_is_new_and_depends_on_the_seed():
    parts = {
        "unet": TINY,
        "autoencoder": {"kind": "space_to_depth", "factor": 2},
        "text_encoder": TEXT,
        "scheduler": {"prediction_type": "sample", "beta_schedule": "scaled_linear"},
        "tokenizer_merges": 10,
    }
    values = {"output": "unused", "steps": 1, "batches": [{"frames": 1, "size": 1}], "tokenizer_sentences": 50}
    made = configs.build(configs.TrainConfig, {**values, **parts})
    one, same = start(made), start(made)
    assert torch.equal(one.unet.conv_in.weight, same.unet.conv_in.weight)
    assert one.text_encoder.model.get_input_embeddings().weight.std() > 0.9
    assert not one.unet.down_blocks[1].attentions[0].transformer_blocks[0].attn_temp.to_out[0].weight.any()
    with pytest.raises(InputError, match="neither initialise nor text_encoder"):
        start(configs.build(configs.TrainConfig, {**values, **parts, "text_encoder": {}}))


@pytest.mark.parametrize(
    "changes, complaint",
    [
        ({"unet": {"block_out_channels": [32, 96]}}, "another shape: .*down_blocks.1.*Under `unet` leave"),
        ({"unet": {"in_channel": 8}}, "in_channel=8"),
        ({"unet": {"in_channels": 5}}, "in_channels is 5"),
        ({"autoencoder": {"scaling_factor": 2.0}}, "autoencoder.scaling_factor is 2.0, not 0.18215"),
        ({"text_encoder": {"hidden_size": 64}}, "text_encoder.hidden_size is 64, not 32"),
        ({"scheduler": {"prediction_type": "flow"}}, "prediction_type is 'flow'"),
        ({"unet": {**MASK, "gate": True}}, "gate true"),
    ],
)
def test_a_config_that_the_checkpoint_does_not_fit_is_refused(folders, changes, complaint):
    with pytest.raises(InputError, match=complaint):
        start(config(folders / "edit", **changes), weights=False)


def test_what_is_no_start_says_what_it_is(folders, tmp_path):
    with pytest.raises(InputError, match="nothing at .*nowhere.*magicbrush"):
        start(config(tmp_path / "nowhere"))
    bare = shutil.copytree(folders / "edit", tmp_path / "bare")
    shutil.rmtree(bare / "text_encoder")
    with pytest.raises(InputError, match="vae, text_encoder and tokenizer"):
        start(config(bare))
    save_file({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(2)}, tmp_path / "v1-5.safetensors")
    with pytest.raises(InputError, match="no whole checkpoint of Stable Diffusion"):
        start(config(tmp_path / "v1-5.safetensors"))
    save_file({"double_blocks.0.img_attn.qkv.weight": torch.zeros(2)}, tmp_path / "flux.safetensors")
    with pytest.raises(InputError, match="Flux"):
        start(config(tmp_path / "flux.safetensors"))


@pytest.mark.parametrize("folder, channels, is_said", [("fill", 4, "that removes"), ("plain", 9, "that fills")])
def test_what_fills_cannot_learn_to_remove_nor_the_other_way(folders, folder, channels, is_said):
    with pytest.raises(InputError, match=f"a model {is_said} cannot be trained from it"):
        start(config(folders / folder, unet={"in_channels": channels, "mask_decoder_type": None}), weights=False)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """One checkpoint file of Stable Diffusion for inpainting, another of InstructPix2Pix, a tokenizer beside them; the
    U-Nets that are in them."""
    root = tmp_path_factory.mktemp("files")
    write_tokenizer(root)
    _, vae, text = small_parts()
    unets = {}
    for name, channels in (("fill", 9), ("edit", 8)):
        torch.manual_seed(channels)
        unets[name] = UNet2DConditionModel(**UNET | {"in_channels": channels}).eval()
        write_file(root / f"{name}.safetensors", (unets[name], vae, text))
    return root, unets


def filled(unet, frames=3):
    """A U-Net's prediction for a clip to fill, and what it is given, frame by frame as a flat U-Net takes it."""
    generator = torch.Generator().manual_seed(5)
    noisy, masked_video = torch.randn(2, 2, 4, frames, 8, 8, generator=generator)
    mask = (torch.rand(2, 1, frames, 8, 8, generator=generator) > 0.5).float()
    text = torch.randn(2, 6, unet.config.cross_attention_dim, generator=generator)
    timesteps = torch.tensor([17, 903])
    with torch.no_grad():
        found = unet(noisy, timesteps, text, mask=mask, masked_video=masked_video)
    given = torch.cat([noisy, mask, masked_video], dim=1).transpose(1, 2).flatten(0, 1)
    given = given, timesteps.repeat_interleave(frames), text.repeat_interleave(frames, 0)
    return found.transpose(1, 2).flatten(0, 1), given


@pytest.mark.parametrize("place", ["folder", "file"])
def test_an_inpainting_start_computes_what_it_did_in_every_frame(folders, files, place):
    root, unets = files
    path, flat = (folders / "fill", flat_unet(9)) if place == "folder" else (root / "fill.safetensors", unets["fill"])
    begun = start(config(path))
    assert begun.unet.config.motion_attention == ("temporal", "temporal", "global", "text")
    assert begun.unet.config.frame_norm and begun.unet.config.is_inpainting
    found, given = filled(begun.unet)
    with torch.no_grad():
        torch.testing.assert_close(found, flat(*given).sample, atol=1e-5, rtol=1e-5)
    assert any("new: motion_modules (7 times)" in line for line in begun.report)
    assert begun.scheduler["beta_schedule"] == "scaled_linear"


def test_one_file_of_instruct_pix2pix_starts_lgvi(files):
    root, unets = files
    begun = start(config(root / "edit.safetensors", unet=MASK))
    assert begun.unet.config.temp_attn and begun.unet.config.has_mask_decoder
    noisy, condition, timesteps, _ = inputs()
    text = torch.randn(2, 6, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = begun.unet(noisy, timesteps, text, condition)
        wanted = unets["edit"](torch.cat([noisy, condition / SCALE], dim=1)[:, :, 0], timesteps, text).sample
    torch.testing.assert_close(found[:, :, 0], wanted, atol=1e-5, rtol=1e-5)


def test_one_file_needs_its_tokenizer(files, tmp_path):
    root, _ = files
    shutil.copy(root / "fill.safetensors", tmp_path)
    with pytest.raises(InputError, match="tokenizer"):
        start(config(tmp_path / "fill.safetensors"), weights=False)


def test_cococos_shards_beside_their_base_go_on_as_they_are(files, tmp_path):
    root, _ = files
    shutil.copytree(root, tmp_path / "cococo", ignore=shutil.ignore_patterns("edit*"))
    trained = start(config(root / "fill.safetensors", seed=7)).unet
    with torch.no_grad():
        trained.mid_block.motion_modules[0].temporal_transformer.proj_out.weight.fill_(0.1)
    write_shards(tmp_path / "cococo", trained)
    begun = start(config(tmp_path / "cococo", scheduler={"prediction_type": "epsilon"}))
    assert begun.scheduler["beta_schedule"] == "linear" and not any("new" in line for line in begun.report)
    assert all(torch.equal(a, b) for a, b in zip(begun.unet.state_dict().values(), trained.state_dict().values()))


@pytest.fixture
def motion_file(folders, tmp_path):
    """AnimateDiff's motion modules for the small U-Net: two temporal attentions, as in its second version."""
    torch.manual_seed(11)
    shape = start(config(folders / "fill", unet={"motion_attention": ["temporal"] * 2}), weights=False).unet.config
    names = {name: value for name, value in InflatedUNet(shape).state_dict().items() if ".motion_modules." in name}
    for value in names.values():
        torch.nn.init.normal_(value, std=0.1)
    torch.save({"state_dict": {f"module.{name}": value for name, value in names.items()}}, tmp_path / "motion.ckpt")
    return tmp_path / "motion.ckpt", names


def test_animatediffs_motion_modules_are_the_first_weights_of_the_motion_blocks(folders, motion_file):
    path, theirs = motion_file
    begun = start(config(folders / "fill", initialise_motion=str(path)))
    ours = begun.unet.state_dict()
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    report = "\n".join(begun.report)
    assert "attention_blocks.2, attention_blocks.3, norms.2, norms.3" in report
    dry = start(config(folders / "fill", initialise_motion=str(path)), weights=False)
    assert dry.report == begun.report and all(value.is_meta for value in dry.unet.parameters())


def test_motion_modules_that_cannot_be_taken_are_refused(folders, files, motion_file, tmp_path):
    root, _ = files
    path, _ = motion_file
    with pytest.raises(InputError, match="nothing at .*gone.*mm_sd_v15_v2"):
        start(config(folders / "fill", initialise_motion="gone"), weights=False)
    with pytest.raises(InputError, match="another shape"):
        narrow = shutil.copytree(folders / "fill", tmp_path / "narrow")
        unet = json.loads((narrow / "unet" / "config.json").read_text()) | {"block_out_channels": [32, 32]}
        UNet2DConditionModel.from_config(unet).save_pretrained(narrow / "unet")
        start(config(narrow, initialise_motion=str(path)), weights=False)
    with pytest.raises(InputError, match="initialise must give the rest"):
        configs.build(configs.TrainConfig, {"output": "o", "steps": 1, "batches": [], "initialise_motion": "m"})
    write_shards(tmp_path / "cococo", start(config(root / "fill.safetensors")).unet)
    shutil.copytree(root, tmp_path / "cococo", ignore=shutil.ignore_patterns("edit*"), dirs_exist_ok=True)
    with pytest.raises(InputError, match="motion blocks of its own"):
        start(config(tmp_path / "cococo", initialise_motion=str(path)), weights=False)


def test_a_start_with_weights_missing_names_them(folders, tmp_path):
    broken = shutil.copytree(folders / "edit", tmp_path / "broken")
    file = broken / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    del weights["conv_out.bias"]
    save_file(weights, file)
    with pytest.raises(InputError, match="1 missing: conv_out.bias"):
        start(config(broken), weights=False)


def test_an_lgvi_checkpoint_without_text_encoder_is_no_start(tmp_path):
    unet = InflatedUNet(UNetConfig(**{**TINY, "out_channels": 4, "in_channels": 4}))
    path = tmp_path / "unet.safetensors"
    checkpoints.save(checkpoints.Checkpoint(unet.config, unet, StableDiffusionAutoencoder(VAE)), path)
    with pytest.raises(InputError, match="no text encoder"):
        start(config(path))
