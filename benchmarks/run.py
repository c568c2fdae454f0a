"""Speed and memory on this machine, in one run: `python -m benchmarks.run [--quick] [--full] [--output FILE.json]`.

Prints a table for each question, and writes them all as JSON where asked:

* a plain matrix product, the yardstick for the rest
* the demo checkpoint's U-Net, and LGVI's at Stable Diffusion 1.5 size on CUDA (or anywhere with --full)
* attention kernels, and what the cache over the steps saves
* guidance: the passes of a step as one batch or one by one
* the whole command on the demo clip

Times are medians over repeats that take turns; ratios are to the first row. On CUDA networks run in float16, on a CPU
in float32.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lgvi_core import checkpoints
from lgvi_core.errors import InputError
from lgvi_core.inpaint import DEMO
from lgvi_core.models import InflatedUNet, UNetConfig
from lgvi_core.models.attention import Attention, explicit_product, scaled_dot_product
from lgvi_core.models.autoencoder import autoencoder_from_config
from lgvi_core.sampling import denoise, make_scheduler

CLIP = DEMO.parent / "clip.mp4"
REQUEST = "remove the red circle on the left"
DEMO_CONFIG = Path(__file__).parent.parent / "train" / "configs" / "demo.yaml"
GUIDANCE, IMAGE_GUIDANCE = 1.5, 1.2
MIB = 2**20


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; returns the exit code, 2 for input that cannot be used."""
    options = _parser().parse_args(arguments)
    runs = 3 if options.quick else 7
    device = "cuda" if torch.cuda.is_available() else "cpu"
    report = {}

    def show(name: str, rows: list[dict], note: str = ""):
        report[name] = rows
        print(f"\n{name}{note and f' ({note})'}", *table(rows), sep="\n", flush=True)

    try:
        path = _checkpoint(options)
        report["machine"] = machine()
        print(*(f"{name}: {value}" for name, value in report["machine"].items()), sep=", ", flush=True)
        yardsticks = matrix_product(device, 1024 if options.quick else 2048, runs)
        show("matrix product", yardsticks)
        with torch.no_grad():
            demo = demo_subject(path, device)
            show("U-Net, a pass", unet_pass(demo, yardsticks, runs), demo.note)
            show("attention, a pass", attention_kernels(demo, runs))
            show("cache over the steps, a pass", cache(demo, runs))
            show("guidance, a step", guidance(demo, path, device, runs))
            if options.full or device == "cuda":
                full = full_subject(device)
                show("full-size U-Net, a pass", unet_pass(full, yardsticks, 3), full.note)
                del full
        if path is None:
            print("\nthe demo clip is left out: there is no checkpoint; train one, or give --checkpoint PATH")
        else:
            show("demo clip, the whole command", demo_clip(path, options.quick), f"{CLIP.name}, start-up included")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.output:
        options.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


# What is measured


@dataclass
class Subject:
    """A network and what it is fed; the text is `tokens` long."""

    name: str
    note: str
    unet: InflatedUNet
    scheduler_config: dict
    tokens: int
    frames: int
    height: int  # latents
    width: int

    def inputs(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Noisy latents, timestep, text and condition, random, where the network is."""
        options = {"device": self.unet.conv_in.weight.device, "dtype": self.unet.dtype}
        config = self.unet.config
        shape = (1, config.out_channels, self.frames, self.height, self.width)
        torch.manual_seed(0)
        text = torch.randn(1, self.tokens, config.cross_attention_dim, **options)
        timestep = torch.tensor(500, device=options["device"])
        return torch.randn(shape, **options), timestep, text, torch.randn(shape, **options)


def demo_subject(path: Path | None, device: str) -> Subject:
    """The checkpoint's U-Net, or where there is none one of the demo config's shape, at 24 frames of 64x64."""
    dtype = torch.float16 if device == "cuda" else torch.float32
    if path is not None:
        checkpoint = checkpoints.load(path, device, dtype)
        unet, factor, tokens = checkpoint.unet, checkpoint.vae.factor, checkpoint.text_encoder.max_length
        scheduler_config, origin = checkpoint.scheduler_config, path.name
    else:
        from train.config import load

        config = load(DEMO_CONFIG)
        shape = {**config.unet, "cross_attention_dim": config.text_encoder["hidden_size"]}
        unet = InflatedUNet(UNetConfig.from_public(shape), dtype=dtype, device=device).eval()
        factor = autoencoder_from_config(config.autoencoder).factor
        tokens = config.text_encoder["max_position_embeddings"]
        scheduler_config, origin = config.scheduler, f"random weights, shape of {DEMO_CONFIG.name}"
    note = f"{origin}, {parameters(unet)}, {str(dtype).removeprefix('torch.')}"
    if unet.config.gate:
        note += "; gated: the mask decoder is part of every pass"
    return Subject("24 frames 64x64", note, unet, scheduler_config, tokens, 24, 64 // factor, 64 // factor)


def full_subject(device: str) -> Subject:
    """LGVI at Stable Diffusion 1.5 size, random weights; a CPU gets a clip that it can carry."""
    dtype, frames, width, height = torch.float32, 2, 256, 160
    if device == "cuda":
        dtype, frames, width, height = torch.float16, 24, 512, 320
    unet = InflatedUNet(UNetConfig(), dtype=dtype, device=device).eval()
    note = f"random weights, {parameters(unet)}, {str(dtype).removeprefix('torch.')}"
    name, scheduler_config = f"{frames} frames {width}x{height}", checkpoints.SCHEDULER
    return Subject(name, note, unet, scheduler_config, 77, frames, height // 8, width // 8)


def matrix_product(device: str, size: int, runs: int) -> list[dict]:
    """GFLOP/s of square products: float32, and on CUDA float16 too."""
    dtypes = {"float32": torch.float32}
    if device == "cuda":
        size, dtypes = 4 * size, dtypes | {"float16": torch.float16}
    rows = []
    for name, dtype in dtypes.items():
        a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        seconds = in_turn(runs, {name: lambda: a @ b})[name]
        rows.append({"dtype": name, "size": f"{size}^3", "seconds": seconds, "GFLOP/s": 2 * size**3 / seconds / 1e9})
    return rows


def unet_pass(subject: Subject, yardsticks: list[dict], runs: int) -> list[dict]:
    """Seconds and GFLOP/s without and with the mask, beside the matrix product in the same dtype."""
    unet, given = subject.unet, subject.inputs()
    dtype = str(unet.dtype).removeprefix("torch.")
    yardstick = next(row["GFLOP/s"] for row in yardsticks if row["dtype"] == dtype)
    wanted = {"prediction": False, "prediction and mask": True} if unet.mask_decoder else {"prediction": False}
    ways = {name: lambda mask=mask: unet(*given, return_mask=mask) for name, mask in wanted.items()}
    rows = []
    for name, seconds in in_turn(runs, ways).items():
        gflop = count_gflop(subject, wanted[name])
        rate = gflop / seconds
        row = {"clip": subject.name, "output": name, "seconds": seconds, "GFLOP": gflop, "GFLOP/s": rate}
        rows.append(row | {"of the product's": rate / yardstick})
    return with_ratio(rows)


def attention_kernels(subject: Subject, runs: int) -> list[dict]:
    """A pass with each attention function of the engine."""
    layers = [module for module in subject.unet.modules() if isinstance(module, Attention)]
    before, given = layers[0].attention, subject.inputs()

    def run(attention):
        for layer in layers:
            layer.attention = attention
        subject.unet(*given)

    kernels = (scaled_dot_product, explicit_product)
    times = in_turn(runs, {kernel.__name__: lambda kernel=kernel: run(kernel) for kernel in kernels})
    for layer in layers:
        layer.attention = before
    return with_ratio([{"attention": name, "seconds": seconds} for name, seconds in times.items()])


def cache(subject: Subject, runs: int) -> list[dict]:
    """A pass that computes everything, and one that finds text keys and the condition's convolution in the cache."""
    given, kept = subject.inputs(), {}
    ways = {"off": lambda: subject.unet(*given), "on": lambda: subject.unet(*given, cache=kept)}
    return with_ratio([{"cache": name, "seconds": seconds} for name, seconds in in_turn(runs, ways).items()])


def guidance(subject: Subject, path: Path | None, device: str, runs: int) -> list[dict]:
    """Three passes one by one and as one batch: seconds in turn, and peak memory in a process each."""
    ways = {"one by one": False, "one batch": True}
    times = in_turn(runs, {name: lambda batch=batch: guided_step(subject, batch) for name, batch in ways.items()})
    idle = isolated(_guided_step_of, path, device, None)
    rows = []
    for name, batch in ways.items():
        memory = isolated(_guided_step_of, path, device, batch)
        row = {"three passes": name, "seconds": times[name]}
        for kind in ("resident", "device"):
            if kind in memory:
                row |= {f"peak {kind} MiB": memory[kind], f"{kind} MiB of the step": memory[kind] - idle[kind]}
        rows.append(row)
    return with_ratio(rows)


def guided_step(subject: Subject, batch: bool) -> None:
    """One step of the sampler with three passes."""
    noisy, _, text, condition = subject.inputs()
    scheduler = make_scheduler("ddim", subject.scheduler_config)
    scales = {"guidance_scale": GUIDANCE, "image_guidance_scale": IMAGE_GUIDANCE}
    denoise(subject.unet, noisy, text, 0 * text, condition, scheduler, 1, **scales, batch_passes=batch)


def _guided_step_of(path: Path | None, device: str, batch: bool | None) -> None:
    with torch.no_grad():
        subject = demo_subject(path, device)
        if batch is not None:
            guided_step(subject, batch)


def demo_clip(path: Path, quick: bool) -> list[dict]:
    """The command on the demo's clip: with guidance off, and with three passes a step one by one and as one batch."""
    scales = ["--guidance", str(GUIDANCE), "--image-guidance", str(IMAGE_GUIDANCE)]
    ways = {
        "off": ["--guidance", "1", "--image-guidance", "1"],
        f"{GUIDANCE} / {IMAGE_GUIDANCE}, one by one": [*scales, "--no-batch-passes"],
        f"{GUIDANCE} / {IMAGE_GUIDANCE}, one batch": [*scales, "--batch-passes"],
    }
    if quick:
        ways = {"off": ways["off"]}
    measured = {name: [] for name in ways}
    for _ in range(1 if quick else 3):
        for name, arguments in ways.items():
            measured[name].append(isolated(_remove, path, arguments))
    rows = []
    for name, results in measured.items():
        row = {"guidance": name, "seconds": statistics.median(one["seconds"] for one in results)}
        kinds = [kind for kind in ("resident", "device") if kind in results[0]]
        rows.append(row | {f"peak {kind} MiB": statistics.median(one[kind] for one in results) for kind in kinds})
    return with_ratio(rows)


def _remove(path: Path, arguments: list[str]) -> None:
    from lgvi_core.__main__ import main as command

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        output = str(Path(folder) / "removed.mp4")
        code = command(["remove", str(CLIP), REQUEST, "-o", output, "--checkpoint", str(path), "--quiet", *arguments])
    if code:
        raise InputError(f"the command left with exit code {code}")


# How it is measured


def in_turn(runs: int, functions: dict[str, Callable]) -> dict[str, float]:
    """Median seconds of each function over `runs` rounds, after a round that does not count."""
    seconds = {name: [] for name in functions}
    for _ in range(1 + runs):
        for name, function in functions.items():
            _wait_for_device()
            began = time.perf_counter()
            function()
            _wait_for_device()
            seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(times[1:]) for name, times in seconds.items()}


def _wait_for_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def isolated(function: Callable, *arguments) -> dict[str, float]:
    """Runs a function in a process of its own: seconds from its start, peak `resident` and, on CUDA, `device` MiB."""
    began = time.perf_counter()
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        memory = pool.submit(_peak_of, function, *arguments).result()
    return {"seconds": time.perf_counter() - began, **memory}


def _peak_of(function: Callable, *arguments) -> dict[str, float]:
    function(*arguments)
    peak = {"resident": peak_resident()}
    return peak | {"device": torch.cuda.max_memory_allocated() / MIB} if torch.cuda.is_available() else peak


def peak_resident() -> float:
    """MiB that this process had in memory at most.

    Linux's own count where there is one: getrusage's begins with what the parent process had when it forked.
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (MIB if sys.platform == "darwin" else 1024)


def count_gflop(subject: Subject, mask: bool) -> float:
    """GFLOP of a pass, counted without computing it; a product and a sum are two."""
    with torch.device("meta"):
        unet = InflatedUNet(subject.unet.config, attention=explicit_product)
        given = [torch.empty_like(x, device="meta", dtype=torch.float32) for x in subject.inputs()]
    with FlopCounterMode(display=False) as counter:
        unet(*given, return_mask=mask)
    return counter.get_total_flops() / 1e9


def machine() -> dict:
    """What the figures depend on."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    found = {"processor": name, "threads": f"{torch.get_num_threads()} of {os.cpu_count()}", "torch": torch.__version__}
    if torch.cuda.is_available():
        found |= {"device": torch.cuda.get_device_name(), "CUDA": torch.version.cuda}
    return found


# How it is shown


def parameters(unet: InflatedUNet) -> str:
    return f"{sum(p.numel() for p in unet.parameters()) / 1e6:.1f} M parameters"


def with_ratio(rows: list[dict]) -> list[dict]:
    """Rows with the ratio to the first row's beside each time and each peak of memory."""

    def extended(row):
        for name, value in row.items():
            yield name, value
            if name == "seconds" or name.startswith("peak"):
                yield f"{name.removesuffix(' MiB')} ratio", value / rows[0][name]

    return [dict(extended(row)) for row in rows]


def table(rows: list[dict]) -> list[str]:
    """Rows of equal keys as lines of text, numbers to the right."""
    cells = [list(rows[0])] + [[_short(value) for value in row.values()] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    left = [isinstance(value, str) for value in rows[0].values()]
    return [
        "  " + "  ".join(text.ljust(w) if to_left else text.rjust(w) for text, w, to_left in zip(row, widths, left))
        for row in cells
    ]


def _short(value: str | float) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def _checkpoint(options) -> Path | None:
    """The checkpoint to measure, None where none is given and none is shipped."""
    if options.output and not options.output.absolute().parent.is_dir():
        raise InputError(f"{options.output} cannot be written: there is no folder {options.output.parent}")
    path = options.checkpoint or (DEMO if DEMO.exists() else None)
    if path is None:
        return None
    summary = checkpoints.inspect(path)
    if summary.autoencoder is None or "text_encoder" not in summary.parts:
        raise InputError(f"{path} has no autoencoder or no text encoder: give a whole checkpoint")
    return path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description="Speed and memory on this machine.")
    parser.add_argument("--checkpoint", type=Path, metavar="PATH", help="instead of the demo checkpoint")
    parser.add_argument("--quick", action="store_true", help="fewer repeats, the clip without guidance only")
    parser.add_argument("--full", action="store_true", help="the full-size U-Net on a CPU too: 2 frames, about 5 GB")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="write all figures")
    return parser


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main())
