"""The demo checkpoint on held-out drawn clips, with trivial baselines beside it, all on the same clips.

Everything but "no compositing" is of the result as a user gets it.
"""

from __future__ import annotations

import argparse
import math
import platform
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from lgvi_core import checkpoints, masks
from lgvi_core.inpaint import DEMO, inpaint
from lgvi_core.metrics import removal
from lgvi_core.metrics.ssim import frame_ssim
from lgvi_core.through import Result

from ..data.synthetic import Clip, draw
from .files import write_json
from .methods import telea
from .quiet import only_errors

SEED = 20_240_601  # of the held-out clips; training never sees it
COLUMNS = {
    "correct": ("correct", "%"),
    "damaged": ("another object damaged", "%"),
    "mask_iou": ("mask IoU", ""),
    "psnr_mask": ("PSNR in the mask", "dB"),
    "psnr_frame": ("PSNR of the frame", "dB"),
    "psnr_frame_raw": ("PSNR of the frame, no compositing", "dB"),
    "ssim_frame": ("SSIM of the frame", ""),
    "untouched": ("untouched when nothing matches", "%"),
}


def mean_colour(frames: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The mask filled with the mean colour of what is around it, frame by frame."""
    filled = frames.copy()
    for frame, hole in zip(filled, mask):
        around = masks.dilate(hole[None], 4)[0] & ~hole
        if hole.any() and around.any():
            frame[hole] = frame[around].mean(axis=0).round()
    return filled


def measure(clip: Clip, output: np.ndarray, found: np.ndarray | None = None, raw: np.ndarray | None = None) -> dict:
    """Measures of one result against the truth; `found` is the mask, `raw` the frames before compositing."""
    if not clip.targets:
        return {"untouched": bool((output == clip.frames).all())}
    others = [m for i, m in enumerate(clip.object_masks) if i not in clip.targets and m.any()]
    damaged = any(removal.damaged(output, clip.frames, clip.background, m) for m in others)
    row = {
        "correct": removal.removed(output, clip.frames, clip.clean, clip.mask) and not damaged,
        "damaged": damaged,
        "psnr_mask": removal.psnr(output, clip.clean, clip.mask),
        "psnr_frame": removal.psnr(output, clip.clean),
        "ssim_frame": float(np.mean(frame_ssim(output, clip.clean))),
    }
    if found is not None:
        row["mask_iou"] = removal.mask_iou(found, clip.mask)
    if raw is not None:
        row["psnr_frame_raw"] = removal.psnr(raw, clip.clean)
    return row


def composited(frames: np.ndarray, result: Result) -> np.ndarray:
    """What a user gets of a result that was asked for without `keep_outside`."""
    alpha = masks.soft_edge(result.mask, 2.0, 1.0)
    return masks.composite(frames, result.frames.astype(np.float32) / 255, alpha)


def mean(rows: list[dict], columns: Iterable[str]) -> dict:
    """Means of the columns; infinite PSNR (identical frames) is left out and counted."""
    result = {}
    for name in columns:
        values = [float(row[name]) for row in rows if name in row]
        finite = [value for value in values if math.isfinite(value)]
        if values:
            result[name] = round(float(np.mean(finite)), 4) if finite else None
        if len(finite) < len(values):
            result[f"{name}_identical"] = len(values) - len(finite)
    return result


@only_errors()
def evaluate(checkpoint, clips: int, frames: int, pixels: int, seed: int, hard: bool) -> dict:
    """All rows of the table for one checkpoint on freshly drawn held-out clips."""
    settings = {"checkpoint": checkpoint, "window": max(24, frames), "size": (pixels, pixels)}
    rows = {name: [] for name in ("model", "untouched input", "mean colour, true mask", "Telea, true mask",
                                  "Telea, the model's mask", "model, sentences swapped")}  # fmt: skip
    drawn = [draw(seed, i, frames, pixels, pixels, held_out=True, hard=hard) for i in range(clips)]
    together, one_by_one, seconds = [], [], 0.0
    for i, clip in enumerate(tqdm(drawn, unit="clip")):
        began = time.perf_counter()
        result = inpaint(clip.frames, clip.sentence, keep_outside=False, **settings)
        seconds += time.perf_counter() - began
        output = composited(clip.frames, result)
        rows["model"].append(measure(clip, output, result.mask, result.frames))
        rows["untouched input"].append(measure(clip, clip.frames))
        rows["mean colour, true mask"].append(measure(clip, mean_colour(clip.frames, clip.mask)))
        rows["Telea, true mask"].append(measure(clip, telea(clip.frames, clip.mask)))
        rows["Telea, the model's mask"].append(measure(clip, telea(clip.frames, result.mask), result.mask))
        if not clip.targets:
            continue
        other = drawn[(i + 1) % clips].sentence
        if other != clip.sentence:
            swapped = inpaint(clip.frames, other, **settings)
            rows["model, sentences swapped"].append(measure(clip, swapped.frames, swapped.mask))
        if clip.still and frames > 1 and len(together) < 60:
            alone = [inpaint(frame[None], clip.sentence, **settings).frames[0] for frame in clip.frames]
            together.append(removal.psnr(output, clip.clean, clip.mask))
            one_by_one.append(removal.psnr(np.stack(alone), clip.clean, clip.mask))
    return {
        "clips": clips,
        "frames": frames,
        "size": [pixels, pixels],
        "seed": seed,
        "set": "hard" if hard else "normal",
        "rows": {name: mean(values, COLUMNS) for name, values in rows.items()},
        "still_background": {
            "clips": len(together),
            "psnr_mask_together": round(float(np.mean(together)), 3) if together else None,
            "psnr_mask_frame_by_frame": round(float(np.mean(one_by_one)), 3) if together else None,
        },
        "seconds_per_clip": round(seconds / clips, 3),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
    }


def rows_table(rows: dict[str, dict]) -> list[str]:
    """Rows of means by their names as the lines of a Markdown table."""

    def cell(row, name, unit):
        value = row.get(name)
        if value is None:
            return "–"
        return f"{100 * value:.1f} %" if unit == "%" else f"{value:.3f}" if not unit else f"{value:.1f}"

    lines = ["| |" + "|".join(title for title, _ in COLUMNS.values()) + "|", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, row in rows.items():
        lines.append(f"|{name}|" + "|".join(cell(row, key, unit) for key, (_, unit) in COLUMNS.items()) + "|")
    return lines


def table(report: dict) -> str:
    """The report's rows as a Markdown table, with the still-background comparison below."""
    lines = rows_table(report["rows"])
    still = report["still_background"]
    if still["clips"]:
        lines.append(
            f"\nStill backgrounds ({still['clips']} clips), PSNR in the mask: {still['psnr_mask_together']:.1f} dB, "
            f"frame by frame {still['psnr_mask_frame_by_frame']:.1f} dB."
        )
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """`python -m train.evaluate demo`: write the report and print its table."""
    parser = argparse.ArgumentParser(prog="python -m train.evaluate demo", description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default=str(DEMO), help="default: the demo checkpoint")
    parser.add_argument("--clips", type=int, default=300)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--pixels", type=int, default=64)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--hard", action="store_true", help="one to four objects that may touch and leave the frame")
    parser.add_argument("--output", type=Path, default=DEMO.parent / "evaluation.json")
    options = parser.parse_args(arguments)
    checkpoint = checkpoints.load(options.checkpoint)
    report = evaluate(checkpoint, options.clips, options.frames, options.pixels, options.seed, options.hard)
    write_json(report, options.output)
    print(table(report))
    print(f"\nwritten to {options.output}")
