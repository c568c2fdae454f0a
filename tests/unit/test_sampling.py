"""Guidance, schedulers and the denoising loop."""

import importlib
import math

import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler

from lgvi_core.errors import InputError
from lgvi_core.models import InflatedUNet, UNetConfig
from lgvi_core.sampling import SCHEDULERS, denoise, make_scheduler
from lgvi_core.sampling.guidance import guidance_passes
from lgvi_core.sampling.schedulers import ALL, set_steps

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
ZERO_SNR = {**SD, "rescale_betas_zero_snr": True, "steps_offset": 0}


def small_unet(**options):
    torch.manual_seed(0)
    config = UNetConfig(
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        layers_per_block=1,
        cross_attention_dim=12,
        attention_head_dim=2,
        norm_num_groups=8,
        mask_channels=32,
        **options,
    )
    unet = InflatedUNet(config).eval()
    for parameter in unet.parameters():  # nothing may stay at zero: it would hide what depends on it
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return unet


@pytest.fixture(scope="module")
def unet():
    return small_unet()


@pytest.fixture
def given():
    generator = torch.Generator().manual_seed(1)
    return {
        "latents": torch.randn(2, 4, 3, 6, 4, generator=generator),
        "text": torch.randn(2, 5, 12, generator=generator),
        "empty_text": torch.randn(2, 5, 12, generator=generator),
        "condition": torch.randn(2, 4, 3, 6, 4, generator=generator),
    }


@pytest.fixture
def count_calls(request):
    """Counts the forward calls of modules; the hooks go when the test ends."""

    def count(*modules):
        counts = [0] * len(modules)

        def hook(i):
            def add(*_):
                counts[i] += 1

            return add

        for i, module in enumerate(modules):
            request.addfinalizer(module.register_forward_hook(hook(i)).remove)
        return counts

    return count


def ddim(**config):
    return make_scheduler("ddim", {**SD, **config})


# Guidance


@pytest.mark.parametrize("s_text, s_video", [(3.0, 1.5), (3.0, 1.0), (2.0, 2.0), (7.5, 1.2)])
def test_weights_give_the_papers_equation(s_text, s_video):
    text, empty, condition = torch.ones(1), torch.zeros(1), torch.ones(1)
    e_text, e_video, e_uncond = 0.3, -1.1, 2.7
    values = {(True, True): e_text, (False, True): e_video, (False, False): e_uncond}
    passes = guidance_passes(text, empty, condition, s_text, s_video)
    got = sum(one.weight * values[one.text is text, one.condition is condition] for one in passes)
    assert got == pytest.approx(e_uncond + s_text * (e_text - e_video) + s_video * (e_video - e_uncond))
    assert sum(one.weight for one in passes) == pytest.approx(1)
    assert all(one.weight for one in passes)


@pytest.mark.parametrize(
    "s_text, s_video, count", [(3, 1.5, 3), (3, 1, 2), (2, 2, 2), (1, 1.5, 1), (3, 0.9, 1), (0, 0, 1)]
)
def test_only_the_passes_that_count_are_computed(unet, given, count_calls, s_text, s_video, count):
    counts = count_calls(unet)
    denoise(unet, **given, scheduler=ddim(), steps=2, guidance_scale=s_text, image_guidance_scale=s_video)
    assert counts == [2 * count]


def test_without_guidance_the_prediction_is_the_models(unet, given):
    seen = []
    denoise(unet, **given, scheduler=ddim(), steps=1, guidance_scale=1.0, callback=seen.append)
    with torch.no_grad():
        expected = unet(given["latents"], seen[0]["timestep"], given["text"], given["condition"])
    torch.testing.assert_close(seen[0]["prediction"], expected)


def test_guided_prediction_is_the_papers_equation(unet, given):
    seen = []
    denoise(unet, **given, scheduler=ddim(), steps=1, callback=seen.append)
    with torch.no_grad():
        t, x, condition = seen[0]["timestep"], given["latents"], given["condition"]
        e_text, e_video = unet(x, t, given["text"], condition), unet(x, t, given["empty_text"], condition)
        e_uncond = unet(x, t, given["empty_text"], torch.zeros_like(condition))
    expected = e_uncond + 3.0 * (e_text - e_video) + 1.5 * (e_video - e_uncond)
    torch.testing.assert_close(seen[0]["prediction"], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("scales", [(math.nan, 1.5), (3.0, math.inf)])
def test_a_scale_must_be_finite(unet, given, scales):
    with pytest.raises(InputError, match="guidance_scale is (nan|inf)"):
        denoise(unet, **given, scheduler=ddim(), steps=1, guidance_scale=scales[0], image_guidance_scale=scales[1])


# Schedulers


def able(name, prediction, zero_snr):
    _, types, knows_zero_snr = SCHEDULERS[name]
    return prediction in types and (knows_zero_snr or not zero_snr) and not (zero_snr and prediction == "epsilon")


CASES = [(name, kind, zero) for name in SCHEDULERS for kind in ALL for zero in (False, True)]
WORKING = [case for case in CASES if able(*case)]
REFUSED = [case for case in CASES if not able(*case)]


class GaussianData(torch.nn.Module):
    """The perfect model of clips whose every value is drawn from N(0.5, 0.3 ** 2), for any prediction type."""

    def __init__(self, scheduler):
        super().__init__()
        self.kind = scheduler.config.prediction_type
        alphas = scheduler.alphas_cumprod.double()
        self.sigmas = ((1 - alphas) / alphas.clamp_min(1e-14)).sqrt()
        self.mask_decoder = None
        self.dtype = torch.float32
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, noisy, timestep, text, condition, return_mask, cache):
        low, high = self.sigmas[int(timestep)], self.sigmas[min(int(timestep) + 1, len(self.sigmas) - 1)]
        sigma = low + (high - low) * (timestep - int(timestep))  # schedulers interpolate like this between timesteps
        signal, noise = 1 / (1 + sigma**2).sqrt(), sigma / (1 + sigma**2).sqrt()
        mean, variance = 0.5, 0.09
        x0 = mean + variance * signal * (noisy - signal * mean) / (signal**2 * variance + noise**2)
        epsilon = (noisy - signal * x0) / noise
        return {"epsilon": epsilon, "v_prediction": signal * epsilon - noise * x0, "sample": x0}[self.kind]


@pytest.mark.parametrize("name, prediction, zero_snr", WORKING)
def test_a_perfect_model_gives_the_data(name, prediction, zero_snr):
    scheduler = make_scheduler(name, {**(ZERO_SNR if zero_snr else SD), "prediction_type": prediction})
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 4, 3, 24, 24, generator=generator)
    text = torch.zeros(1, 1, 1)
    model = GaussianData(scheduler)
    latents = denoise(model, noise, text, text, noise, scheduler, 50, generator=generator).latents
    assert latents.mean() == pytest.approx(0.5, abs=0.03)
    assert latents.std() == pytest.approx(0.3, abs=0.12 if name == "lcm" else 0.06)  # LCM is for its own models


@pytest.mark.parametrize("name, prediction, zero_snr", REFUSED)
def test_a_scheduler_that_cannot_follow_the_checkpoint_is_refused(name, prediction, zero_snr):
    with pytest.raises(InputError, match="these do: ddim|epsilon says nothing"):
        make_scheduler(name, {**(ZERO_SNR if zero_snr else SD), "prediction_type": prediction})


def test_diffusers_itself_cannot_do_what_is_refused(unet, given):
    """The day that diffusers learns it, the table may say so."""
    with pytest.raises(ValueError, match="prediction_type"):
        denoise(unet, **given, scheduler=PNDMScheduler(prediction_type="sample", skip_prk_steps=True), steps=2)


def test_an_unknown_scheduler_or_prediction_type_is_named():
    with pytest.raises(InputError, match="'dimm' is not known; choose one of ddim, "):
        make_scheduler("dimm", SD)
    with pytest.raises(InputError, match="'flow' is not known; known: epsilon"):
        make_scheduler("ddim", {**SD, "prediction_type": "flow"})


def test_the_checkpoints_noise_schedule_carries_over():
    checkpoint = {**SD, "beta_end": 0.02, "prediction_type": "v_prediction", "timestep_spacing": "leading"}
    for name in SCHEDULERS:
        scheduler = make_scheduler(name, dict(PNDMScheduler(**checkpoint).config))
        assert (scheduler.config.beta_end, scheduler.config.prediction_type) == (0.02, "v_prediction")
        assert scheduler.config.timestep_spacing == "leading"


def test_a_zero_snr_schedule_starts_from_pure_noise():
    scheduler = make_scheduler("ddim", {**ZERO_SNR, "prediction_type": "sample"})
    set_steps(scheduler, 3)
    assert scheduler.timesteps[0] == 999 and scheduler.alphas_cumprod[999] == 0


def test_trained_betas_that_end_in_pure_noise_count_as_zero_snr():
    config = {"trained_betas": [0.1] * 99 + [1.0], "num_train_timesteps": 100, "prediction_type": "sample"}
    assert make_scheduler("euler", config).config.rescale_betas_zero_snr
    with pytest.raises(InputError, match="zero terminal SNR"):
        make_scheduler("heun", config)


@pytest.mark.parametrize("steps", [0, -1, 2.5, True, 1001])
def test_steps_must_be_a_whole_number_the_scheduler_has(steps):
    with pytest.raises(InputError, match=f"steps is {steps}; .* from 1 to 1000"):
        set_steps(ddim(), steps)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_as_many_steps_as_are_allowed_work_and_one_more_is_refused(name):
    scheduler = make_scheduler(name, {**SD, "num_train_timesteps": 60})
    most = 0
    for steps in range(1, 64):
        try:
            set_steps(scheduler, steps)
        except InputError:
            continue
        most = steps
    assert most == (50 if name == "lcm" else 60 if name in ("euler", "euler_a", "heun") else 59)
    noise, text = torch.randn(1, 4, 1, 4, 4), torch.zeros(1, 1, 1)
    assert denoise(GaussianData(scheduler), noise, text, text, noise, scheduler, most).latents.isfinite().all()


# The loop


@pytest.mark.parametrize("name", SCHEDULERS)
def test_same_seed_same_bytes_whatever_ran_before(unet, given, name):
    scheduler = make_scheduler(name, SD)

    def run(callback=None):
        generator = torch.Generator().manual_seed(3)
        return denoise(unet, **given, scheduler=scheduler, steps=5, generator=generator, callback=callback).latents

    def cancel(state):
        if state["i"] == 2:
            raise KeyboardInterrupt

    first = run()
    with pytest.raises(KeyboardInterrupt):
        run(cancel)
    assert torch.equal(run(), first)


def test_a_generator_reaches_schedulers_that_add_noise(unet, given):
    def run(seed):
        generator = torch.Generator().manual_seed(seed)
        return denoise(unet, **given, scheduler=make_scheduler("euler_a", SD), steps=3, generator=generator).latents

    assert not torch.equal(run(0), run(1))


@pytest.mark.parametrize("options", [{}, {"in_channels": 8}, {"lan_cross_attn": True}, {"gate": True}])
def test_one_batch_and_one_by_one_agree(given, options):
    unet = small_unet(**options)
    both = [denoise(unet, **given, scheduler=ddim(), steps=3, mask_steps=2, batch_passes=b) for b in (True, False)]
    torch.testing.assert_close(both[0].latents, both[1].latents, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(both[0].mask, both[1].mask, atol=1e-4, rtol=1e-4)


def test_clips_of_a_batch_do_not_mix(unet, given):
    both = denoise(unet, **given, scheduler=ddim(), steps=3).latents
    alone = {name: value[1:] for name, value in given.items()}
    second = denoise(unet, **alone, scheduler=ddim(), steps=3).latents
    torch.testing.assert_close(second, both[1:], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("batch_passes, calls", [(True, 1), (False, 3)])
def test_text_keys_and_the_conditions_convolution_are_computed_once(unet, given, count_calls, batch_passes, calls):
    attention = unet.mid_block.attentions[0].transformer_blocks[0].attn2
    counts = count_calls(attention.to_k, attention.to_v, unet.condition_conv_in, attention.to_q)
    denoise(unet, **given, scheduler=ddim(), steps=4, batch_passes=batch_passes)
    assert counts == [calls, calls, calls, 4 * calls]


def test_texts_of_unequal_length_run_one_by_one(unet, given, count_calls):
    given["empty_text"] = given["empty_text"][:, :2]
    counts = count_calls(unet)
    denoise(unet, **given, scheduler=ddim(), steps=2)
    assert counts == [6]
    with pytest.raises(InputError, match="text has 5 tokens and empty_text 2"):
        denoise(unet, **given, scheduler=ddim(), steps=2, batch_passes=True)


class Crowded(torch.nn.Module):
    """A U-Net on a device with memory for `room` rows."""

    def __init__(self, unet, room):
        super().__init__()
        self.unet, self.room, self.rows = unet, room, []
        self.dtype, self.mask_decoder = unet.dtype, unet.mask_decoder

    def forward(self, noisy, *args, **kwargs):
        self.rows.append(len(noisy))
        if len(noisy) > self.room:
            raise torch.OutOfMemoryError("no room")
        return self.unet(noisy, *args, **kwargs)


def test_out_of_memory_goes_on_one_by_one_for_the_rest_of_the_call(unet, given, monkeypatch, caplog):
    expected = denoise(unet, **given, scheduler=ddim(), steps=3, mask_steps=1)
    crowded = Crowded(unet, room=2)
    module = importlib.import_module("lgvi_core.sampling.denoise")  # the package has the function under this name
    monkeypatch.setattr(module, "batch_by_default", lambda device: True)
    got = denoise(crowded, **given, scheduler=ddim(), steps=3, mask_steps=1)
    assert crowded.rows == [6] + 9 * [2]
    assert torch.equal(got.latents, expected.latents) and torch.equal(got.mask, expected.mask)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_batch_that_was_asked_for_does_not_fall_back(unet, given):
    with pytest.raises(torch.OutOfMemoryError):
        denoise(Crowded(unet, room=2), **given, scheduler=ddim(), steps=3, batch_passes=True)


def test_on_the_cpu_passes_run_one_by_one_by_default(unet, given):
    crowded = Crowded(unet, room=2)
    denoise(crowded, **given, scheduler=ddim(), steps=1)
    assert crowded.rows == [2, 2, 2]


def test_the_callback_sees_every_call_of_the_model(unet, given):
    seen = []
    out = denoise(unet, **given, scheduler=make_scheduler("pndm", SD), steps=4, callback=seen.append)
    assert [state["i"] for state in seen] == list(range(5)) and all(state["steps"] == 5 for state in seen)
    assert torch.equal(seen[-1]["latents"], out.latents) and seen[0]["denoised"] is None


def test_the_callback_gets_the_estimate_of_the_end(unet, given):
    seen = []
    scheduler = ddim(prediction_type="sample")
    denoise(unet, **given, scheduler=scheduler, steps=2, callback=seen.append)
    assert all(torch.equal(state["denoised"], state["prediction"]) for state in seen)


@pytest.mark.parametrize("name, steps, mask_steps, at", [
    ("ddim", 10, 1, [5]), ("ddim", 10, 3, [1, 5, 8]), ("ddim", 4, 9, [0, 1, 2, 3]), ("pndm", 6, 7, list(range(7))),
])  # fmt: skip
@pytest.mark.parametrize("batch_passes", [True, False])
def test_the_mask_is_the_mean_over_evenly_spaced_calls(
    unet, given, count_calls, name, steps, mask_steps, at, batch_passes
):
    counts = count_calls(unet.mask_decoder)
    seen, noisy = [], [given["latents"]]

    def callback(state):
        seen.append(state)
        noisy.append(state["latents"])

    out = denoise(
        unet, **given, scheduler=make_scheduler(name, SD), steps=steps, mask_steps=mask_steps,
        batch_passes=batch_passes, callback=callback,
    )  # fmt: skip
    assert counts == [len(at)]
    with torch.no_grad():
        fixed = (given["text"], given["condition"])
        masks = [unet(noisy[i], seen[i]["timestep"], *fixed, return_mask=True)[1] for i in at]
    assert out.mask.shape == (2, 1, 3, 6, 4)
    torch.testing.assert_close(out.mask, torch.stack(masks).mean(0), atol=1e-4, rtol=1e-4)


def test_without_mask_steps_the_mask_decoder_never_runs(unet, given, count_calls):
    counts = count_calls(unet.mask_decoder)
    assert denoise(unet, **given, scheduler=ddim(), steps=2).mask is None
    assert counts == [0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_unet_runs_in_its_own_dtype_and_the_scheduler_in_float32(given, dtype):
    expected = denoise(small_unet(), **given, scheduler=ddim(), steps=3, mask_steps=1)
    got = denoise(small_unet().to(dtype), **given, scheduler=ddim(), steps=3, mask_steps=1)
    assert got.latents.dtype == got.mask.dtype == torch.float32
    assert (got.latents - expected.latents).norm() < 0.05 * expected.latents.norm()
    assert (got.mask - expected.mask).abs().max() < 0.02


def test_the_result_can_be_worked_on(unet, given):
    latents = denoise(unet, **given, scheduler=ddim(), steps=1).latents
    assert not latents.requires_grad and not latents.is_inference()


def test_nothing_given_is_changed(unet, given):
    before = {name: value.clone() for name, value in given.items()}
    denoise(unet, **given, scheduler=ddim(), steps=2)
    assert all(torch.equal(given[name], before[name]) for name in before)


# Bad input


@pytest.mark.parametrize("name, value, message", [
    ("latents", torch.zeros(4, 3, 6, 4), r"latents are \(4, 3, 6, 4\)"),
    ("condition", torch.zeros(2, 4, 5, 6, 4), r"condition is \(2, 4, 5, 6, 4\)"),
    ("text", torch.zeros(1, 5, 12), r"text is \(1, 5, 12\); expected \(2, tokens, 12\)"),
    ("empty_text", torch.zeros(2, 5, 7), r"empty_text is \(2, 5, 7\)"),
    ("condition", torch.full((2, 4, 3, 6, 4), math.nan), "condition has NaN"),
    ("text", torch.full((2, 5, 12), math.inf), "text has NaN or infinity"),
])  # fmt: skip
def test_input_that_does_not_fit_is_named(unet, given, name, value, message):
    given[name] = value
    with pytest.raises(InputError, match=message):
        denoise(unet, **given, scheduler=ddim(), steps=1)


def test_mask_steps_must_fit_the_checkpoint(unet, given):
    with pytest.raises(InputError, match="mask_steps is -1"):
        denoise(unet, **given, scheduler=ddim(), steps=1, mask_steps=-1)
    with pytest.raises(InputError, match="no mask decoder"):
        denoise(small_unet(mask_decoder_type=None), **given, scheduler=ddim(), steps=1, mask_steps=1)


def test_nan_from_the_model_stops_the_run(given):
    unet = small_unet()
    unet.conv_out.bias.data[0] = math.nan
    with pytest.raises(FloatingPointError, match="the model gave NaN or infinity at step 1 of 2 in torch.float32"):
        denoise(unet, **given, scheduler=ddim(), steps=2)


def test_nan_from_the_scheduler_is_not_blamed_on_the_model(unet, given):
    scheduler = DDIMScheduler(rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=False)
    with pytest.raises(FloatingPointError, match="DDIMScheduler gave NaN"):
        denoise(unet, **given, scheduler=scheduler, steps=2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_gives_the_cpus_numbers(given):
    expected = denoise(small_unet(), **given, scheduler=ddim(), steps=3, mask_steps=1)
    got = denoise(small_unet().cuda(), **given, scheduler=ddim(), steps=3, mask_steps=1)
    torch.testing.assert_close(got.latents.cpu(), expected.latents, atol=1e-2, rtol=1e-2)
    torch.testing.assert_close(got.mask.cpu(), expected.mask, atol=1e-2, rtol=1e-2)
