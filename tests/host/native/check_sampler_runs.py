"""Video Inpaint Sampler: what makes it sample, progress, interrupts, samplers and patches of the host."""

import gc
import weakref
from dataclasses import replace
from unittest.mock import patch

import torch
from check_sampling import windowed
from small import LAYER, checkpoint_file, core, counting, loaded, lora_for, ours
from videos import as_video, counting_everything, custom, noise, preview, progress_hook, remove, that_finds


def check_what_comes_after_sampling_changes_without_sampling():
    parts = loaded("epsilon")
    video = as_video(noise(9, 24, 24))
    first = remove(parts, video)[0]
    hole = torch.ones(24, 24)
    with counting_everything(parts) as calls:
        again = remove(parts, video)[0]
        changed = [
            remove(parts, video, **change)[0][1]
            for change in ({"feather": 0.0}, {"dilation": 6.0}, {"keep_untouched": False}, {"mask": hole})
        ]
        remove(parts, as_video(video.get_components().images.clone()))
    assert not calls
    assert torch.equal(first[1], again[1]) and torch.equal(first[2], again[2])
    assert all(not torch.equal(first[1], other) for other in changed)
    fresh = ours("nodes.host").load(checkpoint_file("epsilon"))
    assert torch.equal(remove(fresh, video, dilation=6.0)[0][1], changed[1])


def check_what_sampling_depends_on_makes_it_run_again():
    parts, frames = loaded("epsilon"), noise(14)
    base = remove(parts, frames)[0][1]
    encoded = core("nodes").CLIPTextEncode().encode(parts.clip, "erase the blue dog")[0]
    with_lora = core("comfy.sd").load_lora_for_models(parts.model, None, lora_for("diffusion_model." + LAYER), 1, 0)[0]
    changed = frames.clone()
    changed[4, 3, 3, 0] += 0.25
    cases = [
        ({"seed": 4}, frames),
        ({"prompt": "erase the blue dog"}, frames),
        ({"positive": encoded}, frames),
        ({"window": 5}, frames),
        ({"overlap": 1}, frames),
        ({"sampler": "euler"}, frames),
        ({"scheduler": "karras"}, frames),
        ({"preset": custom(3)}, frames),
        ({"preset": custom(2, 2.0)}, frames),
        ({}, changed),
    ]
    for inputs, video in cases:
        with counting(parts.model) as calls:
            result = remove(parts, video, **inputs)[0][1]
            assert calls and not torch.equal(result, base), inputs
            del calls[:]
            remove(parts, frames)  # one result is kept: this one was let go
            assert calls, inputs
    patched = replace(parts, model=with_lora)
    assert not torch.equal(remove(patched, frames)[0][1], base)
    assert torch.equal(remove(parts, frames)[0][1], base)


def check_a_result_goes_with_its_model():
    parts = ours("nodes.host").load(checkpoint_file("epsilon"))
    remove(parts, noise(3))
    preview(parts, noise(3))
    kept = [ours("nodes.video_inpaint_sampler").last_edit.kept, ours("nodes.mask_decoder_preview").last_mask.kept]
    assert [len(one) for one in kept] == [1, 1]
    model = weakref.ref(parts.model)
    core("comfy.model_management").unload_all_models()
    del parts
    gc.collect()
    assert model() is None and [len(one) for one in kept] == [0, 0]


def check_progress_counts_all_steps_of_all_windows_with_previews():
    from comfy.cli_args import LatentPreviewMethod, args

    parts, seen = loaded("sample"), []
    hook = progress_hook(lambda value, total, image, **_: seen.append((value, total, image[1].size)))
    with hook, patch.object(args, "preview_method", LatentPreviewMethod.Latent2RGB):
        remove(parts, noise(14), custom(2), seed=99)
        assert seen == [(i + 1, 6, (8, 8)) for i in range(6)]
        del seen[:]
        preview(parts, noise(14), seed=99)
        assert seen == [(i + 1, 6, (8, 8)) for i in range(6)]


def check_an_interrupt_ends_the_run_at_the_next_step_and_the_next_run_works():
    management, parts, frames = core("comfy.model_management"), loaded("velocity"), noise(14)
    for run, result in ((remove, 1), (preview, 0)):
        expected = run(parts, frames, seed=5)[0][result]
        run(parts, frames, seed=6)
        for stop_at in (1, 3):
            calls = []

            def stop(*_, stop_at=stop_at, calls=calls):
                calls.append(None)
                if len(calls) == stop_at:
                    management.interrupt_current_processing(True)

            hook = parts.model.model.diffusion_model.register_forward_pre_hook(stop)
            try:
                run(parts, frames, seed=5)
                raise AssertionError(f"{run.__name__} went on")
            except management.InterruptProcessingException:
                assert len(calls) == stop_at
            finally:
                hook.remove()
        assert torch.equal(run(parts, frames, seed=5)[0][result], expected)


def check_samplers_and_schedulers_of_the_host_run():
    frames, results = noise(8), {}
    cases = [("sample", "euler", "normal"), ("sample", "heun", "simple"), ("sample", "ddim (LGVI)", "karras")]
    for sampler in ("euler", "heun", "dpmpp_sde", "uni_pc", "dpm_2", "dpm_fast", "dpm_adaptive"):
        cases.append(("epsilon", sampler, "checkpoint's own" if sampler == "euler" else "normal"))
    for kind, sampler, scheduler in [*cases, ("epsilon", "dpmpp_sde", "normal")]:
        (_, result, mask), _ = remove(loaded(kind), frames, custom(4), sampler=sampler, scheduler=scheduler)
        assert result.isfinite().all() and mask.shape == (8, 16, 16), (kind, sampler)
        known = results.setdefault((kind, sampler), result)
        assert torch.equal(result, known), "the same seed gives the same result"
    assert len({float(result.mean()) for result in results.values()}) == len(cases)


def check_patches_of_other_nodes_work():
    parts, frames = loaded("epsilon"), noise(9)
    easy = core("comfy_extras.nodes_easycache").EasyCacheNode.execute(parts.model, 3.0, 0.0, 1.0, False).result[0]
    compiled = core("comfy_extras.nodes_torch_compile").TorchCompileModel.execute(parts.model, "eager").result[0]
    plain = remove(parts, frames, custom(8, 3.0, 1.5), window=9)[0]
    for name, model in {
        "EasyCache": easy,
        "torch.compile": compiled,
        "context windows": windowed(parts.model, False),
        "causal context windows": windowed(parts.model, True),
    }.items():
        patched = replace(parts, model=model)
        (_, result, mask), _ = remove(patched, frames, custom(8, 3.0, 1.5), window=9)
        assert result.isfinite().all() and mask.shape == (9, 16, 16), name
        assert torch.allclose(result, plain[1], atol=1e-4) == (name == "torch.compile"), name


def check_presets_follow_the_checkpoint():
    module = ours("nodes.presets")
    info = ours("nodes.host").lgvi_of(loaded("epsilon").model)
    assert module.sampling_of({"preset": "checkpoint's own"}, info) == (4, 3.0, 1.5)
    assert module.sampling_of({"preset": "fast"}, info) == (1, 3.0, 1.5)
    assert module.sampling_of({"preset": "best"}, info) == (8, 3.0, 1.5)
    assert module.sampling_of(custom(9, 4.0, 2.0), info) == (9, 4.0, 2.0)
    one = ours("nodes.host").lgvi_of(that_finds("nothing").model)
    assert [module.sampling_of({"preset": name}, one)[0] for name in ("checkpoint's own", "fast", "best")] == [1, 1, 2]
