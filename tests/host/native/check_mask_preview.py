"""Mask Decoder Preview."""

import json
from dataclasses import replace

import numpy as np
import torch
from small import HOST, counting, loaded, ours, raises
from videos import counting_everything, noise, preview, remove, that_finds


def check_the_preview_of_a_one_step_checkpoint_is_what_the_sampler_finds():
    demo = ours("nodes.loader").DEMO_FILE
    checkpoints = ours("lgvi_core.checkpoints")
    sampling = {"steps": 1, "guidance_scale": 1.0, "image_guidance_scale": 1.0, "scheduler": "ddim"}
    checkpoints.save(replace(checkpoints.load(demo), sampling=sampling), HOST.work / "one-step.safetensors")
    parts = ours("nodes.host").load(HOST.work / "one-step.safetensors")
    info = ours("nodes.host").lgvi_of(parts.model)
    frames = noise(9, info.training["height"], info.training["width"])
    with counting(parts.model) as calls:
        (mask, soft, overlay, area), ui = preview(parts, frames, passes=5)
        assert calls == [[0], [0]]  # one pass for each of two windows
    (_, _, found), _ = remove(parts, frames, {"preset": "checkpoint's own"})
    assert torch.equal(mask, found)
    assert mask.shape == soft.shape == frames.shape[:3] and 0 <= soft.min() < soft.max() <= 1
    assert torch.equal(mask, (soft >= 0.5).float())
    assert overlay.shape == frames.shape and area == float(np.mean(ui["area"])) and len(ui["area"]) == 9


def check_the_preview_takes_so_many_passes_and_never_decodes():
    parts = loaded("epsilon")
    for passes in (1, 4):
        with counting_everything(parts) as calls:
            preview(parts, noise(), passes=passes)
        assert calls.count("unet") == 2 * passes and "decode" not in calls


def check_threshold_and_region_change_without_the_model():
    parts, frames = loaded("epsilon"), noise(7, 20, 30)
    (mask, soft, overlay, _), _ = preview(parts, frames)
    middle = float(soft.median())
    with counting_everything(parts) as calls:
        (low, low_soft, *_), _ = preview(parts, frames, threshold=middle)
        box = json.dumps({"box": [0.5, 0.0, 0.5, 0.5]})
        (inside, inside_soft, *_), ui = preview(parts, frames, threshold=middle, region=box)
    assert not calls and torch.equal(low, (soft >= middle).float()) and torch.equal(low_soft, soft)
    allowed = torch.zeros(20, 30)
    allowed[:10, 15:] = 1
    assert torch.equal(inside, low * allowed) and torch.equal(inside_soft, soft * allowed)
    assert np.allclose(ui["area"], inside.mean(dim=(1, 2)), atol=1e-6) and 0 < inside.mean() < low.mean()


def check_an_empty_and_a_full_mask_are_said_to_be_what_they_are():
    frames = noise(4)
    for what, share, message in (("nothing", 0, "the mask is empty"), ("everything", 1, "covers 100 % of the video")):
        (mask, soft, overlay, area), ui = preview(that_finds(what), frames)
        assert area == share == mask.mean() and ui["area"] == [share] * 4 and message in ui["message"]
        assert torch.allclose(overlay, frames, atol=0.5 / 255 + 1e-6) == (what == "nothing")
    assert preview(loaded("epsilon"), frames, threshold=1.0)[1]["message"].startswith("the mask is empty")


def check_the_previewed_mask_goes_into_the_sampler():
    parts, frames = loaded("epsilon"), noise(7, 20, 30)
    soft = preview(parts, frames)[0][1]
    mask = preview(parts, frames, threshold=float(soft.median()))[0][0]
    (_, result, used), _ = remove(parts, frames, mask=mask, dilation=0.0)
    assert torch.equal(used, mask) and torch.equal(result[mask == 0], frames[mask == 0])


def check_a_model_that_fills_finds_no_mask_and_says_which_does():
    with counting(loaded("fill").model) as calls:
        raises("this MODEL fills a mask, it finds none: connect an LGVI MODEL", preview, loaded("fill"), noise(2))
    assert not calls
