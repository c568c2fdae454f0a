"""LGVI's guidance by words and by video, as a GUIDER."""

from __future__ import annotations

import comfy.samplers
from comfy_api.latest import io

from ..lgvi_core.sampling.guidance import guidance_passes
from .host import lgvi_of


class ThreeWayGuider(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        def scale(name, default, tooltip):
            return io.Float.Input(name, default=default, min=0.0, max=30.0, step=0.1, round=0.01, tooltip=tooltip)

        return io.Schema(
            node_id="LGVIGuider",
            display_name="LGVI Three-Way Guider",
            category="lgvi",
            description="Guidance by words and by video, as LGVI was published with. Passes whose weight is zero are "
            "left out: two passes when image guidance is 1 or equals guidance, one when guidance is at most 1.",
            search_aliases=["three-way guidance", "instruct pix2pix guider", "dual cfg", "image guidance", "cfg"],
            inputs=[
                io.Model.Input("model", tooltip="An LGVI MODEL."),
                io.Conditioning.Input("text_and_video", tooltip="Prompt and video, from LGVI Condition Encode."),
                io.Conditioning.Input("video", tooltip="Empty prompt and video, from LGVI Condition Encode."),
                io.Conditioning.Input("neither", tooltip="Empty prompt, no video, from LGVI Condition Encode."),
                scale("guidance", 3.0, "How strongly the words steer. At most 1: no guidance, one pass."),
                scale("image_guidance", 1.5, "How closely the result keeps to the video. Below 1: no guidance."),
            ],
            outputs=[io.Guider.Output(tooltip="For SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(cls, model, text_and_video, video, neither, guidance, image_guidance) -> io.NodeOutput:
        lgvi_of(model)
        return io.NodeOutput(ThreeWay(model, text_and_video, video, neither, guidance, image_guidance))


class ThreeWay(comfy.samplers.CFGGuider):
    """`lgvi_core.sampling.guidance` over the host's CONDITIONING; the pass of text and video is cond 0."""

    def __init__(self, model, text_and_video, video, neither, guidance: float, image_guidance: float):
        super().__init__(model)
        names = {("text", "video"): "positive", ("empty", "video"): "video", ("empty", None): "negative"}
        passes = guidance_passes("text", "empty", "video", guidance, image_guidance)
        self.weights = {names[one.text, one.condition]: one.weight for one in passes}
        given = {"positive": text_and_video, "video": video, "negative": neither}
        self.inner_set_conds({name: given[name] for name in self.weights})
        self.set_cfg(self.weights["positive"])

    def predict_noise(self, x, timestep, model_options=None, seed=None):
        model_options = model_options or {}
        conds = [self.conds[name] for name in self.weights]
        text, *others = comfy.samplers.calc_cond_batch(self.inner_model, conds, x, timestep, model_options)
        # The same sum written as plain guidance, so that what a graph puts in its place works: the weights sum to 1.
        rest = [weight / (1 - self.cfg) for weight in list(self.weights.values())[1:]]
        without = sum(weight * other for weight, other in zip(rest, others)) if others else text
        return comfy.samplers.cfg_function(
            self.inner_model,
            text,
            without,
            self.cfg,
            x,
            timestep,
            model_options=model_options,
            cond=conds[0],
            uncond=conds[-1] if others else None,
        )
