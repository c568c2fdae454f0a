"""Motion blocks and the inpainting input of the U-Net: CoCoCo's side of it."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lgvi_core.errors import InputError
from lgvi_core.models import InflatedUNet, UNetConfig
from lgvi_core.models.attention import scaled_dot_product
from lgvi_core.models.motion import MotionBlock, positions
from lgvi_core.sampling import denoise, make_scheduler

COCOCO = ("temporal", "temporal", "global", "text")
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "linear", "steps_offset": 1}
LAYERS = (nn.Conv2d, nn.Linear, nn.GroupNorm, nn.LayerNorm)
HOST = SimpleNamespace(**{kind.__name__: type(f"Host{kind.__name__}", (kind,), {}) for kind in LAYERS})


def small_config(**options):
    shape = {
        "in_channels": 9,
        "block_out_channels": (8, 16),
        "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
        "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
        "layers_per_block": 1,
        "cross_attention_dim": 12,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
        "temp_attn": False,
        "mask_decoder_type": None,
        "frame_norm": True,
        "motion_attention": COCOCO,
        "motion_heads": 2,
    }
    return UNetConfig(**shape | options)


def wake(module):
    """Makes what starts at zero count: it would hide what depends on it."""
    for parameter in module.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return module


def small_unet(*, operations=nn, attention=scaled_dot_product, **options):
    torch.manual_seed(0)
    return wake(InflatedUNet(small_config(**options), operations, attention)).eval()


def inputs(batch=1, frames=3, height=6, width=4):
    generator = torch.Generator().manual_seed(1)
    shape = (batch, 4, frames, height, width)
    return {
        "noisy": torch.randn(shape, generator=generator),
        "timestep": torch.arange(batch) * 300 + 17,
        "text": torch.randn(batch, 5, 12, generator=generator),
        "mask": (torch.rand(batch, 1, *shape[2:], generator=generator) > 0.5).float(),
        "masked_video": torch.randn(shape, generator=generator),
    }


def block_of(attention=scaled_dot_product, kinds=COCOCO, channels=8):
    torch.manual_seed(0)
    return wake(MotionBlock(channels, small_config(motion_attention=kinds), nn, attention, {})).eval()


def recorder(calls):
    def attention(q, k, v, heads):
        calls.append((tuple(q.shape), tuple(k.shape), heads))
        return scaled_dot_product(q, k, v, heads)

    return attention


@pytest.fixture(scope="module", autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def unet():
    return small_unet()


def close(got, expected, tolerance=1e-4):
    torch.testing.assert_close(got, expected, atol=tolerance, rtol=tolerance)


# Motion blocks


def test_a_new_motion_block_changes_nothing():
    torch.manual_seed(0)
    unet = InflatedUNet(small_config()).eval()
    image_unet = InflatedUNet(small_config(motion_attention=())).eval()
    image_unet.load_state_dict({name: v for name, v in unet.state_dict().items() if "motion_modules" not in name})
    close(unet(**inputs()), image_unet(**inputs()))


def test_what_each_attention_sees():
    calls = []
    block = block_of(recorder(calls))
    block(torch.randn(2 * 3, 8, 16, 20), torch.randn(2, 5, 12), frames=3, cache=None)
    rows, damped = (2 * 16 * 20, 3, 8), (2, 3 * 12 * 15, 8)
    assert calls == [
        (rows, rows, 2),
        (rows, rows, 2),
        (damped, damped, 2),
        ((2, 3 * 16 * 20, 8), (2, 5, 8), 2),
    ]


@pytest.mark.parametrize(
    "height, width, tokens", [(12, 30, 360), (13, 12, 12 * 11), (24, 24, 144), (48, 3, 12), (1, 7, 7)]
)
def test_global_attention_is_damped_where_a_map_is_more_than_twelve_rows_high(height, width, tokens):
    calls = []
    block = block_of(recorder(calls), ("global",))
    out = block(torch.randn(2, 8, height, width), torch.randn(1, 5, 12), frames=2, cache=None)
    assert calls[0][0] == (1, 2 * tokens, 8)
    assert out.shape == (2, 8, height, width)


def test_clips_may_be_longer_than_the_public_position_tables():
    calls = []
    block = block_of(recorder(calls), channels=8)
    x = torch.randn(70, 8, 13, 13)
    out = block(x, torch.randn(1, 5, 12), frames=70, cache=None)
    assert calls[2][0][1] == 70 * 12 * 12 > 10_000
    assert out.isfinite().all() and not torch.equal(out, x)


def test_positions_are_sines_and_cosines_in_turn_at_any_length():
    like = torch.zeros(1, 6)
    table = positions(10_001, like)
    for place, channel in ((0, 0), (3, 0), (3, 1), (63, 4), (10_000, 3)):
        angle = place / 10_000 ** ((channel - channel % 2) / 6)
        expected = math.cos(angle) if channel % 2 else math.sin(angle)
        assert table[place, channel].item() == pytest.approx(expected, abs=2e-3)
    assert torch.equal(table[:64], positions(64, like))
    assert positions(3, torch.zeros(1, 5, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize("kind, joins", [("temporal", True), ("global", True), ("text", False)])
def test_which_attention_joins_the_frames(kind, joins):
    block = block_of(kinds=(kind,))
    x, text = torch.randn(3, 8, 4, 4), torch.randn(1, 5, 12)
    changed = x.clone()
    changed[2] = torch.randn(8, 4, 4)  # another distribution after the norm, too
    before, after = (block(one, text, frames=3, cache=None)[0] for one in (x, changed))
    assert torch.equal(before, after) != joins
    other_text = block(x, torch.randn(1, 5, 12), frames=3, cache=None)[0]
    assert torch.equal(before, other_text) != (kind == "text")


def test_frames_know_their_order():
    block = block_of()
    x, text = torch.randn(3, 8, 4, 4), torch.randn(1, 5, 12)
    forwards, backwards = (block(one, text, frames=3, cache=None) for one in (x, x.flip(0)))
    assert (forwards - backwards.flip(0)).abs().max() > 1e-3


# The U-Net with them


def test_every_layer_and_attention_comes_from_the_host():
    calls = []
    unet = small_unet(operations=HOST, attention=recorder(calls))
    layers = [module for module in unet.modules() if module._parameters]
    assert all(type(layer).__name__.startswith("Host") for layer in layers)
    unet(**inputs())
    motion = sum(isinstance(module, MotionBlock) for module in unet.modules())
    assert motion == 2 + 1 + 4
    assert len(calls) == 4 * motion + 2 * (1 + 1 + 2)


@pytest.mark.parametrize("frames, height, width", [(1, 8, 8), (5, 7, 3), (2, 1, 1), (2, 30, 9)])
def test_sizes_need_not_be_multiples_of_anything(unet, frames, height, width):
    given = inputs(2, frames, height, width)
    assert unet(**given).shape == given["noisy"].shape


def test_a_batch_of_clips_equals_the_clips_one_by_one(unet):
    given = inputs(batch=2)
    together = unet(**given)
    for i in range(2):
        close(together[i : i + 1], unet(**{name: value[i : i + 1] for name, value in given.items()}))


def test_frames_are_normalised_one_by_one():
    unet = small_unet(motion_attention=())
    given = inputs(frames=3)
    whole = unet(**given)
    for t in range(3):
        one = {name: value[:, :, t : t + 1] if value.ndim == 5 else value for name, value in given.items()}
        close(whole[:, :, t : t + 1], unet(**one))


def test_mask_masked_video_and_text_count(unet):
    given = inputs()
    before = unet(**given)
    for name in ("mask", "masked_video", "text"):
        assert (unet(**given | {name: 1 - given[name]}) - before).abs().max() > 1e-4
    assert torch.equal(unet(**given | {"mask": given["mask"].bool()}), before)


def test_a_cache_changes_nothing(unet):
    given, cache = inputs(), {}
    unet(**given | {"timestep": 3}, cache=cache)
    assert cache
    close(unet(**given, cache=cache), unet(**given))


def test_gradient_checkpointing_gives_the_same_gradients():
    gradients = []
    for gradient_checkpointing in (False, True):
        unet = small_unet().train()
        unet.gradient_checkpointing = gradient_checkpointing
        with torch.enable_grad():
            unet(**inputs()).square().mean().backward()
        gradients.append({name: parameter.grad for name, parameter in unet.named_parameters()})
    assert all(value is not None for value in gradients[0].values())
    for name, value in gradients[0].items():
        close(gradients[1][name], value)


def test_bfloat16_stays_near_float32(unet):
    given = inputs()
    expected = unet(**given)
    half = small_unet().to(torch.bfloat16)
    got = half(**{name: v if name == "timestep" else v.to(torch.bfloat16) for name, v in given.items()})
    assert (got.float() - expected).norm() / expected.norm() < 0.05


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"condition": torch.zeros(1, 4, 3, 6, 4)}, "takes mask and masked_video, and no condition"),
        ({"mask": None}, "takes mask and masked_video"),
        ({"masked_video": None}, "takes mask and masked_video"),
        ({"mask": torch.zeros(1, 1, 1, 6, 4)}, r"mask is \(1, 1, 1, 6, 4\); expected \(1, 1, 3, 6, 4\)"),
        ({"masked_video": torch.zeros(1, 3, 3, 6, 4)}, r"masked_video is \(1, 3, 3, 6, 4\)"),
    ],
)
def test_input_that_does_not_fit_is_named(unet, changes, message):
    with pytest.raises(InputError, match=message):
        unet(**inputs() | changes)


def test_a_condition_unet_refuses_a_mask():
    with pytest.raises(InputError, match="belong to the inpainting family"):
        small_unet(in_channels=4)(**inputs())


# Config


@pytest.mark.parametrize(
    "options, message",
    [
        ({"motion_attention": ("spatial",)}, r"motion_attention is \['spatial'\]; allowed are"),
        ({"motion_heads": 3}, "divisible by motion_heads 3"),
        ({"in_channels": 10}, "in_channels is 10.*4 .*8 .*9"),
        ({"in_channels": 8, "gate": True}, "the gate is made from the mask decoder"),
    ],
)
def test_values_that_do_not_go_together_are_named(options, message):
    with pytest.raises(InputError, match=message):
        small_config(**options)


def public_config(**motion):
    kwargs = {
        "num_attention_heads": 4,
        "num_transformer_block": 1,
        "attention_block_types": ["Temporal_Self", "Temporal_Text_Cross"],
        "temporal_position_encoding": True,
        "temporal_position_encoding_max_len": 32,
        "text_cross_attention_dim": 768,
    }
    return {
        "in_channels": 9,
        "use_inflated_groupnorm": True,
        "use_motion_module": True,
        "motion_module_resolutions": [1, 2, 4, 8],
        "motion_module_mid_block": True,
        "motion_module_kwargs": kwargs | motion,
    }


def test_a_public_config_says_which_attentions_there_are():
    config = UNetConfig.from_public(public_config())
    assert (config.motion_attention, config.motion_heads, config.frame_norm) == (("temporal", "text"), 4, True)
    assert config.is_inpainting and not config.temp_attn and not config.has_mask_decoder
    assert UNetConfig.from_public(config.to_dict()) == config


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"num_transformer_block": 2}, "num_transformer_block=2"),
        ({"attention_block_types": ["Spatial"]}, "attention_block_types='Spatial'"),
        ({"temporal_attention_dim_div": 2}, "temporal_attention_dim_div=2"),
        ({"zero_gamma": 1}, "zero_gamma=1"),
    ],
)
def test_a_public_config_may_not_ask_for_other_motion_blocks(changes, message):
    with pytest.raises(InputError, match=message):
        UNetConfig.from_public(public_config(**changes))


def test_motion_blocks_that_are_not_everywhere_are_refused():
    with pytest.raises(InputError, match="motion_module_mid_block=False"):
        UNetConfig.from_public(public_config() | {"motion_module_mid_block": False})


# Sampling


def sampling(**changes):
    given = inputs()
    arguments = {
        "latents": given["noisy"],
        "text": given["text"],
        "empty_text": -given["text"],
        "condition": None,
        "mask": given["mask"],
        "masked_video": given["masked_video"],
        "scheduler": make_scheduler("ddim", SCHEDULE),
        "steps": 1,
    }
    return arguments | changes


@pytest.mark.parametrize("batch_passes", [True, False])
def test_guidance_is_two_passes_negative_and_positive(unet, batch_passes):
    seen, given = [], inputs()
    denoise(unet, **sampling(guidance_scale=10.0, callback=seen.append, batch_passes=batch_passes))
    given["timestep"] = seen[0]["timestep"]
    positive, negative = unet(**given), unet(**given | {"text": -given["text"]})
    close(seen[0]["prediction"], negative + 10.0 * (positive - negative), 1e-3)


@pytest.mark.parametrize("scale, passes", [(10.0, 2), (1.0, 1)])
def test_the_negative_pass_is_left_out_where_it_has_no_weight(scale, passes):
    unet, count = small_unet(), []
    unet.register_forward_hook(lambda *_: count.append(1))
    denoise(unet, **sampling(guidance_scale=scale, steps=2))
    assert len(count) == 2 * passes


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"mask": None}, "beside the noise there is masked_video; expected a condition, or"),
        ({"mask": None, "masked_video": None}, "there is nothing"),
        ({"condition": torch.zeros(1, 4, 3, 6, 4)}, "condition and mask and masked_video"),
        ({"masked_video": torch.zeros(1, 4, 1, 6, 4)}, "the masked_video is"),
        ({"mask": torch.full((1, 1, 3, 6, 4), torch.nan)}, "mask has NaN"),
        (
            {"condition": torch.zeros(1, 4, 3, 6, 4), "mask": None, "masked_video": None},
            "fills a masked region: it takes mask and masked_video",
        ),
    ],
)
def test_sampling_names_the_input_that_does_not_fit(unet, changes, message):
    with pytest.raises(InputError, match=message):
        denoise(unet, **sampling(**changes))


def test_only_stable_diffusions_own_schedule_ends_at_its_first_noise_level():
    assert make_scheduler("ddim", SCHEDULE).config.set_alpha_to_one
    assert not make_scheduler("ddim", {**SCHEDULE, "beta_schedule": "scaled_linear"}).config.set_alpha_to_one


@pytest.mark.parametrize("options", [{"gate": True}, {"gate": True, "reuse": True, "noise_ramp": True}])
def test_a_gate_keeps_the_video_but_for_the_mask_and_the_latents_around_it(options):
    unet, given = small_unet(**options), inputs(frames=2, height=7, width=6)
    given["mask"] = torch.zeros(1, 1, 2, 7, 6)
    given["mask"][0, 0, 0, 2, 3] = 1
    changed = (unet(**given) != given["masked_video"]).any(1)[0]
    expected = torch.zeros(2, 7, 6, dtype=torch.bool)
    expected[0, 1:4, 2:5] = True
    assert torch.equal(changed, expected)


def test_a_noise_ramp_keeps_the_noisy_latents_out_at_the_last_timestep_alone():
    unet, given = small_unet(noise_ramp=True), inputs()
    other = given | {"noisy": -given["noisy"]}
    last, before = ({"timestep": torch.tensor([t])} for t in (999, 998))
    assert torch.equal(unet(**given | last), unet(**other | last))
    assert not torch.equal(unet(**given | before), unet(**other | before))
