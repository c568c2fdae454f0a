"""What other nodes do to a MODEL: LoRA files, merging, compiling, caching, attention, previews."""

import torch
from small import LAYER, SIZE, clip_of, conditions, core, counting, loaded, lora_for, ours, relative, sample


def check_lora_files_change_the_result_and_can_be_taken_off():
    model, given = loaded("epsilon").model, conditions()
    plain = sample(model, given)
    patched = []
    for name in ("lora_unet_" + LAYER.replace(".", "_"), "diffusion_model." + LAYER):
        with_lora, _ = core("comfy.sd").load_lora_for_models(model, None, lora_for(name), 1.0, 0.0)
        patched.append(sample(with_lora, given))
        assert relative(patched[-1], plain) > 1e-3, name
    assert torch.equal(*patched)
    assert torch.equal(sample(model, given), plain)


def check_a_lora_can_be_extracted_and_put_on_again():
    extract, merging = core("comfy_extras.nodes_lora_extract"), core("comfy_extras.nodes_model_merging")
    model, given = loaded("epsilon").model, conditions()
    tuned, _ = core("comfy.sd").load_lora_for_models(model, None, lora_for("diffusion_model." + LAYER), 1.0, 0.0)
    difference = merging.ModelSubtract().merge(tuned, model, 1.0)[0]
    prefix = "diffusion_model."
    found = extract.calc_lora_model(difference, 4, prefix, prefix, {}, extract.LORAType.STANDARD, bias_diff=False)
    assert f"{prefix}{LAYER}.lora_up.weight" in found
    again, _ = core("comfy.sd").load_lora_for_models(model, None, found, 1.0, 0.0)
    plain, wanted = sample(model, given), sample(tuned, given)
    assert relative(sample(again, given), wanted) < 0.3 * relative(plain, wanted)


def check_models_merge():
    merging = core("comfy_extras.nodes_model_merging")
    model, given = loaded("epsilon").model, conditions()
    other, _ = core("comfy.sd").load_lora_for_models(model, None, lora_for("diffusion_model." + LAYER), 1.0, 0.0)
    merge = merging.ModelMergeSimple().merge
    plain, half = sample(model, given), sample(merge(model, other, 0.5)[0], given)
    assert torch.equal(sample(merge(model, other, 1.0)[0], given), plain)
    assert 0 < relative(half, plain) < 2 * relative(sample(other, given), plain)


def compiled(model):
    """Through core's node, with PyTorch's attention: the host's own for a CPU looks at free memory on the way."""
    model = model.clone()
    attention = core("comfy.ldm.modules.attention").attention_pytorch
    override = {"optimized_attention_override": lambda _, *arguments, **named: attention(*arguments, **named)}
    model.model_options["transformer_options"].update(override)
    return core("comfy_extras.nodes_torch_compile").TorchCompileModel.execute(model, "eager").result[0]


def check_a_compiled_model_gives_the_same_in_one_graph():
    from torch._dynamo.utils import counters

    model, given = loaded("no mask decoder").model, conditions("no mask decoder")
    counters.clear()
    assert relative(sample(compiled(model), given, steps=3), sample(model, given, steps=3)) < 1e-5
    assert counters["stats"]["unique_graphs"] <= 2 and not counters["graph_break"], counters


def check_a_compiled_model_gives_masks_to_those_who_ask():
    sink, given, masks = ours("nodes.host").MASK_SINK, conditions("epsilon"), []
    for model in (loaded("epsilon").model.clone(), compiled(loaded("epsilon").model)):
        masks.append([])
        options = model.model_options["transformer_options"]
        for asks in (False, True, False, True):
            options.pop(sink, None)
            if asks:
                options[sink] = lambda mask, _, found=masks[-1]: found.append(mask)
            sample(model, given, steps=1)
    plain, found = (torch.stack(of_model) for of_model in masks)
    assert len(plain) == 2
    torch.testing.assert_close(found, plain, atol=1e-5, rtol=0)


def check_easycache_skips_calls():
    model, given = loaded("epsilon").model, conditions()
    cached = core("comfy_extras.nodes_easycache").EasyCacheNode.execute(model, 3.0, 0.0, 1.0, False).result[0]
    with counting(model) as calls:
        assert sample(cached, given, steps=8).isfinite().all()
    assert 0 < len(calls) < 8


def check_attention_overrides_of_other_nodes_are_called():
    model = loaded("epsilon").model.clone()
    heads = []

    def override(attention, *arguments, **named):
        heads.append(arguments[3])
        return attention(*arguments, **named)

    model.model_options["transformer_options"]["optimized_attention_override"] = override
    sample(model, conditions(), steps=1)
    assert heads and set(heads) == {8}


def check_a_model_that_stays_out_of_memory_gives_the_same():
    """What --lowvram does on a card: weights that do not fit stay out, and come, with their LoRA, as they are used."""
    management = core("comfy.model_management")
    load = management.LoadedModel.model_load
    for kind in ("epsilon", "sample"):
        given = conditions(kind)
        model, _ = core("comfy.sd").load_lora_for_models(
            loaded(kind).model, None, lora_for("diffusion_model." + LAYER), 1.0, 0.0
        )
        whole = sample(model, given)
        management.unload_all_models()
        management.LoadedModel.model_load = lambda self, *_, **named: load(self, 1, **named)  # a byte of room
        try:
            found = sample(model, given)
        finally:
            management.LoadedModel.model_load = load
        assert model.lowvram_patch_counter() and model.loaded_size() < model.model_size() / 20, kind
        torch.testing.assert_close(found, whole, msg=kind)
        management.unload_all_models()
        torch.testing.assert_close(sample(model, given), whole, msg=kind)


def check_previews_show_the_video():
    from comfy.cli_args import LatentPreviewMethod, args

    args.preview_method = LatentPreviewMethod.Latent2RGB
    parts, frames = loaded("sample"), clip_of()
    inner = parts.model.model
    previewer = core("latent_preview").get_previewer(torch.device("cpu"), inner.latent_format)
    _, image, _ = previewer.decode_latent_to_preview_image("JPEG", inner.process_latent_in(parts.vae.encode(frames)))
    shown = torch.tensor(list(image.tobytes())).view(SIZE // 2, SIZE // 2, 3) / 255
    expected = torch.nn.functional.avg_pool2d(frames[:1].movedim(-1, 1), 2)[0].movedim(0, -1)
    torch.testing.assert_close(shown, expected, atol=1.5 / 255, rtol=0)
