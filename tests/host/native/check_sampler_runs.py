"""Video Inpaint Sampler: what makes it sample, progress, interrupts, samplers and patches of the host."""

import gc
import weakref
from dataclasses import replace

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

    args.preview_method = LatentPreviewMethod.Latent2RGB
    parts, seen = loaded("sample"), []
    with progress_hook(lambda value, total, image, **_: seen.append((value, total, image[1].size))):
        remove(parts, noise(14), custom(2), seed=99)
        assert seen == [(i + 1, 6, (8, 8)) for i in range(6)]
        del seen[:]
        preview(parts, noise(14), seed=99)
        assert [part[:2] for part in seen] == [(i + 1, 6) for i in range(6)]


def check_an_interrupt_ends_the_run_at_the_next_step_and_the_next_run_works():
    management, parts, frames = core("comfy.model_management"), loaded("velocity"), noise(14)
    for run, name in ((remove, "sampler"), (preview, "preview")):
        expected = run(parts, frames, seed=5)[0][0 if run is preview else 1]
        run(parts, frames, seed=6)
        for stop_at in (1, 3):
            done = []

            def hook(value, total, image, stop_at=stop_at, done=done, **_):
                done.append(value)
                if value == stop_at:
                    management.interrupt_current_processing(True)

            with progress_hook(hook):
                try:
                    run(parts, frames, seed=5)
                    raise AssertionError(f"the {name} went on")
                except management.InterruptProcessingException:
                    pass
            assert len(done) == stop_at
        assert torch.equal(run(parts, frames, seed=5)[0][0 if run is preview else 1], expected)


def check_samplers_and_schedulers_of_the_host_run():
    frames = noise(8)
    for kind in ("sample", "epsilon"):
        parts, results = loaded(kind), []
        for sampler in ("euler", "heun", "dpmpp_sde", "uni_pc", "dpm_2", "lcm", "dpm_fast", "dpm_adaptive", "ddim"):
            (_, result, mask), _ = remove(parts, frames, custom(4), sampler=sampler, scheduler="normal")
            assert result.isfinite().all() and mask.shape == (8, 16, 16), (kind, sampler)
            results.append(result)
        for scheduler in ("karras", "simple", "beta", "sgm_uniform"):
            assert remove(parts, frames, custom(4), scheduler=scheduler)[0][1].isfinite().all()
        again = remove(parts, frames, custom(4), sampler="dpmpp_sde", scheduler="normal")[0][1]
        assert torch.equal(again, results[2]), "the same seed gives the same result"


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
    module = ours("nodes.video_inpaint_sampler")
    info = ours("nodes.host").lgvi_of(loaded("epsilon").model)
    assert module.sampling_of({"preset": "checkpoint's own"}, info) == (4, 3.0, 1.5)
    assert module.sampling_of({"preset": "fast"}, info) == (1, 3.0, 1.5)
    assert module.sampling_of({"preset": "best"}, info) == (8, 3.0, 1.5)
    assert module.sampling_of(custom(9, 4.0, 2.0), info) == (9, 4.0, 2.0)
    one = ours("nodes.host").lgvi_of(that_finds("nothing").model)
    assert [module.sampling_of({"preset": name}, one)[0] for name in ("checkpoint's own", "fast", "best")] == [1, 1, 2]
