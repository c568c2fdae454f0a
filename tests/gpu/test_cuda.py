"""On CUDA: half precision near float32, memory and speed at full size, and the way from frames to frames."""

import json
import statistics

import numpy as np
import pytest
import torch
from torch import nn

from lgvi_core import checkpoints
from lgvi_core.checkpoints import SCHEDULER, Checkpoint
from lgvi_core.inpaint import inpaint
from lgvi_core.models import InflatedUNet, UNetConfig
from lgvi_core.models.attention import explicit_product, scaled_dot_product
from lgvi_core.models.autoencoder import SpaceToDepthAutoencoder
from lgvi_core.models.text_encoder import TextEncoder
from lgvi_core.sampling import denoise, make_scheduler
from train.tokenizer import train_clip_tokenizer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; torch finds none here"),
]
CUDA = torch.device("cuda")
GIB = 2**30
DDIM = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "prediction_type": "sample"}
PIXELS = {"in_channels": 12, "out_channels": 12, "mask_upscale": 2}  # latents of SpaceToDepthAutoencoder(2)
EVERYTHING = {
    **PIXELS,
    "gate": True,
    "lan_cross_attn": True,
    "pooled_text": True,
    "resnet_time_scale_shift": "scale_shift",
}
VARIANTS = pytest.mark.parametrize("options", [{}, {"in_channels": 8}, EVERYTHING], ids=["added", "concat", "all"])
BOUNDS = pytest.mark.parametrize("dtype, bound", [(torch.float16, 0.01), (torch.bfloat16, 0.05)], ids=["fp16", "bf16"])


@pytest.fixture(autouse=True)
def plain_float32():
    """float32 is float32 here, not TF32, and each test starts with the memory that the last one left."""
    modules = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [module.allow_tf32 for module in modules]
    for module in modules:
        module.allow_tf32 = False
    yield
    for module, allowed in zip(modules, before):
        module.allow_tf32 = allowed
    torch.cuda.empty_cache()


def small_unet(**options):
    """Random weights; what starts at zero is made to count."""
    torch.manual_seed(0)
    shape = {
        "block_out_channels": (32, 64),
        "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
        "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
        "layers_per_block": 1,
        "cross_attention_dim": 32,
        "attention_head_dim": 4,
        "norm_num_groups": 8,
        "mask_channels": 32,
        "mask_norm_groups": 8,
    }
    unet = InflatedUNet(UNetConfig(**shape | options)).eval()
    for parameter in unet.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return unet


def random_inputs(config, frames, height, width, device=CUDA, dtype=torch.float32):
    """Latents, text and condition of one clip."""
    torch.manual_seed(1)
    shape = (1, config.out_channels, frames, height, width)
    shapes = (shape, (1, 77, config.cross_attention_dim), shape)
    return [torch.randn(shape, dtype=dtype).to(device) for shape in shapes]


def relative_error(got, expected):
    return ((got.float() - expected).norm() / expected.norm()).item()


# Numbers


@VARIANTS
@torch.no_grad()
def test_float32_gives_the_cpus_numbers(options):
    unet = small_unet(**options)
    noisy, text, condition = random_inputs(unet.config, 5, 12, 10, device="cpu")
    expected = unet(noisy, 500, text, condition, return_mask=True)
    got = unet.to(CUDA)(noisy.to(CUDA), 500, text.to(CUDA), condition.to(CUDA), return_mask=True)
    for ours, theirs in zip(got, expected):
        assert relative_error(ours.cpu(), theirs) < 1e-4


@VARIANTS
@BOUNDS
@torch.no_grad()
def test_a_pass_in_half_precision_is_near_float32(options, dtype, bound):
    unet = small_unet(**options).to(CUDA)
    noisy, text, condition = random_inputs(unet.config, 5, 12, 10)
    prediction, mask = unet(noisy, 500, text, condition, return_mask=True)
    unet.to(dtype)
    half, half_mask = unet(noisy.to(dtype), 500, text.to(dtype), condition.to(dtype), return_mask=True)
    assert half.dtype == dtype and half_mask.dtype == torch.float32
    assert relative_error(half, prediction) < bound
    assert (half_mask - mask).abs().max() < bound


@VARIANTS
@BOUNDS
@pytest.mark.parametrize("batch_passes", [True, False])
def test_denoising_in_half_precision_is_near_float32(options, dtype, bound, batch_passes):
    unet = small_unet(**options).to(CUDA)
    noise, text, condition = random_inputs(unet.config, 5, 12, 10)

    def run():
        given = (noise, text, torch.zeros_like(text), condition, make_scheduler("ddim", DDIM), 4)
        return denoise(unet, *given, mask_steps=2, batch_passes=batch_passes)

    expected = run()
    unet.to(dtype)
    got = run()
    assert got.latents.dtype == got.mask.dtype == torch.float32
    assert relative_error(got.latents, expected.latents) < 2 * bound
    assert (got.mask - expected.mask).abs().max() < 2 * bound


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_attention_of_more_rows_than_a_kernels_grid_has(dtype, tolerance):
    torch.manual_seed(0)
    q, k, v = (torch.randn(70_000, 8, 4 * 16, device=CUDA, dtype=dtype) for _ in range(3))
    expected = explicit_product(q.float(), k.float(), v.float(), 4)
    torch.testing.assert_close(scaled_dot_product(q, k, v, 4).float(), expected, atol=tolerance, rtol=tolerance)


# Memory and speed


def test_when_memory_runs_out_the_passes_go_on_one_by_one(caplog):
    unet = small_unet(block_out_channels=(64, 128)).to(CUDA)
    noise, text, condition = random_inputs(unet.config, 16, 64, 64)
    rows = []
    unet.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))

    def run(batch_passes):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        rows.clear()
        given = (noise, text, torch.zeros_like(text), condition, make_scheduler("ddim", DDIM), 3)
        return denoise(unet, *given, mask_steps=1, batch_passes=batch_passes)

    run(False)  # libraries take their workspaces
    expected = run(False)
    enough = torch.cuda.max_memory_reserved()
    run(True)
    assert rows == [3, 3, 3]
    needed = torch.cuda.max_memory_allocated()
    assert needed > enough + 100 * 2**20, "the batch needs hardly more memory than one pass: nothing to test"

    limit = enough + (needed - enough) / 3
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(limit / torch.cuda.get_device_properties(CUDA).total_memory, CUDA)
    try:
        got = run(None)
        assert rows == [3] + 9 * [1]
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        with pytest.raises(torch.OutOfMemoryError):
            run(True)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, CUDA)
    assert relative_error(got.latents, expected.latents) < 1e-3
    assert (got.mask - expected.mask).abs().max() < 1e-3


@pytest.fixture(scope="module")
def full_size():
    """LGVI at Stable Diffusion 1.5 size in float16, random weights."""
    if torch.cuda.get_device_properties(CUDA).total_memory < 11 * GIB:
        pytest.skip("needs a CUDA device of 11 GiB")
    torch.manual_seed(0)
    unet = InflatedUNet(UNetConfig(), dtype=torch.float16, device=CUDA).eval()
    assert sum(p.numel() for p in unet.parameters()) == 933_619_269
    return unet


@pytest.mark.parametrize("return_mask", [False, True])
@torch.no_grad()
def test_a_full_size_pass_of_24_frames_at_512x320_takes_less_than_6_gib(full_size, record_property, return_mask):
    noisy, text, condition = random_inputs(full_size.config, 24, 40, 64, dtype=torch.float16)
    torch.cuda.reset_peak_memory_stats()
    milliseconds = []
    for _ in range(7):
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        out = full_size(noisy, 500, text, condition, return_mask=return_mask)
        ended.record()
        ended.synchronize()
        milliseconds.append(began.elapsed_time(ended))
    peak, seconds = torch.cuda.max_memory_allocated(), statistics.median(milliseconds[2:]) / 1000
    report(record_property, f"full-size pass, {'with' if return_mask else 'without'} mask", seconds, peak)
    for value in out if return_mask else (out,):
        assert value.isfinite().all()
    assert peak < 6 * GIB


def test_a_full_size_step_of_three_passes_takes_less_than_10_gib(full_size, record_property):
    noise, text, condition = random_inputs(full_size.config, 24, 40, 64)
    peaks, seconds = {}, {}
    for batch_passes in (True, False):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        times = []
        for _ in range(4):
            began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            began.record()
            given = (noise, text, torch.zeros_like(text), condition, make_scheduler("ddim", SCHEDULER), 1)
            out = denoise(full_size, *given, mask_steps=1, batch_passes=batch_passes)
            ended.record()
            ended.synchronize()
            times.append(began.elapsed_time(ended) / 1000)
        assert out.latents.isfinite().all() and out.mask.isfinite().all()
        peaks[batch_passes], seconds[batch_passes] = torch.cuda.max_memory_allocated(), statistics.median(times[1:])
        name = f"full-size step, {'one batch' if batch_passes else 'one by one'}"
        report(record_property, name, seconds[batch_passes], peaks[batch_passes])
    assert peaks[True] < 10 * GIB
    assert peaks[False] < 6 * GIB


def report(record_property, name, seconds, peak):
    """A line in the captured output (`pytest -rP`) and properties in a JUnit report."""
    record_property(f"{name}: seconds", round(seconds, 4))
    record_property(f"{name}: peak GiB", round(peak / GIB, 3))
    print(f"{torch.cuda.get_device_name()}: {name}: {seconds:.4f} s, peak {peak / GIB:.2f} GiB")


# The whole way


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A small float32 checkpoint with every part, random weights."""
    files = train_clip_tokenizer(["remove the red circle", "erase the red square"] * 3, merges=20)
    size = len(json.loads(files["vocab.json"]))
    text_config = {
        "vocab_size": size,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 16,
        "bos_token_id": size - 2,
        "eos_token_id": size - 1,
        "pad_token_id": size - 1,
    }
    unet = small_unet(**PIXELS)
    whole = Checkpoint(
        unet.config,
        unet,
        SpaceToDepthAutoencoder(2),
        TextEncoder(text_config, files).eval(),
        scheduler_config=DDIM,
        training={"width": 32, "height": 24, "frames": 8},
        sampling={"steps": 3, "guidance_scale": 2.0, "image_guidance_scale": 1.5, "scheduler": "ddim"},
    )
    path = tmp_path_factory.mktemp("checkpoint") / "small.safetensors"
    checkpoints.save(whole, path)
    return path


@pytest.fixture
def frames():
    return np.random.default_rng(0).integers(0, 256, (11, 30, 45, 3), dtype=np.uint8)


def test_inpainting_on_cuda_equals_the_cpu(checkpoint, frames):
    settings = {"checkpoint": checkpoint, "dtype": "float32", "window": 8, "overlap": 2}
    box = np.zeros((30, 45), np.float32)
    box[5:20, 10:35] = 1
    cuda, cpu = (inpaint(frames, "remove it", mask=box, device=device, **settings) for device in ("cuda", "cpu"))
    assert (cpu.frames != frames).any()
    assert np.abs(cuda.frames.astype(int) - cpu.frames).max() <= 1
    cuda, cpu = (inpaint(frames, "remove it", device=device, **settings) for device in ("cuda", "cpu"))
    assert (cuda.mask != cpu.mask).mean() < 0.01  # random weights: much of the mask is near the threshold


def test_cuda_in_float16_is_the_default(checkpoint, frames):
    devices, loaded = set(), checkpoints.load(checkpoint, "cuda", torch.float16)
    expected = inpaint(frames, "remove it", checkpoint=loaded)

    def callback(step):
        devices.add(step["latents"].device.type)

    got = inpaint(frames, "remove it", checkpoint=checkpoint, callback=callback)
    assert devices == {"cuda"}
    assert (got.frames != expected.frames).mean() < 0.01
