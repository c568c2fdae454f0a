"""Loading: CLIP, VAE and MODEL of every kind of checkpoint, and what Load LGVI lists."""

import copy
import json
import shutil
from pathlib import Path

import torch
from small import (
    FRAMES,
    HOST,
    KL,
    SPACE_TO_DEPTH,
    STABLE_DIFFUSION,
    UNET,
    checkpoint_file,
    clip_of,
    conditions,
    core,
    loaded,
    lora_for,
    ours,
    raises,
    relative,
    sample,
    write_part,
)

CLIP_L = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "max_position_embeddings": 77,
    "bos_token_id": 49406,
    "eos_token_id": 49407,
}


def check_importing_the_pack_is_fast_and_needs_nothing_that_comfyui_lacks():
    assert HOST.import_seconds < 2, f"{HOST.import_seconds:.1f} s"
    heavy = {"diffusers", "cv2", "skimage", "matplotlib", "train"} & {name.partition(".")[0] for name in HOST.imported}
    assert not heavy, heavy


def check_the_clip_gives_the_features_of_the_text_encoder():
    checkpoint = ours("lgvi_core.checkpoints").load(checkpoint_file("epsilon"))
    clip = loaded("epsilon").clip
    weights, long = ["remove (the (red:1.5)) circle", "\\(red\\) [a] {b}", ")(red:2"], "a " * 40
    for text in ("", "remove the red circle", *weights, "\U0001f436 the dog", long):
        tokens = clip.tokenize(text)
        assert {weight for _, weight in tokens["l"][0]} == {1.0} and len(tokens["l"]) == 1
        expected = checkpoint.text_encoder.encode([text])
        torch.testing.assert_close(clip.encode_from_tokens(tokens), expected, atol=1e-4, rtol=0, msg=text)
    node = core("nodes").CLIPTextEncode().encode(clip, "remove the red circle")[0]
    assert node[0][0].shape == (1, 16, 32)


def check_lora_files_of_the_text_encoder_load():
    clip = loaded("epsilon").clip
    lora = lora_for("lora_te_text_model_encoder_layers_0_self_attn_q_proj")
    _, tuned = core("comfy.sd").load_lora_for_models(None, clip, lora, 0.0, 1.0)
    plain, changed = (one.encode_from_tokens(one.tokenize("the red dog")) for one in (clip, tuned))
    assert relative(changed, plain) > 1e-3


def check_the_space_to_depth_vae_is_exact():
    vae, frames = loaded("sample").vae, clip_of(height=20, width=14)
    latents = vae.encode(torch.cat([frames, frames[..., :1]], dim=-1))
    assert latents.shape == (FRAMES, 12, 10, 7)
    torch.testing.assert_close(vae.decode(latents), frames, atol=1e-6, rtol=0)
    torch.testing.assert_close(vae.encode_tiled(frames), latents)
    torch.testing.assert_close(vae.decode_tiled(latents), frames, atol=1e-6, rtol=0)
    autoencoder = ours("lgvi_core.models.autoencoder").autoencoder_from_config(SPACE_TO_DEPTH)
    expected = autoencoder.encode(frames.movedim(-1, 1) * 2 - 1)
    torch.testing.assert_close(loaded("sample").model.model.process_latent_in(latents), expected)


def check_an_autoencoder_that_cannot_be_made_is_an_error_that_names_it():
    source = ours("lgvi_core.checkpoints").open_source(checkpoint_file("sample"))
    load_vae = ours("nodes.host_vae").load_vae
    for config, message in (
        ({"kind": "other"}, "kind 'other' is not known"),
        ({"kind": "space_to_depth", "factors": 2}, "no autoencoder can be made"),
        ({"kind": "space_to_depth", "factor": 4}, "has 48 latent channels, the U-Net 12"),
        ({"kind": "autoencoder_kl"}, "4 levels"),
        ({"kind": "autoencoder_kl", **KL}, "do not fit its config"),
    ):
        source.vae_config = config
        raises(message, load_vae, source)


def check_the_autoencoder_of_stable_diffusion_gives_the_same_as_in_diffusers():
    checkpoint = ours("lgvi_core.checkpoints").load(checkpoint_file("stable diffusion"))
    parts, frames = loaded("stable diffusion"), clip_of(frames=2, height=32, width=48)
    latents = parts.vae.encode(frames)
    assert latents.shape == (2, 4, 4, 6) and parts.vae.spacial_compression_encode() == 8
    expected = checkpoint.vae.vae.encode(frames.movedim(-1, 1) * 2 - 1).latent_dist.mode()
    torch.testing.assert_close(latents, expected, atol=1e-4, rtol=1e-4)
    pixels = (checkpoint.vae.vae.decode(expected).sample + 1) / 2
    torch.testing.assert_close(parts.vae.decode(latents), pixels.clamp(0, 1).movedim(1, -1), atol=1e-4, rtol=0)
    assert parts.model.get_model_object("latent_format").scale_factor == 0.18215
    given = conditions("stable diffusion", 2, 32, 48)
    assert sample(parts.model, given).shape == (2, 4, 4, 6)


def check_the_public_folder_loads_with_the_hosts_own_clip():
    from transformers import CLIPTextConfig, CLIPTextModel

    models = ours("lgvi_core.models")
    torch.manual_seed(0)
    clip_l = CLIPTextModel(CLIPTextConfig(**CLIP_L, intermediate_size=3072, num_attention_heads=12)).half()
    config = models.UNetConfig(**{**UNET, "in_channels": 4, "out_channels": 4, "cross_attention_dim": 768})
    checkpoint = ours("lgvi_core.checkpoints").load(checkpoint_file("stable diffusion"))
    folder = HOST.work / "public"
    write_part(folder / "unet", config.to_dict(), models.InflatedUNet(config).state_dict())
    write_part(folder / "vae", {"_class_name": "AutoencoderKL", **KL}, checkpoint.vae.vae.state_dict())
    text_config = {"model_type": "clip_text_model", **clip_l.config.to_dict()}
    write_part(folder / "text_encoder", text_config, clip_l.state_dict(), "model.safetensors")
    shutil.copytree(HOST.comfyui / "comfy" / "sd1_tokenizer", folder / "tokenizer")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(STABLE_DIFFUSION))

    parts = ours("nodes.host").load(folder)
    reference = ours("lgvi_core.checkpoints").load(folder)
    sd1_clip = core("comfy.sd1_clip")
    assert isinstance(parts.clip.tokenizer, sd1_clip.SD1Tokenizer)
    for text in ("remove the red circle", "remove (the red:1.5) circle"):
        expected = reference.text_encoder.encode([text])
        found = parts.clip.encode_from_tokens(parts.clip.tokenize(text))
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
    info = ours("nodes.host").lgvi_of(parts.model)
    assert (info.factor, info.training["frames"], info.sampling["steps"]) == (8, 24, 50)


def check_a_unet_of_stable_diffusions_size_fits_the_host():
    import comfy.ops

    host, models = ours("nodes.host"), ours("lgvi_core.models")
    config = models.UNetConfig()
    info = host.LGVIInfo(config, Path("sd15"), 8, "", {"prediction_type": "epsilon", **STABLE_DIFFUSION})
    host_config = host.HostConfig(info, core("comfy.latent_formats").SD15())
    host_config.set_inference_dtype(torch.float16, None)
    host_config.custom_operations = comfy.ops.disable_weight_init
    model = host_config.get_model({}, device="meta")
    with torch.device("meta"):
        expected = models.InflatedUNet(config).state_dict()
    assert {k: v.shape for k, v in model.diffusion_model.state_dict().items()} == {
        k: v.shape for k, v in expected.items()
    }
    assert model.get_dtype() == torch.float16
    x, text = torch.empty(48, 4, 40, 64, device="meta"), torch.empty(48, 77, 768, device="meta")
    model.diffusion_model.float()
    options = {"optimized_attention_override": lambda _, q, *__, **___: torch.empty_like(q)}
    out = model.diffusion_model(x, torch.empty(48, device="meta"), text, transformer_options=options, video=x, clips=2)
    assert out.shape == x.shape
    assert 1e9 < model.memory_required([48, 4, 40, 64]) < 20e9


def check_a_unet_whose_weights_the_host_makes_late_loads():
    import comfy.memory_management
    import comfy.ops

    host, fitting = ours("nodes.host"), ours("lgvi_core.checkpoints.fitting")
    source = ours("lgvi_core.checkpoints").open_source(checkpoint_file("sample"))
    operations = comfy.ops.manual_cast
    comfy.memory_management.aimdo_enabled = True  # as on a CUDA device: layers have no weights until they are loaded
    try:
        unet = host.HostUNet(torch.float32, torch.device("cpu"), operations, **source.unet_config.to_dict())
        assert unet.time_embedding.linear_1.weight is None
        missing, unexpected = unet.load_state_dict(fitting.read_values(source.unet), strict=False, assign=True)
    finally:
        comfy.memory_management.aimdo_enabled = False
    assert not missing and not unexpected


def check_inputs_that_do_not_fit_are_errors_that_say_so():
    host, encode = ours("nodes.host"), ours("nodes.condition_encode").ConditionEncode.execute
    parts, (positive, negative, neither, latent) = loaded("epsilon"), conditions()
    other = core("comfy.model_patcher").ModelPatcher(torch.nn.Linear(1, 1), torch.device("cpu"), torch.device("cpu"))
    raises("is Linear, not LGVI", host.lgvi_of, other)
    raises("is NoneType, not LGVI", host.lgvi_of, None)
    raises("is Linear, not LGVI", ours("nodes.guider").ThreeWayGuider.execute, other, positive, negative, neither, 3, 1)
    shorter = {"samples": latent["samples"][:3]}
    raises("(6, 12, 8, 8)", sample, parts.model, (positive, negative, neither, shorter))
    wide = [[torch.zeros(1, 77, 768), positive[0][1]]]
    raises("(1, 77, 768)", sample, parts.model, (wide, negative, neither, latent))
    two = [[torch.zeros(2, 16, 32), positive[0][1]]]
    raises("2 texts", sample, parts.model, (two, negative, neither, latent))
    frames = clip_of()
    raises("prompt is empty", encode, parts.clip, parts.vae, frames, "  ")
    raises("15x16", encode, parts.clip, parts.vae, frames[:, :, :15], "remove it")
    raises("(0, 16, 16, 3)", encode, parts.clip, parts.vae, frames[:0], "remove it")
    raises("(1, 6, 16, 16, 3)", encode, parts.clip, parts.vae, frames[None], "remove it")


def check_the_loader_lists_what_is_there():
    import folder_paths

    loader = ours("nodes.loader")
    models, elsewhere = Path(folder_paths.models_dir), HOST.work / "elsewhere"
    unet = ours("lgvi_core.checkpoints").load(checkpoint_file("epsilon")).unet
    block_names = {**unet.config.to_dict(), "_class_name": "UNet3DConditionModel"}
    flat = {**block_names, "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"]}
    shutil.rmtree(models / "lgvi", ignore_errors=True)  # what other checks have put there
    (models / "lgvi").mkdir(parents=True)
    shutil.copy(checkpoint_file("epsilon"), models / "lgvi" / "mine.safetensors")
    write_part(models / "lgvi" / "public" / "unet", block_names, unet.state_dict())
    write_part(models / "diffusion_models" / "sub" / "unet alone", block_names, unet.state_dict())
    write_part(models / "diffusion_models" / "stable diffusion" / "unet", flat, unet.state_dict())
    shutil.copy(checkpoint_file("sample"), models / "diffusion_models" / "saved.safetensors")
    (models / "diffusion_models" / "foreign.safetensors").write_bytes(b"\x02" + bytes(7) + b"{}")
    elsewhere.mkdir()
    shutil.copy(checkpoint_file("epsilon"), elsewhere / "further.safetensors")
    yaml = HOST.work / "extra_model_paths.yaml"
    yaml.write_text(f"mine:\n  base_path: {HOST.work}\n  lgvi: elsewhere\n")
    core("utils.extra_config").load_extra_path_config(str(yaml))

    schema = loader.LoadLGVI.define_schema()
    assert schema.inputs[0].options == [
        "demo (built in)",
        "demo that fills (built in)",
        "further.safetensors",
        "mine.safetensors",
        "public",
        "saved.safetensors",
        "sub/unet alone",
    ]
    assert loader.resolve("sub\\unet alone") == models / "diffusion_models" / "sub" / "unet alone"
    assert loader.LoadLGVI.validate_inputs(checkpoint="public") is True
    assert "no LGVI checkpoint 'gone'" in loader.LoadLGVI.validate_inputs(checkpoint="gone")

    model, clip, vae = loader.LoadLGVI.execute("sub/unet alone", "default").result
    assert ours("nodes.host").lgvi_of(model).factor == 8
    assert not hasattr(copy.copy(clip), "tokenize")
    raises("has no text encoder: use the CLIP of Load CLIP", core("nodes").CLIPTextEncode().encode, clip, "words")
    raises("has no autoencoder: use the VAE of Load VAE", core("nodes").VAEEncode().encode, vae, clip_of())

    file = models / "lgvi" / "mine.safetensors"
    before = loader.LoadLGVI.fingerprint_inputs("mine.safetensors", "default")
    assert loader.LoadLGVI.fingerprint_inputs("mine.safetensors", "default") == before
    shutil.copy(checkpoint_file("sample"), file)
    assert loader.LoadLGVI.fingerprint_inputs("mine.safetensors", "default") != before
    file.unlink()
    raises("no LGVI checkpoint 'mine.safetensors'", loader.LoadLGVI.execute, "mine.safetensors", "default")


def check_weights_can_be_kept_in_another_type():
    host, given = ours("nodes.host"), conditions()
    full = sample(loaded("epsilon").model, given)
    for dtype, error in ((torch.float32, 1e-6), (torch.bfloat16, 0.1), (torch.float8_e4m3fn, 0.5)):
        model = host.load(checkpoint_file("epsilon"), dtype).model
        assert model.model.get_dtype() == dtype
        assert relative(sample(model, given), full) < error, dtype


def check_a_model_can_be_loaded_once_more_by_the_host():
    parts = loaded("stable diffusion")
    for part in (parts.model, parts.clip.patcher, parts.vae.patcher, loaded("sample").vae.patcher):
        build, arguments = part.cached_patcher_init
        again = build(*arguments, disable_dynamic=True)
        assert not again.is_dynamic() and again.model is not part.model
        for name, value in part.model.state_dict().items():
            assert torch.equal(value, again.model.state_dict()[name]), name
