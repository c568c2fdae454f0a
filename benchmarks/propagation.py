"""What keyframes save, and how an edit fares in a long clip: `python -m benchmarks.propagation [--checkpoint PATH]`.

Prints, in Markdown:

* the arithmetic of editing one frame and a whole clip, at the demo's size and at that of Stable Diffusion 1.5, and what
  N tries cost with each (VIVID, arXiv 2411.15260, section 5.3); with a checkpoint, its seconds on this machine too
* with a checkpoint: drawn clips of 96 frames with a keyframe at the beginning, windows chained and windows blended: how
  far colours drift, how much changes from frame to frame, and what still looks like the keyframe; with --plot as curves
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import long_clips
from benchmarks.long_clips import END, held_out_thing, run
from benchmarks.train import FULL
from lgvi_core import standalone
from lgvi_core.checkpoints import Checkpoint
from lgvi_core.checkpoints.cococo import MOTION, SAMPLING
from lgvi_core.errors import InputError
from lgvi_core.inpaint import FILL_DEMO
from lgvi_core.models import UNetConfig
from lgvi_core.models.autoencoder import autoencoder_from_config
from train import config as configs
from train.evaluation.quiet import only_errors
from train.footprint import cost

DEMO_CONFIG = Path(__file__).parent.parent / "train" / "configs" / "fill-demo.yaml"
TRIES = (1, 3, 10)
PAPER = {"frame": 1.5e15, "clip": 17.1e15}  # VIVID, section 5.3
REPEATS = 5
UNITS = {"PFLOP": 1e15, "TFLOP": 1e12, "GFLOP": 1e9}


@dataclass(frozen=True)
class Job:
    """A model and what it samples: clips of `frames` at `pixels` a side, text of `tokens`."""

    name: str
    unet: UNetConfig
    autoencoder: dict
    frames: int
    pixels: int
    tokens: int
    steps: int
    passes: int  # of a step

    def operations(self, frames: int) -> int:
        """Floating-point operations of editing so many frames as one window, without the text encoder's."""
        with torch.device("meta"):
            autoencoder = autoencoder_from_config(self.autoencoder)
            picture = torch.empty(1, 3, self.pixels, self.pixels)
        side = self.pixels // autoencoder.factor
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            autoencoder.decode(autoencoder.moments(picture)[0])
        found = cost(self.unet, (1, frames, side, side), self.tokens, "fp32", False, False, set())
        return self.steps * self.passes * found.operations + frames * counter.get_total_flops()


def jobs() -> list[Job]:
    """The demo's model, from its config, and CoCoCo's at Stable Diffusion 1.5 size, as published."""
    demo = configs.load(DEMO_CONFIG)
    shape = UNetConfig.from_public({**demo.unet, "cross_attention_dim": demo.text_encoder["hidden_size"]})
    passes = 2 if demo.sampling["guidance_scale"] > 1 else 1
    tokens, steps = demo.text_encoder["max_position_embeddings"], demo.sampling["steps"]
    full = UNetConfig(
        in_channels=9, motion_attention=MOTION, temp_attn=False, mask_decoder_type=None, frame_norm=True
    )
    kl = FULL["autoencoder"]
    return [
        *(Job(f"demo, {t} frames of 64x64", shape, demo.autoencoder, t, 64, tokens, steps, passes) for t in (8, 24)),
        Job("Stable Diffusion 1.5, 16 frames of 512x512", full, kl, 16, 512, 77, SAMPLING["steps"], 2),
    ]


def costs() -> list[dict]:
    """Operations of one frame and of a clip, for each of `jobs` and in the paper."""
    rows = [{"model": job.name, "frame": job.operations(1), "clip": job.operations(job.frames)} for job in jobs()]
    return [*rows, {"model": "VIVID's paper, on CogVideoX 5B", **PAPER}]


def saving(frame: float, clip: float, tries: int) -> float:
    """What whole clips cost as often as what keyframes do, each edited so many times until it is right."""
    return tries * clip / (tries * frame + clip)


def cost_table(rows: list[dict], shown: Callable[[float], str]) -> str:
    """`rows` of what a frame and a clip cost, and what tries do with each, in Markdown."""
    heads = ["", "one frame", "the clip", "clip : frame"]
    heads += [f"{n} {'try' if n == 1 else 'tries'}, direct : by keyframe" for n in TRIES]
    lines = ["|" + "|".join(heads) + "|", "|---" * len(heads) + "|"]
    for row in rows:
        cells = [shown(row["frame"]), shown(row["clip"]), f"{row['clip'] / row['frame']:.1f}"]
        cells += [f"{saving(row['frame'], row['clip'], n):.2f}" for n in TRIES]
        lines.append("|" + "|".join([row["model"], *cells]) + "|")
    return "\n".join(lines)


def in_flop(value: float) -> str:
    unit = next(unit for unit, size in UNITS.items() if value >= size or size == min(UNITS.values()))
    return f"{value / UNITS[unit]:.3g} {unit}"


def in_seconds(value: float) -> str:
    return f"{value:.3g} s"


def timed(checkpoint: Checkpoint, device: str, frames: int) -> list[dict]:
    """Seconds (of the processor, where it does the work) of one frame, of a clip, and of a clip with a keyframe."""
    clip = held_out_thing(0, frames)
    whole = {"window": frames, "overlap": 0}
    ways = {
        "frame": lambda: run(clip.frames[:1], clip.mask[:1], checkpoint, device),
        "clip": lambda: run(clip.frames, clip.mask, checkpoint, device, **whole),
        "with": lambda: run(clip.frames, clip.mask, checkpoint, device, keyframes={0: clip.clean[0]}, **whole),
    }
    seconds = {name: [] for name in ways}
    for _ in range(1 + REPEATS):
        for name, way in ways.items():
            seconds[name].append(_seconds(way, device))
    found = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    name = f"{frames} frames of 64x64"
    return [
        {"model": f"{name}, edited directly", "frame": found["frame"], "clip": found["clip"]},
        {"model": f"{name}, from a keyframe", "frame": found["frame"], "clip": found["with"]},
    ]


def _seconds(way: Callable, device: str) -> float:
    clock = time.perf_counter if device.startswith("cuda") else time.process_time
    began = clock()
    way()  # what comes back is on the CPU: all is done
    return clock() - began


@only_errors()
def main(arguments: list[str] | None = None) -> int:
    """Count, measure and print; returns the exit code, 2 for input that cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.propagation", description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, metavar="PATH", help="one that fills; default: the demo's, if any")
    parser.add_argument("--device", help="default: cuda where there is one, else cpu")
    parser.add_argument("--clips", type=int, default=8, help="long clips (8)")
    parser.add_argument("--frames", type=int, default=96, help="frames of a long clip (96)")
    parser.add_argument("--window", type=int, default=8, help="frames of a window (8)")
    parser.add_argument("--overlap", type=int, default=2, help="frames that guide or are blended (2)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write the drift of long clips as a picture")
    options = parser.parse_args(arguments)
    path = options.checkpoint or (FILL_DEMO if FILL_DEMO.exists() else None)
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        if options.clips < 1 or options.frames < END:
            raise InputError(f"--clips is {options.clips}, --frames {options.frames}; give at least 1 and {END}")
        checkpoint = None if path is None else standalone.load(path, device, None, fills=True)
        print("What an edit costs. Direct: N whole clips; by keyframe: N frames and one clip\n")
        print(cost_table(costs(), in_flop), flush=True)
        if checkpoint is None:
            print("\nSeconds and long clips are left out: no demo checkpoint fills; give --checkpoint PATH")
            return 0
        where = "of one GPU" if device.startswith("cuda") else f"of the processor, {torch.get_num_threads()} threads"
        print(f"\nThe same in seconds {where}, {path.name}\n")
        print(cost_table([row for t in (8, 24) for row in timed(checkpoint, device, t)], in_seconds), flush=True)
        windows = {"window": options.window, "overlap": options.overlap}
        rows = long_clips.measure(checkpoint, device, options.clips, options.frames, windows)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    shared = f"windows of {options.window}, of which {options.overlap} are shared"
    print(f"\n{options.clips} drawn clips of {options.frames} frames, {shared}\n\n{long_clips.table(rows)}")
    if options.plot:
        long_clips.draw(rows, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
