"""From file to file: counts, rates, sound and untouched pixels stay; masks, windows, memory; all or nothing."""

import dataclasses
import functools
import gc
import math
import os
import re
import tracemalloc
import weakref
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from unit.test_video import cut, make_video, sound_packets, write

from lgvi_core import checkpoints, masks
from lgvi_core import inpaint as module
from lgvi_core.checkpoints import Checkpoint
from lgvi_core.errors import InputError
from lgvi_core.inpaint import Result, inpaint
from lgvi_core.models import InflatedUNet, UNetConfig
from lgvi_core.models.autoencoder import SpaceToDepthAutoencoder, StableDiffusionAutoencoder
from lgvi_core.models.text_encoder import TextEncoder
from lgvi_core.sheet import ContactSheet
from lgvi_core.user_mask import UserMask
from lgvi_core.video import Frame, VideoSource, VideoWriter, open_video
from train.data.synthetic import draw
from train.tokenizer import train_clip_tokenizer

REQUEST = "remove the red circle"
SMALL = {
    "sample_size": 4,
    "block_out_channels": (16, 16),
    "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
    "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
    "layers_per_block": 1,
    "cross_attention_dim": 32,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
    "mask_channels": 8,
    "mask_norm_groups": 4,
}
ZERO_SNR = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "sample",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "clip_sample": False,
    "set_alpha_to_one": True,  # else a little noise is left in the end
}
QUICK = {"steps": 1, "guidance_scale": 1.0, "image_guidance_scale": 1.0, "scheduler": "ddim"}
LOGIT = {"everything": 50.0, "nothing": -50.0}


# Small checkpoints with random weights, and clips


@functools.cache
def text_encoder(width=32):
    files = train_clip_tokenizer([REQUEST] * 2, merges=4)
    config = {
        "vocab_size": 518,
        "hidden_size": width,
        "intermediate_size": width,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 48,
        "bos_token_id": 516,
        "eos_token_id": 517,
        "pad_token_id": 517,
    }
    torch.manual_seed(0)
    return TextEncoder(config, files).eval()


def autoencoder(levels=2):
    """A small AutoencoderKL of 4 latent channels that halves the sides `levels - 1` times."""
    torch.manual_seed(0)
    config = {
        "block_out_channels": [8] * levels,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "latent_channels": 4,
        "norm_num_groups": 4,
        "scaling_factor": 0.18215,
    }
    return StableDiffusionAutoencoder(config).eval()


def make_unet(config, finds):
    """Random weights; `finds` is what the mask decoder says: "everything", "nothing", or "something" by chance."""
    torch.manual_seed(0)
    unet = InflatedUNet(config).eval()
    for parameter in unet.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    if unet.mask_decoder is not None:
        last = unet.mask_decoder.final_conv
        torch.nn.init.normal_(last.weight)
        if finds != "something":
            torch.nn.init.zeros_(last.weight)
        torch.nn.init.constant_(last.bias, LOGIT.get(finds, 0.0))
    return unet


def gated(finds="something", **options):
    """A checkpoint like the demo's: space to depth, sample prediction, gate. What it does not find it copies."""
    config = UNetConfig(in_channels=48, out_channels=48, mask_upscale=4, gate=True, **SMALL)
    parts = {"scheduler_config": ZERO_SNR, "sampling": QUICK, "licence": "Apache-2.0"} | options
    return Checkpoint(config, make_unet(config, finds), SpaceToDepthAutoencoder(4), text_encoder(), **parts)


def latent(finds="something", **options):
    """A checkpoint like the paper's: AutoencoderKL, epsilon prediction, no gate. finds None: no mask decoder."""
    config = UNetConfig(mask_decoder_type=finds and "MaskDecoder", **SMALL)
    return Checkpoint(config, make_unet(config, finds), autoencoder(), text_encoder(), sampling=QUICK, **options)


def plain(predict, find=None):
    """A checkpoint without gate whose U-Net is `predict(noisy, condition)`, its mask `find(timestep, condition)`.

    Without `find` it has no mask decoder.
    """
    config = UNetConfig(
        in_channels=48, out_channels=48, mask_upscale=4, mask_decoder_type=find and "MaskDecoder", **SMALL
    )
    unet = make_unet(config, "something")

    def forward(noisy, timestep, text, condition, return_mask=False, cache=None):
        prediction = predict(noisy, condition)
        return (prediction, find(int(timestep), condition)) if return_mask else prediction

    unet.forward = forward
    return Checkpoint(
        config, unet, SpaceToDepthAutoencoder(4), text_encoder(), scheduler_config=ZERO_SNR, sampling=QUICK
    )


def noise_clip(count=5, width=16, height=16):
    return np.random.default_rng(count).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def frames_of(path):
    return np.stack([frame.image for frame in open_video(path)])


def tree(folder):
    """Every file below a folder, hidden ones too, with its bytes; folders with None."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")
    }


@pytest.fixture(scope="module")
def something():
    return gated("something")


@pytest.fixture(scope="module")
def everything():
    return gated("everything")


@pytest.fixture(scope="module")
def nothing():
    return gated("nothing")


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """An mp4 of 31 frames at 30000/1001 a second with sound."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    return make_video(path, count=31, rate=Fraction(30000, 1001), sound=("aac",), size=(32, 24))


# As many frames, the same rate, sound and size


@pytest.mark.parametrize("window, overlap", [(1, 0), (4, 0), (4, 3), (6, 2), (24, 8)])
def test_as_many_frames_come_out_as_went_in(something, window, overlap):
    for count in {1, 2, window - 1, window, window + 1, 2 * window - overlap, 2 * window - overlap + 1} - {0}:
        clip = noise_clip(count, 8, 8)
        result = inpaint(clip, REQUEST, checkpoint=something, window=window, overlap=overlap)
        assert (result.frames.shape, result.mask.shape) == (clip.shape, clip.shape[:3])
        assert result.frame_count == count and result.mask.dtype == bool
        kept = ~masks.dilate(result.mask, 2)
        assert np.array_equal(result.frames[kept], clip[kept])


@pytest.mark.parametrize("name", ["out.mp4", "out.mov", "out.mkv", "out.webm", "out.gif", "out"])
def test_count_rate_size_and_sound_reach_every_kind_of_output(film, everything, tmp_path, name):
    result = inpaint(film, REQUEST, tmp_path / name, checkpoint=everything, mask_output=tmp_path / f"mask-{name}")
    for path in (tmp_path / name, tmp_path / f"mask-{name}"):
        clip = open_video(path)
        assert len(list(clip)) == result.frame_count == 31
        assert (clip.width, clip.height) == (32, 24)
        assert clip.frame_rate == (24 if name == "out" else Fraction(30000, 1001))  # pictures have no rate
    assert not open_video(tmp_path / f"mask-{name}").has_audio
    assert (frames_of(tmp_path / f"mask-{name}") > 250).all()
    if name in ("out.mp4", "out.mov"):
        assert sound_packets(tmp_path / name) == sound_packets(film)
    elif name in ("out.mkv", "out.webm"):
        assert len(sound_packets(tmp_path / name)) == 1
    assert result.frames is None and result.mask is None and result.mask_area == 1 and not result.unchanged


def picture_folder(folder, ending, count=5):
    folder.mkdir()
    for index, image in enumerate(noise_clip(count, 20, 12)):
        Image.fromarray(image).save(folder / f"{index}{ending}")
    return folder


INPUTS = {
    "clip.mp4": (lambda path: make_video(path, count=5), 5, (64, 48)),
    "clip.webm": (lambda path: make_video(path, count=5, codec="libvpx-vp9"), 5, (64, 48)),
    "clip.gif": (lambda path: write(path, list(noise_clip(5, 20, 12))), 5, (20, 12)),
    "png": (lambda path: picture_folder(path, ".png", 11), 11, (20, 12)),  # 10.png comes after 9.png
    "jpg": (lambda path: picture_folder(path, ".jpg"), 5, (20, 12)),
    "one.png": (lambda path: Image.fromarray(noise_clip(1, 20, 12)[0]).save(path), 1, (20, 12)),
    "turned.mp4": (lambda path: make_video(path, count=5, rotation=(90,)), 5, (48, 64)),
}


@pytest.mark.parametrize("name", INPUTS)
def test_every_kind_of_input_is_read_as_it_is_shown(nothing, something, tmp_path, name):
    make, count, size = INPUTS[name]
    make(tmp_path / name)
    clip = frames_of(tmp_path / name)
    assert clip.shape == (count, *size[::-1], 3)
    assert inpaint(tmp_path / name, REQUEST, tmp_path / "same", checkpoint=nothing).unchanged
    assert np.array_equal(frames_of(tmp_path / "same"), clip)
    result = inpaint(tmp_path / name, REQUEST, checkpoint=something, dilate=0)
    assert np.array_equal(result.frames[~result.mask], clip[~result.mask])
    assert not np.array_equal(result.frames, clip)


@pytest.mark.parametrize("size", [(16, 16), (1, 1), (17, 33), (37, 22), (400, 16), (9, 300)])
@pytest.mark.parametrize("make", [gated, latent])
def test_any_size_comes_back(make, size):
    clip = noise_clip(2, *size)
    result = inpaint(clip, REQUEST, checkpoint=make("everything"), keep_outside=False)
    assert result.frames.shape == clip.shape and result.mask.all()


@pytest.mark.parametrize("wanted, trained", [((20, 12), {}), (None, {"width": 24, "height": 24}), ((7, 50), {})])
def test_the_size_the_model_works_at_changes_neither_size_nor_place(nothing, wanted, trained):
    """A model that copies gives back a smooth clip at its own size and in its own place."""
    y, x = np.mgrid[:30, :50]
    clip = np.stack([x * 5, y * 8, x + y], -1).astype(np.uint8)[None].repeat(3, axis=0)
    checkpoint = dataclasses.replace(nothing, training=trained)
    result = inpaint(clip, REQUEST, checkpoint=checkpoint, size=wanted, keep_outside=False)
    difference = np.abs(result.frames.astype(int) - clip)[:, 5:-5, 5:-5]
    assert difference.max() <= (16 if wanted == (7, 50) else 2)


def test_the_model_works_at_the_size_it_was_trained_at(nothing):
    shapes = []

    def remember(step):
        shapes.append(tuple(step["latents"].shape))

    trained = dataclasses.replace(nothing, training={"width": 24, "height": 24})
    for size in ((48, 12), (96, 24), (24, 6)):  # 48x12 has as many pixels as 24x24
        inpaint(noise_clip(3, *size), REQUEST, checkpoint=trained, callback=remember)
    assert shapes == [(1, 48, 3, 3, 12)] * 3
    for training in ({"frames": 8}, {}):  # one that does not say works at the source's size
        checkpoint = dataclasses.replace(nothing, training=training)
        inpaint(noise_clip(3, 96, 24), REQUEST, checkpoint=checkpoint, callback=remember)
    assert shapes[3:] == [(1, 48, 3, 6, 24)] * 2


def test_a_variable_frame_rate_keeps_its_times(everything, tmp_path):
    times = [Fraction(ms, 1000) for ms in (0, 40, 130, 170, 300)]
    source = make_video(tmp_path / "source.mp4", count=5, times=times)
    inpaint(source, REQUEST, tmp_path / "out.mp4", checkpoint=everything)
    assert [frame.time for frame in open_video(tmp_path / "out.mp4")] == times


# Untouched means untouched


@pytest.mark.parametrize("dilate, feather", [(0, 0), (2, 1), (3.5, 2), (None, None)])
@pytest.mark.parametrize("make", [gated, latent])
def test_outside_the_dilated_mask_every_pixel_is_the_sources_own(film, tmp_path, make, dilate, feather):
    hole = np.zeros((24, 32), bool)
    hole[8:14, 10:18] = True
    inpaint(film, REQUEST, tmp_path / "out", checkpoint=make("everything"), mask=hole, dilate=dilate, feather=feather,
            mask_output=tmp_path / "mask")
    clip, found, out = frames_of(film), frames_of(tmp_path / "mask"), frames_of(tmp_path / "out")
    assert np.array_equal(found, np.broadcast_to(hole[..., None] * np.uint8(255), clip.shape))
    reach = masks.dilate(hole[None], 4 if dilate is None else dilate)[0]  # a latent's pixel is at most 4 wide
    assert np.array_equal(out[:, ~reach], clip[:, ~reach])
    changed = (out[:, hole] != clip[:, hole]).any(axis=-1)
    assert changed.mean() > 0.9


def test_the_models_own_mask_bounds_what_changes(something, tmp_path):
    clip = draw(seed=3, index=0, frames=7, height=32, width=32).frames
    source = write(tmp_path / "clip.gif", list(clip))
    inpaint(source, REQUEST, tmp_path / "out", checkpoint=something, dilate=1, mask_output=tmp_path / "mask")
    clip, found, out = frames_of(source), frames_of(tmp_path / "mask")[..., 0] > 0, frames_of(tmp_path / "out")
    reach = masks.dilate(found, 1)
    assert 0 < found.mean() < 1 and not reach.all()
    assert np.array_equal(out[~reach], clip[~reach]) and (out[found] != clip[found]).any(axis=-1).mean() > 0.9


def test_where_nothing_is_found_the_video_comes_back_as_it_was(nothing, film, tmp_path, caplog):
    clip = noise_clip(30)
    result = inpaint(clip, "remove the green cross", checkpoint=nothing)
    assert np.array_equal(result.frames, clip) and not result.mask.any() and result.mask_area == 0
    assert result.unchanged and result.messages == (
        "nothing in the video matches 'remove the green cross': the video comes back unchanged",
    )
    assert result.messages[0] in caplog.text


GIF_TIMES = [Fraction(ms, 1000) for ms in (0, 100, 500, 550, 600, 1400, 1500)]


def uneven_gif(path):
    with VideoWriter(path, 16, 16, 10) as writer:
        for image, time in zip(noise_clip(len(GIF_TIMES)), GIF_TIMES):
            writer.write(image, time)


SAME_KIND = {
    "clip.mp4": lambda path: make_video(path, count=30, sound=("aac",)),
    "turned.mov": lambda path: make_video(path, count=5, rotation=(90,)),
    "clip.webm": lambda path: make_video(path, count=5, codec="libvpx-vp9", sound=("libopus",)),
    "clip.mkv": lambda path: make_video(path, count=30, sound=("aac",), seconds=0.7),
    "clip.gif": lambda path: write(path, list(noise_clip(9))),
    "uneven.gif": uneven_gif,
}


@pytest.mark.parametrize("name", SAME_KIND)
def test_an_unchanged_video_of_the_same_kind_is_the_very_same_file(nothing, tmp_path, name):
    SAME_KIND[name](tmp_path / name)
    output = tmp_path / f"out{os.path.splitext(name)[1]}"
    assert inpaint(tmp_path / name, REQUEST, output, checkpoint=nothing).unchanged
    assert output.read_bytes() == (tmp_path / name).read_bytes()
    assert sorted(os.listdir(tmp_path)) == sorted([name, output.name])


def test_an_unchanged_video_of_another_kind_has_the_same_frames(nothing, film, tmp_path):
    assert inpaint(film, REQUEST, tmp_path / "out", checkpoint=nothing).unchanged
    assert np.array_equal(frames_of(tmp_path / "out"), frames_of(film))
    assert inpaint(film, REQUEST, tmp_path / "out.mkv", checkpoint=nothing).unchanged
    assert np.abs(frames_of(tmp_path / "out.mkv").astype(int) - frames_of(film)).mean() < 3


def test_an_unchanged_video_goes_through_a_link_to_its_target(nothing, film, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link.mp4").symlink_to(tmp_path / "there" / "out.mp4")
    inpaint(film, REQUEST, tmp_path / "link.mp4", checkpoint=nothing)
    assert (tmp_path / "link.mp4").is_symlink()
    assert (tmp_path / "there" / "out.mp4").read_bytes() == film.read_bytes()


def test_frames_are_never_taken_for_a_file_of_their_name(nothing, film, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "frames").write_bytes(b"something else")
    clip = noise_clip(3)
    assert inpaint(clip, REQUEST, "out", checkpoint=nothing).unchanged
    assert np.array_equal(frames_of("out"), clip)
    os.remove("frames")
    os.mkdir("frames")
    inpaint(clip, REQUEST, "frames", checkpoint=nothing)
    assert np.array_equal(frames_of("frames"), clip)


def test_keeping_nothing_outside_changes_everything(film, tmp_path):
    result = inpaint(film, REQUEST, tmp_path / "out", checkpoint=latent("nothing"), keep_outside=False)
    assert not result.unchanged and result.messages == () and result.mask_area == 0
    changed = frames_of(tmp_path / "out") != frames_of(film)
    assert changed.any(axis=-1).mean() > 0.95


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64, torch.uint8, torch.float32,
                                   torch.bfloat16])
def test_frames_of_any_type_come_back_as_they_were(something, dtype):
    clip = noise_clip(3)
    if isinstance(dtype, torch.dtype):
        given = torch.from_numpy(clip) if dtype == torch.uint8 else (torch.from_numpy(clip) / 255).to(dtype)
        clip = given.float().numpy() if dtype == torch.bfloat16 else given.numpy()
    else:
        given = clip = clip if dtype == np.uint8 else (np.random.default_rng(0).random(clip.shape)).astype(dtype)
    result = inpaint(given, REQUEST, checkpoint=something, dilate=0)
    assert result.frames.dtype == clip.dtype and 0 < result.mask.mean() < 1
    assert np.array_equal(result.frames[~result.mask], clip[~result.mask])
    assert (result.frames[result.mask] != clip[result.mask]).any(axis=-1).mean() > 0.9


def test_float_frames_are_never_rounded_and_are_written_as_bytes(everything, tmp_path):
    clip = np.random.default_rng(0).random((5, 16, 16, 3), dtype=np.float32)
    hole = np.zeros((16, 16), bool)
    hole[4:9, 4:9] = True
    frames = inpaint(clip, REQUEST, checkpoint=everything, mask=hole).frames
    assert len(np.unique(frames[:, hole])) > 256
    inpaint(clip, REQUEST, tmp_path / "out", checkpoint=everything, mask=hole, sheet=tmp_path / "sheet.png")
    assert np.array_equal(frames_of(tmp_path / "out"), (frames * 255).round())


@pytest.mark.parametrize("given", [noise_clip()[0], noise_clip()[..., :2], noise_clip()[:0], noise_clip() * 1.0,
                                   noise_clip().astype(int), np.full((2, 8, 8, 3), np.nan)])
def test_an_array_that_is_no_clip_is_refused(everything, given):
    with pytest.raises(InputError, match="frames have (shape|type)"):
        inpaint(given, REQUEST, checkpoint=everything)


# A mask that the model finds


def blacken(noisy, condition):
    return torch.full_like(condition, -1.0)


def bright(timestep, condition):
    """Where the clip is bright, as a mask decoder would say it: (B, 1, T, 4 h, 4 w)."""
    pixels = torch.nn.functional.pixel_shuffle(condition.transpose(1, 2), 4).transpose(1, 2)
    return (pixels.mean(dim=1, keepdim=True) > 0).float()


def bright_spot(count, width, height, box):
    clip = np.full((count, height, width, 3), 60, np.uint8)
    clip[:, box[0], box[1]] = 220
    return clip


@pytest.mark.parametrize(
    "size, working", [((64, 48), None), ((61, 47), None), ((130, 94), (61, 47)), ((30, 22), (61, 47))]
)
def test_the_mask_lies_where_the_model_found_it_at_full_resolution(size, working):
    width, height = size
    box = (slice(height // 2, height - height // 8), slice(width // 2, width - 1))
    clip = bright_spot(5, width, height, box)
    result = inpaint(clip, REQUEST, checkpoint=plain(blacken, bright), size=working, dilate=2, feather=0)
    true = clip[..., 0] > 100
    assert (result.mask & true).sum() / (result.mask | true).sum() > (0.9 if working else 0.9999)
    assert (result.frames[true] == 0).all() and np.array_equal(result.frames[~masks.dilate(true, 5)],
                                                               clip[~masks.dilate(true, 5)])


def test_a_frame_in_which_the_model_misses_the_object_is_filled():
    def miss_one(timestep, condition):
        mask = bright(timestep, condition)
        mask[:, :, 3] = 0
        return mask

    clip = bright_spot(8, 16, 16, (slice(4, 8), slice(4, 8)))
    result = inpaint(clip, REQUEST, checkpoint=plain(blacken, miss_one), dilate=0)
    assert np.array_equal(result.mask, clip[..., 0] > 100)


def test_the_mask_is_read_at_several_timesteps_and_no_lucky_one_decides():
    clip = bright_spot(3, 16, 16, (slice(8), slice(8)))
    for lucky, steps, unchanged in (({1}, 10, True), ({0, 2, 4}, 10, False), ({1}, 2, False), ({0}, 1, False)):
        read = []

        def find(timestep, condition):
            read.append(timestep)
            return bright(timestep, condition) * float(len(read) - 1 in lucky)

        result = inpaint(clip, REQUEST, checkpoint=plain(blacken, find), steps=steps)
        assert result.unchanged == unchanged
        assert len(read) == min(5, steps) and read == sorted(set(read), reverse=True)


# A mask that the user gives


def hole(count=31, height=24, width=32):
    """A square that moves to the right."""
    mask = np.zeros((count, height, width), bool)
    for index in range(count):
        mask[index, 4:12, index % (width - 8):index % (width - 8) + 8] = True
    return mask


def as_pictures(mask):
    return [np.repeat(frame[..., None], 3, axis=2).astype(np.uint8) * 255 for frame in mask]


GIVEN = {
    "array": lambda folder: hole(),
    "bytes": lambda folder: hole().astype(np.uint8) * 255,
    "tensor": lambda folder: torch.from_numpy(hole()).float(),
    "one": lambda folder: hole()[0],
    "one of three axes": lambda folder: hole()[:1],
    "video": lambda folder: write(folder / "mask.mp4", as_pictures(hole())),
    "gif": lambda folder: write(folder / "mask.gif", as_pictures(hole())),
    "folder": lambda folder: write(folder / "mask", as_pictures(hole())),
    "picture": lambda folder: write(folder / "mask", as_pictures(hole()[:1])) / "00000.png",
}


@pytest.mark.parametrize("kind", GIVEN)
def test_a_users_mask_of_any_kind_decides_what_changes(film, everything, tmp_path, kind):
    inpaint(film, REQUEST, tmp_path / "out", checkpoint=everything, mask=GIVEN[kind](tmp_path), dilate=0,
            mask_output=tmp_path / "used", window=7, overlap=3)
    expected = hole() if kind not in ("one", "one of three axes", "picture") else hole()[:1].repeat(31, axis=0)
    assert np.array_equal(frames_of(tmp_path / "used")[..., 0] > 0, expected)
    clip, out = frames_of(film), frames_of(tmp_path / "out")
    assert np.array_equal(out[~expected], clip[~expected])
    assert (out[expected] != clip[expected]).any(axis=-1).mean() > 0.9


def test_a_users_mask_needs_no_mask_decoder_and_gives_no_warning(film, tmp_path):
    result = inpaint(film, REQUEST, tmp_path / "out", checkpoint=latent(None), mask=hole())
    assert result.messages == () and not result.unchanged
    assert result.mask_area == pytest.approx(hole().mean())


def test_an_empty_mask_is_said_to_be_what_it_is(film, everything, tmp_path):
    result = inpaint(film, REQUEST, tmp_path / "out.mp4", checkpoint=everything, mask=np.zeros((24, 32), bool))
    assert result.unchanged and result.messages == ("the mask is empty: the video comes back unchanged",)
    assert (tmp_path / "out.mp4").read_bytes() == film.read_bytes()


UNFIT = {
    "short array": (lambda folder: hole(30), "30 frames but the video has 31"),
    "long array": (lambda folder: hole(32), "32 frames but the video has 31"),
    "short video": (lambda folder: write(folder / "mask.mp4", as_pictures(hole(30))), "30 frames but the video has 31"),
    "long video": (lambda folder: write(folder / "mask.mp4", as_pictures(hole(40))), "40 frames but the video has 31"),
    "short folder": (lambda folder: write(folder / "mask", as_pictures(hole(2))), "2 frames but the video has 31"),
    "wide array": (lambda folder: hole(31, 24, 33), "33x24 pixels but the video is 32x24"),
    "small picture": (lambda folder: write(folder / "m", as_pictures(hole(1, 12, 16))) / "00000.png", "is 16x12 but"),
    "other video": (lambda folder: write(folder / "mask.mp4", as_pictures(hole(31, 32, 24))), "is 24x32 but"),
    "no such file": (lambda folder: folder / "mask.mp4", "does not exist"),
    "two axes short": (lambda folder: np.ones(31, bool), "shape"),
    "out of range": (lambda folder: hole() * 7.0, "0 to 1"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_a_mask_that_does_not_fit_is_refused_before_any_work(film, everything, tmp_path, case):
    make, message = UNFIT[case]
    mask = make(tmp_path)
    before = tree(tmp_path)

    def never(step):
        raise AssertionError("the model ran")

    with pytest.raises(InputError, match=message):
        inpaint(film, REQUEST, tmp_path / "out.mp4", checkpoint=everything, mask=mask, mask_output=tmp_path / "m.mp4",
                callback=never)
    assert tree(tmp_path) == before


def sixty_frames(path):
    """A video whose index comes first, so that what is left of it can be read."""
    return make_video(path, count=60, options={"movflags": "+faststart"}, codec_options={"crf": "1"})


@pytest.mark.parametrize("damaged", ["mask", "video"])
def test_a_mask_that_turns_out_to_be_of_another_length_leaves_nothing(everything, tmp_path, damaged):
    """The containers of both say 60 frames; of one, fewer decode."""
    for name in ("mask", "video"):
        path = sixty_frames(tmp_path / f"{name}.mp4")
        if name == damaged:
            cut(path, 0.6, path)
    before = tree(tmp_path)
    with pytest.raises(InputError, match="frames but the video has"):
        inpaint(tmp_path / "video.mp4", REQUEST, tmp_path / "out.mp4", checkpoint=everything,
                mask=tmp_path / "mask.mp4")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("kind", ["array", "file"])
def test_a_mask_for_the_frames_that_are_left_of_a_damaged_video_fits(everything, tmp_path, kind):
    path = sixty_frames(tmp_path / "video.mp4")
    count = len(list(open_video(cut(path, 0.6, path))))
    mask = hole(count, 48, 64)
    if kind == "file":
        mask = write(tmp_path / "mask", as_pictures(mask))
    result = inpaint(path, REQUEST, tmp_path / "out", checkpoint=everything, mask=mask)
    assert result.frame_count == count == len(frames_of(tmp_path / "out")) < 60


def test_one_mask_for_all_frames_is_not_kept_for_each():
    source = VideoSource(None, 64, 64, Fraction(25), 10**6, False, None, Fraction(1), lambda source: iter(()))
    tracemalloc.start()
    try:
        mask = UserMask(np.ones((64, 64), np.uint8), source)
        assert all(mask.next().all() for _ in range(100))
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


# Without a mask decoder


def test_without_a_mask_decoder_the_mask_is_where_input_and_output_differ(caplog):
    def left_half_becomes_grey(noisy, condition):
        x = condition.clone()
        x[..., : x.shape[-1] // 2] = 0
        return x

    clip = draw(seed=1, index=0, frames=6, height=64, width=64).frames
    clip = np.where(np.abs(clip.astype(int) - 128) < 40, 200, clip).astype(np.uint8)  # no pixel is near that grey
    result = inpaint(clip, REQUEST, checkpoint=plain(left_half_becomes_grey), dilate=2, feather=0)
    left = np.arange(64) < 32
    assert result.mask[:, :, left].mean() > 0.99 and result.mask[:, :, ~left].mean() < 0.04
    assert np.array_equal(result.frames[:, :, 36:], clip[:, :, 36:])
    assert (np.abs(result.frames[:, :, :31].astype(int) - 128) <= 1).all()
    assert result.messages == ("this checkpoint has no mask decoder: the mask is where input and output differ",)
    assert result.messages[0] in caplog.text


def test_without_a_mask_decoder_a_model_that_copies_leaves_the_video_unchanged():
    result = inpaint(noise_clip(9), REQUEST, checkpoint=plain(lambda noisy, condition: condition))
    assert result.unchanged and len(result.messages) == 2


def test_a_latent_model_without_mask_decoder_goes_through(film, tmp_path):
    result = inpaint(film, REQUEST, tmp_path / "out.mp4", checkpoint=latent(None))
    assert len(frames_of(tmp_path / "out.mp4")) == 31 and "no mask decoder" in result.messages[0]
    assert result.mask_area > 0.5  # random weights change all there is


# Seeds, windows and settings


@pytest.mark.parametrize("name", ["out.mp4", "out.webm", "out.gif", "out"])
@pytest.mark.parametrize("make", [gated, latent])
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path, make, name):
    source = write(tmp_path / "clip.gif", list(noise_clip(7)))
    checkpoint, made = make("everything"), []
    for run, seed in enumerate((5, 5, 6)):
        folder = tmp_path / str(run)
        inpaint(source, REQUEST, folder / name, checkpoint=checkpoint, seed=seed, window=4, overlap=2, steps=2,
                mask_output=folder / "mask.mp4", sheet=folder / "sheet.png")
        made.append(tree(folder))
    assert made[0] == made[1] and made[0].keys() == made[2].keys()
    assert made[0]["mask.mp4"] == made[2]["mask.mp4"]
    assert made[0]["sheet.png"] != made[2]["sheet.png"]
    assert all(made[0][part] != made[2][part] for part in made[0] if part.startswith("out") and part != "out")


@pytest.mark.parametrize("seed", [-1, 2**63, 2**64 - 1, 2**70])
def test_any_whole_number_is_a_seed(everything, seed):
    clip = noise_clip(7)
    a, b = (inpaint(clip, REQUEST, checkpoint=everything, seed=s, window=4, overlap=2).frames for s in (seed, seed + 1))
    assert not np.array_equal(a, b)


def test_the_words_reach_the_model(everything):
    a, b = (inpaint(noise_clip(), words, checkpoint=everything).frames for words in (REQUEST, "erase the blue square"))
    assert not np.array_equal(a, b)


@pytest.mark.parametrize("window, overlap", [(24, 8), (6, 2), (5, 4), (3, 0)])
def test_a_model_that_copies_gives_back_the_source_across_all_windows(nothing, window, overlap):
    clip = noise_clip(29)
    result = inpaint(clip, REQUEST, checkpoint=nothing, window=window, overlap=overlap, keep_outside=False)
    assert np.array_equal(result.frames, clip)


def test_windows_that_disagree_are_blended_without_a_jump():
    values = iter([-1.0, 1.0, -1.0])
    checkpoint = plain(lambda noisy, condition: torch.full_like(condition, next(values)))
    frames = inpaint(noise_clip(20), REQUEST, checkpoint=checkpoint, window=10, overlap=5, keep_outside=False).frames
    assert next(values, None) is None
    levels = frames.reshape(20, -1)
    assert (levels == levels[:, :1]).all()
    ramp = [round(255 * (0.5 - 0.5 * math.cos(math.pi * i / 6))) for i in range(1, 6)]
    assert np.abs(levels[:, 0].astype(int) - ([0] * 5 + ramp + ramp[::-1] + [0] * 5)).max() <= 1


def test_windows_start_from_the_same_noise_where_they_overlap():
    started = []

    def remember(noisy, condition):
        started.append(noisy[0].clone())
        return condition

    inpaint(noise_clip(20), REQUEST, checkpoint=plain(remember), window=10, overlap=5, seed=3)
    first, second, third = started
    assert torch.equal(first[:, 5:], second[:, :5]) and torch.equal(second[:, 5:], third[:, :5])
    assert not torch.equal(first[:, :5], second[:, :5])


def test_what_the_checkpoint_recommends_holds_unless_another_is_asked_for(everything):
    recommended = {"steps": 3, "scheduler": "euler", "guidance_scale": 2.0, "image_guidance_scale": 1.0, "later": 1}
    checkpoint = dataclasses.replace(everything, sampling=recommended)
    steps, frames = [], []
    for settings in ({}, {"steps": 2}, {"scheduler": "ddim"}):
        result = inpaint(noise_clip(), REQUEST, checkpoint=checkpoint, callback=steps.append, **settings)
        frames.append(result.frames)
    assert [step["steps"] for step in steps] == [3] * 3 + [2] * 2 + [3] * 3
    assert not np.array_equal(frames[0], frames[2])


def test_a_request_that_is_too_long_is_cut_and_that_is_said(everything):
    result = inpaint(noise_clip(2), "remove " + "everything " * 20, checkpoint=everything)
    assert "tokens, the model reads 48: its end is not read" in result.messages[0]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("make", [gated, latent])
def test_every_dtype_goes_through_on_the_cpu(tmp_path, make, dtype):
    checkpoints.save(make("everything"), tmp_path / "small.safetensors")
    clip = noise_clip(3)
    result = inpaint(clip, REQUEST, checkpoint=tmp_path / "small.safetensors", device="cpu", dtype=dtype)
    assert result.mask.all() and not np.array_equal(result.frames, clip)


def test_parts_of_different_types_work_together():
    checkpoint = latent("everything")
    checkpoint.unet.bfloat16()
    checkpoint.vae.bfloat16()
    assert inpaint(noise_clip(3), REQUEST, checkpoint=checkpoint).mask.all()


# Memory does not grow with the clip


class Live:
    """Counts arrays that are alive."""

    def __init__(self):
        self.now = self.most = self.seen = 0

    def watch(self, array):
        self.now, self.seen = self.now + 1, self.seen + 1
        self.most = max(self.most, self.now)
        weakref.finalize(array, self.gone)

    def gone(self):
        self.now -= 1


def test_a_thousand_frames_go_through_with_three_windows_in_memory(everything, tmp_path, monkeypatch):
    read, written = Live(), Live()
    blank = np.zeros((16, 16, 3), np.uint8)

    def frames(source):
        for index in range(1000):
            image = blank + np.uint8(index % 250)
            read.watch(image)
            yield Frame(image, Fraction(index, 25))
            del image

    source = VideoSource(tmp_path / "long.mp4", 16, 16, Fraction(25), 1000, False, None, Fraction(1), frames)
    write_one = VideoWriter.write

    def watch_and_write(writer, image, time):
        written.watch(image)
        write_one(writer, image, time)

    monkeypatch.setattr(VideoWriter, "write", watch_and_write)
    gc.collect()
    result = inpaint(source, REQUEST, tmp_path / "out.mp4", checkpoint=everything, sheet=tmp_path / "sheet.png",
                     mask_output=tmp_path / "mask.mp4")
    assert result.frame_count == read.seen == 1000 and written.seen == 2000
    assert read.most <= 3 * 24 and written.most <= 24
    for name in ("out.mp4", "mask.mp4"):
        assert open_video(tmp_path / name).frame_count == 1000


# The callback, and all or nothing


def test_the_callback_gets_every_step_of_every_window(everything):
    steps = []
    inpaint(noise_clip(20), REQUEST, checkpoint=everything, window=8, overlap=3, steps=2, callback=steps.append)
    assert [(step["window"], step["windows"], step["i"], step["steps"]) for step in steps] == [
        (window, 4, i, 2) for window in range(4) for i in range(2)  # from frames 0, 5, 10 and 12
    ]
    assert all({"timestep", "latents", "prediction", "denoised"} <= step.keys() for step in steps)


@pytest.mark.parametrize("interruption", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("name", ["out.mp4", "out.webm", "out.gif", "out"])
def test_what_the_callback_raises_leaves_earlier_results(everything, film, tmp_path, name, interruption):
    places = {"output": tmp_path / name, "mask_output": tmp_path / f"mask-{name}", "sheet": tmp_path / "sheet.png"}
    inpaint(film, REQUEST, checkpoint=everything, **places)
    before = tree(tmp_path)

    def interrupt(step):
        if step["window"] == 2:
            raise interruption

    with pytest.raises(interruption):
        inpaint(film, REQUEST, checkpoint=everything, window=10, overlap=2, seed=1, callback=interrupt, **places)
    assert tree(tmp_path) == before
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    with pytest.raises(interruption):
        inpaint(film, REQUEST, fresh / name, checkpoint=everything, window=10, overlap=2, callback=interrupt,
                mask_output=fresh / "mask.gif", sheet=fresh / "sheet.png")
    assert tree(fresh) == {}


def test_a_model_that_gives_nan_leaves_nothing(film, tmp_path):
    checkpoint = plain(lambda noisy, condition: condition * math.nan)
    with pytest.raises(FloatingPointError, match="float32"):
        inpaint(film, REQUEST, tmp_path / "out.mp4", checkpoint=checkpoint)
    assert tree(tmp_path) == {}


# What is written beside each other, and beside what is read


CLASHES = {
    "mask over output": {"mask_output": "out.mp4"},
    "mask in output folder": {"output": "out", "mask_output": "out/mask.mp4"},
    "output in mask folder": {"output": "mask/out.mp4", "mask_output": "mask"},
    "sheet in output folder": {"output": "out", "sheet": "out/sheet.png"},
    "output over source": {"output": "film.mp4"},
    "mask over source": {"mask_output": "film.mp4"},
    "output over given mask": {"output": "mask.gif", "mask": "mask.gif"},
    "sheet over given mask": {"sheet": "mask.png", "mask": "mask.png"},
    "sheet in source folder": {"video": "pictures", "sheet": "pictures/sheet.png"},
    "output over source folder": {"video": "pictures", "output": "pictures"},
    "same by another way": {"output": "link/film.mp4"},
}


@pytest.mark.parametrize("case", CLASHES)
def test_nothing_is_written_over_what_is_read_or_written_too(everything, film, tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "film.mp4").write_bytes(film.read_bytes())
    (tmp_path / "link").symlink_to(tmp_path)
    write(tmp_path / "mask.gif", as_pictures(hole()))
    Image.fromarray(as_pictures(hole(1))[0]).save(tmp_path / "mask.png")
    picture_folder(tmp_path / "pictures", ".png")
    before = {name: content for name, content in tree(tmp_path).items() if content is not None}
    places = {"video": "film.mp4", "output": "out.mp4"} | CLASHES[case]
    with pytest.raises(InputError, match="another place|place of its own"):
        inpaint(**places, request=REQUEST, checkpoint=everything)
    assert {name: content for name, content in tree(tmp_path).items() if content is not None} == before


# The contact sheet


def test_the_sheet_shows_a_few_frames_of_input_mask_and_result(everything, film, tmp_path):
    inpaint(film, REQUEST, tmp_path / "out.mp4", checkpoint=everything, sheet=tmp_path / "sheets" / "sheet.png")
    with Image.open(tmp_path / "sheets" / "sheet.png") as sheet:
        assert sheet.format == "PNG" and sheet.size == (3 * 32 * 7, 4 * (24 * 7 + 18))
        shown = np.asarray(sheet)
    source = frames_of(film)
    rows = [shown[18 + row * 186:186 + row * 186, :224][::7, ::7] for row in range(4)]
    picked = [next(t for t in range(31) if np.array_equal(source[t], row)) for row in rows]
    assert picked[0] == 0 and picked == sorted(set(picked)) and picked[-1] >= 28
    result = shown[18:186, 448:][::7, ::7]
    assert not np.array_equal(result, source[0])


@pytest.mark.parametrize("size", [(3000, 8), (4, 900), (1, 1), (640, 360)])
@pytest.mark.parametrize("count", [1, 3])
def test_the_sheet_of_any_clip_has_a_size_that_can_be_looked_at(nothing, tmp_path, size, count):
    inpaint(noise_clip(count, *size), REQUEST, checkpoint=nothing, size=(16, 16), sheet=tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        width, height = sheet.size
    assert 3 <= width <= 1500 and count * 18 < height <= 4 * 200


def test_the_sheets_frames_are_spread_over_a_clip_of_any_length():
    for count in (1, 2, 4, 5, 16, 17, 100, 1000):
        sheet = ContactSheet()
        for _ in range(count):
            sheet.add(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), bool), np.zeros((4, 4, 3), np.uint8))
        numbers = [number for number, _ in sheet.kept]
        assert len(numbers) <= 16 and numbers[0] == 0 and numbers[-1] >= count * 3 // 4 - 1
        assert sheet.draw().size[1] == min(4, count) * (180 + 18)


# The example of the documentation


def test_the_example_of_the_readme_runs(everything, film, tmp_path, monkeypatch, capsys):
    readme = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    [example] = [code for code in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "import inpaint" in code]
    monkeypatch.chdir(tmp_path)
    checkpoints.save(everything, "demo.safetensors")
    monkeypatch.setitem(inpaint.__kwdefaults__, "checkpoint", tmp_path / "demo.safetensors")
    clip = tmp_path / "lgvi_core" / "demo" / "clip.mp4"
    clip.parent.mkdir(parents=True)
    clip.write_bytes(film.read_bytes())
    made = {}
    exec(example, made)
    assert isinstance(made["result"], Result) and made["result"].frame_count == 31
    assert len(frames_of(tmp_path / "out" / "removed.mp4")) == 31 and capsys.readouterr().out.startswith("31 1.0 False")


def test_the_default_is_the_demo_checkpoint():
    demo = Path(module.__file__).parent / "demo" / "lgvi-demo.safetensors"
    assert inpaint.__kwdefaults__["checkpoint"] == module.DEMO == demo
