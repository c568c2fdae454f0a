"""Video Inpaint Sampler: the same as the command line; what it takes, gives back and refuses."""

from dataclasses import replace
from fractions import Fraction
from unittest.mock import patch

import numpy as np
import torch
from small import checkpoint_file, core, counting, loaded, ours, raises
from videos import PROMPT, as_video, custom, noise, preview, reach, remove, that_finds


def check_the_demo_comes_out_as_from_the_command_line():
    demo = ours("nodes.loader").DEMO_FILE
    path, words = demo.with_name("clip.mp4"), "remove the red circle on the left"
    parts, read = ours("nodes.host").load(demo), ours("lgvi_core.video").open_video(path)
    frames = np.stack([frame.image for frame in read])
    expected = ours("lgvi_core.inpaint").inpaint(frames, words, checkpoint=demo, device="cpu", seed=3)
    given = {"prompt": words, "preset": {"preset": "checkpoint's own"}, "window": 24, "overlap": 8}

    (_, result, mask), _ = remove(parts, torch.from_numpy(frames) / 255, **given)
    assert overlap_of(mask, expected.mask) > 0.999
    assert np.abs(result.numpy() - expected.frames / 255.0).mean() < 1e-3

    video = core("comfy_api.latest").InputImpl.VideoFromFile(str(path))  # whose colours the host decodes its own way
    (out, result, mask), ui = remove(parts, video, **given)
    before = video.get_components()
    assert overlap_of(mask, expected.mask) > 0.9
    kept = ~reach(mask, 20)
    assert 0.3 < kept.float().mean() < 1 and torch.equal(result[kept], before.images[kept])
    after = out.get_components()
    assert torch.equal(after.audio["waveform"], before.audio["waveform"])
    assert after.frame_rate == before.frame_rate and len(after.images) == ui["frames"] == len(before.images)


def overlap_of(mask, expected):
    mask = mask.numpy() > 0.5
    return (mask & expected).sum() / (mask | expected).sum()


def check_windows_guidance_and_steps_are_those_of_the_command_line():
    frames = noise(13, 20, 24)
    for kind in ("sample", "velocity", "epsilon", "no mask decoder"):
        for scales in ((1.0, 1.0), (3.0, 1.5)):
            preset = custom(7, *scales)
            (_, result, mask), ui = remove(loaded(kind), frames, preset, dilation=1.0)
            expected = ours("lgvi_core.inpaint").inpaint(
                frames, PROMPT, checkpoint=checkpoint_file(kind), device="cpu", seed=3, window=6, overlap=2, steps=7,
                guidance_scale=scales[0], image_guidance_scale=scales[1], scheduler="ddim", dilate=1.0,
            )  # fmt: skip
            same = torch.from_numpy(expected.mask) == (mask > 0.5)
            assert same.float().mean() > 0.995, (kind, scales)
            same = reach(~same, 2) == 0
            assert np.abs(result.numpy() - expected.frames)[same.numpy()].max() < 5e-3, (kind, scales)
            assert ("no mask decoder" in ui["message"]) == (kind == "no mask decoder")


def check_the_mask_is_read_at_no_more_than_five_steps():
    sink, parts = ours("nodes.host").MASK_SINK, loaded("epsilon")
    unet = parts.model.model.diffusion_model
    for steps, expected in ((1, 1), (3, 3), (12, 5)):
        read = []
        inner = unet._forward

        def forward(x, timesteps, context, control, options, inner=inner, read=read, **conds):
            read.append(sink in options)
            return inner(x, timesteps, context, control, options, **conds)

        unet._forward = forward
        try:
            remove(parts, noise(3), custom(steps), seed=steps)
        finally:
            del unet._forward
        assert len(read) == steps and sum(read) == expected, (steps, read)


def check_sound_rate_length_and_untouched_pixels_stay():
    parts = that_finds("everything")
    frames = noise(9, 21, 34) * 1.1  # a decoder may leave 0 to 1
    kept = frames.clone()
    hole = torch.zeros(21, 34)
    hole[6:12, 9:20] = 1
    video = as_video(frames, bit_depth=10)
    (out, result, mask), ui = remove(parts, video, mask=hole, dilation=3.0, feather=2.0)
    assert torch.equal(frames, kept)
    components = out.get_components()
    assert components.frame_rate == Fraction(30000, 1001) and out.get_bit_depth() == 10
    assert torch.equal(components.audio["waveform"], video.get_components().audio["waveform"])
    assert torch.equal(components.images, result) and result.shape == frames.shape
    assert torch.equal(mask, hole.expand(9, -1, -1)) and mask.dtype == torch.float32
    outside = ~reach(mask, 3)
    assert torch.equal(result[outside], frames[outside])
    assert (result[mask > 0.5] != frames[mask > 0.5]).any(dim=-1).float().mean() > 0.95
    assert ui["frames"] == 9 and ui["frame_rate"] == float(Fraction(30000, 1001)) and ui["message"] == ""


def check_any_length_and_size_come_back():
    parts = that_finds("everything")
    for count, height, width in ((1, 16, 16), (2, 1, 1), (7, 17, 33), (14, 9, 50), (3, 100, 7)):
        frames = noise(count, height, width)
        (out, result, mask), _ = remove(parts, frames, keep_untouched=False)
        assert result.shape == frames.shape and mask.shape == frames.shape[:3] and mask.all()
        assert not torch.equal(result, frames) and out.get_frame_rate() == 24


def check_images_have_the_frame_rate_that_is_asked_for():
    for rate, expected in ((25.0, Fraction(25)), (29.97, Fraction(2997, 100)), (23.976, Fraction(2997, 125))):
        (out, *_), ui = remove(that_finds("everything"), noise(2), frame_rate=rate)
        assert out.get_frame_rate() == expected and ui["frame_rate"] == float(expected)


def check_where_nothing_is_found_the_video_itself_comes_back():
    parts, frames = that_finds("nothing"), noise()
    video = as_video(frames)
    (out, result, mask), ui = remove(parts, video)
    assert out is video and torch.equal(result, frames) and not mask.any()
    assert ui["message"] == f"nothing in the video matches {PROMPT!r}: the video comes back unchanged"
    assert ui["after"] == ui["before"]
    (out, result, _), ui = remove(parts, frames)
    assert torch.equal(out.get_components().images, frames) and torch.equal(result, frames)
    (_, result, _), ui = remove(loaded("epsilon"), frames, keep_untouched=False, mask=torch.zeros(16, 16))
    assert ui["message"] == "" and not torch.equal(result, frames)


def check_a_mask_may_be_one_for_each_frame_or_one_for_all():
    parts, frames = that_finds("nothing"), noise()
    hole = (torch.arange(16) < 8).float().expand(16, -1)
    moving = torch.stack([torch.roll(hole, i, 1) for i in range(9)])
    for given, expected in ((hole, hole.expand(9, -1, -1)), (hole[None], hole.expand(9, -1, -1)), (moving, moving)):
        (_, _, mask), ui = remove(parts, frames, mask=given)
        assert torch.equal(mask, expected) and ui["message"] == ""
    (_, result, mask), ui = remove(parts, frames, mask=torch.zeros(9, 16, 16))
    assert torch.equal(result, frames) and ui["message"] == "the mask is empty: the video comes back unchanged"
    assert remove(parts, frames, mask=torch.ones(16, 16))[1]["message"].startswith("the mask covers 100 % of the video")
    soft = torch.rand(9, 16, 16)
    assert torch.equal(remove(parts, frames, mask=soft)[0][2], (soft >= 0.5).float())


def check_conditioning_takes_the_place_of_the_prompt():
    parts, frames = loaded("epsilon"), noise()
    encoded = core("nodes").CLIPTextEncode().encode(parts.clip, PROMPT)[0]
    (_, expected, _), _ = remove(parts, frames, custom(2, 3.0, 1.5))
    (_, result, _), ui = remove(parts, frames, custom(2, 3.0, 1.5), prompt="something else", positive=encoded)
    assert torch.equal(result, expected) and ui["message"] == "CONDITIONING is connected: the prompt is not used"
    (_, result, _), ui = remove(parts, frames, prompt="", positive=encoded, clip=None)
    (_, expected, _), _ = remove(parts, frames)
    assert torch.equal(result, expected) and "zeros stand for it" in ui["message"]
    (_, result, _), _ = remove(parts, frames, custom(2, 3.0, 1.5), prompt="", positive=encoded, clip=None)
    nodes, zeros = ours("nodes.video_inpaint_sampler"), [[torch.zeros_like(encoded[0][0]), {}]]
    with patch.object(nodes, "encode_words", return_value=(encoded, zeros)):
        (_, expected, _), _ = remove(parts, frames, custom(2, 3.0, 1.5), prompt="words that were not used yet")
    assert torch.equal(result, expected)


def check_any_prompt_is_only_words():
    parts, frames = loaded("epsilon"), noise(2)
    results = [remove(parts, frames, prompt=words)[0][1] for words in ("remove (the (red:1.9)) circle", PROMPT)]
    assert not torch.equal(*results)
    for words in ("\U0001f436", "{} [x] \\(", "remove " * 500, "  remove it\n"):
        assert remove(parts, frames, prompt=words)[0][1].isfinite().all()


def check_what_does_not_fit_is_refused_before_any_work():
    parts, other, frames = loaded("epsilon"), loaded("stable diffusion"), noise(3)
    foreign = core("comfy.model_patcher").ModelPatcher(torch.nn.Linear(1, 1), torch.device("cpu"), torch.device("cpu"))
    absent = ours("nodes.loader").Absent("there is no autoencoder")
    wide = [[torch.zeros(1, 77, 768), {}]]
    cases = [
        ("is Linear, not LGVI", replace(parts, model=foreign), frames, {}),
        ("4 latent channels of squares of 8 pixels", replace(parts, vae=other.vae), frames, {}),
        ("there is no autoencoder", replace(parts, vae=absent), frames, {}),
        ("is dict; connect a VIDEO", parts, {"samples": torch.zeros(1, 4, 3, 8, 8)}, {}),
        ("(0, 16, 16, 3)", parts, frames[:0], {}),
        ("(1, 3, 16, 16, 3)", parts, frames[None], {}),
        ("(3, 16, 16, 1)", parts, frames[..., :1], {}),
        ("frame 0 of the video", parts, frames * torch.nan, {}),
        ("mask has 2 frames but the video has 3", parts, frames, {"mask": torch.ones(2, 16, 16)}),
        ("mask is 8x8 pixels but the video is 16x16", parts, frames, {"mask": torch.ones(3, 8, 8)}),
        ("mask has shape", parts, frames, {"mask": torch.ones(3, 1, 16, 16)}),
        ("values from 0 to 7", parts, frames, {"mask": torch.eye(16) * 7}),
        ("prompt is empty", parts, frames, {"prompt": " \n"}),
        ("needs a CLIP", parts, frames, {"clip": None}),
        ("(1, 77, 768)", parts, frames, {"positive": wide}),
        ("encoded to []", parts, frames, {"positive": []}),
        ("window is 4 and overlap 4", parts, frames, {"window": 4, "overlap": 4}),
    ]
    with counting(parts.model) as calls:
        for message, given_parts, video, inputs in cases:
            raises(message, remove, given_parts, video, **inputs)
            if "mask" not in inputs:
                raises(message, preview, given_parts, video, **inputs)
        raises("steps is 1001", remove, parts, frames, custom(1001))
        raises("is not JSON", preview, parts, frames, region="[")
        raises("no mask decoder", preview, loaded("no mask decoder"), frames)
    assert not calls
    assert remove(parts, frames)[0][1].shape == frames.shape


def check_an_alpha_channel_is_left_out_and_that_is_said():
    parts, frames = that_finds("everything"), noise(3)
    with_alpha = torch.cat([frames, torch.rand(3, 16, 16, 1)], dim=-1)
    (out, result, _), ui = remove(parts, with_alpha)
    assert torch.equal(result, remove(parts, frames)[0][1]) and out.get_components().images.shape == frames.shape
    assert "alpha channel is left out" in ui["message"]
