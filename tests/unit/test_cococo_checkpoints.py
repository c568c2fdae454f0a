"""CoCoCo's shards over Stable Diffusion in every layout, our own file of it, and AnimateDiff's motion modules."""

import dataclasses
import json
import shutil

import pytest
import torch
from safetensors.torch import save_file
from test_checkpoints import tokenizer_files
from test_ldm import UNET, as_ldm, equal, small_parts

from lgvi_core import checkpoints
from lgvi_core.checkpoints import animatediff, ldm
from lgvi_core.checkpoints.fitting import bare_text_names
from lgvi_core.errors import InputError
from lgvi_core.models import InflatedUNet, UNetConfig

MOTION = ("temporal", "temporal", "global", "text")
CONFIG = UNetConfig(
    in_channels=9,
    block_out_channels=UNET["block_out_channels"],
    down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
    up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
    layers_per_block=1,
    cross_attention_dim=64,
    temp_attn=False,
    mask_decoder_type=None,
    frame_norm=True,
    motion_attention=MOTION,
)
ATTENTION = "temporal_transformer.transformer_blocks.0.attention_blocks"


@pytest.fixture(scope="module")
def parts():
    return small_parts()


@pytest.fixture(scope="module")
def unet(parts):
    """The U-Net that the shards and the base make together."""
    torch.manual_seed(1)
    unet = InflatedUNet(CONFIG).eval()
    unet.load_state_dict(parts[0].state_dict(), strict=False)
    for name, parameter in unet.named_parameters():
        if name.endswith("temporal_transformer.proj_out.weight"):  # starts at zero
            torch.nn.init.normal_(parameter, std=0.1)
    return unet


def write_shards(folder, unet, only=lambda name: ".motion_modules." in name):
    """Four shards with the names of the public ones, position tables included."""
    folder.mkdir(exist_ok=True)
    state = {f"module.{name}": value.clone() for name, value in unet.state_dict().items() if only(name)}
    state[f"module.mid_block.motion_modules.0.{ATTENTION}.0.pos_encoder.pe"] = torch.zeros(1, 64, 64)
    names = sorted(state)
    for i in range(4):
        torch.save({name: state[name] for name in names[i::4]}, folder / f"model_{i}.pth")


def write_tokenizer(folder):
    (folder / "tokenizer").mkdir()
    for name, content in tokenizer_files().items():
        (folder / "tokenizer" / name).write_text(content)


def write_diffusers(folder, parts):
    unet, vae, text = parts
    unet.save_pretrained(folder / "unet")
    vae.save_pretrained(folder / "vae")
    text.save_pretrained(folder / "text_encoder")
    write_tokenizer(folder)
    return folder


def write_file(path, parts):
    save_file({name: value.contiguous() for name, value in as_ldm(*parts).items()}, path)
    return path


@pytest.fixture(scope="module")
def shards(unet, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards") / "cococo"
    write_shards(folder, unet)
    return folder


@pytest.fixture(scope="module")
def base(parts, tmp_path_factory):
    return write_diffusers(tmp_path_factory.mktemp("diffusers") / "inpainting", parts)


@pytest.fixture
def folder(shards, tmp_path):
    """A copy of the shards' folder, to be completed or spoilt."""
    return shutil.copytree(shards, tmp_path / "cococo")


def check(checkpoint, unet, parts):
    assert checkpoint.config == CONFIG and checkpoint.family == "cococo"
    equal(checkpoint.unet.state_dict(), unet.state_dict())
    equal(checkpoint.vae.vae.state_dict(), parts[1].state_dict())
    equal(bare_text_names(checkpoint.text_encoder.model.state_dict()), bare_text_names(parts[2].state_dict()))
    assert checkpoint.scheduler_config["beta_schedule"] == "linear"
    assert checkpoint.scheduler_config["set_alpha_to_one"] is True
    assert checkpoint.sampling["guidance_scale"] == 10.0 and checkpoint.training["frames"] == 16
    assert not checkpoint.unet.training


# Where the base may be


def test_shards_inside_a_diffusers_folder(folder, base, unet, parts):
    shutil.copytree(base, folder, dirs_exist_ok=True)
    check(checkpoints.load(folder), unet, parts)


def test_shards_beside_a_diffusers_folder(folder, base, unet, parts):
    shutil.copytree(base, folder / "stable-diffusion-inpainting")
    check(checkpoints.load(folder), unet, parts)


def test_shards_beside_one_checkpoint_file(folder, unet, parts):
    write_file(folder / "inpainting.safetensors", parts)
    write_tokenizer(folder)
    check(checkpoints.load(folder), unet, parts)


def test_a_base_elsewhere(shards, base, unet, parts, tmp_path):
    check(checkpoints.load(shards, base=base), unet, parts)
    torch.save({"state_dict": as_ldm(*parts)}, tmp_path / "inpainting.ckpt")
    write_tokenizer(tmp_path)
    check(checkpoints.load(str(shards), base=str(tmp_path / "inpainting.ckpt")), unet, parts)


def test_shards_that_hold_the_whole_unet_count_before_the_base(base, unet, tmp_path):
    torch.manual_seed(2)
    other = InflatedUNet(CONFIG)
    write_shards(tmp_path / "whole", other, only=lambda name: True)
    equal(checkpoints.load(tmp_path / "whole", base=base).unet.state_dict(), other.state_dict())


def test_a_diffusers_folder_counts_before_a_file_beside_it(folder, base, parts):
    shutil.copytree(base, folder, dirs_exist_ok=True)
    write_file(folder / "inpainting.safetensors", parts)
    assert "diffusers" in checkpoints.inspect(folder).layout


def test_all_motion_blocks_in_one_file(shards, base, unet, parts, tmp_path):
    weights = {}
    for shard in sorted(shards.iterdir()):
        weights |= torch.load(shard, weights_only=True)
    file = tmp_path / "cococo.safetensors"
    save_file({name.removeprefix("module."): value for name, value in weights.items()}, file)
    check(checkpoints.load(file, base=base), unet, parts)
    refused(file, "without the model they stand on")
    shutil.copytree(base, tmp_path / "sd")
    check(checkpoints.load(file), unet, parts)


# What is wrong with shards


def refused(path, *words, **options):
    with pytest.raises(InputError) as caught:
        checkpoints.load(path, **options)
    for word in words:
        assert str(word) in str(caught.value), caught.value


def test_without_a_base_it_says_what_to_put_where(shards):
    refused(shards, shards, "without the model they stand on", "unet/config.json", ".safetensors or .ckpt", "as base")


def test_a_shard_that_is_absent_is_named(folder, base):
    (folder / "model_2.pth").unlink()
    refused(folder, "half downloaded", "model_2.pth", base=base)


def test_the_last_shard_that_is_absent_is_named(folder, base):
    (folder / "model_3.pth").unlink()
    refused(folder, "half downloaded", "absent: model_3.pth", base=base)


def test_a_shard_that_is_cut_off_is_named(folder, base):
    shard = folder / "model_1.pth"
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    refused(folder, shard, "half downloaded", base=base)


@pytest.mark.parametrize("place", ["", "stable-diffusion-inpainting"])
def test_where_every_shard_is_cut_off_the_first_is_named(folder, base, place):
    shutil.copytree(base, folder / place, dirs_exist_ok=True)
    for shard in folder.glob("*.pth"):
        shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    refused(folder, folder / "model_0.pth", "half downloaded")
    for shard in folder.glob("*.pth"):
        shard.write_bytes(b"")
    refused(folder, folder / "model_0.pth", "it is empty")


def test_what_pytorch_guesses_of_a_shard_is_left_out(folder, base):
    shard = folder / "model_1.pth"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(InputError) as caught:
        checkpoints.load(folder, base=base)
    assert len(str(caught.value).removeprefix(str(shard))) < 200 and str(caught.value).endswith("Download it again")


def test_a_shard_with_nan_is_named(folder, base):
    shard = torch.load(folder / "model_0.pth", weights_only=True)
    name = next(iter(shard))
    shard[name].view(-1)[0] = torch.nan
    torch.save(shard, folder / "model_0.pth")
    refused(folder, "NaN", name.removeprefix("module."), base=base)


def test_a_shard_with_code_in_it_is_refused(folder, base):
    torch.save({"module.conv_in.weight": pytest.approx}, folder / "model_0.pth")
    refused(folder, "model_0.pth is refused", "code", base=base)


def test_weights_that_the_unet_has_not_are_named(folder, base):
    torch.save({"module.extra.weight": torch.zeros(2)}, folder / "model_4.pth")
    refused(folder, "1 unexpected: extra.weight", base=base)


def test_one_shard_alone_says_to_give_the_folder(unet, tmp_path):
    name = f"mid_block.motion_modules.0.{ATTENTION}.2.to_q.weight"
    torch.save({f"module.{name}": unet.state_dict()[name]}, tmp_path / "model_0.pth")
    refused(tmp_path / "model_0.pth", "is CoCoCo", "give the folder")


# What is wrong with a base


def test_a_base_of_four_channels_is_named(shards, base, tmp_path):
    folder = shutil.copytree(base, tmp_path / "sd15")
    small_unet = type(small_parts()[0])(**UNET | {"in_channels": 4})
    small_unet.save_pretrained(folder / "unet")
    refused(shards, "takes 4 channels", "Stable Diffusion for inpainting", base=folder)


def test_a_base_of_another_family_is_named(shards, base, tmp_path):
    folder = shutil.copytree(base, tmp_path / "sdxl")
    config = json.loads((folder / "unet" / "config.json").read_text())
    (folder / "unet" / "config.json").write_text(json.dumps(config | {"addition_embed_type": "text_time"}))
    refused(shards, "Stable Diffusion XL", base=folder)


def test_a_base_that_is_not_there(shards, tmp_path):
    refused(shards, "no such file or folder", tmp_path / "nothing.safetensors", base=tmp_path / "nothing.safetensors")
    refused(shards, "has no unet/config.json", base=tmp_path)


def test_two_bases_in_one_folder(folder, parts):
    for name in ("one", "two"):
        write_file(folder / f"{name}.safetensors", parts)
    refused(folder, "more than one model", "one.safetensors", "two.safetensors")


def test_a_base_that_is_cut_off_is_named(folder, parts):
    path = write_file(folder / "inpainting.safetensors", parts)
    path.write_bytes(path.read_bytes()[:5000])
    refused(folder, path, "half downloaded")


def test_a_file_without_a_tokenizer_says_where_to_put_one(folder, parts):
    write_file(folder / "inpainting.safetensors", parts)
    assert checkpoints.inspect(folder).family == "cococo"
    refused(folder, "no tokenizer", "vocab.json", folder)


def test_a_base_is_for_shards_alone(base, shards, parts, unet, tmp_path):
    path = tmp_path / "whole.safetensors"
    checkpoints.save(checkpoints.load(shards, base=base), path)
    refused(path, "takes no base", base=base)


def test_the_base_alone_says_what_to_do(base, parts, tmp_path):
    refused(base, "Stable Diffusion for inpainting", "CoCoCo")
    refused(write_file(tmp_path / "a.safetensors", parts), "Stable Diffusion for inpainting", "CoCoCo")


# Our own file, and in words


def test_our_own_file_takes_the_family(base, shards, unet, parts, tmp_path):
    path = tmp_path / "cococo.safetensors"
    checkpoints.save(checkpoints.load(shards, base=base), path)
    check(checkpoints.load(path), unet, parts)


def test_a_family_and_a_unet_that_do_not_go_together_are_not_saved(base, shards, tmp_path):
    checkpoint = dataclasses.replace(checkpoints.load(shards, base=base), family="lgvi")
    with pytest.raises(InputError, match="the family is 'lgvi', but the U-Net, with in_channels 9, fills"):
        checkpoints.save(checkpoint, tmp_path / "wrong.safetensors")


def test_describe_says_what_it_is(shards, base):
    text = checkpoints.describe(shards, base)
    for words in ("CoCoCo checkpoint", "mask and masked video", "global, text", "guidance_scale 10.0", "inpainting"):
        assert words in text, text


def test_the_full_size_is_checked_by_its_headers(golden, tmp_path):
    manifest = json.loads((golden.folder / "cococo_unet_sd15_manifest.json").read_text())["state_dict"]
    spatial = {name: shape for name, shape in manifest.items() if ".motion_modules." not in name}
    file = {ldm.UNET + ldm.rename(name, ldm.unet_modules(4, 2)): shape for name, shape in spatial.items()}
    vae_and_text = {name: value.shape for name, value in as_ldm(*small_parts()).items() if ldm.UNET not in name}
    hole(tmp_path / "sd-v1-5-inpainting.safetensors", file | vae_and_text)
    motion = {f"module.{name}": shape for name, shape in manifest.items() if name not in spatial}
    for i in range(4):
        hole(tmp_path / f"model_{i}.safetensors", dict(list(motion.items())[i::4]))
    summary = checkpoints.inspect(tmp_path)
    assert summary.parts["unet"].values == sum(
        torch.Size(shape).numel() for name, shape in manifest.items() if not name.endswith(".pe")
    )
    assert summary.config == UNetConfig(
        in_channels=9, temp_attn=False, mask_decoder_type=None, frame_norm=True, motion_attention=MOTION
    )


def hole(path, shapes):
    """A safetensors file with a header and no values behind it."""
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


# AnimateDiff


def animatediff_file(path, mid_block=True, **changes):
    """Motion modules as AnimateDiff has them: two temporal attentions; version 1 has none in the middle."""
    torch.manual_seed(3)
    unet = InflatedUNet(dataclasses.replace(CONFIG, motion_attention=("temporal", "temporal")))
    state = {name: torch.randn_like(v) for name, v in unet.state_dict().items() if ".motion_modules." in name}
    state = {name: value for name, value in state.items() if mid_block or not name.startswith("mid_block")}
    tables = {name.replace("to_q.weight", "pos_encoder.pe"): torch.zeros(1, 32, 8) for name in state if "to_q" in name}
    torch.save({"state_dict": {f"module.{name}": value for name, value in (state | tables | changes).items()}}, path)
    return state


def test_animatediff_gives_the_two_temporal_attentions(tmp_path):
    theirs = animatediff_file(tmp_path / "mm.ckpt")
    unet = InflatedUNet(CONFIG)
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    report = animatediff.start_from(unet, tmp_path / "mm.ckpt")
    after = unet.state_dict()
    equal({name: after[name] for name in theirs}, theirs)
    equal({n: v for n, v in after.items() if n not in theirs}, {n: v for n, v in before.items() if n not in theirs})
    assert f"{len(theirs)} of " in report[0]
    assert report[1].endswith("attention_blocks.2, attention_blocks.3, norms.2, norms.3")
    assert report[2].endswith("none")


def test_animatediff_finds_the_temporal_attentions_wherever_they_stand(tmp_path):
    theirs = animatediff_file(tmp_path / "mm.ckpt", mid_block=False)
    unet = InflatedUNet(dataclasses.replace(CONFIG, motion_attention=("text", "temporal")))
    report = animatediff.start_from(unet, tmp_path / "mm.ckpt")
    block = f"up_blocks.1.motion_modules.1.{ATTENTION}"
    assert torch.equal(unet.state_dict()[f"{block}.1.to_k.weight"], theirs[f"{block}.0.to_k.weight"])
    assert report[1].endswith("attention_blocks.0, mid_block.motion_modules.0, norms.0")
    assert report[2].endswith("attention_blocks.1, norms.1")


def test_animatediff_of_another_size_is_named(tmp_path):
    name = f"mid_block.motion_modules.0.{ATTENTION}.0.to_q.weight"
    animatediff_file(tmp_path / "mm.ckpt", **{name: torch.zeros(3, 3)})
    with pytest.raises(InputError, match=r"to_q\.weight is \(3, 3\), expected \(64, 64\)"):
        animatediff.start_from(InflatedUNet(CONFIG), tmp_path / "mm.ckpt")


def test_what_has_no_motion_modules_is_named(tmp_path, parts):
    path = write_file(tmp_path / "sd.safetensors", parts)
    with pytest.raises(InputError, match="no motion modules"):
        animatediff.start_from(InflatedUNet(CONFIG), path)
    with pytest.raises(InputError, match="without 'temporal'"):
        animatediff.start_from(InflatedUNet(dataclasses.replace(CONFIG, motion_attention=())), path)
    with pytest.raises(InputError, match="no such file"):
        animatediff.start_from(InflatedUNet(CONFIG), tmp_path / "none.ckpt")
