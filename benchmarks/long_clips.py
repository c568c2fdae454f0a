"""How an edit fares that begins at a keyframe and goes on through a long clip, window by window, on drawn clips."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
from tqdm import tqdm

from lgvi_core.checkpoints import Checkpoint
from lgvi_core.inpaint import fill
from lgvi_core.metrics.removal import psnr
from train.data.synthetic_fill import FillClip
from train.evaluation import fill_judge
from train.evaluation.fill import centers, held_out, psnr_steps
from train.evaluation.propagate import TASKS

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

SEED = 96_2411
END = 16  # frames that count as the end of a clip
IDENTICAL = 60.0  # dB that stand for infinite ones in a mean
WAYS = {
    "chained": {"chain": True},
    "chained, colours not matched": {"chain": True, "match_colours": False},
    "blended": {"chain": False},
}
COLUMNS = {
    "drift": "drift of colour at the end, levels",
    "steps": "PSNR from frame to frame, dB",
    "worst": "the same, worst 2 % of the steps, dB",
    "psnr": "PSNR in the mask, dB",
    "psnr_end": "the same at the end, dB",
    "same": "looks like the keyframe, % of frames",
    "same_end": "the same at the end, %",
}


def held_out_thing(index: int, frames: int) -> FillClip:
    """A drawn clip in which something is to stand."""
    return held_out(SEED, index, frames, tasks=TASKS)


def run(frames: np.ndarray, mask: np.ndarray, checkpoint: Checkpoint, device: str, **options) -> np.ndarray:
    """The frames filled without words, nothing changed outside of the mask."""
    plain = {"dilate": 0, "feather": 0, "cross_cuts": True}
    return fill(frames, "", mask=mask, checkpoint=checkpoint, device=device, **plain, **options).frames


def measure(checkpoint: Checkpoint, device: str, clips: int, frames: int, windows: dict) -> dict[str, dict]:
    """For each of `WAYS`, and for the truth, the means over clips of what `fate` says."""
    rows: dict[str, list[dict]] = {name: [] for name in (*WAYS, "the truth")}
    for i in tqdm(range(clips), unit="clip"):
        clip = held_out_thing(i, frames)
        for name, way in WAYS.items():
            options = {"keyframes": {0: clip.clean[0]}, **windows, **way}
            rows[name].append(fate(clip, run(clip.frames, clip.mask, checkpoint, device, **options)))
        rows["the truth"].append(fate(clip, clip.clean))
    return {name: {key: np.mean([row[key] for row in of], axis=0) for key in of[0]} for name, of in rows.items()}


def fate(clip: FillClip, result: np.ndarray) -> dict:
    """Measures of a long result (T, H, W, 3) whose first frame was given, by the names of `COLUMNS`.

    `curve`, by frame, is how far the mean colour of where the thing should stand is from the first frame's, in levels;
    drift is its mean at the end. Steps are as in `train.evaluation.fill.psnr_steps`.
    """
    colours = np.stack([frame[inside].mean(0) for frame, inside in zip(result, clip.object_mask)])
    curve = np.abs(colours - colours[0]).mean(1)
    verdict = fill_judge.load().verdict(result, centers(result, clip)).frames
    same = [seen[:2] == clip.look[:2] for seen in verdict]
    steps = [_finite(psnr_steps(result[t : t + 2], _pair(clip, t))) for t in range(len(result) - 1)]
    return {
        "drift": curve[-END:].mean(),
        "steps": np.mean(steps),
        "worst": np.percentile(steps, 2),
        "psnr": _finite(psnr(result[1:], clip.clean[1:], clip.mask[1:])),
        "psnr_end": _finite(psnr(result[-END:], clip.clean[-END:], clip.mask[-END:])),
        "same": np.mean(same),
        "same_end": np.mean(same[-END:]),
        "curve": curve,
    }


def _finite(decibel: float) -> float:
    return min(IDENTICAL, decibel)


def _pair(clip: FillClip, first: int) -> FillClip:
    both = slice(first, first + 2)
    return replace(clip, centers=clip.centers[both], object_mask=clip.object_mask[both])


def table(rows: dict[str, dict]) -> str:
    """The measures in Markdown."""
    lines = ["| |" + "|".join(COLUMNS.values()) + "|", "|---" * (1 + len(COLUMNS)) + "|"]
    for name, row in rows.items():
        values = {key: 100 * row[key] if key.startswith("same") else row[key] for key in COLUMNS}
        absent = ("psnr", "psnr_end") if name == "the truth" else ()
        cells = ("–" if key in absent else f"{value:.1f}" for key, value in values.items())
        lines.append(f"|{name}|" + "|".join(cells) + "|")
    return "\n".join(lines)


def draw(rows: dict[str, dict], path: Path) -> None:
    """The curves as a picture (PNG)."""
    figure, axis = pyplot.subplots(figsize=(7, 3.2))
    for name, row in rows.items():
        axis.plot(row["curve"], ":" if name == "the truth" else "-", label=name)
    axis.set(xlabel="frame", ylabel="levels from the keyframe's colour", ylim=(0, None))
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.tight_layout()
    part = path.with_name(path.name + ".part")
    figure.savefig(part, dpi=110, format="png")
    part.replace(path)
