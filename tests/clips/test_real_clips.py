"""Real footage through the engine, with small random weights and once at Stable Diffusion 1.5's full size."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from unit.test_inpaint import REQUEST, autoencoder, frames_of, gated, latent, text_encoder
from unit.test_video import make_video, sound_packets

from lgvi_core import masks
from lgvi_core.checkpoints import Checkpoint
from lgvi_core.inpaint import inpaint
from lgvi_core.models import InflatedUNet, UNetConfig
from lgvi_core.video import VideoWriter, open_video

CLIPS = {
    "bmx-trees": (24, 432, 240),
    "tennis": (24, 432, 240),
    "city-bird": (24, 568, 320),
    "two-birds": (18, 568, 320),
}
MASKED = ("bmx-trees", "tennis")
TRAINED = {"width": 64, "height": 64, "frames": 8}
RATE = Fraction(30000, 1001)


@pytest.mark.parametrize("name", CLIPS)
def test_a_real_clip_goes_through_and_keeps_what_lies_outside_the_mask(shared, tmp_path, name):
    count, width, height = CLIPS[name]
    given = shared / "clips" / name / "masks" if name in MASKED else None
    source = shared / "clips" / name / "frames"
    checkpoint = gated("something", training=TRAINED)
    result = inpaint(source, REQUEST, tmp_path / "out", checkpoint=checkpoint, mask=given, dilate=3, feather=2,
                     mask_output=tmp_path / "mask", window=10, overlap=4)
    clip, out, found = frames_of(source), frames_of(tmp_path / "out"), frames_of(tmp_path / "mask")[..., 0] > 0
    assert out.shape == clip.shape == (count, height, width, 3)
    assert result.frame_count == count and result.mask_area == pytest.approx(found.mean())
    reach = masks.dilate(found, 3)
    assert 0 < found.mean() < 1 and not reach.all()
    assert np.array_equal(out[~reach], clip[~reach])
    assert (out[found] != clip[found]).any(axis=-1).mean() > 0.9
    if given:
        assert np.array_equal(found, frames_of(given)[..., 0] >= 128)


def as_film(folder, path):
    """The pictures of a folder as an mp4 at 30000/1001 frames a second with a tone."""
    frames = frames_of(folder)
    tone = make_video(path.with_name("tone.mp4"), count=len(frames), rate=RATE, sound=("aac",))
    with VideoWriter(path, frames.shape[2], frames.shape[1], RATE, audio_from=tone) as writer:
        for frame in frames:
            writer.write(frame)
    return path


@pytest.mark.parametrize("make", [gated, latent])
def test_a_real_film_keeps_rate_count_size_and_sound(shared, tmp_path, make):
    film = as_film(shared / "clips" / "tennis" / "frames", tmp_path / "film.mp4")
    checkpoint = make("everything", training=TRAINED)
    result = inpaint(film, REQUEST, tmp_path / "out.mp4", checkpoint=checkpoint, mask_output=tmp_path / "mask.mp4",
                     mask=shared / "clips" / "tennis" / "masks", sheet=tmp_path / "sheet.png")
    before, after = open_video(film), open_video(tmp_path / "out.mp4")
    times = [frame.time for frame in after]
    assert times == [index / RATE for index in range(24)] == [frame.time for frame in before]
    assert (after.frame_rate, after.width, after.height) == (RATE, 432, 240) and result.frame_count == 24
    assert sound_packets(tmp_path / "out.mp4") == sound_packets(film) != []

    clip, out = frames_of(film), frames_of(tmp_path / "out.mp4")
    found = frames_of(shared / "clips" / "tennis" / "masks")[..., 0] > 0
    difference = np.abs(out.astype(int) - clip).mean(axis=-1)
    assert difference[~masks.dilate(found, 32)].mean() < 2 < 20 < difference[found].mean()
    assert (frames_of(tmp_path / "mask.mp4")[..., 0] >= 128)[found].mean() > 0.99


def full_size_unet():
    """Stable Diffusion 1.5's size, random weights written straight into bfloat16."""
    unet = InflatedUNet(UNetConfig(), dtype=torch.bfloat16, device="meta").to_empty(device="cpu").eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in unet.parameters():
        if parameter.ndim == 1:
            parameter.data.fill_(0.5)
        else:
            bound = (3 / parameter[0].numel()) ** 0.5
            parameter.data.uniform_(-bound, bound, generator=generator)
    return unet


def test_the_full_size_goes_through_on_the_cpu(shared, tmp_path):
    config = UNetConfig()
    checkpoint = Checkpoint(config, full_size_unet(), autoencoder(levels=4).bfloat16(), text_encoder(768).bfloat16())
    assert sum(parameter.numel() for parameter in checkpoint.unet.parameters()) > 900_000_000
    source = open_video(shared / "clips" / "bmx-trees" / "frames")
    clip = np.stack([frame.image for frame, _ in zip(source, range(2))])
    result = inpaint(clip, REQUEST, checkpoint=checkpoint, steps=1, guidance_scale=1.0, size=(128, 80), dilate=0,
                     scheduler="ddim", keep_outside=False)
    assert result.frames.shape == clip.shape == (2, 240, 432, 3) and result.mask.shape == clip.shape[:3]
    assert (result.frames != clip).mean() > 0.9 and result.frames.std() > 1
