"""Sampling: the host's samplers, guiders and windows on the network, against lgvi_core's numbers."""

from types import SimpleNamespace

import torch
from small import (
    FRAMES,
    SIZE,
    STABLE_DIFFUSION,
    ZERO_SNR,
    clip_of,
    conditions,
    core,
    counting,
    denoised_by_lgvi_core,
    loaded,
    noise_for,
    ours,
    raises,
    relative,
    sample,
    sample_as_published,
    sample_custom,
)


def check_the_nodes_give_the_latents_of_lgvi_core():
    for kind in ("sample", "velocity", "epsilon", "concatenated"):
        given = conditions(kind)
        for scales in ((3.0, 1.5), (2.0, 1.0), (1.0, 1.0)):
            found = sample_as_published(loaded(kind).model, given, 5, scales)
            error = relative(found, denoised_by_lgvi_core(kind, noise_for(given[3]), 5, scales))
            assert error < 1e-3, (kind, scales, error)


def check_any_number_of_steps_gives_the_latents_of_lgvi_core():
    for kind in ("sample", "epsilon"):
        given = conditions(kind)
        for steps in (1, 7, 12):
            found = sample_as_published(loaded(kind).model, given, steps)
            error = relative(found, denoised_by_lgvi_core(kind, noise_for(given[3]), steps, (3.0, 1.5)))
            assert error < 1e-3, (kind, steps, error)


def check_noise_levels_are_those_of_diffusers():
    from diffusers import DDIMScheduler

    sampling = ours("nodes.host_sampling")
    schedules = [
        {"beta_schedule": "linear"},
        {"beta_schedule": "squaredcos_cap_v2"},
        {"trained_betas": [0.0001 * (i + 1) for i in range(100)], "num_train_timesteps": 100},
        *({**STABLE_DIFFUSION, "timestep_spacing": spacing} for spacing in ("leading", "trailing", "linspace")),
        ZERO_SNR,
    ]
    for schedule in schedules:
        config = {"prediction_type": "sample", "num_train_timesteps": 1000, **schedule}
        reference = DDIMScheduler.from_config(config)
        settings = sampling.sampling_settings(config)
        host_config = SimpleNamespace(info=SimpleNamespace(scheduler_config=config), sampling_settings=settings)
        levels = sampling.make_model_sampling(host_config).sigmas
        alphas = 1 / (1 + levels.double() ** 2)
        torch.testing.assert_close(alphas, reference.alphas_cumprod.double(), rtol=1e-4, atol=1e-6)
        for steps in (1, 2, 7, 25, 50):
            reference.set_timesteps(steps)
            assert sampling.timesteps(config, steps) == reference.timesteps.tolist(), (config, steps)
    raises("1001", sampling.timesteps, {"num_train_timesteps": 1000}, 1001)
    raises("beta_schedule is 'sigmoid'", sampling.sampling_settings, {"beta_schedule": "sigmoid"})


def check_core_samplers_run_and_keep_the_shape():
    for kind in ("sample", "epsilon"):
        given = conditions(kind)
        for sampler in ("euler", "ddim", "dpmpp_2m", "uni_pc", "lcm", "heun"):
            out = sample(loaded(kind).model, given, sampler=sampler)
            assert out.shape == given[3]["samples"].shape and out.isfinite().all() and out.any(), (kind, sampler)


def check_the_video_and_the_words_both_matter():
    model, (positive, negative, neither, latent) = loaded("epsilon").model, conditions()
    whole = sample(model, (positive, negative, neither, latent))
    assert relative(sample(model, (neither, negative, neither, latent)), whole) > 0.01
    assert relative(sample(model, (negative, negative, neither, latent)), whole) > 0.001


def check_three_way_guidance_equals_the_dual_cfg_guider():
    model, given = loaded("epsilon").model, conditions()
    dual = core("comfy_extras.nodes_custom_sampler").DualCFGGuider
    guider = dual.execute(model, *given[:3], 3.0, 1.5, "regular").result[0]
    sampler, sigmas = ours("nodes.sampler").DDIMSampler.execute(model, 4).result
    expected = sample_custom(guider, sampler, sigmas, given[3], noise_for(given[3]))
    assert relative(sample_as_published(model, given, 4), expected) < 1e-5


def check_passes_of_weight_zero_are_left_out():
    model, given = loaded("epsilon").model, conditions()
    for scales, passes in (((3.0, 1.5), 3), ((3.0, 1.0), 2), ((2.0, 2.0), 2), ((1.0, 1.5), 1), ((3.0, 0.5), 1)):
        with counting(model) as calls:
            sample_as_published(model, given, 2, scales)
        assert sum(map(len, calls)) == 2 * passes, (scales, calls)


def check_guidance_patches_of_other_nodes_work_on_the_three_way_guider():
    model, seen = loaded("epsilon").model.clone(), []
    model.set_model_sampler_post_cfg_function(lambda args: seen.append(args["cond_scale"]) or args["denoised"])
    sample_as_published(model, conditions(), 2)
    assert seen == [3.0, 3.0]


def check_latents_with_a_time_axis_give_the_same():
    model, (positive, negative, neither, latent) = loaded("epsilon").model, conditions()
    flat = sample(model, (positive, negative, neither, latent))

    def with_time(conditioning):
        video = conditioning[0][1]["concat_latent_image"].transpose(0, 1)[None]
        return [[conditioning[0][0], {**conditioning[0][1], "concat_latent_image": video}]]

    empty = {"samples": latent["samples"].transpose(0, 1)[None]}
    noise = core("comfy.sample").prepare_noise(latent["samples"], 3).transpose(0, 1)[None].contiguous()
    for given in ((positive, negative), (with_time(positive), with_time(negative))):
        out = core("comfy.sample").sample(
            model, noise, 3, 2.5, "euler", "normal", *given, empty["samples"], seed=3, disable_pbar=True
        )
        assert relative(out[0].transpose(0, 1), flat) < 1e-5


def check_an_empty_latent_of_another_model_is_made_to_fit():
    given = conditions()
    empty = core("nodes").EmptyLatentImage().generate(SIZE, SIZE, FRAMES)[0]
    assert relative(sample(loaded("epsilon").model, (*given[:3], empty)), sample(loaded("epsilon").model, given)) == 0


def windowed(model, causal, length=4, overlap=2):
    node = core("comfy_extras.nodes_context_windows").ContextWindowsManualNode
    arguments = ("standard_static", 1, False, "pyramid", 0, False)
    return node.execute(model, length, overlap, *arguments, causal_window_fix=causal).result[0]


def check_context_windows_run_over_the_frames():
    given = conditions(frames=10)
    for causal in (False, True):
        with counting(loaded("epsilon").model) as calls:
            out = sample(windowed(loaded("epsilon").model, causal), given, steps=2)
        assert out.shape[0] == 10 and out.isfinite().all() and len(calls) >= 2 * 4
    whole = sample(loaded("epsilon").model, given, steps=2)
    assert relative(sample(windowed(loaded("epsilon").model, False, length=10), given, steps=2), whole) == 0


def check_the_mask_sink_gets_the_mask_of_every_call():
    host, model = ours("nodes.host"), loaded("sample").model.clone()
    seen = []
    model.model_options["transformer_options"][host.MASK_SINK] = lambda *arguments: seen.append(arguments)
    given = conditions("sample")
    out = sample(model, given, steps=2)
    for mask, options in seen:
        assert mask.shape == (len(options["cond_or_uncond"]), 1, FRAMES, SIZE, SIZE)
        assert 0 <= mask.min() < mask.max() <= 1
    assert sorted(cond for _, options in seen for cond in options["cond_or_uncond"]) == [0, 0, 1, 1]
    assert torch.equal(out, sample(loaded("sample").model, given, steps=2))


def check_the_mask_sink_gets_each_windows_own_frames():
    host, unet_class = ours("nodes.host"), ours("lgvi_core.models").InflatedUNet
    given = conditions("sample", frames=10)
    for causal in (False, True):
        model, seen, given_to_unet = windowed(loaded("sample").model, causal), [], []
        model.model_options["transformer_options"][host.MASK_SINK] = lambda *call, seen=seen: seen.append(call)
        unet = model.model.diffusion_model
        unet.register_forward_pre_hook(
            lambda _, args, kwargs, given=given_to_unet: given.append((args, kwargs)), with_kwargs=True
        )
        sample(model, given, steps=1)
        unet._forward_pre_hooks.clear()
        unet._forward_pre_hooks_with_kwargs.clear()
        covered = set()
        for (mask, options), ((x, timesteps), conds) in zip(seen, given_to_unet, strict=True):
            frames = options["context_window"].index_list
            covered |= set(frames)
            clips = len(options["cond_or_uncond"])
            with_anchor = x.shape[0] // clips
            x, video = (part.unflatten(0, (clips, with_anchor)).transpose(1, 2) for part in (x, conds["video"]))
            with torch.no_grad():
                expected = unet_class.forward(
                    unet, x, timesteps[::with_anchor], conds["context"][::with_anchor], video, return_mask=True
                )[1]
            assert with_anchor == len(frames) + (causal and frames[0] > 0)
            assert torch.equal(mask, expected[:, :, with_anchor - len(frames) :])
        assert covered == set(range(10))


def check_a_mask_asked_of_a_checkpoint_without_one_is_an_error():
    model = loaded("no mask decoder").model.clone()
    model.model_options["transformer_options"][ours("nodes.host").MASK_SINK] = lambda *_: None
    assert not ours("nodes.host").lgvi_of(model).has_mask_decoder
    raises("no mask decoder", sample, model, conditions("no mask decoder"))


def check_a_noise_mask_keeps_what_it_leaves_out():
    latents = loaded("epsilon").vae.encode(clip_of())
    keep = torch.zeros(FRAMES, 1, SIZE // 2, SIZE // 2)
    keep[..., :4] = 1
    latent = {"samples": latents, "noise_mask": keep}
    out = sample_as_published(loaded("epsilon").model, conditions(), 3, latent=latent)
    changed = (out - latents).abs().amax(dim=(0, 1))
    assert changed[:, 4:].max() < 0.1 < changed[:, :4].max()


def check_the_demo_checkpoint_samples_as_lgvi_core_does():
    host, demo, words = ours("nodes.host"), ours("nodes.loader").DEMO_FILE, "remove the red circle"
    parts = host.load(demo)
    info = host.lgvi_of(parts.model)
    frames = clip_of(4, info.training["height"], info.training["width"])
    given = ours("nodes.condition_encode").ConditionEncode.execute(parts.clip, parts.vae, frames, words).result
    steps = max(2, info.sampling["steps"])
    found = sample_as_published(parts.model, given, steps)

    sampling, checkpoint = ours("lgvi_core.sampling"), ours("lgvi_core.checkpoints").load(demo, dtype=torch.float32)
    condition = checkpoint.vae.encode(frames.movedim(-1, 1) * 2 - 1).transpose(0, 1)[None]
    text, empty = (checkpoint.text_encoder.encode([one]) for one in (words, ""))
    torch.testing.assert_close(given[0][0][0], text, atol=1e-4, rtol=0)
    scheduler = sampling.make_scheduler("ddim", checkpoint.scheduler_config)
    noise = noise_for(given[3]).transpose(0, 1)[None]
    expected = sampling.denoise(checkpoint.unet, noise, text, empty, condition, scheduler, steps, 3.0, 1.5).latents
    assert relative(found * checkpoint.vae.scaling_factor, expected[0].transpose(0, 1)) < 1e-3
    torch.testing.assert_close(parts.vae.decode(parts.vae.encode(frames)), frames, atol=1e-6, rtol=0)
