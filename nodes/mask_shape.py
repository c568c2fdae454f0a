"""A mask loosened into a shape that hides the outline of the thing it was made from."""

from __future__ import annotations

import comfy.model_management
import torch
from comfy_api.latest import io

from ..lgvi_core import masks
from ..lgvi_core.mask_shapes import SHAPES, reshape


class MaskShape(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        pixels = io.Float.Input(
            "pixels", default=8.0, min=0.0, max=1024.0, step=0.5, tooltip="How far to grow, in pixels of the mask."
        )
        shapes = [io.DynamicCombo.Option(shape, [pixels] if "expand" in shape else []) for shape in SHAPES]
        return io.Schema(
            node_id="LGVIMaskShape",
            display_name="Mask Shape",
            category="lgvi",
            description="Gives a mask another shape, frame by frame: grown, its convex hull, its box, or these grown. "
            "A looser mask does not tell a model that fills what stood there, and leaves it room.",
            search_aliases=["mask hull", "bounding box mask", "expand mask", "grow mask", "loosen mask", "dilate"],
            inputs=[
                io.Mask.Input("mask", tooltip="One mask or one for each frame; of a soft one what is at least half."),
                io.DynamicCombo.Input(
                    "shape",
                    options=shapes,
                    tooltip="exact: as it is. expand: grown. hull: its convex hull. box: its upright box. hull_expand, "
                    "box_expand: these grown.",
                ),
            ],
            outputs=[io.Mask.Output("mask", tooltip="The mask in its new shape, 0 and 1; it covers the one given.")],
        )

    @classmethod
    def execute(cls, mask, shape) -> io.NodeOutput:
        mask = mask if mask.ndim == 3 else mask[None]
        given = masks.binarize(masks.as_mask(mask, *mask.shape))
        shaped = torch.from_numpy(reshape(given, shape["shape"], shape.get("pixels", 0.0)))
        return io.NodeOutput(shaped.to(comfy.model_management.intermediate_device(), torch.float32))
