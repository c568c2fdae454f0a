"""How a node samples: presets of a checkpoint's own way, and ComfyUI's samplers in its place."""

from __future__ import annotations

import comfy.samplers
from comfy_api.latest import io

from .host import LGVIInfo
from .host_sampling import ddim

OWN_SAMPLER = "ddim (LGVI)"
OWN_SCHEDULER = "checkpoint's own"
PRESETS = {"checkpoint's own": 1, "fast": 1 / 3, "best": 2}  # times the steps that the checkpoint recommends


def choices(by_video: bool) -> list[io.Input]:
    """Preset, sampler and scheduler; `by_video`: the model may be one that is guided by its video too."""

    def scale(name, default, tooltip):
        return io.Float.Input(name, default=default, min=0.0, max=30.0, step=0.1, round=0.01, tooltip=tooltip)

    custom = [io.Int.Input("steps", default=50, min=1, max=1000, tooltip="Denoising steps in each window of frames.")]
    if by_video:
        custom += [
            scale("guidance", 3.0, "How strongly the words steer. At most 1: no guidance, a third of the time."),
            scale("image_guidance", 1.5, "How closely the result keeps to the video. Below 1: no guidance at all."),
        ]
    else:
        custom += [scale("guidance", 10.0, "How strongly the words steer. At most 1: no guidance, half of the time.")]
    presets = {name: [] for name in PRESETS} | {"custom": custom}
    return [
        io.DynamicCombo.Input(
            "preset",
            options=[io.DynamicCombo.Option(name, widgets) for name, widgets in presets.items()],
            tooltip="checkpoint's own: steps and guidance that the checkpoint recommends. fast: a third of the "
            "steps. best: twice the steps. custom: your own.",
        ),
        io.Combo.Input(
            "sampler",
            options=[OWN_SAMPLER, *comfy.samplers.SAMPLER_NAMES],
            advanced=True,
            tooltip="ddim (LGVI): the numbers of LGVI's command line with DDIM. The others are ComfyUI's.",
        ),
        io.Combo.Input(
            "scheduler",
            options=[OWN_SCHEDULER, *comfy.samplers.SCHEDULER_NAMES],
            advanced=True,
            tooltip="How the noise levels are spaced. checkpoint's own: as the checkpoint was trained for.",
        ),
    ]


def sampling_of(preset: dict, info: LGVIInfo) -> tuple[int, float, float]:
    """Steps, guidance and image guidance of a preset."""
    own = info.sampling
    if preset["preset"] == "custom":
        image_guidance = own["image_guidance_scale"] if info.config.is_inpainting else preset["image_guidance"]
        return preset["steps"], preset["guidance"], image_guidance
    steps = max(1, round(own["steps"] * PRESETS[preset["preset"]]))
    return steps, own["guidance_scale"], own["image_guidance_scale"]


def sampler_of(model, info: LGVIInfo, sampler: str, scheduler: str, steps: int):
    """SAMPLER and SIGMAS; `InputError` for more steps than the checkpoint has timesteps."""
    own, sigmas = ddim(model, info, steps)
    if scheduler != OWN_SCHEDULER:
        sigmas = comfy.samplers.KSampler(model, steps, "cpu", sampler, scheduler).sigmas
    return own if sampler == OWN_SAMPLER else comfy.samplers.sampler_object(sampler), sigmas
