"""What is known from elsewhere: `Reuse`, and the U-Net that has it."""

import pytest
import torch
from test_inflated_unet import GATED, close, fill, inputs, small_config, small_unet
from torch import nn

from lgvi_core.errors import InputError
from lgvi_core.models.reuse import PREFERENCE, Reuse, continued, neighbourhood, roughness

FRAMES, SIDE, OFF = 3, 12, -50.0


def blind(layer, own=0.0, smooth=OFF):
    """Makes a `Reuse` look at the masks alone; logits of the prediction and of the smooth continuation are given."""
    for part in (layer.to_q, layer.to_k, layer.score, layer.rough_score):
        fill(part, 0.0)
    fill(layer.own, own - PREFERENCE)
    fill(layer.smooth, smooth)
    return layer


def blend(**logits):
    return blind(Reuse(4, nn, {}), **logits)


def clip(masked):
    """Features, prediction, source whose frame t is t everywhere, and masks over the whole of the frames `masked`."""
    prediction = torch.full((FRAMES, 2, SIDE, SIDE), 9.0)
    source = torch.arange(FRAMES).float().view(-1, 1, 1, 1).expand_as(prediction)
    mask = torch.zeros(FRAMES, 1, SIDE, SIDE)
    mask[list(masked)] = 1
    return torch.randn(FRAMES, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(0)), prediction, source, mask


def test_a_place_that_another_frame_shows_is_copied_from_there():
    result = blend(own=OFF)(*clip(masked=[0, 2]), FRAMES)
    close(result[0], torch.ones(2, SIDE, SIDE), 1e-3)
    close(result[2], torch.ones(2, SIDE, SIDE), 1e-3)


def test_frames_that_show_it_are_averaged_and_the_own_frame_is_not_among_them():
    close(blend(own=OFF)(*clip(masked=[]), FRAMES)[:, 0, 0, 0], torch.tensor([1.5, 1.0, 0.5]))


def test_a_place_that_no_frame_shows_is_predicted():
    close(blend()(*clip(masked=[0, 1, 2]), FRAMES), torch.full((FRAMES, 2, SIDE, SIDE), 9.0), 1e-2)


def test_a_single_frame_has_the_prediction_and_what_surrounds_the_mask():
    h, prediction, source, mask = (x[:1].clone() for x in clip(masked=[]))
    source[..., 6:] = 2.0
    mask[..., 3:9] = 1
    assert torch.equal(blend()(h, prediction, source, mask, 1), prediction)
    smooth = blend(own=OFF, smooth=0.0)(h, prediction, source, mask, 1)[0, 0, 5]
    close(smooth[[0, 1, 2, 9, 10, 11]], torch.tensor([0.0, 0.0, 0.0, 2.0, 2.0, 2.0]), 1e-6)
    assert (smooth.diff() >= 0).all() and smooth[3:9].unique().numel() > 2


@pytest.mark.parametrize("height, width", [(16, 16), (7, 13), (1, 9), (2, 1)])
def test_what_is_known_of_one_colour_goes_on_in_that_colour(height, width):
    known = torch.zeros(1, 1, height, width)
    known[..., 0, 0] = 1
    x = torch.where(known > 0, 0.7, torch.full_like(known, 99.0))
    close(continued(x, known), torch.full_like(x, 0.7), 1e-4)


def test_roughness_tells_a_texture_from_a_smooth_ramp_and_goes_on_under_a_mask():
    ramp = torch.linspace(-1, 1, 32).expand(1, 2, 32, 32)
    stripes = torch.where(torch.arange(32) % 6 < 3, -1.0, 1.0).expand(1, 2, 32, 32)
    known = torch.ones(2, 1, 32, 32)
    known[..., 10:22, 10:22] = 0
    smooth, rough = roughness(torch.cat([ramp, stripes]), known)[:, 0, 12:20, 12:20]
    assert smooth.max() < -1 < 2 < rough.min()


def test_where_nothing_is_known_the_continuation_is_finite():
    assert continued(torch.rand(2, 3, 5, 6), torch.zeros(2, 1, 5, 6)).isfinite().all()


def test_clips_of_a_batch_do_not_see_each_other():
    layer, given = Reuse(4, nn, {}), [clip(masked=[0]), clip(masked=[1, 2])]
    together = layer(*(torch.cat(pair) for pair in zip(*given)), FRAMES)
    close(together, torch.cat([layer(*one, FRAMES) for one in given]), 1e-6)


def test_neighbourhoods_tell_a_still_camera_from_a_moving_one_and_leave_out_what_is_masked():
    texture = torch.rand(1, 1, 2, 20, 40, generator=torch.Generator().manual_seed(1))
    still, moved = texture.clone(), texture.roll(3, dims=-1)
    still[..., 8:12, 8:12] += 5  # an object that came, masked in the other frame
    mask = torch.zeros(1, 1, 1, 20, 40)
    covered = mask.clone()
    covered[..., 8:12, 8:12] = 1
    others, masks = torch.cat([still, moved], 1), torch.cat([covered, mask], 1)
    unlikeness, shared = neighbourhood(texture, others, mask, masks)
    assert unlikeness[0, 0].max() < -3 < 0 < unlikeness[0, 1].min()
    assert shared[0, 0, 10, 10] == pytest.approx(1 - 16 / 81)
    assert shared[0, 1, 10, 10] == 1


def test_the_network_takes_from_other_frames_under_its_mask_and_nowhere_else():
    unet = small_unet(**GATED, reuse=True)
    given = inputs(unet)
    fill(unet.mask_decoder.final_conv, 0.0)
    fill(unet.gate_conv_out, 200.0)
    blind(unet.reuse, own=OFF)
    condition = given["condition"]
    close(unet(**given)[:, :, 0], condition[:, :, 1:].mean(2), 1e-3)
    fill(unet.gate_conv_out, -200.0)
    assert torch.equal(unet(**given), condition)


def test_reuse_needs_the_gate():
    with pytest.raises(InputError, match="reuse is true but gate is false"):
        small_config(reuse=True)
