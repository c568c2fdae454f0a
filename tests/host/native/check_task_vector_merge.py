"""Task-Vector LoRA Merge on the real host: core's own numbers for LoRAs, the paper's sum for checkpoints."""

import copy
import re
from pathlib import Path

import torch
from check_fill import conditioned, fill, hole
from safetensors.torch import save_file
from small import LAYER, clip_of, conditions, core, loaded, lora_for, ours, raises, relative, sample
from videos import noise

SD15 = {
    "image_size": 32,
    "in_channels": 9,
    "out_channels": 4,
    "model_channels": 32,
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 1, 1, 1],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1] * 9 + [0] * 3,
    "use_linear_in_transformer": False,
    "use_spatial_transformer": True,
    "context_dim": 32,
    "num_heads": 4,
    "legacy": False,
}
WORDS = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
OWN = r"_temp\.|condition_conv_in|mask_decoder"  # what LGVI has beside an image model


def host_sd15():
    """Core's own inpainting model with Stable Diffusion 1.5's structure, small, as a MODEL."""
    torch.manual_seed(0)
    config = core("comfy.supported_models").SD15(copy.deepcopy(SD15))
    config.set_inference_dtype(torch.float32, None)
    model = core("comfy.model_base").BaseModel(config, device=torch.device("cpu"))
    with torch.no_grad():
        for parameter in model.diffusion_model.parameters():
            parameter.normal_(std=0.1)
    cpu = torch.device("cpu")
    return core("comfy.model_patcher").ModelPatcher(model, load_device=cpu, offload_device=cpu)


def put(folder, name, tensors):
    """A file in one of the host's model folders."""
    path = Path(core("folder_paths").get_folder_paths(folder)[0])
    path.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in tensors.items()}, path / name)
    return f"{folder}/{name}"


def merge(model, clip, personal, base="none", alpha=1.0, beta=1.0, alpha_clip=1.0, beta_clip=1.0, ignore=False):
    node = ours("nodes.task_vector_merge").TaskVectorMerge
    arguments = (model, personal, base, alpha, beta, alpha_clip, beta_clip, ignore, clip)
    return node.execute(*arguments).result


def patched(patcher):
    """The weights as they are when the model runs."""
    return {key: patcher.patch_weight_to_device(key, return_weight=True) for key in patcher.patches}


def same(found, expected, error=1e-5):
    assert found.keys() == expected.keys() and found
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=error, atol=error)


def loras():
    """A LoRA with linear, 1x1, 3x3 and middle-factor layers, under kohya's names for Stable Diffusion 1.5."""
    random = torch.Generator().manual_seed(0)

    def layer(name, up, down, mid=None):
        values = {"up": up, "down": down} | ({"mid": mid} if mid else {})
        tensors = {f"{name}.lora_{role}.weight": torch.randn(shape, generator=random) for role, shape in values.items()}
        return {**tensors, f"{name}.alpha": torch.tensor(2.0)}

    return {
        **layer("lora_unet_" + LAYER.replace(".", "_"), (32, 4), (4, 32)),
        **layer("lora_unet_mid_block_attentions_0_proj_in", (32, 4, 1, 1), (4, 32, 1, 1)),
        **layer("lora_unet_down_blocks_3_resnets_1_conv2", (32, 4, 1, 1), (4, 32, 3, 3)),
        **layer("lora_unet_up_blocks_1_resnets_1_conv1", (32, 4, 1, 1), (4, 64, 1, 1), (4, 4, 3, 3)),
    }


def check_a_lora_gives_what_cores_loader_gives():
    model, tensors = host_sd15(), loras()
    expected, _ = core("comfy.sd").load_lora_for_models(model, None, tensors, 0.7, 0.0)
    found, clip = merge(model, None, put("loras", "kinds.safetensors", tensors), beta=0.7)
    assert clip is None and len(found.patches) == 4 and not model.patches
    same(patched(found), patched(expected))


def check_a_personal_checkpoint_gives_the_papers_sum():
    model = host_sd15()
    start = {key: value.clone() for key, value in model.model_state_dict("diffusion_model.").items()}
    random = torch.Generator().manual_seed(1)
    files = {}
    for name in ("base", "red"):
        files[name] = {f"model.{key}": torch.randn(value.shape, generator=random) for key, value in start.items()}
        files[name]["model.diffusion_model.input_blocks.0.0.weight"] = torch.randn(32, 4, 3, 3, generator=random)
    put("checkpoints", "base.safetensors", files["base"])
    red = put("checkpoints", "red.safetensors", files["red"])
    lora = lora_for("lora_unet_" + LAYER.replace(".", "_"))
    before, _ = core("comfy.sd").load_lora_for_models(model, None, lora, 0.5, 0.0)
    after, _ = core("comfy.sd").load_lora_for_models(
        merge(model, None, red, "base.safetensors", 0.8, 1.2)[0], None, lora, 0.5, 0.0
    )
    found = patched(merge(before, None, red, "base.safetensors", 0.8, 1.2)[0])
    same(patched(after), found)
    key = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    change = (lora[name] for name in sorted(lora, reverse=True))
    for name, value in start.items():
        base, personal = (files[one][f"model.{name}"] for one in ("base", "red"))
        if base.shape != value.shape:
            base, personal = (torch.cat([one, torch.zeros(32, 5, 3, 3)], 1) for one in (base, personal))
        expected = base + 0.8 * (value - base) + 1.2 * (personal - base)
        if name == key:
            up, down = change
            expected = expected + 0.5 * up @ down
        torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=1e-5)
    again = merge(merge(model, None, red, "base.safetensors", 0.8, 0.6)[0], None, red, "base.safetensors", 1.0, 0.6)[0]
    same(patched(again), patched(merge(model, None, red, "base.safetensors", 0.8, 1.2)[0]))
    assert all(torch.equal(value, start[name]) for name, value in model.model_state_dict("diffusion_model.").items())


def check_a_merged_model_samples_and_its_strength_can_be_moved():
    parts, given = loaded("epsilon"), conditions()
    tensors = {**lora_for("lora_unet_" + LAYER.replace(".", "_")), **lora_for(WORDS)}
    lora = put("loras", "style.safetensors", tensors)
    plain = sample(parts.model, given)
    expected, expected_clip = core("comfy.sd").load_lora_for_models(parts.model, parts.clip, tensors, 0.5, 0.25)
    found, clip = merge(parts.model, parts.clip, lora, beta=0.5, beta_clip=0.25)
    assert torch.equal(sample(found, given), sample(expected, given))
    words = [one.encode_from_tokens(one.tokenize("the red dog")) for one in (clip, expected_clip, parts.clip)]
    assert torch.equal(words[0], words[1]) and relative(words[0], words[2]) > 1e-4
    moved = sample(merge(parts.model, parts.clip, lora, beta=1.0)[0], given)
    assert relative(moved, plain) > relative(sample(found, given), plain) > 1e-4
    off, _ = merge(parts.model, parts.clip, lora, beta=0.0, beta_clip=0.0)
    assert not off.patches and torch.equal(sample(off, given), plain)


def check_a_model_that_fills_takes_a_style_beside_the_loras_of_cores_loader():
    """CoCoCo's family: its first convolution has more channels than that of the image model a LoRA was made for."""
    parts, given = loaded("fill"), conditioned(loaded("fill"), clip_of(), hole())
    random = torch.Generator().manual_seed(2)
    up, down = (torch.randn(shape, generator=random) for shape in ((32, 4, 1, 1), (4, 12, 3, 3)))
    first = {"lora_unet_conv_in.lora_up.weight": up, "lora_unet_conv_in.lora_down.weight": down}
    tensors = {**lora_for("lora_unet_" + LAYER.replace(".", "_")), **first, **lora_for(WORDS)}
    style, motion = put("loras", "fill style.safetensors", tensors), "up_blocks_1_attentions_0_proj_in"
    other = {name: value[..., None, None] for name, value in lora_for(f"lora_unet_{motion}").items()}
    load = core("comfy.sd").load_lora_for_models
    merged, clip = merge(parts.model, parts.clip, style, beta=0.5, beta_clip=0.5)
    before, _ = merge(load(parts.model, None, other, 0.7, 0.0)[0], None, style, beta=0.5)
    after, _ = load(merged, None, other, 0.7, 0.0)
    plain, found = sample(parts.model, given), sample(after, given)
    assert relative(sample(before, given), found) < 1e-4
    assert relative(found, sample(merged, given)) > 1e-4 and relative(sample(merged, given), plain) > 1e-4

    key = "diffusion_model.conv_in.weight"
    start = parts.model.model_state_dict("diffusion_model.conv_in.")[key]
    change = patched(merged)[key] - start
    delta = 0.5 * torch.einsum("or,rihw->oihw", up[..., 0, 0], down)
    torch.testing.assert_close(change[:, :12], delta, rtol=1e-4, atol=1e-4)
    assert not change[:, 12:].any()

    frames, mask = noise(9), hole(9)
    styled = ours("nodes.host").Loaded(after, clip, parts.vae)
    (_, result, _), (_, usual, _) = fill(styled, frames, mask)[0], fill(parts, frames, mask)[0]
    assert torch.equal(result[mask < 0.5], frames[mask < 0.5]) and not torch.equal(result, usual)


def check_what_does_not_fit_a_merge_is_an_error_that_says_so():
    parts, node = loaded("epsilon"), ours("nodes.task_vector_merge").TaskVectorMerge
    foreign = put("loras", "xl.safetensors", lora_for("lora_te2_text_model_encoder_layers_0_self_attn_q_proj"))
    raises("is a LoRA for Stable Diffusion XL", merge, parts.model, parts.clip, foreign)
    odd = lora_for("lora_unet_" + LAYER.replace(".", "_")) | lora_for("lora_unet_up_blocks_9_conv")
    odd = put("loras", "odd.safetensors", odd)
    raises("lora_unet_up_blocks_9_conv", merge, parts.model, parts.clip, odd)
    assert len(merge(parts.model, parts.clip, odd, ignore=True)[0].patches) == 1
    flat = {key.removeprefix("diffusion_model."): value for key, value in
            parts.model.model_state_dict("diffusion_model.").items() if not re.search(OWN, key)}  # fmt: skip
    whole = put("checkpoints", "flat.safetensors", flat)
    raises("so the base model is needed", merge, parts.model, None, whole)
    broken = put("checkpoints", "nan.safetensors", flat | {"conv_out.bias": torch.full((12,), float("nan"))})
    raises("NaN or infinite values in conv_out.bias", merge, parts.model, None, broken, "flat.safetensors")
    assert node.validate_inputs(personal=whole, base="flat.safetensors") is True
    assert "no 'loras/gone' in the folder models" in node.validate_inputs(personal="loras/gone", base="none")
    options = {one.id: one.options for one in node.define_schema().inputs if hasattr(one, "options")}
    assert {foreign, whole} <= set(options["personal"]) and options["base"][0] == "none"
    before = node.fingerprint_inputs(personal=odd, base="none")
    put("loras", "odd.safetensors", lora_for(WORDS))
    assert node.fingerprint_inputs(personal=odd, base="none") != before
