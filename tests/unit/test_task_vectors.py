"""Task vectors: the sum is exact, every kind of file gives the change that it stands for, and misfits are named."""

import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

from lgvi_core import checkpoints
from lgvi_core.__main__ import main
from lgvi_core.checkpoints.cococo import MOTION, SCHEDULER
from lgvi_core.errors import InputError
from lgvi_core.lora_files import ForeignLora, open_lora
from lgvi_core.model_parts import open_model
from lgvi_core.models import InflatedUNet, UNetConfig
from lgvi_core.task_vectors import Personal, Strength, merge, rounded

UNET = {
    "sample_size": 8,
    "block_out_channels": (32, 32, 32, 32),
    "layers_per_block": 2,
    "cross_attention_dim": 32,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
}
VAE = {
    "block_out_channels": [16] * 4,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "norm_num_groups": 8,
}
TEXT = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
FOLDERS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
OURS = {
    "in_channels": 9,
    "sample_size": 8,
    "block_out_channels": (32, 32),
    "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
    "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
    "layers_per_block": 1,
    "cross_attention_dim": 32,
    "mask_decoder_type": None,
    "temp_attn": False,
    "frame_norm": True,
    "motion_attention": MOTION,
}
UP_TO_ROUNDING = {"rtol": 3e-7, "atol": 1e-9}


def weights_of(channels, seed):
    """U-Net, text encoder and autoencoder with `channels` going in, by folder and diffusers' names; values random."""
    with torch.device("meta"):
        modules = {
            "unet": UNet2DConditionModel(**UNET, in_channels=channels),
            "vae": AutoencoderKL(**VAE),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**TEXT)),
        }
    generator = torch.Generator().manual_seed(seed)
    return {
        part: {name: torch.randn(value.shape, generator=generator) for name, value in module.state_dict().items()
               if not name.endswith("position_ids")}
        for part, module in modules.items()
    }  # fmt: skip


def save_folder(folder, parts, dtype=torch.float32):
    for part, weights in parts.items():
        (folder / part).mkdir(parents=True)
        values = {name: value.to(dtype) for name, value in weights.items()}
        save_file(values, folder / part / f"{FOLDERS[part]}.safetensors")
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of an inpainting model, its base and two personal models, and their weights."""
    folder = tmp_path_factory.mktemp("models")
    weights = {name: weights_of(9 if name == "inpaint" else 4, seed)
               for seed, name in enumerate(("inpaint", "base", "red", "blue"))}  # fmt: skip
    for name, parts in weights.items():
        save_folder(folder / name, parts)
    return folder, weights


def written(path):
    """The tensors of a merged file by part and diffusers' name."""
    model, parts = open_model(path), {"unet": "unet", "text": "text_encoder", "vae": "vae"}
    return {parts[part]: {name: weight.read() for name, weight in one.items()} for part, one in model.parts.items()}


def bare(weights):
    return {name.removeprefix("text_model."): value for name, value in weights.items()}


def padded(value, like):
    if value.shape == like.shape:
        return value
    return torch.cat([value, torch.zeros(like.shape[0], like.shape[1] - value.shape[1], *like.shape[2:])], 1)


# The sum


def test_the_merged_model_is_the_papers_sum_for_every_part(models, tmp_path):
    folder, weights = models
    alpha, beta = Strength.of(0.8, vae=1.1), Strength.of(1.5, text=0.5)
    merge(folder / "inpaint", [Personal(folder / "red", beta)], tmp_path / "out.safetensors", folder / "base", alpha)
    found = written(tmp_path / "out.safetensors")
    factors = {"unet": (0.8, 1.5), "text_encoder": (0.8, 0.5), "vae": (1.1, 1.5)}
    for part, (a, b) in factors.items():
        inpaint, base, red = (bare(weights[name][part]) for name in ("inpaint", "base", "red"))
        assert found[part].keys() == inpaint.keys()
        for name, value in inpaint.items():
            start, personal = (padded(one[name], value).double() for one in (base, red))
            expected = start + a * (value.double() - start) + b * (personal - start)
            torch.testing.assert_close(found[part][name], expected.float(), **UP_TO_ROUNDING)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_alpha_1_and_beta_0_give_the_inpainting_model_back_bit_for_bit(models, tmp_path, dtype):
    folder, weights = models
    inpaint = {part: dict(one) for part, one in weights["inpaint"].items()}
    inpaint["unet"]["conv_in.weight"] = -torch.zeros(32, 9, 3, 3)  # the sign of zero is a bit, too
    source = save_folder(tmp_path / "inpaint", inpaint, dtype)
    merge(source, [Personal(folder / "red", Strength.of(0))], tmp_path / "out.safetensors", folder / "base")
    found = written(tmp_path / "out.safetensors")
    for part, one in inpaint.items():
        for name, value in bare(one).items():
            assert found[part][name].dtype == dtype
            assert torch.equal(found[part][name].view(torch.uint8), value.to(dtype).view(torch.uint8)), name


def test_the_order_of_personal_models_changes_no_bit(models, tmp_path):
    folder, _ = models
    lora = save_lora(tmp_path / "lora.safetensors", kohya(ATTENTION))
    personals = [
        Personal(folder / "red", Strength.of(0.7)),
        Personal(folder / "blue", Strength.of(0.3)),
        Personal(lora, Strength.of(1.3)),
        Personal(folder / "red", Strength.of(0.1, vae=0.2)),
    ]
    contents = set()
    for i, order in enumerate(itertools.islice(itertools.permutations(personals), 0, 24, 7)):
        out = tmp_path / f"{i}.safetensors"
        merge(folder / "inpaint", list(order), out, folder / "base", Strength.of(0.9))
        contents.add(out.read_bytes())
    assert len(contents) == 1


def test_each_value_is_rounded_once():
    values = torch.randn(100_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values *= 10.0 ** torch.randint(-9, 6, values.shape, generator=torch.Generator().manual_seed(1))
    halfway = torch.tensor([1 + 2**-11, 1 + 2**-11 + 2**-40, -1 - 2**-11 - 2**-40, 1e-60, -1e-60, 1e300])
    values = torch.cat([values, halfway.double(), torch.tensor([1 + 2**-11 + 2**-40], dtype=torch.float64)])
    with np.errstate(over="ignore"):
        expected = torch.from_numpy(values.numpy().astype(np.float16))  # numpy rounds once
    assert torch.equal(rounded(values, torch.float16), expected)
    assert rounded(values[-1:], torch.float16) != values[-1:].half()  # by way of float32 it is the even neighbour
    just_above = torch.tensor([1 + 2**-8 + 2**-40], dtype=torch.float64)
    assert rounded(just_above, torch.bfloat16) == 1 + 2**-7
    assert torch.equal(rounded(values, torch.float32), values.float())


def test_half_precision_models_are_summed_in_float64(models, tmp_path):
    folder, weights = models
    for name in ("inpaint", "base", "red"):
        save_folder(tmp_path / name, weights[name], torch.float16)
    out = tmp_path / "out.safetensors"
    alpha = Strength.of(0.75)  # exact in binary, as the whole sum is then
    merge(tmp_path / "inpaint", [Personal(tmp_path / "red")], out, tmp_path / "base", alpha)
    for name, found in written(out)["vae"].items():
        inpaint, base, red = (weights[one]["vae"][name].half().double() for one in ("inpaint", "base", "red"))
        exact = (inpaint - 0.25 * (inpaint - base) + (red - base)).numpy().astype(np.float16)
        assert torch.equal(found, torch.from_numpy(exact)), name


def test_ldm_names_and_pickles_give_what_diffusers_folders_give(models, tmp_path):
    folder, weights = models
    for name in ("inpaint", "base", "red"):
        merge(folder / name, [], tmp_path / f"{name}.safetensors")  # LDM names
    tensors = load_file(tmp_path / "red.safetensors")
    assert tensors["first_stage_model.encoder.mid.attn_1.q.weight"].shape == (16, 16, 1, 1)
    assert tensors["model.diffusion_model.input_blocks.0.0.weight"].equal(weights["red"]["unet"]["conv_in.weight"])
    tensors |= {"betas": torch.ones(3), "model_ema.decay": torch.ones(1)}
    torch.save({"state_dict": tensors, "global_step": 7}, tmp_path / "red.ckpt")  # what is beside the weights is known
    alpha, beta = Strength.of(0.8), Strength.of(1.2)
    merge(folder / "inpaint", [Personal(folder / "red", beta)], tmp_path / "1.safetensors", folder / "base", alpha)
    files = [tmp_path / name for name in ("inpaint.safetensors", "red.ckpt", "2.safetensors", "base.safetensors")]
    assert merge(files[0], [Personal(files[1], beta)], *files[2:], alpha) == []
    one, two = (load_file(tmp_path / f"{i}.safetensors") for i in (1, 2))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_what_belongs_to_no_part_is_kept(models, tmp_path):
    folder, _ = models
    merge(folder / "inpaint", [], tmp_path / "inpaint.safetensors")
    ids = "cond_stage_model.transformer.text_model.embeddings.position_ids"
    extra = {ids: torch.arange(77)[None], "alphas_cumprod": torch.rand(1000)}
    save_file(load_file(tmp_path / "inpaint.safetensors") | extra, tmp_path / "more.safetensors")
    lora = save_lora(tmp_path / "lora.safetensors", kohya(ATTENTION))
    merge(tmp_path / "more.safetensors", [Personal(lora)], tmp_path / "out.safetensors")
    found = load_file(tmp_path / "out.safetensors")
    assert all(torch.equal(found[name], value) for name, value in extra.items())


def test_a_file_of_ours_stays_one_and_keeps_its_motion_blocks(tmp_path):
    config = UNetConfig(**OURS)
    torch.manual_seed(0)
    checkpoint = checkpoints.Checkpoint(config, InflatedUNet(config), scheduler_config=SCHEDULER, family="cococo")
    checkpoints.save(checkpoint, tmp_path / "inpaint.safetensors")
    before = checkpoint.unet.state_dict()
    flat = {name: value for name, value in before.items() if "motion_modules" not in name}
    flat["conv_in.weight"] = flat["conv_in.weight"][:, :4].contiguous()
    for i, name in enumerate(("base", "red")):
        save_file({key: value + i for key, value in flat.items()}, tmp_path / f"{name}.safetensors")
    files = [tmp_path / f"{name}.safetensors" for name in ("inpaint", "red", "out", "base")]
    merge(files[0], [Personal(files[1], Strength.of(0.5))], *files[2:], Strength.of(2.0))
    loaded = checkpoints.load(files[2])
    assert loaded.family == "cococo" and loaded.notes["task_vectors"]["alpha"] == "2"
    for name, value in loaded.unet.state_dict().items():
        expected = before[name] + 0.5 * ("motion_modules" not in name)
        if name == "conv_in.weight":  # what the base does not have is inpainting's own, twice
            expected[:, 4:] = 2 * before[name][:, 4:]
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-6)


# LoRA files

ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
OUT = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_out.0"
POINTWISE = "mid_block.attentions.0.proj_in"
KERNEL = "up_blocks.1.resnets.0.conv1"
FIRST = "conv_in"
WORDS = "text_model.encoder.layers.1.self_attn.q_proj"
RANK, ALPHA = 4, 6.0


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def factors(kernel=(), channels=(32, 32), middle=False):
    """up, mid and down of a layer, and its dense change without alpha / rank, made value by value."""
    out, into = channels
    ones = (1,) * len(kernel)
    up = random(out, RANK, *ones)
    if not middle:
        down = random(RANK, into, *kernel)
        return {"up": up, "down": down}, sum(
            up[:, r].reshape(out, 1, *ones).double() * down[r][None].double() for r in range(RANK)
        )
    mid, down = random(RANK, RANK, *kernel), random(RANK, into, *ones)
    dense = torch.zeros(out, into, *kernel, dtype=torch.float64)
    for r, s in itertools.product(range(RANK), repeat=2):
        outer = torch.outer(up[:, r].flatten().double(), down[s].flatten().double())
        dense += outer[..., None, None] * mid[r, s].double()
    return {"up": up, "mid": mid, "down": down}, dense


def kohya(layer, part="unet", alpha=ALPHA, **kind):
    squeezed = layer.replace(".", "_")
    tensors = {f"lora_{part}_{squeezed}.lora_{role}.weight": value for role, value in factors(**kind)[0].items()}
    return tensors if alpha is None else {**tensors, f"lora_{part}_{squeezed}.alpha": torch.tensor(alpha)}


def named(layer, up, down, **kind):
    values = factors(**kind)[0]
    return {layer + up: values["up"], layer + down: values["down"]}


def save_lora(path, tensors, metadata=None):
    save_file({name: value.contiguous() for name, value in tensors.items()}, path, metadata)
    return path


PROCESSOR = ATTENTION.replace(".to_q", ".processor.to_q")
PEFT = ("unet", ATTENTION, {}, 1.0)
LORAS = {
    "kohya, linear": (kohya(ATTENTION), "unet", ATTENTION, {}, ALPHA / RANK),
    "kohya, no alpha": (kohya(ATTENTION, alpha=None), "unet", ATTENTION, {}, 1.0),
    "kohya, output layer": (kohya(OUT), "unet", OUT, {}, ALPHA / RANK),
    "kohya, 1x1": (kohya(POINTWISE, kernel=(1, 1)), "unet", POINTWISE, {"kernel": (1, 1)}, ALPHA / RANK),
    "linear for 1x1": (kohya(POINTWISE), "unet", POINTWISE, {}, ALPHA / RANK),
    "LoCon, 3x3": (kohya(KERNEL, kernel=(3, 3), channels=(32, 64)), "unet", KERNEL,
                   {"kernel": (3, 3), "channels": (32, 64)}, ALPHA / RANK),
    "LoCon, middle factor": (kohya(KERNEL, kernel=(3, 3), channels=(32, 64), middle=True), "unet", KERNEL,
                             {"kernel": (3, 3), "channels": (32, 64), "middle": True}, ALPHA / RANK),
    "first convolution": (kohya(FIRST, kernel=(3, 3), channels=(32, 4)), "unet", FIRST,
                          {"kernel": (3, 3), "channels": (32, 4)}, ALPHA / RANK),
    "kohya, text": (kohya(WORDS, part="te"), "text_encoder", WORDS, {}, ALPHA / RANK),
    "diffusers": (named("unet." + ATTENTION, ".lora.up.weight", ".lora.down.weight"), *PEFT),
    "diffusers, processors": (named("unet." + PROCESSOR, "_lora.up.weight", "_lora.down.weight"), *PEFT),
    "diffusers, processors, output": (
        named("unet." + OUT.replace(".to_out.0", ".processor.to_out"), "_lora.up.weight", "_lora.down.weight"),
        "unet", OUT, {}, 1.0),
    "diffusers, text": (
        named("text_encoder." + WORDS, ".lora_linear_layer.up.weight", ".lora_linear_layer.down.weight"),
        "text_encoder", WORDS, {}, 1.0),
    "peft": (named("base_model.model." + ATTENTION, ".lora_B.weight", ".lora_A.weight"), *PEFT),
    "peft, adapter's name": (named("unet." + ATTENTION, ".lora_B.default.weight", ".lora_A.default.weight"), *PEFT),
    "peft, 3x3": (named("unet." + KERNEL, ".lora_B.weight", ".lora_A.weight", kernel=(3, 3), channels=(32, 64)),
                  "unet", KERNEL, {"kernel": (3, 3), "channels": (32, 64)}, 1.0),
    "ComfyUI": (named("diffusion_model." + ATTENTION, ".lora_B.weight", ".lora_A.weight"), *PEFT),
}  # fmt: skip


@pytest.mark.parametrize("kind", LORAS)
def test_a_lora_adds_alpha_over_rank_times_its_product(models, tmp_path, kind):
    folder, weights = models
    tensors, part, layer, shape, scale = LORAS[kind]
    lora, out = save_lora(tmp_path / "lora.safetensors", tensors), tmp_path / "out.safetensors"
    assert merge(folder / "inpaint", [Personal(lora, Strength.of(0.7))], out) == []  # no base is needed
    found, before = written(out)[part], bare(weights["inpaint"][part])
    name = layer.removeprefix("text_model.") + ".weight"
    change = factors(**shape)[1]
    change = padded(change, before[name]) if layer == FIRST else change.reshape(before[name].shape)
    expected = before[name].double() + 0.7 * scale * change
    torch.testing.assert_close(found[name], expected.float(), **UP_TO_ROUNDING)
    assert [other for other in before if not torch.equal(found[other], before[other])] == [name]


def test_whole_changes_of_weights_and_biases_are_added(models, tmp_path):
    folder, weights = models
    key = "lora_unet_" + KERNEL.replace(".", "_")
    tensors = {f"{key}.diff": torch.ones(32, 64, 3, 3), f"{key}.diff_b": torch.full((32,), 2.0)}
    out = tmp_path / "out.safetensors"
    merge(folder / "inpaint", [Personal(save_lora(tmp_path / "lora.safetensors", tensors), Strength.of(0.5))], out)
    found, before = written(out)["unet"], weights["inpaint"]["unet"]
    torch.testing.assert_close(found[f"{KERNEL}.weight"], before[f"{KERNEL}.weight"] + 0.5, **UP_TO_ROUNDING)
    torch.testing.assert_close(found[f"{KERNEL}.bias"], before[f"{KERNEL}.bias"] + 1.0, **UP_TO_ROUNDING)


@pytest.mark.parametrize(
    "settings, scale",
    [
        ({"r": RANK, "lora_alpha": 8}, 2.0),
        ({"r": RANK, "lora_alpha": 8, "use_rslora": True}, 4.0),
        ({"r": RANK, "lora_alpha": 8, "alpha_pattern": {"attn1.to_q": 2}}, 0.5),
    ],
)
def test_the_alpha_of_peft_is_read_from_beside_the_file_and_from_its_metadata(tmp_path, settings, scale):
    tensors = named("base_model.model." + ATTENTION, ".lora_B.weight", ".lora_A.weight")
    save_lora(tmp_path / "adapter_model.safetensors", tensors)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **settings}))
    metadata = {"lora_adapter_metadata": json.dumps({f"unet.{name}": value for name, value in settings.items()})}
    inside = save_lora(tmp_path / "lora.safetensors", named("unet." + ATTENTION, ".lora_B.weight", ".lora_A.weight"),
                       metadata)  # fmt: skip
    for path in (tmp_path, inside):
        (layer,) = open_lora(path).layers.values()
        torch.testing.assert_close(layer.delta(), scale * factors()[1])


# What does not fit


def refused(message, models, personal, tmp_path, kind=InputError, base="base", **options):
    folder, _ = models
    out = tmp_path / "never.safetensors"
    with pytest.raises(kind) as error:
        merge(folder / "inpaint", [personal], out, base and folder / base, **options)
    assert message in str(error.value)
    assert not [file for file in tmp_path.iterdir() if "never" in file.name]


def test_a_lora_with_unknown_layers_names_them_and_can_be_merged_without(models, tmp_path):
    tensors = {**kohya(ATTENTION), **kohya("mid_block.attentions.7.proj_in"), "bundle_emb.x": torch.ones(1)}
    lora = save_lora(tmp_path / "odd.safetensors", tensors)
    refused("lora_unet_mid_block_attentions_7_proj_in", models, Personal(lora), tmp_path)
    refused("bundle_emb.x", models, Personal(lora), tmp_path)
    (note,) = merge(models[0] / "inpaint", [Personal(lora)], tmp_path / "out.safetensors", ignore_unknown=True)
    assert "left out" in note and "mid_block_attentions_7" in note and "bundle_emb.x" in note
    name = ATTENTION + ".weight"
    assert not torch.equal(written(tmp_path / "out.safetensors")["unet"][name], models[1]["inpaint"]["unet"][name])


def test_a_lora_of_other_shapes_names_them(models, tmp_path):
    lora = save_lora(tmp_path / "wide.safetensors", kohya(ATTENTION, channels=(48, 32)))
    refused(f"{ATTENTION}.weight changes (48, 32), the U-Net has (32, 32)", models, Personal(lora), tmp_path)
    (note,) = merge(models[0] / "inpaint", [Personal(lora)], tmp_path / "out.safetensors", ignore_unknown=True)
    assert "changes (48, 32)" in note


KEYS = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"


@pytest.mark.parametrize(
    "family, tensors",
    [
        ("Stable Diffusion XL", kohya(WORDS, part="te2")),
        ("Stable Diffusion XL", kohya("down_blocks.1.attentions.0.transformer_blocks.1.attn1.to_q")),
        ("Stable Diffusion XL", kohya(KEYS, channels=(32, 2048))),
        ("Stable Diffusion 2", kohya(KEYS, channels=(32, 1024))),
        ("Flux", kohya("double_blocks.0.img_attn_qkv")),
        ("Flux", named("transformer.single_transformer_blocks.0.attn.to_q", ".lora_B.weight", ".lora_A.weight")),
        ("Stable Diffusion 3", named("transformer.transformer_blocks.0.attn.add_k_proj", ".lora_B.weight",
                                     ".lora_A.weight")),
        ("a diffusion transformer", named("diffusion_model.blocks.0.self_attn.q", ".lora_B.weight", ".lora_A.weight")),
    ],
)  # fmt: skip
def test_a_lora_of_another_family_is_called_by_its_name(models, tmp_path, family, tensors):
    lora = save_lora(tmp_path / "foreign.safetensors", tensors)
    refused(f"is a LoRA for {family}, not for", models, Personal(lora), tmp_path, ForeignLora, ignore_unknown=True)


def test_adapters_of_another_kind_and_damaged_ones_are_refused(models, tmp_path):
    key = "lora_unet_" + ATTENTION.replace(".", "_")
    files = {
        "holds LoHa layers": {f"{key}.hada_w1_a": torch.ones(2, 2)},
        "holds DoRA layers": {**kohya(ATTENTION), f"{key}.dora_scale": torch.ones(32)},
        "has only its up factor": {f"{key}.lora_up.weight": torch.ones(32, 4)},
        "do not go together": {**kohya(ATTENTION), f"{key}.lora_up.weight": torch.ones(32, 5)},
        "NaN or infinite values in its down factor": {**kohya(ATTENTION), f"{key}.lora_down.weight":
                                                      torch.full((4, 32), math.nan)},
        f"infinite values in {key}.alpha": {**kohya(ATTENTION, alpha=math.nan)},
    }  # fmt: skip
    for i, (message, tensors) in enumerate(files.items()):
        lora = save_lora(tmp_path / f"{i}.safetensors", tensors)
        refused(message, models, Personal(lora), tmp_path)


def test_checkpoints_that_do_not_fit_say_where(models, tmp_path):
    folder, weights = models

    def personal(name, part, changes):
        values = {**weights["red"][part], **changes}
        parts = {**weights["red"], part: {key: value for key, value in values.items() if value is not None}}
        return Personal(save_folder(tmp_path / name, parts))

    odd = personal("odd", "unet", {"conv_norm_out.bias": None, "extra.weight": torch.ones(1)})
    refused("1 missing: conv_norm_out.bias", models, odd, tmp_path)
    refused("1 unexpected: extra.weight", models, odd, tmp_path)
    (note,) = merge(folder / "inpaint", [odd], tmp_path / "out.safetensors", folder / "base", ignore_unknown=True)
    assert "extra.weight" in note
    narrow = personal("narrow", "unet", {"conv_in.weight": torch.ones(32, 3, 3, 3)})
    refused("conv_in.weight is (32, 3, 3, 3), expected (32, 4, 3, 3)", models, narrow, tmp_path)
    wide = personal("wide", "vae", {"post_quant_conv.weight": torch.ones(5, 5, 1, 1)})
    refused("post_quant_conv.weight is (5, 5, 1, 1), expected (4, 4, 1, 1)", models, wide, tmp_path)
    refused("conv_in.weight is (32, 9, 3, 3), expected (32, 4, 3, 3)", models, Personal(folder / "inpaint"), tmp_path)
    nan = personal("nan", "text_encoder", {"text_model.final_layer_norm.bias": torch.full((32,), math.nan)})
    refused("NaN or infinite values in final_layer_norm.bias of the text encoder", models, nan, tmp_path)
    huge = personal("huge", "vae", {"post_quant_conv.bias": torch.full((4,), 3e38)})
    refused("post_quant_conv.bias of the autoencoder comes out larger", models,
            Personal(huge.path, Strength.of(10)), tmp_path)  # fmt: skip


def test_a_personal_model_without_a_part_leaves_that_part_alone(models, tmp_path):
    folder, weights = models
    path = save_folder(tmp_path / "red", {"unet": weights["red"]["unet"]})
    notes = merge(folder / "inpaint", [Personal(path)], tmp_path / "out.safetensors", folder / "base")
    assert [f"{path} has no {title}: nothing is added there" for title in ("text encoder", "autoencoder")] == notes
    assert torch.equal(written(tmp_path / "out.safetensors")["vae"]["quant_conv.bias"],
                       weights["inpaint"]["vae"]["quant_conv.bias"])  # fmt: skip


def test_the_base_is_asked_for_where_it_is_needed_and_checked(models, tmp_path):
    red = Personal(models[0] / "red")
    refused("is a whole checkpoint, so the base model is needed", models, red, tmp_path, base=None)
    refused("alpha is 0.5, so the base model is needed", models, red, tmp_path, base=None, alpha=Strength.of(0.5))
    refused("is an inpainting model itself", models, red, tmp_path, base="inpaint")
    refused("there is no model at", models, red, tmp_path, base="nowhere")
    (tmp_path / "never.safetensors").symlink_to(models[0] / "red" / "unet" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(InputError, match="one of the files to merge"):
        merge(models[0] / "inpaint", [Personal(tmp_path / "never.safetensors")], tmp_path / "never.safetensors")


def test_strengths_are_read_for_all_parts_or_each():
    assert Strength.parse("0.8") == Strength.of(0.8)
    assert Strength.parse("1,unet=1.2,text=0") == Strength(1.2, 0.0, 1.0)
    assert Strength.parse("unet=1,text=2,vae=3") == Strength(1.0, 2.0, 3.0)
    for text in ("", "high", "nan", "1,2", "1,clip=2", "1,unet=1,unet=2", "unet=1"):
        with pytest.raises(InputError):
            Strength.parse(text)


# Memory and the command

MEASURE = """
import resource, sys
from lgvi_core.model_parts import open_model
from lgvi_core.models import InflatedUNet, UNetConfig
from lgvi_core.task_vectors import Personal, Strength, merge
inpaint, base, red, out = sys.argv[1:]
merge(inpaint, [Personal(red, Strength.of(0))], out)  # everything that is imported
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
merge(inpaint, [Personal(red, Strength.of(1.2)), Personal(red, Strength.of(0.3))], out, base, Strength.of(0.8))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="measured in kilobytes, as Linux counts")
def test_memory_stays_under_one_copy_of_the_largest_part(tmp_path):
    for name, channels in (("inpaint", 9), ("base", 4), ("red", 4)):
        unet = {"model.diffusion_model.input_blocks.0.0.weight": torch.ones(4, channels, 3, 3).half()}
        for i in range(24):
            unet[f"model.diffusion_model.layer.{i}.weight"] = torch.full((1024, 1024), float(i)).half()
        save_file(unet, tmp_path / f"{name}.safetensors")
    size = (tmp_path / "inpaint.safetensors").stat().st_size
    paths = [str(tmp_path / f"{name}.safetensors") for name in ("inpaint", "base", "red", "out")]
    root = Path(__file__).parents[2]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root), "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *paths], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) * 1024 < size


def test_the_command_merges_and_says_what_it_did(models, tmp_path, capsys):
    folder, weights = models
    lora, out = save_lora(tmp_path / "a=b.safetensors", kohya(ATTENTION)), tmp_path / "out.safetensors"
    merge_command = ["merge", str(folder / "inpaint"), "-o", str(out), "--quiet"]
    assert main([*merge_command, "--personal", f"{lora}=0.5,text=0"]) == 0
    assert "1 personal model" in capsys.readouterr().out
    with safe_open(out, "pt") as file:
        record = json.loads(file.metadata()["lgvi_task_vectors"])
    assert record["personal"] == [["a=b.safetensors", "unet=0.5,text=0,vae=0.5"]]
    name = ATTENTION + ".weight"
    expected = weights["inpaint"]["unet"][name].double() + 0.5 * ALPHA / RANK * factors()[1]
    torch.testing.assert_close(written(out)["unet"][name], expected.float(), **UP_TO_ROUNDING)
    before = out.read_bytes()
    for wrong in (["--personal", "gone.safetensors=1"], ["--personal", str(folder / "red")], ["--alpha", "much"]):
        assert main([*merge_command, *wrong]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert out.read_bytes() == before
