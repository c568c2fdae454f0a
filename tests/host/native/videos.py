"""What the checks of the nodes on whole videos share: calling them, clips, and checkpoints that find all or nothing."""

import contextlib
import functools
import os
from dataclasses import replace
from fractions import Fraction

import torch
from small import HOST, checkpoint_file, core, ours

PROMPT = "remove the red circle"
SAMPLER = {
    "prompt": PROMPT,
    "seed": 3,
    "sampler": "ddim (LGVI)",
    "scheduler": "checkpoint's own",
    "window": 6,
    "overlap": 2,
    "frame_rate": 24.0,
    "dilation": -1.0,
    "feather": -1.0,
    "keep_untouched": True,
}
PREVIEW = {
    **{name: SAMPLER[name] for name in ("prompt", "seed", "window", "overlap", "frame_rate")},
    "passes": 2,
    "threshold": 0.5,
    "region": "",
}


def custom(steps=2, guidance=1.0, image_guidance=1.0):
    return {"preset": "custom", "steps": steps, "guidance": guidance, "image_guidance": image_guidance}


def remove(parts, video, preset=None, **inputs):
    """What Video Inpaint Sampler gives: (VIDEO, frames, mask), its message."""
    node = ours("nodes.video_inpaint_sampler").VideoInpaintSampler
    given = {"clip": parts.clip, "preset": preset or custom(), **SAMPLER, **inputs}
    out = node.execute(parts.model, parts.vae, video, **given)
    return out.result, out.ui["lgvi_compare"][0]


def preview(parts, video, **inputs):
    """What Mask Decoder Preview gives: (mask, soft mask, overlay, area), its ui."""
    node = ours("nodes.mask_decoder_preview").MaskDecoderPreview
    out = node.execute(parts.model, parts.vae, video, **{"clip": parts.clip, **PREVIEW, **inputs})
    return out.result, out.ui["lgvi_mask"][0]


def noise(count=9, height=16, width=16, seed=0):
    """IMAGE frames of no even values."""
    return torch.rand(count, height, width, 3, generator=torch.Generator().manual_seed(seed))


def as_video(frames, rate=Fraction(30000, 1001), **more):
    latest = core("comfy_api.latest")
    audio = {"waveform": torch.rand(1, 2, 8000), "sample_rate": 16000}
    components = latest.Types.VideoComponents(images=frames, audio=audio, frame_rate=rate)
    return latest.InputImpl.VideoFromComponents(components, **more)


def reach(mask, pixels):
    masks = ours("lgvi_core.masks")
    return torch.from_numpy(masks.dilate(mask.numpy() > 0.5, pixels))


@functools.cache
def that_finds(what):
    """A small one-step checkpoint of random weights whose mask decoder finds "everything" or "nothing"."""
    checkpoints = ours("lgvi_core.checkpoints")
    checkpoint = checkpoints.load(checkpoint_file("sample"))
    with torch.no_grad():
        last = checkpoint.unet.mask_decoder.final_conv
        last.weight.zero_()
        last.bias.fill_({"everything": 50.0, "nothing": -50.0}[what])
    sampling = {"steps": 1, "guidance_scale": 1.0, "image_guidance_scale": 1.0, "scheduler": "ddim"}
    path = HOST.work / f"{what}.safetensors"
    checkpoints.save(replace(checkpoint, sampling=sampling), path)
    return ours("nodes.host").load(path)


def shown_file(file):
    import folder_paths

    assert file["type"] == "temp" and file["subfolder"] == ""
    return os.path.join(folder_paths.get_temp_directory(), file["filename"])


@contextlib.contextmanager
def counting_everything(parts):
    """Every call of the U-Net, the text encoder and the autoencoder, as a list that fills."""
    calls = []
    hooks = [
        module.register_forward_pre_hook(lambda *_, name=name: calls.append(name))
        for name, module in (("unet", parts.model.model.diffusion_model), ("clip", parts.clip.cond_stage_model))
    ]
    autoencoder = parts.vae.first_stage_model
    for name in ("encode", "decode"):
        inner = getattr(autoencoder, name)
        setattr(autoencoder, name, lambda *a, inner=inner, name=name, **k: calls.append(name) or inner(*a, **k))
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()
        del autoencoder.encode, autoencoder.decode


@contextlib.contextmanager
def progress_hook(hook):
    utils = core("comfy.utils")
    before, utils.PROGRESS_BAR_HOOK = utils.PROGRESS_BAR_HOOK, hook
    try:
        yield
    finally:
        utils.PROGRESS_BAR_HOOK = before
