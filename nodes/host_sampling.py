"""Noise levels: a checkpoint's scheduler_config.json as the host's sampling objects, and diffusers' DDIM."""

from __future__ import annotations

import comfy.model_sampling
import comfy.samplers
import torch
from torch import Tensor
from tqdm.auto import trange

from ..lgvi_core.errors import InputError
from ..lgvi_core.sampling.schedulers import has_zero_snr

# diffusers' names for what a network predicts, and for schedules of betas, in the host's terms.
PREDICTIONS = {
    "epsilon": comfy.model_sampling.EPS,
    "v_prediction": comfy.model_sampling.V_PREDICTION,
    "sample": comfy.model_sampling.X0,
}
SCHEDULES = {"scaled_linear": "linear", "linear": "sqrt_linear", "squaredcos_cap_v2": "cosine"}


def sampling_settings(scheduler_config: dict) -> dict:
    """The host's `sampling_settings` of a scheduler config; `InputError` for a schedule of betas it does not have."""
    schedule = scheduler_config.get("beta_schedule", "linear")
    if scheduler_config.get("trained_betas") is None and schedule not in SCHEDULES:
        raise InputError(f"the checkpoint's beta_schedule is {schedule!r}; known: {', '.join(SCHEDULES)}")
    return {
        "beta_schedule": SCHEDULES.get(schedule),
        "linear_start": scheduler_config.get("beta_start", 0.0001),
        "linear_end": scheduler_config.get("beta_end", 0.02),
        "timesteps": scheduler_config.get("num_train_timesteps", 1000),
        "zsnr": has_zero_snr(scheduler_config),
    }


def make_model_sampling(config):
    """The host's model_sampling for a `HostConfig`: what the network predicts, at which noise levels."""
    scheduler_config = config.info.scheduler_config

    class ModelSampling(comfy.model_sampling.ModelSamplingDiscrete, PREDICTIONS[scheduler_config["prediction_type"]]):
        pass

    betas = scheduler_config.get("trained_betas")
    if betas is None:
        return ModelSampling(config)
    sampling = ModelSampling()
    settings = config.sampling_settings
    sampling._register_schedule(given_betas=torch.tensor(betas, dtype=torch.float64), zsnr=settings["zsnr"])
    return sampling


def timesteps(scheduler_config: dict, steps: int) -> list[int]:
    """The timesteps of `steps` steps, noisiest first, as diffusers' DDIMScheduler has them for a scheduler config.

    Raises `InputError` for more steps than there are timesteps.
    """
    count = scheduler_config.get("num_train_timesteps", 1000)
    default = "trailing" if has_zero_snr(scheduler_config) else "leading"
    spacing = scheduler_config.get("timestep_spacing", default)
    if not 1 <= steps <= count:
        raise InputError(f"steps is {steps}; this checkpoint takes 1 to {count}")
    if spacing == "trailing":
        found = [round(count - i * count / steps) - 1 for i in range(steps)]
    elif spacing == "linspace":
        found = [round((count - 1) * i / max(steps - 1, 1)) for i in reversed(range(steps))]
    elif spacing == "leading":
        found = [i * (count // steps) + scheduler_config.get("steps_offset", 0) for i in reversed(range(steps))]
    else:
        raise InputError(f"the checkpoint's timestep_spacing is {spacing!r}; known: leading, trailing, linspace")
    if found[0] >= count:
        raise InputError(f"steps is {steps}; this checkpoint has no {steps} different timesteps: give fewer steps")
    return found


def sigmas(model, info, steps: int) -> Tensor:
    """The host's SIGMAS (steps + 1,) for a MODEL at the checkpoint's own timesteps; the last is 0."""
    levels = model.get_model_object("model_sampling").sigmas
    return torch.cat([levels[timesteps(info.scheduler_config, steps)].cpu(), torch.zeros(1)])


def ddim(model, info, steps: int) -> tuple[DDIM, Tensor]:
    """SAMPLER and SIGMAS with which `steps` steps equal those of diffusers' DDIMScheduler with eta 0."""
    noise_levels = sigmas(model, info, steps)
    levels = model.get_model_object("model_sampling").sigmas
    end = 0.0 if info.scheduler_config.get("set_alpha_to_one", True) else float(levels[0])
    return DDIM(float(noise_levels[0]), len(levels) // steps, end), noise_levels


class DDIM(comfy.samplers.KSAMPLER):
    """DDIM (arXiv 2010.02502, equation 12, eta 0) as diffusers runs it.

    start: the sigma from which noise is of unit variance before scaling. stride: timesteps that a step goes down. end:
    the sigma that the last step reaches.
    """

    def __init__(self, start: float, stride: int, end: float):
        super().__init__(sample_ddim, {"stride": stride, "end": end})
        self.start = start

    def max_denoise(self, model_wrap, sigmas):
        return float(sigmas[0]) >= self.start * (1 - 1e-5)


@torch.no_grad()
def sample_ddim(model, x, sigmas, extra_args=None, callback=None, disable=None, stride=0, end=0.0):
    """Latents x = sample + sigma * noise down the sigmas, each of the variance that its own sigma has."""
    sampling = model.inner_model.inner_model.model_sampling
    batch = x.new_ones([x.shape[0]])
    for i in trange(len(sigmas) - 1, disable=disable):
        denoised = model(x, sigmas[i] * batch, **(extra_args or {}))
        noise = (x - denoised) / sigmas[i]
        if callback is not None:
            callback({"x": x, "i": i, "sigma": sigmas[i], "sigma_hat": sigmas[i], "denoised": denoised})
        reached = landing(sampling, sigmas[i], sigmas[i + 1], stride, end)
        x = (denoised + reached * noise) * ((1 + sigmas[i + 1] ** 2) / (1 + reached**2)) ** 0.5
    return x


def landing(sampling, sigma: Tensor, following: Tensor, stride: int, end: float) -> Tensor | float:
    """The noise level that a step from `sigma` reaches: `following`, or diffusers' own, which may be one beside it.

    diffusers goes down by the whole part of the stride, and calls the network at the timesteps of the exact one.
    """
    wanted = int(sampling.timestep(following)) if following > 0 else -1
    reached = int(sampling.timestep(sigma)) - stride
    if abs(reached - wanted) <= 1 and reached >= 0:
        return sampling.sigmas[reached].to(sigma)
    return following if following > 0 else end
