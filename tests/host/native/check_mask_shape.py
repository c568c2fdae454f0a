"""Mask Shape."""

import numpy as np
import torch
from small import ours, raises
from videos import noise


def shaped(mask, shape, **more):
    node = ours("nodes.mask_shape").MaskShape
    return node.execute(mask, {"shape": shape, **more}).result[0]


def corner(frames=3):
    """An L that moves to the right."""
    mask = torch.zeros(frames, 12, 16)
    for i, frame in enumerate(mask):
        frame[2:9, 2 + i : 4 + i] = 1
        frame[7:9, 2 + i : 9 + i] = 1
    return mask


def check_each_shape_is_that_of_the_engine_and_covers_the_mask():
    shapes, mask = ours("lgvi_core.mask_shapes"), corner()
    for shape in shapes.SHAPES:
        more = {"pixels": 2.0} if "expand" in shape else {}
        found = shaped(mask, shape, **more)
        assert np.array_equal(found.numpy() > 0, shapes.reshape(mask.numpy() > 0, shape, more.get("pixels", 0)))
        assert found.dtype == torch.float32 and set(found.unique().tolist()) == {0.0, 1.0} and (found >= mask).all()
    assert torch.equal(shaped(mask, "exact"), mask)
    assert shaped(mask, "box").sum() > shaped(mask, "hull").sum() > mask.sum()


def check_one_mask_and_soft_ones_are_taken_and_an_empty_one_stays_empty():
    mask = corner(1)
    assert torch.equal(shaped(mask[0], "box"), shaped(mask, "box"))
    assert torch.equal(shaped(mask * 0.6, "hull"), shaped(mask, "hull")) and not shaped(mask * 0.4, "hull").any()
    assert not shaped(torch.zeros(2, 8, 8), "box_expand", pixels=4.0).any()
    raises("float masks must be within 0 to 1", shaped, noise(1)[..., 0] * 2, "exact")


def check_pixels_are_asked_for_only_where_the_mask_grows():
    (combo,) = (one for one in ours("nodes.mask_shape").MaskShape.define_schema().inputs if one.id == "shape")
    assert {option.key: len(option.inputs) for option in combo.options} == {
        "exact": 0, "expand": 1, "hull": 0, "box": 0, "hull_expand": 1, "box_expand": 1,
    }  # fmt: skip
