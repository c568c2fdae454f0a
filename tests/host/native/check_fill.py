"""A MODEL that fills: the node's and core's samplers give the numbers of lgvi_core, and what does not fit is said."""

import contextlib
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from small import (
    FRAMES,
    LAYER,
    SIZE,
    checkpoint_file,
    clip_of,
    core,
    counting,
    loaded,
    lora_for,
    noise_for,
    ours,
    raises,
    relative,
    sample,
    sample_custom,
)
from transformers import CLIPTextConfig, CLIPTextModel
from videos import as_video, custom, noise, reach

PROMPT, NEGATIVE = "the red star", "red"
INPUTS = {
    "prompt": PROMPT,
    "seed": 3,
    "preset": {"preset": "checkpoint's own"},
    "sampler": "ddim (LGVI)",
    "scheduler": "checkpoint's own",
    "window": 6,
    "overlap": 2,
    "frame_rate": 24.0,
    "dilation": 0.0,
    "feather": 0.0,
    "keep_untouched": True,
}


def hole(frames=FRAMES, height=SIZE, width=SIZE):
    """A MASK that moves to the right."""
    mask = torch.zeros(frames, height, width)
    for i, frame in enumerate(mask):
        frame[4:11, i % 5 : i % 5 + 6] = 1
    return mask


def fill(parts, video, mask, **inputs):
    """What Video Inpaint Sampler gives: (VIDEO, frames, mask), its message."""
    node = ours("nodes.video_inpaint_sampler").VideoInpaintSampler
    out = node.execute(parts.model, parts.vae, video, **{"clip": parts.clip, "mask": mask, **INPUTS, **inputs})
    return out.result, out.ui["lgvi_compare"][0]["message"]


def conditioned(parts, frames, mask, noise_mask=False):
    """What core's CLIP Text Encode and InpaintModelConditioning give: (positive, negative, neither, latent)."""
    encode = core("nodes").CLIPTextEncode().encode
    words = [encode(parts.clip, text)[0] for text in (PROMPT, NEGATIVE)]
    node = core("nodes").InpaintModelConditioning()
    positive, negative, latent = node.encode(*words, frames, mask=mask, vae=parts.vae, noise_mask=noise_mask)
    return positive, negative, None, latent


def of_lgvi_core(kind, noise, steps, guidance, mask):
    """The same through `lgvi_core.sampling`, in the layout and scale of the host's LATENT."""
    sampling, conditioning = ours("lgvi_core.sampling"), ours("lgvi_core.conditioning")
    checkpoint = ours("lgvi_core.checkpoints").load(checkpoint_file(kind), dtype=torch.float32)
    frames = (clip_of() * 255).round().to(torch.uint8).numpy()
    size = conditioning.WorkSize(SIZE, SIZE, SIZE, SIZE)
    holes = conditioning.holes_at_work_size(list(mask.numpy() > 0.5), size, "cpu")
    pixels = conditioning.to_pixels(list(frames), size, "cpu") * (1 - holes)
    with torch.no_grad():
        masked_video = conditioning.encode(checkpoint.vae, pixels, torch.Generator())
        text, empty = (checkpoint.text_encoder.encode([words]) for words in (PROMPT, NEGATIVE))
    latents = sampling.denoise(
        checkpoint.unet,
        noise.transpose(0, 1)[None],
        text,
        empty,
        None,
        sampling.make_scheduler("ddim", checkpoint.scheduler_config),
        steps,
        guidance,
        mask=conditioning.holes_of_latents(holes, *masked_video.shape[-2:]),
        masked_video=masked_video,
    ).latents
    return latents[0].transpose(0, 1) / checkpoint.vae.scaling_factor


def as_published(model, given, steps, guidance):
    """Core's CFGGuider and SamplerCustomAdvanced with LGVI Sampler (DDIM)."""
    guider = core("comfy_extras.nodes_custom_sampler").CFGGuider.execute(model, *given[:2], guidance).result[0]
    sampler, sigmas = ours("nodes.sampler").DDIMSampler.execute(model, steps).result
    latent = {"samples": torch.zeros_like(given[3]["samples"])}
    return sample_custom(guider, sampler, sigmas, latent, noise_for(latent))


def check_core_nodes_give_the_latents_of_lgvi_core():
    for kind in ("fill", "fill sample"):
        parts, mask = loaded(kind), hole()
        given = conditioned(parts, clip_of(), mask)
        for steps, guidance in ((5, 4.0), (1, 1.0), (12, 10.0)):
            found = as_published(parts.model, given, steps, guidance)
            error = relative(found, of_lgvi_core(kind, noise_for(given[3]), steps, guidance, mask))
            assert error < 1e-3, (kind, steps, guidance, error)


def check_the_sampler_node_gives_what_the_command_line_does():
    parts, frames, mask = loaded("fill"), noise(13, 20, 24), hole(13, 20, 24)
    for settings in ({"negative_prompt": NEGATIVE}, {"negative_prompt": ""}):
        (_, result, found), message = fill(parts, frames, mask, **settings)
        expected = ours("lgvi_core.inpaint").fill(
            frames, PROMPT, mask=mask, checkpoint=checkpoint_file("fill"), device="cpu", seed=3, window=6, overlap=2,
            dilate=0, feather=0, **settings,
        )  # fmt: skip
        assert torch.equal(found, mask) and np.array_equal(expected.mask, mask.numpy() > 0.5) and message == ""
        assert np.abs(result.numpy() - expected.frames).max() < 5e-3
        assert torch.equal(result[mask < 0.5], frames[mask < 0.5])


def check_negative_words_come_from_the_prompt_or_from_conditioning():
    parts, frames, mask = loaded("fill"), noise(), hole(9)
    encode = core("nodes").CLIPTextEncode().encode
    plain, by_prompt, by_conditioning = (
        fill(parts, frames, mask, **words)[0][1]
        for words in ({}, {"negative_prompt": NEGATIVE}, {"negative": encode(parts.clip, NEGATIVE)[0]})
    )
    assert torch.equal(by_prompt, by_conditioning) and not torch.equal(by_prompt, plain)
    other = fill(parts, frames, mask, negative=encode(parts.clip, "the")[0])[0][1]
    assert not torch.equal(other, by_conditioning)
    _, message = fill(loaded("epsilon"), frames, mask, negative_prompt=NEGATIVE)
    assert "takes no negative words" in message


def check_core_samplers_and_loras_run_on_it():
    parts, given = loaded("fill"), conditioned(loaded("fill"), clip_of(), hole())
    plain = sample(parts.model, given)
    for sampler in ("euler", "dpmpp_2m", "ddim", "uni_pc"):
        out = sample(parts.model, given, sampler=sampler)
        assert out.shape == given[3]["samples"].shape and out.isfinite().all() and out.any()
    keys = core("comfy.lora").model_lora_keys_unet(parts.model.model, {})
    name = next(key for key, target in keys.items() if target == f"diffusion_model.{LAYER}.weight")
    model, _ = core("comfy.sd").load_lora_for_models(parts.model, None, lora_for(name), 1.0, 0.0)
    assert relative(sample(model, given), plain) > 1e-3


def check_what_is_outside_the_noise_mask_stays_in_the_latents():
    parts, mask = loaded("fill"), hole()
    given = conditioned(parts, clip_of(), mask, noise_mask=True)
    out, kept = sample(parts.model, given), mask[:, ::2, ::2][:, None].expand(-1, 12, -1, -1) < 0.5
    latent = given[3]["samples"]
    grown = torch.nn.functional.max_pool2d((~kept).float(), 3, stride=1, padding=1) > 0
    torch.testing.assert_close(out[~grown], latent[~grown], rtol=1e-4, atol=1e-4)


def check_vae_encode_for_inpainting_is_masked_video_and_mask():
    parts, mask = loaded("fill"), torch.zeros(FRAMES, SIZE, SIZE)
    mask[:, 4:12, 2:8] = 1  # whole latents: the host shrinks its noise mask in a way of its own
    encode = core("nodes").CLIPTextEncode().encode
    words = [encode(parts.clip, text)[0] for text in (PROMPT, NEGATIVE)]
    frames = clip_of()
    latent = core("nodes").VAEEncodeForInpaint().encode(parts.vae, frames, mask, grow_mask_by=0)[0]
    found = sample(parts.model, (*words, None, latent))
    positive, negative, _, _ = conditioned(parts, frames, mask)
    expected = sample(parts.model, (positive, negative, None, latent))
    assert relative(found, expected) < 1e-4


def check_windows_of_the_host_see_their_own_part_of_the_mask():
    parts, mask = loaded("fill"), hole()
    given = conditioned(parts, clip_of(), mask)
    seen, unet = [], parts.model.model.diffusion_model
    inner = unet._forward

    def look(x, timesteps, context, control, options, **conds):
        window = options["context_window"].index_list
        masks = conds["mask"].unflatten(0, (conds["clips"], -1))
        seen.extend((list(window), one[-len(window) :]) for one in masks)  # the host may put one frame in front
        return inner(x, timesteps, context, control, options, **conds)

    windows = core("comfy_extras.nodes_context_windows").ContextWindowsManualNode
    model = windows.execute(
        parts.model, context_length=4, context_overlap=2, context_schedule="standard_static", context_stride=1,
        closed_loop=False, fuse_method="flat", dim=0, freenoise=False,
    ).result[0]  # fmt: skip
    unet._forward = look
    try:
        sample(model, given, steps=1)
    finally:
        del unet._forward
    assert len({tuple(window) for window, _ in seen}) > 1
    for window, found in seen:
        assert torch.equal(found[:, 0].float(), mask[window][:, ::2, ::2])


def check_a_clip_with_five_axes_is_sampled_as_one_with_four():
    parts = loaded("fill")
    positive, negative, _, latent = conditioned(parts, clip_of(), hole())
    four = sample(parts.model, (positive, negative, None, {"samples": torch.zeros_like(latent["samples"])}), seed=5)
    host = ours("nodes.host_inpaint")
    noise5, mask = torch.zeros(2, 12, FRAMES, 8, 8), hole()
    found = host.mask_like(noise5, mask[:, None])
    assert found.shape == (2, 1, FRAMES, 8, 8) and torch.equal(found[0], found[1])
    assert torch.equal(found[0, 0], mask[:, ::2, ::2])
    assert torch.equal(host.mask_like(noise5, found), found)
    assert torch.equal(host.mask_like(noise5[0].transpose(0, 1), mask[:1])[5, 0], mask[0, ::2, ::2])
    assert four.isfinite().all()


def check_sound_rate_and_untouched_pixels_stay_and_what_is_to_be_known_is_said():
    parts, frames = loaded("fill"), noise(9, 21, 34)
    mask = torch.zeros(21, 34)
    mask[6:12, 9:20] = 1
    video = as_video(frames)
    (out, result, found), message = fill(parts, video, mask, dilation=3.0, feather=2.0)
    assert message == "the mask has one frame: it is used for all 9 frames of the video"
    components = out.get_components()
    assert torch.equal(components.audio["waveform"], video.get_components().audio["waveform"])
    outside = ~reach(found, 3)
    assert torch.equal(result[outside], frames[outside]) and not torch.equal(result, frames)
    soft = mask.expand(9, -1, -1) * 0.6
    (_, _, found), message = fill(parts, frames, soft)
    assert torch.equal(found, (soft >= 0.5).float()) and "is soft" in message
    assert "covers 100 % of the video" in fill(parts, frames, torch.ones(9, 21, 34))[1]
    _, message = fill(parts, frames, mask * 0.4)
    assert "the mask is empty" in message and "is soft: what is at least half" in message
    (_, result, _), message = fill(parts, frames, mask.expand(9, -1, -1), prompt="")
    assert result.isfinite().all() and "the prompt is empty: what comes there is left to the model" in message


def check_an_empty_mask_gives_the_video_back_without_a_run():
    parts, frames = loaded("fill"), noise()
    video = as_video(frames)
    with counting(parts.model) as calls:
        (out, result, _), message = fill(parts, video, torch.zeros(16, 16))
    assert out is video and torch.equal(result, frames) and not calls
    assert message == "the mask is empty: the video comes back unchanged"


def check_the_edge_is_changed_without_a_run_and_the_mask_is_not():
    parts, frames = loaded("fill"), noise()
    fill(parts, frames, hole(9))
    with counting(parts.model) as calls:
        fill(parts, frames, hole(9).clone(), dilation=2.0)
        assert not calls
        fill(parts, frames, hole(9).flip(2))
        assert calls


def check_what_cannot_be_filled_is_refused_before_any_work():
    parts, frames = loaded("fill"), noise(3)
    words = core("nodes").CLIPTextEncode().encode(parts.clip, PROMPT)[0]
    latent = {"samples": torch.zeros(FRAMES, 12, 8, 8)}
    with counting(parts.model) as calls:
        raises("connect a MASK", fill, parts, frames, None)
        raises("mask has 2 frames but the video has 3", fill, parts, frames, torch.ones(2, 16, 16))
        raises("mask is 8x8 pixels", fill, parts, frames, torch.ones(3, 8, 8))
        raises("(1, 77, 768)", fill, parts, frames, hole(3), negative=[[torch.zeros(1, 77, 768), {}]])
        raises("needs a CLIP", fill, replace(parts, clip=None), frames, hole(3))
        raises("neither the CONDITIONING nor the LATENT has one", sample, parts.model, (words, words, None, latent))
        given = conditioned(parts, clip_of(), hole())
        mask = torch.ones(4, 1, 8, 8)
        positive = core("node_helpers").conditioning_set_values(given[0], {"concat_mask": mask})
        raises("mask in the CONDITIONING has 4 frames", sample, parts.model, (positive, positive, None, latent))
    assert not calls


@contextlib.contextmanager
def cococos_folder():
    """Shards in models/lgvi/cococo and their base, one file without a tokenizer, in models/checkpoints."""
    ldm, folders = ours("lgvi_core.checkpoints.ldm"), core("folder_paths")
    models = Path(folders.models_dir)
    shards, base = models / "lgvi" / "cococo", models / "checkpoints" / "sd inpainting.safetensors"
    shards.mkdir(parents=True)
    base.parent.mkdir(exist_ok=True)
    checkpoint = ours("lgvi_core.checkpoints").load(checkpoint_file("fill stable diffusion"))
    state = checkpoint.unet.state_dict()
    motion = sorted(name for name in state if ".motion_modules." in name)
    for i in range(4):
        torch.save({f"module.{name}": state[name] for name in motion[i::4]}, shards / f"model_{i}.pth")
    tables = {"unet": ldm.unet_modules(2, 1), "vae": ldm.vae_modules(4, 1)}
    spatial = {name: value for name, value in state.items() if name not in motion}
    file = {ldm.UNET + ldm.rename(name, tables["unet"]): value for name, value in spatial.items()}
    for name, value in checkpoint.vae.vae.state_dict().items():
        theirs = ldm.rename(name, tables["vae"])
        file[ldm.VAE + theirs] = value[:, :, None, None] if ".attn_1." in theirs and value.ndim == 2 else value
    sizes = {"vocab_size": 49408, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    with torch.inference_mode(False):
        text = CLIPTextModel(CLIPTextConfig(**sizes, num_attention_heads=1, max_position_embeddings=77))
    bare = ours("lgvi_core.checkpoints.fitting").bare_text_names(text.state_dict())
    file |= {f"{ldm.TEXT}text_model.{name}": value for name, value in bare.items()}
    save_file({name: value.clone().contiguous() for name, value in file.items()}, base)
    folders.filename_list_cache.clear()
    try:
        yield shards, base
    finally:
        shutil.rmtree(shards)
        base.unlink()
        folders.filename_list_cache.clear()


def check_cococos_folder_is_listed_and_takes_its_base_from_models_checkpoints():
    loader = ours("nodes.loader")
    with cococos_folder() as (shards, base):
        assert loader.resolve("cococo") == shards
        assert not any(name.startswith("cococo/") for name in loader.choices())
        (combo,) = (given for given in loader.LoadLGVI.define_schema().inputs if given.id == "base")
        assert combo.options[0] == "none" and base.name in combo.options
        raises("without the model they stand on", loader.LoadLGVI.execute, "cococo", "default")
        raises("no 'gone' in models/checkpoints", loader.LoadLGVI.execute, "cococo", "default", "gone")
        raises("takes no base", loader.LoadLGVI.execute, loader.DEMO, "default", base.name)
        before = loader.LoadLGVI.fingerprint_inputs("cococo", "default", base.name)
        assert before != loader.LoadLGVI.fingerprint_inputs("cococo", "default")

        parts = ours("nodes.host").Loaded(*loader.LoadLGVI.execute("cococo", "default", base.name).result)
        expected = loaded("fill stable diffusion")
        for found, wanted in ((parts.model, expected.model), (parts.vae.patcher, expected.vae.patcher)):
            wanted = wanted.model.state_dict()
            assert all(torch.equal(value, wanted[name]) for name, value in found.model.state_dict().items())
        (_, result, found), _ = fill(parts, noise(3, 32, 40), hole(3, 32, 40), preset=custom(), prompt="star " * 200)
        assert result.isfinite().all() and found.any()
        for part in (parts.model, parts.clip.patcher, parts.vae.patcher):
            build, arguments = part.cached_patcher_init
            assert build(*arguments, disable_dynamic=True).model is not part.model


def check_a_cococo_folder_that_is_not_whole_is_listed_and_says_what_is_absent():
    loader = ours("nodes.loader")
    with cococos_folder() as (shards, base):
        shard = shards / "model_0.pth"
        shard.write_bytes(shard.read_bytes()[:1000])
        assert loader.resolve("cococo") == shards
        raises("model_0.pth looks half downloaded", loader.LoadLGVI.execute, "cococo", "default", base.name)
        shard.unlink()
        assert loader.resolve("cococo") == shards
        raises("absent: model_0.pth", loader.LoadLGVI.execute, "cococo", "default", base.name)


def check_loading_says_what_core_samplers_are_to_be_given():
    loader, said = ours("nodes.loader"), []
    handler, level = logging.Handler(), loader.logger.level
    handler.emit = lambda record: said.append(record.getMessage())
    loader.logger.addHandler(handler)
    loader.logger.setLevel(logging.INFO)
    try:
        loader.LoadLGVI.execute(loader.FILL_DEMO, "default")
    finally:
        loader.logger.removeHandler(handler)
        loader.logger.setLevel(level)
    sampling = ours("lgvi_core.checkpoints").inspect(loader.FILL_DEMO_FILE).sampling
    steps, guidance = sampling["steps"], sampling["guidance_scale"]
    assert said == [f"{loader.FILL_DEMO} is made to be sampled with steps {steps} and guidance (cfg) {guidance:g}"]


def check_stable_diffusions_autoencoder_and_latents_fit():
    parts = loaded("fill stable diffusion")
    assert isinstance(parts.model.model.latent_format, core("comfy.latent_formats").SD15)
    frames = noise(3, 32, 40)
    (_, result, found), _ = fill(parts, frames, hole(3, 32, 40))
    assert torch.equal(result[found < 0.5], frames[found < 0.5]) and (result != frames).any()
