"""Speed and memory of training, in Markdown: `python -m benchmarks.train [--quick] [--device cpu] [--output FILE.md]`.

* batch sizes, with and without gradient checkpointing
* one batch as one pass, or accumulated over several
* latents cached or encoded anew
* where the time of a step goes: data, encode, forward, backward, optimiser, average

On a CPU the demo config's networks at 64x64; on CUDA LGVI at Stable Diffusion 1.5 size, 512x320, random weights, bf16.
Every row is a process of its own, so that peaks of memory are its own; times are medians over steps.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import logging
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import torch
from PIL import Image

from benchmarks.run import DEMO_CONFIG, MIB, machine, peak_resident
from lgvi_core.errors import InputError
from train import config as configs
from train import optimizer as optimizers
from train.config import Batches, TrainConfig
from train.data import mixing
from train.data.synthetic import draw
from train.loop import accelerated
from train.model import build
from train.objectives import Objective

STAGES = ("data", "encode", "forward", "backward", "optimiser", "average")
FULL = {  # LGVI at Stable Diffusion 1.5 size, from nothing
    "output": "unused",
    "steps": 1000,
    "precision": "bf16",
    "unet": {"cross_attention_dim": 768},
    "text_encoder": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 77,
        "projection_dim": 768,
    },
    "autoencoder": {
        "kind": "autoencoder_kl",
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "layers_per_block": 2,
        "latent_channels": 4,
        "sample_size": 512,
        "scaling_factor": 0.18215,
    },
    "scheduler": {"_class_name": "DDIMScheduler", "beta_start": 0.00085, "beta_end": 0.012}
    | {"beta_schedule": "scaled_linear", "prediction_type": "epsilon"},
    "batches": [{"frames": 1, "size": 1}],
}
SMALL_AUTOENCODER = {  # a learnt one, where the demo's has no weights
    **FULL["autoencoder"],
    "block_out_channels": [32, 64],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "latent_channels": 12,
    "sample_size": 64,
    "layers_per_block": 1,
}


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; returns the exit code, 2 for input that cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rows and steps")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    parser.add_argument("--output", type=Path, metavar="FILE.md", help="write the tables too")
    options = parser.parse_args(arguments)
    lines = []

    def show(text: str):
        print(text, flush=True)
        lines.append(text)

    try:
        if options.output and not options.output.absolute().parent.is_dir():
            raise InputError(f"{options.output} cannot be written: there is no folder {options.output.parent}")
        show(", ".join(f"{name}: {value}" for name, value in machine().items()) + "\n")
        with tempfile.TemporaryDirectory() as folder:
            for text in benchmark(options.device, options.quick, Path(folder)):
                show(text)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.output:
        options.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


# What is measured


def benchmark(device: str, quick: bool, folder: Path):
    """Yields the tables as text, each as soon as it is there."""
    subject, batches, longest, accumulated = _subject(device, quick)
    steps = 3 if quick else 8
    plain = []
    for batch in batches:
        for checkpointing in (False, True):
            config = dataclasses.replace(subject, batches=(batch,), gradient_checkpointing=checkpointing)
            row = {"batch": described(batch), "gradient checkpointing": "on" if checkpointing else "off"}
            plain.append((row, isolated(config, device, steps)))
    yield table("Batch sizes", [row | cost(found) for row, found in plain])

    rows = []
    for micro in accumulated:
        config = dataclasses.replace(subject, batches=(dataclasses.replace(longest, micro=micro),))
        passes = {"batch": described(longest), "passes": str(longest.size // micro)}
        rows.append(passes | cost(isolated(config, device, steps)))
    yield table("Accumulation", rows)

    rows = []
    batch = dataclasses.replace(longest, data="disk", sampling="first", size=accumulated[0])  # the same at every step
    data = {"synthetic": {"kind": "synthetic"}, "disk": {"kind": "triplets", "root": str(written(folder, batch))}}
    autoencoder = subject.autoencoder if device == "cuda" else SMALL_AUTOENCODER
    for cache in (None, str(folder / "cache")):
        config = dataclasses.replace(subject, data=data, batches=(batch,), cache=cache, autoencoder=autoencoder)
        found = isolated(config, device, steps)
        rows.append({"batch": described(batch), "latents": "cached" if cache else "encoded"} | cost(found))
        plain.append(({"batch": f"{described(batch)}, latents {rows[-1]['latents']}"}, found))
    yield table("Latents of clips on disk, by a learnt autoencoder", rows)

    rows = [
        {"batch": row["batch"]} | shares(found) for row, found in plain if row.get("gradient checkpointing") != "on"
    ]
    yield table("Where the time of a step goes, the data drawn or read in the same process", rows)


def _subject(device: str, quick: bool) -> tuple[TrainConfig, list[Batches], Batches, list[int]]:
    """The config, the batches to compare, the one to accumulate, and the sizes of its passes."""
    if device == "cuda":
        size = {"width": 512, "height": 320}
        subject = configs.build(TrainConfig, {**FULL, "tokenizer_sentences": 200})
        batches = [Batches(1, 4, **size), Batches(1, 16, **size), Batches(24, 1, **size), Batches(24, 2, **size)]
        longest = Batches(24, 4, **size)
        return subject, batches[::2] if quick else batches, longest, [1, 4] if quick else [1, 2, 4]
    subject = configs.load(DEMO_CONFIG, ["tokenizer_sentences=200", "recognition.blocks=[]"])
    batches = [Batches(1, 8), Batches(1, 16), Batches(1, 32), Batches(8, 2), Batches(8, 4), Batches(24, 2)]
    return subject, [batches[1], batches[4]] if quick else batches, Batches(8, 4), [1, 4] if quick else [1, 2, 4]


def written(folder: Path, batch: Batches) -> Path:
    """A dataset of triplets on disk, with as many clips as a batch has."""
    root = folder / "clips"
    lines = []
    for i in range(batch.size):
        clip = draw(0, i, batch.frames, batch.height, batch.width, kind="attributes")
        for part in ("frames", "clean", "mask"):
            (root / f"{i}" / part).mkdir(parents=True)
            for t, frame in enumerate(getattr(clip, part)):
                Image.fromarray(frame).save(root / f"{i}" / part / f"{t:05d}.png")
        lines.append({"video": f"{i}/frames", "mask": f"{i}/mask", "clean": f"{i}/clean", "caption": clip.sentence})
    (root / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


# How it is measured


def isolated(config: TrainConfig, device: str, steps: int) -> dict | None:
    """What `measure` finds in a process of its own; None where memory does not suffice."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(measure, config, device, steps).result()
        except (torch.OutOfMemoryError, BrokenProcessPool):
            return None


def measure(config: TrainConfig, device: str, steps: int) -> dict:
    """Median seconds of the stages of a step, samples of a step, and peaks of memory in MiB; one step comes first."""
    logging.disable(logging.WARNING)
    config = dataclasses.replace(config, workers=0, steps=steps + 1)
    with accelerated(config, "cpu" if device == "cpu" else None) as accelerator:
        parts = build(config)
        for frozen in (parts.autoencoder, parts.model.text_encoder):
            frozen.to(accelerator.device)
        objective, watch = Objective(config, parts, accelerator.device), Stopwatch(accelerator.device)
        objective.cache.latents = watch.around("encode", objective.cache.latents)
        groups = optimizers.parameter_groups(parts.model, config.optimizer)
        optimizer = optimizers.make_optimizer(groups, config.optimizer, fused=True)
        model, optimizer = accelerator.prepare(parts.model.train(), optimizer)
        average = optimizers.EMA(model.parameters(), config.ema_decay)
        batches = watch.each("data", mixing.loader(config, 0))
        for batch in batches:
            with watch.stage("forward"):
                losses = objective(model, batch, config.seed, batch["step"])
            with watch.stage("backward"):
                accelerator.backward(losses.total * batch["share"])
            if not batch["last"]:
                continue
            with watch.stage("optimiser"):
                accelerator.clip_grad_norm_(model.parameters(), config.optimizer.gradient_clip)
                optimizer.step()
                optimizer.zero_grad()
            with watch.stage("average"):
                average.update(batch["step"] + 1)
            watch.end_step()
        found = {"stages": watch.medians(), "samples": config.batches[0].size, "resident": peak_resident()}
        if accelerator.device.type == "cuda":
            found["device"] = torch.cuda.max_memory_allocated() / MIB
        return found


class Stopwatch:
    """Seconds of each stage in each step; what is timed inside another stage is no part of that."""

    def __init__(self, device: torch.device):
        self.device = device
        self.steps: list[dict[str, float]] = [defaultdict(float)]
        self.inner = 0.0

    @contextlib.contextmanager
    def stage(self, name: str):
        before, self.inner = self.inner, 0.0
        began = self._now()
        yield
        seconds = self._now() - began
        self.steps[-1][name] += seconds - self.inner
        self.inner = before + seconds

    def around(self, name: str, function):
        """`function`, timed."""

        def timed(*arguments):
            with self.stage(name):
                return function(*arguments)

        return timed

    def each(self, name: str, items):
        """The items, the waiting for each timed."""
        items = iter(items)
        while True:
            with self.stage(name):
                item = next(items, None)
            if item is None:
                return
            yield item

    def end_step(self):
        self.steps.append(defaultdict(float))

    def medians(self) -> dict[str, float]:
        """Without the first step, which is slow, and what came after the last."""
        return {name: statistics.median(step[name] for step in self.steps[1:-1]) for name in STAGES}

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


# How it is shown


def described(batch: Batches) -> str:
    clips = (
        f"{batch.size} image{'s' * (batch.size > 1)}" if batch.frames == 1 else f"{batch.size} x {batch.frames} frames"
    )
    return f"{clips}, {batch.width}x{batch.height}"


def cost(found: dict | None) -> dict[str, str]:
    """Columns of speed and memory; dashes where memory did not suffice."""
    if found is None:
        return {"s / step": "out of memory", "samples / s": "–", "peak MiB": "–"}
    seconds = sum(found["stages"].values())
    peak = {"peak MiB": f"{found.get('device', found['resident']):.0f}"}
    return {"s / step": f"{seconds:.3f}", "samples / s": f"{found['samples'] / seconds:.2f}"} | peak


def shares(found: dict | None) -> dict[str, str]:
    """Columns of each stage's share of a step."""
    if found is None:
        return dict.fromkeys(STAGES, "–")
    whole = sum(found["stages"].values())
    return {name: f"{100 * found['stages'][name] / whole:.0f} %" for name in STAGES}


def table(title: str, rows: list[dict[str, str]]) -> str:
    """A Markdown table under a heading; numbers to the right."""
    names = list(rows[0])
    marks = ["---" if i == 0 else "---:" for i in range(len(names))]
    lines = [names, marks, *(row.values() for row in rows)]
    return f"## {title}\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main())
