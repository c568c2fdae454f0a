"""The inflated U-Net: what a host can supply, what is computed when, and every option of its config."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lgvi_core.errors import InputError
from lgvi_core.models import InflatedUNet, UNetConfig
from lgvi_core.models import attention as attention_module
from lgvi_core.models.attention import Attention, explicit_product, scaled_dot_product
from lgvi_core.models.autoencoder import SpaceToDepthAutoencoder
from lgvi_core.models.blocks import ResnetBlock, TransformerBlock, clip_norm
from lgvi_core.models.unet import grow, places, sinusoid

PIXELS = {"in_channels": 12, "out_channels": 12, "mask_upscale": 2}  # latents of SpaceToDepthAutoencoder(2)
GATED = {**PIXELS, "gate": True}
EVERYTHING = {
    **GATED,
    "reuse": True,
    "lan_cross_attn": True,
    "pooled_text": True,
    "resnet_time_scale_shift": "scale_shift",
    "noise_ramp": True,
    "coordinates": True,
}
BARE = {"temp_attn": False, "mask_decoder_type": None}
VARIANTS = [{}, {"in_channels": 8}, {"lan_cross_attn": True}, BARE, EVERYTHING]
OFF, ON = -200.0, 200.0  # logits whose sigmoid is 0 and 1 in float32


def small_config(**options):
    shape = {
        "block_out_channels": (8, 16),
        "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
        "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
        "layers_per_block": 1,
        "cross_attention_dim": 12,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
        "mask_channels": 8,
        "mask_norm_groups": 2,
    }
    return UNetConfig(**shape | options)


def small_unet(*, operations=nn, attention=scaled_dot_product, **options):
    """Random weights; what starts at zero is made to count, for it would hide what depends on it."""
    torch.manual_seed(0)
    unet = InflatedUNet(small_config(**options), operations, attention).eval()
    for parameter in unet.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return unet


def inputs(unet, batch=1, frames=3, height=6, width=4):
    generator = torch.Generator().manual_seed(1)
    shape = (batch, unet.config.out_channels, frames, height, width)
    return {
        "noisy": torch.randn(shape, generator=generator),
        "timestep": torch.arange(batch) * 300 + 17,
        "text": torch.randn(batch, 5, unet.config.cross_attention_dim, generator=generator),
        "condition": torch.randn(shape, generator=generator),
    }


def fill(convolution, bias):
    """Makes a convolution give `bias` everywhere."""
    nn.init.zeros_(convolution.weight)
    nn.init.constant_(convolution.bias, bias)


def count_calls(*modules):
    """A list that counts the forward calls of each module."""
    counts = [0] * len(modules)

    def hook(i):
        def add(*_):
            counts[i] += 1

        return add

    for i, module in enumerate(modules):
        module.register_forward_hook(hook(i))
    return counts


def close(got, expected, tolerance=1e-4):
    torch.testing.assert_close(got, expected, atol=tolerance, rtol=tolerance)


# What a host supplies


def marked(kind):
    return type(f"Host{kind.__name__}", (kind,), {"of_the_host": True})


LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear, nn.GroupNorm, nn.LayerNorm)
HOST = SimpleNamespace(**{kind.__name__: marked(kind) for kind in LAYERS})


@pytest.mark.parametrize("options", VARIANTS)
def test_every_layer_with_parameters_comes_from_the_operations(options):
    unet = small_unet(operations=HOST, **options)
    layers = {name: module for name, module in unet.named_modules() if module._parameters}
    assert [name for name, layer in layers.items() if not hasattr(layer, "of_the_host")] == []
    assert {id(p) for layer in layers.values() for p in layer._parameters.values() if p is not None} == {
        id(p) for p in unet.parameters()
    }


def test_dtype_and_device_reach_every_layer():
    unet = InflatedUNet(small_config(**EVERYTHING), dtype=torch.float16, device="meta")
    assert {(p.dtype, p.device.type) for p in unet.parameters()} == {(torch.float16, "meta")}
    assert not list(unet.buffers())


@pytest.mark.parametrize("options", VARIANTS)
def test_every_attention_goes_through_the_function_that_was_given(options, monkeypatch):
    calls = []

    def recording(q, k, v, heads):
        calls.append(heads)
        assert q.ndim == k.ndim == v.ndim == 3 and k.shape == v.shape and q.shape[0] == k.shape[0]
        return explicit_product(q, k, v, heads)

    unet = small_unet(attention=recording, **options)
    expected = small_unet(**options)(**inputs(unet, batch=2))
    monkeypatch.setattr(F, "scaled_dot_product_attention", None)
    close(unet(**inputs(unet, batch=2)), expected)
    assert calls == [2] * sum(isinstance(module, Attention) for module in unet.modules())


def test_attention_of_a_huge_batch_is_split(monkeypatch):
    unet = small_unet()
    expected = unet(**inputs(unet, batch=2))
    batches = []
    whole = F.scaled_dot_product_attention

    def recording(q, k, v):
        batches.append(len(q))
        return whole(q, k, v)

    monkeypatch.setattr(F, "scaled_dot_product_attention", recording)
    monkeypatch.setattr(attention_module, "MAX_BATCH", 5)
    close(unet(**inputs(unet, batch=2)), expected, 1e-5)
    assert max(batches) == 5 and 48 % 5 in batches  # temporal attention has 2 * 6 * 4 rows


# Masks are made when they are asked for


def test_the_mask_decoder_runs_only_when_asked_for():
    unet = small_unet()
    given, counts = inputs(unet), count_calls(unet.mask_decoder)
    alone = unet(**given)
    assert counts == [0]
    prediction, mask = unet(**given, return_mask=True)
    assert counts == [1]
    assert torch.equal(prediction, alone)
    assert mask.shape == (1, 1, 3, 6, 4) and 0 < mask.min() < mask.max() < 1


@pytest.mark.parametrize("kinds, channels", [
    (("UpBlock3D", "CrossAttnUpBlock3D", "CrossAttnUpBlock3D"), [16, 8]),
    (("UpBlock3D", "UpBlock3D", "CrossAttnUpBlock3D"), [8]),
    (("CrossAttnUpBlock3D", "UpBlock3D", "UpBlock3D"), [24, 16, 8]),
    (("UpBlock3D", "UpBlock3D", "UpBlock3D"), [24, 16, 8]),
])  # fmt: skip
def test_the_mask_decoder_reads_the_up_blocks_from_the_first_with_attention_on(kinds, channels):
    levels = {"block_out_channels": (8, 16, 24), "down_block_types": ("CrossAttnDownBlock3D",) * 3}
    unet = small_unet(**levels, up_block_types=kinds)
    seen = []
    unet.mask_decoder.register_forward_pre_hook(lambda module, args: seen.extend(args[0]))
    _, mask = unet(**inputs(unet, height=7, width=5), return_mask=True)
    assert [feature.shape[1] for feature in seen] == channels
    assert seen[-1].shape[-2:] == mask.shape[-2:] == (7, 5)


def test_a_gate_needs_the_mask_decoder_in_every_pass():
    unet = small_unet(**GATED)
    counts = count_calls(unet.mask_decoder)
    alone = unet(**inputs(unet))
    assert counts == [1]
    assert torch.equal(unet(**inputs(unet), return_mask=True)[0], alone)
    assert counts == [2]


# Gradients


def gradients(unet, given):
    """Gradients of every parameter and of the text, and the bytes that the forward pass kept for them."""
    kept = {}

    def pack(x):
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    given = {**given, "text": given["text"].clone().requires_grad_()}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        prediction, mask = unet(**given, return_mask=True)
        size = sum(kept.values())
    (prediction.square().mean() + mask.mean()).backward()
    found = {name: p.grad for name, p in unet.named_parameters()} | {"text": given["text"].grad}
    assert all(g is not None and g.any() for g in found.values())
    unet.zero_grad()
    return found, size


@pytest.mark.parametrize("options", [{}, EVERYTHING])
def test_gradient_checkpointing_gives_the_same_gradients_and_keeps_less(options):
    unet = small_unet(layers_per_block=2, **options).train()
    given = inputs(unet, batch=2, height=16, width=16)
    expected, size = gradients(unet, given)
    unet.gradient_checkpointing = True
    got, small_size = gradients(unet, given)
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, atol=1e-6, rtol=1e-4, msg=lambda text: f"{name}: {text}")
    assert small_size < 0.6 * size


def test_gradient_checkpointing_recomputes_in_training_only(monkeypatch):
    unet = small_unet()
    unet.gradient_checkpointing = True
    resnet = unet.mid_block.resnets[0]
    counts = count_calls(resnet.conv1)
    unet(**inputs(unet)).sum().backward()
    assert counts == [1]
    unet.train()
    unet(**inputs(unet)).sum().backward()
    assert counts == [3]


# Any size, any timestep


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("height, width", [(5, 7), (1, 1), (1, 6), (8, 3), (9, 2)])
def test_sizes_need_not_be_multiples_of_anything(frames, height, width):
    three_levels = {
        "block_out_channels": (8, 16, 16),
        "down_block_types": ("CrossAttnDownBlock3D",) * 2 + ("DownBlock3D",),
        "up_block_types": ("UpBlock3D",) + ("CrossAttnUpBlock3D",) * 2,
    }
    unet = small_unet(**three_levels, **GATED)
    given = inputs(unet, 2, frames, height, width)
    prediction, mask = unet(**given, return_mask=True)
    assert prediction.shape == given["noisy"].shape and prediction.isfinite().all()
    assert mask.shape == (2, 1, frames, 2 * height, 2 * width) and mask.isfinite().all()


@pytest.mark.parametrize(
    "timestep", [17, 17.0, torch.tensor(17), torch.tensor(17.0), torch.tensor([17]), torch.tensor([17, 17])]
)
def test_a_timestep_may_be_a_number_or_a_tensor(timestep):
    unet = small_unet()
    given = inputs(unet, batch=2)
    expected = unet(**given | {"timestep": torch.tensor([17, 17])})
    assert torch.equal(unet(**given | {"timestep": timestep}), expected)


def test_timesteps_between_whole_numbers_count():
    unet = small_unet()
    first, between, second = (unet(**inputs(unet) | {"timestep": t}) for t in (2, 2.5, 3))
    assert not torch.equal(first, between) and not torch.equal(between, second)


def test_timesteps_are_embedded_as_cosines_then_sines():
    got = sinusoid(torch.tensor([0, 1, 999]), 4)
    angles = torch.tensor([[0.0, 0.0], [1.0, 0.01], [999.0, 9.99]])
    close(got, torch.cat([angles.cos(), angles.sin()], dim=1), 1e-5)


# Conditions


@pytest.mark.parametrize("options", VARIANTS)
def test_no_condition_is_a_condition_of_zeros(options):
    unet = small_unet(**options)
    given = inputs(unet)
    zeros = unet(**given | {"condition": torch.zeros_like(given["noisy"])})
    assert torch.equal(unet(**given | {"condition": None}), zeros)
    assert not torch.equal(unet(**given), zeros)


def test_a_fresh_network_does_not_see_an_added_condition():
    unet = InflatedUNet(small_config()).eval()
    given = inputs(unet)
    assert torch.equal(unet(**given), unet(**given | {"condition": None}))


def test_pooled_text_is_the_mean_over_the_words_in_the_time_embedding():
    unet = small_unet(pooled_text=True)
    given, seen = inputs(unet, batch=2), []
    unet.text_embedding.register_forward_hook(lambda module, args, out: seen.append(args[0]) or torch.zeros_like(out))
    got = unet(**given)
    assert torch.equal(seen[0], given["text"].mean(dim=1))
    plain = small_unet()
    plain.load_state_dict({name: p for name, p in unet.state_dict().items() if not name.startswith("text_embedding")})
    close(got, plain(**given), 1e-5)


@pytest.mark.parametrize("kind", ["default", "scale_shift"])
def test_the_time_embedding_is_added_or_scales_and_shifts(kind):
    config = small_config(resnet_time_scale_shift=kind)
    torch.manual_seed(0)
    block = ResnetBlock(8, 16, config, nn, {})
    x, time = torch.randn(6, 8, 5, 4), torch.randn(2, 32)
    h = block.conv1(F.silu(clip_norm(block.norm1, x, 3)))
    projected = block.time_emb_proj(F.silu(time))[:, :, None, None].repeat_interleave(3, 0)
    if kind == "default":
        h = clip_norm(block.norm2, h + projected, 3)
    else:
        h = clip_norm(block.norm2, h, 3) * (1 + projected[:, :16]) + projected[:, 16:]
    close(block(x, time, 3), block.conv_shortcut(x) + block.conv2(F.silu(h)), 1e-5)


# Clips and frames


@pytest.mark.parametrize("options", VARIANTS)
def test_a_batch_of_clips_equals_the_clips_one_by_one(options):
    unet = small_unet(**options)
    given = inputs(unet, batch=3)
    wants_mask = unet.config.has_mask_decoder
    together = unet(**given, return_mask=wants_mask)
    singles = [unet(**{k: v[i : i + 1] for k, v in given.items()}, return_mask=wants_mask) for i in range(3)]
    if wants_mask:
        close(together[1], torch.cat([mask for _, mask in singles]))
        together, singles = together[0], [prediction for prediction, _ in singles]
    close(together, torch.cat(singles))


def test_group_norms_take_their_statistics_over_the_clip():
    norm, x = nn.GroupNorm(2, 4), torch.randn(6, 4, 5, 3)
    clip = x[3:].reshape(3, 2, 2, 5, 3)  # the second clip's frames, groups, channels of a group
    mean, variance = clip.mean((0, 2, 3, 4), keepdim=True), clip.var((0, 2, 3, 4), keepdim=True, correction=0)
    expected = ((clip - mean) / (variance + norm.eps).sqrt()).reshape(3, 4, 5, 3)
    close(clip_norm(norm, x, 3)[3:], expected, 1e-5)
    assert torch.equal(clip_norm(norm, x, 1), norm(x))


def other_frame_changes(module, x, *args):
    """Whether frame 0 of `module(x, ...)` depends on frame 2."""
    changed = x.clone()
    changed[2] += 1
    first, second = (module(value, *args)[0] for value in (x, changed))
    return not torch.equal(first[0], second[0])


def test_temporal_attention_starts_as_nothing_and_then_joins_the_frames():
    torch.manual_seed(0)
    block = TransformerBlock(8, small_config(), False, nn, scaled_dot_product, {})
    arguments = (torch.randn(3, 6, 8), torch.randn(1, 5, 12), 3, None)
    assert not other_frame_changes(block, *arguments)
    nn.init.normal_(block.attn_temp.to_out[0].weight)
    assert other_frame_changes(block, *arguments)


def test_without_temporal_attention_frames_meet_in_the_group_norms_alone(monkeypatch):
    fresh = InflatedUNet(small_config()).eval()
    without = InflatedUNet(small_config(temp_attn=False)).eval()
    without.load_state_dict(fresh.state_dict(), strict=False)
    given = inputs(fresh)
    assert torch.equal(fresh(**given), without(**given))

    changed = {**given, "noisy": given["noisy"].clone()}
    changed["noisy"][:, :, 2] += torch.randn(6, 4)
    assert not torch.equal(without(**given)[:, :, 0], without(**changed)[:, :, 0])
    for name in ("blocks", "unet"):
        monkeypatch.setattr(f"lgvi_core.models.{name}.clip_norm", lambda norm, x, frames: norm(x))
    assert torch.equal(without(**given)[:, :, 0], without(**changed)[:, :, 0])
    assert not torch.equal(without(**given)[:, :, 2], without(**changed)[:, :, 2])


# The cache


@pytest.mark.parametrize("options", VARIANTS)
def test_a_cache_gives_the_same_numbers_over_several_steps(options):
    unet = small_unet(**options)
    given, cache = inputs(unet, batch=2), {}
    for step in (900, 500, 100):
        given |= {"noisy": given["noisy"] + 0.1, "timestep": step}
        assert torch.equal(unet(**given, cache=cache), unet(**given))


def test_what_depends_on_text_and_condition_alone_is_computed_once():
    unet = small_unet()
    blocks = [module for module in unet.modules() if isinstance(module, TransformerBlock)]
    once = count_calls(unet.condition_conv_in, *(layer for b in blocks for layer in (b.attn2.to_k, b.attn2.to_v)))
    always = count_calls(*(layer for b in blocks for layer in (b.attn2.to_q, b.attn1.to_k, b.attn_temp.to_v)))
    cache = {}
    for step in (900, 500, 100):
        unet(**inputs(unet) | {"timestep": step}, cache=cache)
    assert len(blocks) == 4
    assert set(once) == {1} and set(always) == {3}


def test_text_that_changes_with_the_picture_is_not_kept():
    unet = small_unet(lan_cross_attn=True)
    blocks = [module for module in unet.modules() if isinstance(module, TransformerBlock)]
    counts = count_calls(*(block.attn2.to_k for block in blocks))
    cache = {}
    for _ in range(3):
        unet(**inputs(unet), cache=cache)
    assert counts == [1 if block.lan_cross_attn is None else 3 for block in blocks]
    assert sorted(counts) == [1, 3, 3, 3]


# The gate


def test_with_the_gate_shut_the_prediction_is_the_condition():
    unet = small_unet(**GATED)
    fill(unet.mask_decoder.final_conv, OFF)
    fill(unet.gate_conv_out, OFF)
    given = inputs(unet, batch=2)
    prediction, mask = unet(**given, return_mask=True)
    assert torch.equal(prediction, given["condition"])
    assert not mask.any()
    assert not unet(**given | {"condition": None}).any()


def test_with_the_gate_open_the_prediction_is_the_ungated_one():
    unet = small_unet(**GATED)
    fill(unet.mask_decoder.final_conv, ON)
    fill(unet.gate_conv_out, ON)
    ungated = small_unet(**PIXELS)
    ungated.load_state_dict({name: p for name, p in unet.state_dict().items() if not name.startswith("gate")})
    given = inputs(unet, batch=2)
    expected = ungated(**given)
    assert not torch.equal(expected, given["condition"])
    close(unet(**given), expected, 1e-5)


def one_pixel(frames, height, width, at):
    """Logits of a picture twice the latents' size that is on at one pixel of frame 1, as (T, 4, H, W)."""
    picture = torch.full((frames, 1, 2 * height, 2 * width), OFF)
    picture[1, 0, at[0], at[1]] = ON
    return F.pixel_unshuffle(picture, 2)


def changed_pixels(unet, given):
    """Where prediction and condition differ in pixels (T, H, W), and the mask (T, H, W)."""
    prediction, mask = unet(**given, return_mask=True)
    difference = (prediction - given["condition"])[0].transpose(0, 1)
    changed = SpaceToDepthAutoencoder(2).decode(difference) != 0
    assert torch.equal(changed.any(dim=1), changed.all(dim=1))  # three colours together
    return changed[:, 0], mask[0, 0]


@pytest.mark.parametrize("at", [(5, 2), (4, 3), (0, 0), (11, 7)])
def test_a_mask_pixel_gates_the_three_channels_of_its_pixel(at):
    unet = small_unet(**GATED)
    given = inputs(unet)
    fill(unet.mask_decoder.final_conv, 0.0)
    unet.gate_conv_out.register_forward_hook(lambda *_: one_pixel(3, 6, 4, at))
    changed, _ = changed_pixels(unet, given)
    assert changed.nonzero().tolist() == [[1, *at]]


@pytest.mark.parametrize("at, rows, columns", [((5, 2), range(4, 7), range(1, 4)), ((0, 7), range(2), range(6, 8))])
def test_the_gate_opens_a_pixel_beyond_the_mask(at, rows, columns):
    unet = small_unet(**GATED)
    given = inputs(unet)
    fill(unet.gate_conv_out, 0.0)
    unet.mask_decoder.register_forward_hook(lambda *_: one_pixel(3, 6, 4, at))
    changed, mask = changed_pixels(unet, given)
    assert mask.nonzero().tolist() == [[1, *at]]
    assert changed.nonzero().tolist() == [[1, row, column] for row in rows for column in columns]


def test_the_gate_sends_no_gradient_into_the_mask_decoder():
    unet = small_unet(**GATED)
    unet(**inputs(unet)).square().mean().backward()
    assert all(p.grad is None for p in unet.mask_decoder.parameters())
    assert unet.gate_conv_out.weight.grad.any()


@pytest.mark.parametrize("upscale", [1, 2])
def test_grow_is_the_largest_logit_around(upscale):
    picture = torch.randn(2, 1, 6, 4) - 5  # padding with zeros would win
    expected = torch.empty_like(picture)
    for row in range(6):
        for column in range(4):
            near = picture[:, :, max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
            expected[:, :, row, column] = near.amax((2, 3))
    assert torch.equal(F.pixel_shuffle(grow(F.pixel_unshuffle(picture, upscale), upscale), upscale), expected)


# Precision


@pytest.mark.parametrize("options", VARIANTS)
def test_bfloat16_stays_near_float32(options):
    unet, half = small_unet(**options), small_unet(**options).bfloat16()
    assert half.dtype == torch.bfloat16
    given = inputs(unet, batch=2)
    rounded = {name: value if name == "timestep" else value.bfloat16() for name, value in given.items()}
    expected, got = unet(**given), half(**rounded)
    assert got.dtype == torch.bfloat16
    assert (got.float() - expected).norm() < 0.03 * expected.norm()


@pytest.mark.parametrize("autocast", [False, True])
def test_the_mask_is_float32_whatever_the_network_runs_in(autocast):
    unet = small_unet(**EVERYTHING)
    given = inputs(unet)
    expected = unet(**given, return_mask=True)[1]
    if autocast:
        with torch.autocast("cpu", torch.bfloat16):
            mask = unet(**given, return_mask=True)[1]
    else:
        rounded = {name: value if name == "timestep" else value.bfloat16() for name, value in given.items()}
        mask = unet.bfloat16()(**rounded, return_mask=True)[1]
    assert mask.dtype == torch.float32
    close(mask, expected, 0.02)


# Bad input


@pytest.mark.parametrize("changes, message", [
    ({"noisy": torch.zeros(2, 4, 6, 4)}, r"noisy latents are \(2, 4, 6, 4\); expected \(batch, 4, frames"),
    ({"noisy": torch.zeros(2, 5, 3, 6, 4)}, r"noisy latents are \(2, 5, 3, 6, 4\); expected \(batch, 4, frames"),
    ({"condition": torch.zeros(2, 4, 2, 6, 4)}, r"condition is \(2, 4, 2, 6, 4\) but .* \(2, 4, 3, 6, 4\)"),
    ({"condition": torch.zeros(1, 4, 3, 6, 4)}, r"condition is \(1, 4, 3, 6, 4\)"),
    ({"text": torch.zeros(5, 12)}, r"text features are \(5, 12\); expected \(2, 'tokens', 12\)"),
    ({"text": torch.zeros(1, 5, 12)}, r"text features are \(1, 5, 12\)"),
    ({"text": torch.zeros(2, 5, 13)}, r"text features are \(2, 5, 13\)"),
    ({"timestep": torch.zeros(3)}, r"timestep is \(3,\); expected one number, or one for each of the 2 clips"),
    ({"timestep": torch.zeros(2, 1)}, r"timestep is \(2, 1\)"),
    ({"mask": torch.zeros(2, 1, 3, 6, 4)}, "mask and masked_video belong to the inpainting family"),
    ({"masked_video": torch.zeros(2, 4, 3, 6, 4)}, "mask and masked_video belong to the inpainting family"),
])  # fmt: skip
def test_input_that_does_not_fit_is_named(changes, message):
    unet = small_unet()
    with pytest.raises(InputError, match=message):
        unet(**inputs(unet, batch=2) | changes)


def test_a_mask_cannot_be_asked_of_a_network_without_a_mask_decoder():
    unet = small_unet(mask_decoder_type=None)
    with pytest.raises(InputError, match="no mask decoder"):
        unet(**inputs(unet), return_mask=True)


def test_a_noise_ramp_keeps_the_noisy_latents_out_at_the_last_timestep_alone():
    unet = small_unet(noise_ramp=True)
    given = inputs(unet) | {"timestep": torch.tensor(999)}
    other = given | {"noisy": given["noisy"] + 1}
    with torch.no_grad():
        close(unet(**given), unet(**other))
        earlier = {"timestep": torch.tensor(500)}
        assert (unet(**given | earlier) - unet(**other | earlier)).abs().max() > 1e-3


def test_a_noise_ramp_needs_an_added_condition():
    with pytest.raises(InputError, match="noise_ramp"):
        small_config(noise_ramp=True, in_channels=8)


def test_coordinates_run_from_edge_to_edge_and_tell_left_from_right():
    grid = places(2, 4)
    close(grid[0, 0], torch.tensor([-0.75, -0.25, 0.25, 0.75]).expand(2, 4))
    close(grid[0, 1], torch.tensor([[-0.5], [0.5]]).expand(2, 4))
    unet = small_unet(coordinates=True)
    given = inputs(unet)
    with torch.no_grad():
        before = unet(**given)
        nn.init.zeros_(unet.coordinate_conv_in.weight)
        assert (unet(**given) - before).abs().max() > 1e-3
