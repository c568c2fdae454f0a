"""diffusers' schedulers by short name, with the checkpoint's noise schedule."""

from __future__ import annotations

from ..errors import InputError

ALL = ("epsilon", "v_prediction", "sample")
NO_SAMPLE = ("epsilon", "v_prediction")

# name: diffusers class, prediction types it knows, whether it knows schedules of zero terminal SNR
SCHEDULERS = {
    "ddim": ("DDIMScheduler", ALL, True),
    "ddpm": ("DDPMScheduler", ALL, True),
    "pndm": ("PNDMScheduler", NO_SAMPLE, False),
    "euler": ("EulerDiscreteScheduler", ALL, True),
    "euler_a": ("EulerAncestralDiscreteScheduler", NO_SAMPLE, True),
    "heun": ("HeunDiscreteScheduler", ALL, False),
    "dpm++": ("DPMSolverMultistepScheduler", ALL, True),
    "unipc": ("UniPCMultistepScheduler", ALL, True),
    "deis": ("DEISMultistepScheduler", ALL, False),
    "lcm": ("LCMScheduler", ALL, True),
}

# Where a checkpoint's config does not say: latents are never clipped, and there are no Runge-Kutta steps.
LATENT_DEFAULTS = {"clip_sample": False, "skip_prk_steps": True}


def make_scheduler(name: str, scheduler_config: dict):
    """The diffusers scheduler `name` (a key of `SCHEDULERS`) for a checkpoint's scheduler config.

    The config may be of any diffusers scheduler class: betas, prediction type and the like carry over. A schedule of
    zero terminal SNR starts at the last timestep unless the config says otherwise (arXiv 2305.08891, section 3.3).

    Raises `InputError` for an unknown name and where the scheduler cannot follow the checkpoint; it says which can.
    """
    if name not in SCHEDULERS:
        raise InputError(f"scheduler {name!r} is not known; choose one of {', '.join(SCHEDULERS)}")
    class_name, predictions, knows_zero_snr = SCHEDULERS[name]
    config = LATENT_DEFAULTS | dict(scheduler_config)
    # Stable Diffusion, known by its schedule, ends at its first noise level, others (CoCoCo's linear one) at none.
    config.setdefault("set_alpha_to_one", config.get("beta_schedule") != "scaled_linear")
    prediction = config.get("prediction_type", "epsilon")
    zero_snr = has_zero_snr(config)
    if zero_snr and prediction == "epsilon":
        raise InputError(
            "the scheduler config has zero terminal SNR with prediction_type 'epsilon': the first step starts from "
            "pure noise, where epsilon says nothing of the video; the checkpoint's config must be mended"
        )
    if prediction not in predictions or (zero_snr and not knows_zero_snr):
        able = [key for key, (_, types, zero) in SCHEDULERS.items() if prediction in types and (zero or not zero_snr)]
        if not able:
            raise InputError(f"prediction_type {prediction!r} is not known; known: {', '.join(ALL)}")
        schedule = " and zero terminal SNR" if zero_snr else ""
        raise InputError(
            f"scheduler {name!r} does not work with this checkpoint's prediction_type {prediction!r}{schedule}; "
            f"these do: {', '.join(able)}"
        )
    if zero_snr:
        config = {"timestep_spacing": "trailing", **config, "rescale_betas_zero_snr": True}

    import diffusers

    return getattr(diffusers, class_name).from_config(config)


def has_zero_snr(config: dict) -> bool:
    """Whether the last timestep of a scheduler config is pure noise."""
    betas = config.get("trained_betas")
    return bool(config.get("rescale_betas_zero_snr")) or (betas is not None and float(betas[-1]) >= 1)


def set_steps(scheduler, steps: int, device=None) -> None:
    """Sets a diffusers scheduler to `steps` steps; `InputError` where that is fewer than 1 or more than it has."""
    most = scheduler.config.num_train_timesteps
    if "original_inference_steps" in scheduler.config:  # LCM walks over a coarser grid
        most = min(most, scheduler.config.original_inference_steps)
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= most:
        raise InputError(f"steps is {steps!r}; this scheduler takes a whole number from 1 to {most}")
    scheduler.set_timesteps(steps, device=device)
    timesteps = scheduler.timesteps
    if timesteps.max() >= scheduler.config.num_train_timesteps or len(timesteps.unique()) < steps:
        raise InputError(f"steps is {steps}; this scheduler has no {steps} different timesteps: give fewer steps")
