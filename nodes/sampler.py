"""The sampler that LGVI is published with, for SamplerCustomAdvanced."""

from __future__ import annotations

from comfy_api.latest import io

from .host import lgvi_of
from .host_sampling import ddim


class DDIMSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LGVISampler",
            display_name="LGVI Sampler (DDIM)",
            category="lgvi",
            description="DDIM at the checkpoint's own timesteps, the same numbers as LGVI's command line. Use both "
            "outputs together in SamplerCustomAdvanced.",
            search_aliases=["ddim", "lgvi scheduler", "trailing timesteps", "zero terminal snr", "diffusers ddim"],
            inputs=[
                io.Model.Input("model", tooltip="An LGVI MODEL: its checkpoint says how the noise levels are spaced."),
                io.Int.Input(
                    "steps", default=0, min=0, max=1000, tooltip="How many; 0: as many as the checkpoint recommends."
                ),
            ],
            outputs=[
                io.Sampler.Output(tooltip="DDIM, ending where the checkpoint's schedule ends."),
                io.Sigmas.Output(tooltip="The noise levels of the steps."),
            ],
        )

    @classmethod
    def execute(cls, model, steps) -> io.NodeOutput:
        info = lgvi_of(model)
        return io.NodeOutput(*ddim(model, info, steps or info.sampling["steps"]))
