"""Filling by prompt from file to file: masks of all kinds, what the model is given, what stays, and what is refused."""

import functools
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image
from unit.test_inpaint import (
    SMALL,
    as_pictures,
    frames_of,
    gated,
    hole,
    noise_clip,
    text_encoder,
    tree,
)
from unit.test_video import make_video, sound_packets, write

from lgvi_core import inpaint as module
from lgvi_core import masks, standalone
from lgvi_core.checkpoints import Checkpoint
from lgvi_core.conditioning import WorkSize, holes_at_work_size, holes_of_latents
from lgvi_core.errors import InputError
from lgvi_core.inpaint import fill, inpaint
from lgvi_core.models import InflatedUNet, UNetConfig
from lgvi_core.models.autoencoder import SpaceToDepthAutoencoder
from lgvi_core.user_mask import Box, Colour
from lgvi_core.video import open_video
from lgvi_core.word_mask import replacement

PROMPT = "a yellow star"
LINEAR = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "linear",
    "steps_offset": 1,
    "prediction_type": "epsilon",
}
QUICK = {"steps": 1, "guidance_scale": 1.0, "scheduler": "ddim"}
TRAINED = {"width": 32, "height": 24, "frames": 10}


@functools.cache
def filling():
    """A small checkpoint of the family with random weights, on lossless latents of 2x2 pixels."""
    config = UNetConfig(
        in_channels=25,
        out_channels=12,
        temp_attn=False,
        mask_decoder_type=None,
        frame_norm=True,
        motion_attention=("temporal", "global", "text"),
        motion_heads=2,
        **SMALL,
    )
    torch.manual_seed(0)
    unet = InflatedUNet(config).eval()
    for parameter in unet.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    parts = {"scheduler_config": LINEAR, "sampling": QUICK, "training": TRAINED, "family": "cococo"}
    return Checkpoint(config, unet, SpaceToDepthAutoencoder(2), text_encoder(), **parts)


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """An mp4 of 31 frames with sound."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    return make_video(path, count=31, rate=Fraction(30000, 1001), sound=("aac",), size=(32, 24))


def filled(video, prompt=PROMPT, output=None, **options):
    return fill(video, prompt, output, **{"checkpoint": filling(), "dilate": 0, **options})


# What works


@pytest.mark.parametrize("window, overlap", [(None, None), (7, 3), (40, 8), (1, 0)])
def test_every_frame_is_filled_in_the_mask_and_its_own_elsewhere(window, overlap):
    clip, mask = noise_clip(23, 32, 24), hole(23)
    result = filled(clip, mask=mask, window=window, overlap=overlap)
    assert result.frames.shape == clip.shape and np.array_equal(result.mask, mask) and result.messages == ()
    assert np.array_equal(result.frames[~mask], clip[~mask])
    assert (result.frames[mask] != clip[mask]).any(axis=-1).mean() > 0.9


def test_count_rate_size_and_sound_reach_the_file(film, tmp_path):
    output = tmp_path / "out.mp4"
    result = filled(film, output=output, mask=hole(), mask_output=tmp_path / "mask", sheet=tmp_path / "sheet.png")
    video, source = open_video(output), open_video(film)
    assert (video.frame_rate, video.width, video.height) == (source.frame_rate, source.width, source.height)
    assert len(list(video)) == result.frame_count == 31 and sound_packets(output) == sound_packets(film)
    assert np.array_equal(frames_of(tmp_path / "mask")[..., 0] > 0, hole())
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG"


def test_windows_are_as_long_as_the_checkpoint_was_trained_at(monkeypatch):
    seen = []
    monkeypatch.setattr(standalone, "denoise", spy(seen))
    filled(noise_clip(16, 32, 24), mask=hole(16))
    assert [given["latents"].shape[2] for given in seen] == [10, 10, 10]  # from frames 0, 5 and 6


def spy(seen):
    inner = standalone.denoise

    def denoise(unet, latents, text, empty_text, condition, scheduler, steps, guidance_scale, *rest, **named):
        given = {"latents": latents, "condition": condition, "steps": steps, "guidance_scale": guidance_scale}
        seen.append(given | named | {"text": text, "empty_text": empty_text})
        return inner(unet, latents, text, empty_text, condition, scheduler, steps, guidance_scale, *rest, **named)

    return denoise


def test_the_model_gets_the_video_grey_in_the_mask_and_the_mask_to_the_nearest_latent(monkeypatch):
    seen, clip, mask = [], noise_clip(5, 32, 24), hole(5)
    monkeypatch.setattr(standalone, "denoise", spy(seen))
    filled(clip, mask=mask)
    (given,) = seen
    assert given["condition"] is None
    assert np.array_equal(given["mask"][0, 0].numpy(), mask[:, ::2, ::2])
    seen_by_model = filling().vae.decode(given["masked_video"][0].transpose(0, 1)).permute(0, 2, 3, 1).numpy()
    assert (seen_by_model[mask] == 0).all()
    assert np.allclose(seen_by_model[~mask], clip[~mask] / 127.5 - 1, atol=1e-6)


def test_the_negative_prompt_is_what_guidance_leads_away_from(monkeypatch):
    seen, clip = [], noise_clip(3, 32, 24)
    monkeypatch.setattr(standalone, "denoise", spy(seen))
    options = {"mask": hole(3), "guidance_scale": 4.0}
    plain, led = (filled(clip, negative_prompt=words, **options) for words in ("", "a red circle"))
    assert not np.array_equal(plain.frames, led.frames)
    for given, words in zip(seen, ("", "a red circle")):
        assert torch.equal(given["empty_text"], text_encoder().encode([words]))
        assert torch.equal(given["text"], text_encoder().encode([PROMPT]))


def test_a_checkpoint_that_recommends_nothing_samples_as_published(monkeypatch):
    seen = []

    def stop(*arguments, **named):
        seen.append(arguments[6:9])
        raise KeyboardInterrupt

    monkeypatch.setattr(standalone, "denoise", stop)
    bare = Checkpoint(**{**vars(filling()), "sampling": {}})
    with pytest.raises(KeyboardInterrupt):
        filled(noise_clip(3, 32, 24), mask=hole(3), checkpoint=bare)
    assert seen == [(50, 10.0, 1.0)]


def test_the_same_seed_gives_the_same_and_the_words_reach_the_model():
    clip, options = noise_clip(4, 32, 24), {"mask": hole(4)}
    first = filled(clip, **options).frames
    assert np.array_equal(first, filled(clip, **options).frames)
    assert not np.array_equal(first, filled(clip, seed=1, **options).frames)
    assert not np.array_equal(first, filled(clip, "a red circle", **options).frames)


def test_any_size_comes_back_with_the_mask_at_its_edges():
    for size in ((17, 33), (5, 3), (64, 2)):
        clip = noise_clip(3, *size)
        mask = np.zeros(clip.shape[:3], bool)
        mask[:, -1:, -2:] = True
        result = filled(clip, mask=mask)
        assert np.array_equal(result.frames[~mask], clip[~mask]) and result.frames.shape == clip.shape
        assert (result.frames[mask] != clip[mask]).any()


def test_windows_with_nothing_to_fill_are_not_sampled():
    steps, clip = [], noise_clip(40, 32, 24)
    mask = np.zeros((40, 24, 32), bool)
    mask[35:, 4:12, 4:12] = True
    result = filled(clip, mask=mask, window=10, overlap=0, callback=steps.append)
    assert {step["window"] for step in steps} == {3}
    assert np.array_equal(result.frames[:35], clip[:35]) and (result.frames[mask] != clip[mask]).any()


# Masks


def test_a_thin_mask_is_not_lost_on_the_way_to_latents():
    thin = np.zeros((9, 16), bool)
    thin[3, 5:9] = True
    whole = np.zeros((9, 16), bool)
    whole[2:7, 2:8] = True
    size = WorkSize(8, 5, 8, 6)
    at_size = holes_at_work_size([thin, whole, np.zeros_like(thin)], size, "cpu")
    assert at_size.shape == (3, 1, 6, 8) and set(at_size.unique().tolist()) == {0, 1}
    assert at_size[0].any() and not at_size[2].any()
    latents = holes_of_latents(at_size, 3, 4)
    assert latents.shape == (1, 1, 3, 3, 4) and latents[0, 0, :2].amax(dim=(1, 2)).tolist() == [1, 1]


def test_a_mask_goes_on_into_the_padding():
    edge = np.zeros((5, 7), bool)
    edge[4:, 6:] = True
    padded = holes_at_work_size([edge], WorkSize(7, 5, 8, 8), "cpu")
    assert padded[0, 0, 4:, 6:].all() and padded.sum() == 8


def red_square(count=6, colour=(255, 0, 255)):
    clip = np.full((count, 24, 32, 3), 90, np.uint8)
    mask = np.zeros((count, 24, 32), bool)
    for i in range(count):
        mask[i, 8:16, 4 + i : 12 + i] = True
    clip[mask] = colour
    return clip, mask


def test_a_colour_of_the_video_is_the_mask():
    clip, mask = red_square()
    result = filled(clip, mask=Colour.parse("#ff00ff"))
    assert np.array_equal(result.mask, mask)
    clip[0, 0, 0] = (230, 30, 220)  # what encoding does
    clip[0, 0, 1] = (180, 0, 255)
    found = filled(clip / np.float32(255), mask=Colour((255, 0, 255))).mask
    assert found[0, 0, 0] and not found[0, 0, 1] and np.array_equal(found[1:], mask[1:])


def test_a_colour_of_a_mask_file_is_the_mask(tmp_path):
    painted, mask = red_square(31, (0, 255, 0))
    path = write(tmp_path / "mask", list(painted))
    assert np.array_equal(filled(noise_clip(31, 32, 24), mask=Colour.parse("00FF00", path)).mask, mask)
    path = write(tmp_path / "mask.mp4", list(painted))
    found = filled(noise_clip(31, 32, 24), mask=Colour.parse("00FF00", path)).mask
    assert (found & mask).sum() / (found | mask).sum() > 0.7


@pytest.mark.parametrize("box", ["8,6,16,12", "0.25,0.25,0.5,0.5", "8.0,6.0,16.2,12.1"])
def test_a_box_is_in_pixels_or_in_fractions(box):
    expected = np.zeros((24, 32), bool)
    expected[6:18, 8:24] = True
    result = filled(noise_clip(3, 32, 24), mask=Box.parse(box))
    assert np.array_equal(result.mask, expected[None].repeat(3, axis=0)) and result.messages == ()


def test_a_box_that_sticks_out_is_cut_at_the_frame():
    result = filled(noise_clip(2, 32, 24), mask=Box(-10, -4, 20, 8))
    assert result.mask[:, :4, :10].all() and result.mask.sum() == 2 * 40


def test_words_give_the_mask_of_the_mask_decoder(film):
    finds = gated("something")
    expected = inpaint(film, "remove the red circle", checkpoint=finds, steps=1).mask
    assert 0.01 < expected.mean() < 0.99
    result = filled(film, mask_words="the red circle", mask_checkpoint=finds)
    assert (result.mask == masks.dilate(expected, 2)).mean() > 0.99  # grown by the least there is
    whole = filled(film, f"replace the red circle with {PROMPT}", mask_checkpoint=finds)
    assert np.array_equal(whole.frames, result.frames)


def test_words_that_match_nothing_leave_the_video(film, tmp_path):
    output = tmp_path / "out.mp4"
    result = filled(film, output=output, mask_words="the boat", mask_checkpoint=gated("nothing"))
    assert result.unchanged and result.messages == ("nothing in the video matches 'the boat': the video comes back "
                                                    "unchanged",)
    assert output.read_bytes() == film.read_bytes()


REPLACEMENTS = {
    "replace the red circle with a yellow star": ("the red circle", "a yellow star"),
    " Please replace  the dog by a cat. ": ("the dog", "a cat"),
    "swap the car for a red bus": ("the car", "a red bus"),
    "turn the horse into a zebra": ("the horse", "a zebra"),
    "change the man with a hat into a statue": ("the man with a hat", "a statue"),
    "a wooden boat": (None, "a wooden boat"),
    "a man who turns into the street": (None, "a man who turns into the street"),
    "": (None, ""),
}


@pytest.mark.parametrize("prompt", REPLACEMENTS)
def test_replacing_names_both(prompt):
    named, new = REPLACEMENTS[prompt]
    found = replacement(prompt)
    assert found == (named and found[0], new) and (named is None or found[0].strip() == named)


def test_beside_a_mask_the_prompt_is_what_something_is_replaced_with():
    clip, mask = noise_clip(3, 32, 24), hole(3)
    expected = filled(clip, mask=mask).frames
    assert np.array_equal(filled(clip, f"replace the boat with {PROMPT}", mask=mask).frames, expected)


# Bad input


def test_an_empty_mask_leaves_the_very_same_file_and_no_model_runs(film, tmp_path, monkeypatch):
    monkeypatch.setattr(standalone, "denoise", lambda *_, **__: pytest.fail("the model ran"))
    result = filled(film, output=tmp_path / "out.mp4", mask=np.zeros((24, 32), bool))
    assert result.unchanged and result.messages == ("the mask is empty: the video comes back unchanged",)
    assert (tmp_path / "out.mp4").read_bytes() == film.read_bytes()
    result = filled(film, output=tmp_path / "out.mp4", mask=np.full((24, 32), 0.4, np.float32))
    assert result.unchanged and "the mask is soft: what is at least half in it counts" in result.messages


def test_a_full_mask_fills_everything_and_that_is_said():
    clip = noise_clip(3, 32, 24)
    result = filled(clip, mask=np.ones((3, 24, 32), bool))
    assert result.mask.all() and "nearly all of the video" in result.messages[0]
    assert (result.frames != clip).any(axis=-1).mean() > 0.9


@pytest.mark.parametrize("kind", ["array", "picture"])
def test_one_mask_for_a_long_video_is_used_for_all_and_that_is_said(kind, tmp_path):
    mask = hole(1)
    if kind == "picture":
        mask = write(tmp_path / "mask", as_pictures(mask)) / "00000.png"
    result = filled(noise_clip(200, 32, 24), mask=mask, window=100, overlap=0)
    assert np.array_equal(result.mask, hole(1).repeat(200, axis=0))
    assert len(result.messages) == 1 and "has one frame: it is used for all 200 frames" in result.messages[0]


def test_a_soft_mask_counts_from_half_on_and_that_is_said(tmp_path):
    clip, soft = noise_clip(4, 32, 24), np.random.default_rng(1).random((4, 24, 32))
    result = filled(clip, mask=soft)
    assert np.array_equal(result.mask, soft >= 0.5)
    assert result.messages == ("the mask is soft: what is at least half in it counts",)
    grey = (soft * 255).round().astype(np.uint8)
    result = filled(clip, mask=write(tmp_path / "mask", [np.repeat(frame[..., None], 3, -1) for frame in grey]))
    assert np.array_equal(result.mask, grey >= 128) and "is soft" in result.messages[0]


def test_a_hard_mask_that_was_encoded_with_loss_is_not_called_soft(tmp_path):
    flat = np.zeros((5, 48, 64), bool)
    flat[:, 16:32, 16:48] = True
    result = filled(noise_clip(5, 64, 48), mask=write(tmp_path / "mask", as_pictures(flat)))
    assert result.messages == ()


def test_a_prompt_of_ten_thousand_words_is_cut_and_that_is_said():
    clip, mask = noise_clip(2, 32, 24), hole(2)
    result = filled(clip, "star " * 10_000, mask=mask, negative_prompt="circle " * 10_000)
    assert [message.split(" has ")[0] for message in result.messages] == ["the prompt", "the negative prompt"]
    assert all("the model reads 48: its end is not read" in message for message in result.messages)


def test_an_empty_prompt_leaves_it_to_the_model_and_that_is_said():
    result = filled(noise_clip(2, 32, 24), "  ", mask=hole(2))
    assert "the prompt is empty" in result.messages[0] and result.mask.any()


REFUSED = {
    "no mask": ({}, "no mask is given"),
    "mask and words": ({"mask": hole(31), "mask_words": "the boat"}, "given twice"),
    "words of nothing": ({"mask_words": " "}, "no words name"),
    "box outside": ({"mask": Box(40, 6, 8, 8)}, "covers nothing of a frame of 32x24"),
    "fractions outside": ({"mask": Box(1.5, 0, 0.5, 0.5)}, "outside of the frame"),
    "box without area": ({"mask": Box(4, 4, 0, 0)}, "covers nothing"),
    "short": ({"mask": hole(30)}, "30 frames but the video has 31"),
    "small": ({"mask": hole(31, 12, 16)}, "16x12 pixels but the video is 32x24"),
    "image guidance": ({"mask": hole(), "image_guidance_scale": 1.5}, "image_guidance_scale has no meaning"),
    "steps": ({"mask": hole(), "steps": 5000}, "steps is 5000"),
    "window": ({"mask": hole(), "window": 4, "overlap": 4}, "window is 4 and overlap 4"),
    "a finder without decoder": ({"mask_words": "a", "mask_checkpoint": filling()}, "use fill, with a mask"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_before_any_work(film, tmp_path, monkeypatch, case):
    options, message = REFUSED[case]
    monkeypatch.setattr(standalone, "encode", lambda *_: pytest.fail("a window was begun"))
    before = tree(tmp_path)
    with pytest.raises(InputError, match=message):
        filled(film, output=tmp_path / "out.mp4", **options)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("text", ["#ff00f", "magenta", "#ff00fg", ""])
def test_a_colour_that_is_none_is_refused(text):
    with pytest.raises(InputError, match="six hexadecimal digits"):
        Colour.parse(text)


@pytest.mark.parametrize("text", ["1,2,3", "a,b,c,d", "1,2,3,4,5", ""])
def test_a_box_that_is_none_is_refused(text):
    with pytest.raises(InputError, match="x,y,width,height"):
        Box.parse(text)


def test_each_command_refuses_the_other_family(film):
    with pytest.raises(InputError, match="it fills nothing: use remove"):
        fill(film, PROMPT, mask=hole(), checkpoint=gated("everything"))
    with pytest.raises(InputError, match="removes nothing by words: use fill"):
        inpaint(film, "remove the red circle", checkpoint=filling())


def test_without_a_demo_that_fills_a_checkpoint_is_needed(film, tmp_path, monkeypatch):
    absent = tmp_path / "fill-demo.safetensors"
    monkeypatch.setattr(module, "FILL_DEMO", absent)
    with pytest.raises(InputError, match="no built-in checkpoint that fills"):
        fill(film, PROMPT, mask=hole(), checkpoint=absent)


def test_what_a_callback_raises_leaves_nothing(film, tmp_path):
    def interrupt(step):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        filled(film, output=tmp_path / "out.mp4", mask=hole(), sheet=tmp_path / "sheet.png", callback=interrupt)
    assert tree(tmp_path) == {}
