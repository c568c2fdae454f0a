"""What a training step minimises: draws, targets, weights, and each part of the loss."""

import dataclasses

import numpy as np
import pytest
import torch
from tiny_training import tiny

from lgvi_core.errors import InputError
from train import model
from train.config import Dropout, Keyframes, LossWeights
from train.data import mixing
from train.objectives import (
    Objective,
    add_noise,
    draw_dropout,
    draw_keyframes,
    draw_timesteps,
    generators,
    mask_losses,
    masked_video,
    min_snr,
    target,
)

CPU = torch.device("cpu")


def losses_of(config, batch, parts=None, step=0):
    parts = parts or model.build(config)
    return Objective(config, parts, CPU)(parts.model, batch, config.seed, step)


def first(config):
    return next(iter(mixing.loader(config, 0)))


def test_noise_and_targets_invert():
    clean, noise = torch.randn(2, 2, 3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    alphas = torch.tensor([0.9, 0.5, 0.0])
    steps = torch.tensor([1, 2])
    noisy = add_noise(clean, noise, steps, alphas)
    torch.testing.assert_close(noisy[1], noise[1])  # zero terminal SNR: nothing of the clip is left
    velocity = target("v_prediction", clean, noise, steps, alphas)
    torch.testing.assert_close(0.5**0.5 * noisy[0] - 0.5**0.5 * velocity[0], clean[0])


def test_draws_belong_to_seed_step_and_place():
    def noise(seed, step, places):
        return torch.stack([torch.randn(3, generator=g) for g in generators(seed, step, torch.tensor(places))])

    whole = noise(1, 5, [0, 1, 2, 3])
    assert torch.equal(whole[1::2], noise(1, 5, [1, 3]))
    others = torch.cat([whole, noise(2, 5, [0]), noise(1, 6, [0])])
    assert len(others.unique(dim=0)) == 6


def test_timesteps_and_dropout_come_at_their_shares():
    draws = generators(0, 0, torch.arange(4000))
    drawn = draw_timesteps(draws, 10, 0.5)
    assert abs((drawn == 9).float().mean() - 0.55) < 0.03 and drawn.min() == 0
    no_text, no_video = draw_dropout(draws, Dropout(text=0.1, both=0.2, video=0.3))
    shares = [(no_text & ~no_video), (no_text & no_video), (no_video & ~no_text)]
    assert [float(share.float().mean()) for share in shares] == pytest.approx([0.1, 0.2, 0.3], abs=0.03)


def test_the_mask_losses_have_their_parts():
    mask = torch.zeros(2, 1, 1, 8, 8)
    mask[..., :4, :4] = 1
    error = torch.zeros(2, 12, 1, 4, 4)
    error[..., :2, :2] = 1  # wrong inside the mask alone
    weights = LossWeights(inside=1, mask=1, dice=1, decibel=1)
    found = mask_losses(error, mask.clone(), mask, weights)
    assert found["inside"].tolist() == pytest.approx([0.25] * 2)
    assert found["decibel"].tolist() == pytest.approx([np.log(1.003)] * 2, rel=1e-4)
    assert found["mask"].max() < 1e-5 and found["dice"].max() < 1e-5
    missed = mask_losses(error, torch.zeros_like(mask), mask, weights)
    assert missed["inside"].max() == missed["decibel"].max() == 0
    assert missed["mask"].min() > 1 and missed["dice"].min() > 0.9
    assert set(mask_losses(error, mask, mask, LossWeights(mask=1))) == {"mask"}


def test_the_mask_loss_takes_the_decoders_output_for_a_probability():
    probability, mask = torch.full((1, 1, 1, 2, 2), 0.25), torch.ones(1, 1, 1, 2, 2)
    found = mask_losses(torch.zeros(1, 4, 1, 2, 2), probability, mask, LossWeights(mask=1))
    assert found["mask"].item() == pytest.approx(-np.log(0.25))


@pytest.mark.parametrize(
    "kind, factor", [("epsilon", lambda s: s), ("sample", lambda s: 1), ("v_prediction", lambda s: s + 1)]
)
def test_min_snr_bounds_the_weight_of_easy_steps(kind, factor):
    alpha = torch.tensor([0.999, 0.9, 0.5, 0.1])
    snr = alpha / (1 - alpha)
    weights = min_snr(kind, alpha, 5.0)
    torch.testing.assert_close(weights * factor(snr), snr.clamp(max=5))
    assert min_snr(kind, torch.tensor([0.0]), 5.0).isfinite().all()  # zero terminal SNR


def test_options_of_the_objective_weigh_its_parts():
    config = tiny("unused", "batches=[{frames: 1, size: 3, width: 32, height: 32}]", "noisiest=0")
    batch, parts = first(config), model.build(config)
    plain = losses_of(config, batch, parts)
    loss = dataclasses.replace(config.loss, mask_weighting="middle", min_snr=5.0)
    weighted = losses_of(dataclasses.replace(config, loss=loss), batch, parts)
    t = plain.timesteps / 1000
    assert torch.equal(plain.per_sample, weighted.per_sample) and torch.equal(plain.timesteps, weighted.timesteps)
    assert weighted.parts["mask"] < plain.parts["mask"] * (4 * t * (1 - t)).max()
    assert not torch.isclose(weighted.parts["diffusion"], plain.parts["diffusion"])
    names = ("diffusion", "mask", "dice", "inside", "decibel")
    total = sum(getattr(config.loss, name) * plain.parts[name] for name in names)
    torch.testing.assert_close(plain.total.detach(), total + config.recognition.weight * plain.parts["recognition"])


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_other_predictions_train_too(kind):
    schedule = [f"scheduler.prediction_type={kind}", "scheduler.rescale_betas_zero_snr=false"]
    config = tiny("unused", *schedule, "unet.gate=false", "unet.reuse=false")
    losses_of(config, first(config)).total.backward()


def test_the_loss_of_a_batch_is_the_mean_of_its_parts():
    config = tiny("unused", "batches=[{frames: 2, size: 4, width: 32, height: 32}]")
    split = tiny("unused", "batches=[{frames: 2, size: 4, width: 32, height: 32, micro: 1}]")
    parts = model.build(config)
    whole = losses_of(config, first(config), parts)
    passes = [batch for batch in mixing.loader(split, 0) if batch["step"] == 0]
    single = [losses_of(config, batch, parts) for batch in passes]
    assert len(single) == 4 and passes[-1]["last"]
    torch.testing.assert_close(torch.stack([losses.total for losses in single]).mean(), whole.total)


def test_dropped_conditions_are_the_empty_sentence_and_zeros():
    config = tiny("unused", "dropout={text: 0, both: 1, video: 0}", "recognition.blocks=[]")
    seen = {}

    class Ear(torch.nn.Module):
        def forward(self, noisy, timesteps, text, inputs, labels, with_mask):
            seen.update(text=text, condition=inputs["condition"])
            return noisy, torch.full((len(noisy), 1, noisy.shape[2], 32, 32), 0.5), None

    parts = model.build(config)
    Objective(config, parts, CPU)(Ear(), first(config), 1, 0)
    assert torch.equal(seen["text"], parts.model.text_encoder.tokenize([""] * 4)) and not seen["condition"].any()
    frozen = tiny("unused", "dropout={text: 1, both: 0, video: 0}", "recognition.blocks=[]", "train_text_encoder=false")
    parts = model.build(frozen)
    Objective(frozen, parts, CPU)(Ear(), first(frozen), 1, 0)
    torch.testing.assert_close(seen["text"], parts.model.text_encoder.encode([""] * 4))
    assert seen["condition"].any() and not any(name.startswith("text") for name in parts.model.state_dict())


def test_recognition_teaches_the_blocks_it_watches_and_no_others():
    config = tiny("unused", "loss={diffusion: 0, mask: 0}")
    parts = model.build(config)
    losses_of(config, first(config), parts).total.backward()
    unet = parts.model.unet
    assert unet.down_blocks[0].resnets[0].conv1.weight.grad.abs().sum() > 0
    assert not unet.down_blocks[2].resnets[0].conv1.weight.grad.any()
    assert not any(module._forward_hooks for module in unet.modules())


@pytest.mark.parametrize("block", ["down_blocks", "mid_block.0", "up_blocks.4"])
def test_recognition_refuses_a_block_that_is_not_there(block):
    with pytest.raises(InputError, match="recognition.blocks names"):
        tiny("unused", f"recognition.blocks=[{block}]")


def test_keyframes_are_the_first_or_any_but_never_all():
    draws = generators(0, 0, torch.arange(2000))
    first_frame = draw_keyframes(draws, 3, Keyframes(0.5))
    assert abs(first_frame[:, 0].float().mean() - 0.5) < 0.05 and not first_frame[:, 1:].any()
    anywhere = draw_keyframes(draws, 3, Keyframes(1.0, anywhere=True, most=5))
    assert set(anywhere.sum(1).tolist()) == {1, 2} and anywhere.float().mean(0).std() < 0.03
    assert not draw_keyframes(draws, 1, Keyframes(1.0)).any()


def test_keyframes_are_shown_as_they_should_become_and_nothing_is_to_be_filled_there():
    frames, clean = torch.zeros(1, 2, 4, 4, 3, dtype=torch.uint8), torch.full((1, 2, 4, 4, 3), 9, dtype=torch.uint8)
    mask = torch.zeros(1, 2, 4, 4, dtype=torch.bool)
    mask[..., :2] = True
    shown = masked_video({"frames": frames, "clean": clean, "mask": mask}, torch.tensor([[True, False]]))
    assert (shown["frames"][:, 0] == 9).all() and not shown["mask"][:, 0].any()
    assert (shown["frames"][:, 1, :, :2] == 127.5).all() and (shown["frames"][:, 1, :, 2:] == 0).all()
    assert torch.equal(shown["mask"][:, 1], mask[:, 1])


def test_keyframes_are_refused_by_what_removes():
    with pytest.raises(InputError, match="keyframes"):
        losses_of(tiny("unused", "keyframes.probability=0.5"), None)
