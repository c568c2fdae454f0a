"""Filling by prompt on held-out drawn clips: what stands in the region, and what does in trivial baselines.

    python -m train.evaluate fill --checkpoint out/fill/checkpoint.safetensors

A third of the clips ask for another thing than stood there, a third for a thing where none stood, a third for nothing.
`fill_judge` tells what stands there; of what a caption leaves open nothing is judged. Every result has the source put
back outside of the region; the measure "outside unchanged" is of the method itself.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm

from lgvi_core.errors import InputError
from lgvi_core.metrics.removal import psnr

from ..data.labels import MENTIONS, mentions
from ..data.regions import boxes_of
from ..data.synthetic_fill import REGIONS, FillClip, draw_fill
from ..data.synthetic_objects import RADIUS, RGB
from ..data.synthetic_words import COLORS, SIZES
from . import fill_judge, sheet
from .demo import mean, mean_colour
from .files import write_json, write_text
from .fill_checkpoint import of_checkpoint
from .fill_outline import dark_rim, thing_in
from .methods import Clip, Edit, telea

Fill = Callable[[np.ndarray, np.ndarray, str], np.ndarray]  # frames, mask, prompt -> frames

SEED = 20_241_126  # of the held-out clips; training never sees it
TASKS = {"replace": 1, "add": 1, "delete": 1}
ASPECTS = ("shape", "color", "size")


class Column(NamedTuple):
    title: str
    unit: str
    target: float | None = None  # what the demo checkpoint has to reach


COLUMNS = {
    "color": Column("colour right", "%", 0.95),
    "shape": Column("shape right", "%", 0.85),
    "size": Column("size right", "%", 0.90),
    "all": Column("all that is asked right", "%", 0.80),
    "steady": Column("the same in every frame", "%", 0.90),
    "psnr_steps": Column("PSNR from frame to frame", "dB"),
    "rim": Column("dark in the rim", "%"),
    "nothing": Column("nothing there, where asked", "%", 0.95),
    "psnr_deleted": Column("PSNR in the mask, nothing asked", "dB", 24.0),
    "outside": Column("outside unchanged", "%", 1.0),
}


def measure(clip: FillClip, result: np.ndarray) -> dict[str, float | bool]:
    """The measures of one result (T, H, W, 3) uint8; those that a clip says nothing about are absent."""
    if result.shape != clip.frames.shape or result.dtype != np.uint8:
        raise InputError(f"the result is {result.dtype} {result.shape}; expected uint8 {clip.frames.shape}")
    row = {"outside": bool((result == clip.frames)[~clip.mask].all())}
    result = np.where(clip.mask[..., None], result, clip.frames)
    verdict = fill_judge.load().verdict(result, centers(result, clip))
    if clip.look is None:
        row["nothing"] = all(found == "nothing" for found in verdict.clip)
        row["psnr_deleted"] = psnr(result, clip.clean, clip.mask)
        return row
    right = {name: a == b for name, a, b in zip(ASPECTS, clip.asked, verdict.clip) if a is not None}
    row |= right
    row["all"] = all(right.values())
    row["steady"] = all(found == verdict.clip for found in verdict.frames)
    rim = dark_rim(result, clip.background, clip.mask)
    if rim is not None:
        row["rim"] = rim
    if len(result) > 1:
        row["psnr_steps"] = psnr_steps(result, clip)
    return row


def centers(frames: np.ndarray, clip: FillClip) -> np.ndarray:
    """Where to look for the thing in each frame (T, 2): on its path, as far beside it as what was filled mostly is."""
    boxes = boxes_of(thing_in(frames, clip.background, clip.mask))
    beside = boxes[:, :2] + boxes[:, 2:] / 2 - clip.centers
    found = ~np.isnan(beside[:, 0])
    return clip.centers + (np.median(beside[found], axis=0) if found.any() else 0)


def psnr_steps(frames: np.ndarray, clip: FillClip) -> float:
    """PSNR in dB between each frame's crop around the thing and the next one's, moved onto it by whole pixels.

    The truth is not perfect here either: things move by parts of pixels and the background behind them moves otherwise.
    """
    sides = boxes_of(clip.object_mask)[:, 2:].max(0)
    side = int(math.ceil(sides.max() / 2)) * 2
    scale = min(frames.shape[1:3]) / 64
    crops = fill_judge.crops_of(frames, clip.centers, max(2, round(side / scale)))
    return psnr(crops[1:], crops[:-1])


# Trivial baselines


def untouched(frames: np.ndarray, mask: np.ndarray, prompt: str) -> np.ndarray:
    return frames


def mean_fill(frames: np.ndarray, mask: np.ndarray, prompt: str) -> np.ndarray:
    return mean_colour(frames, mask)


def telea_fill(frames: np.ndarray, mask: np.ndarray, prompt: str) -> np.ndarray:
    return np.where(mask[..., None], telea(frames, mask), frames)


def flat_disc(frames: np.ndarray, mask: np.ndarray, prompt: str) -> np.ndarray:
    """The mean colour around, and on it a disc of the colour (or red) and size that the prompt names, if any."""
    said = {name for name, named in zip(MENTIONS, mentions(prompt)) if named}
    filled = mean_colour(frames, mask)
    if not said:
        return filled
    colour = next((RGB[name] for name in COLORS if name in said), RGB["red"])
    size = next((name for name in SIZES if name in said), None)
    scale = min(frames.shape[1:3]) / 64
    y, x = np.mgrid[: frames.shape[1], : frames.shape[2]] + 0.5
    for frame, hole, (left, top, wide, high) in zip(filled, mask, boxes_of(mask)):
        radius = min(wide, high) / 3 if size is None else scale * sum(RADIUS[size]) / 2
        frame[(np.hypot(x - left - wide / 2, y - top - high / 2) < radius) & hole] = 255 * np.array(colour)
    return filled


BASELINES: dict[str, Fill] = {
    "untouched input": untouched,
    "mean colour": mean_fill,
    "Telea": telea_fill,
    "flat disc of the colour asked": flat_disc,
}


# The report


def evaluate(methods: dict[str, Fill], clips: int = 300, frames: int = 8, pixels: int = 64, seed: int = SEED
             ) -> tuple[dict, dict[str, list[dict]]]:
    """The report, with a row for each of `methods` (name: callable), baseline and the truth; and each clip's measures.

    methods: called with frames (T, H, W, 3) uint8, mask (T, H, W) bool and prompt; give frames back.
    """
    if clips < 1:
        raise InputError(f"clips is {clips}; it must be at least 1")
    methods = methods | BASELINES
    rows: dict[str, list[dict]] = {name: [] for name in (*methods, "the truth")}
    for i in tqdm(range(clips), unit="clip"):
        clip = held_out(seed, i, frames, pixels)
        for name, fill in methods.items():
            rows[name].append(measure(clip, fill(clip.frames, clip.mask, clip.caption)))
        rows["the truth"].append(measure(clip, clip.clean))
    return {
        "clips": clips, "frames": frames, "size": [pixels, pixels], "seed": seed,
        "judge": fill_judge.accuracy(),
        "targets": {name: column.target for name, column in COLUMNS.items() if column.target is not None},
        "rows": {name: mean(values, COLUMNS) for name, values in rows.items()},
    }, rows  # fmt: skip


def held_out(seed: int, index: int, frames: int = 8, pixels: int = 64, outline: float = 0.0, tasks: dict = TASKS
             ) -> FillClip:
    """A clip to judge by: textures that training leaves out, a region that does not show what is asked for."""
    return draw_fill(seed, index, frames, pixels, pixels, held_out=True, kinds={"instance": 1}, tasks=tasks,
                     regions=REGIONS, outline=outline)  # fmt: skip


def table(report: dict) -> str:
    """The rows as a Markdown table, the targets last."""
    return f"{markdown(report['rows'] | {'target': report['targets']}, COLUMNS)}\n\n{about(report)}"


def markdown(rows: dict[str, dict], columns: dict[str, Column]) -> str:
    """Rows by name as a Markdown table; columns that none has are left out."""
    shown = {key: c for key, c in columns.items() if any(row.get(key) is not None for row in rows.values())}
    lines = ["| |" + "|".join(c.title for c in shown.values()) + "|", "|---" * (len(shown) + 1) + "|"]
    for name, row in rows.items():
        lines.append(f"|{name}|" + "|".join(_cell(row.get(key), column) for key, column in shown.items()) + "|")
    return "\n".join(lines)


def about(report: dict) -> str:
    """On what a report's numbers stand."""
    return (
        f"{report['clips']} held-out clips of {report['frames']} frames at {report['size'][0]}x{report['size'][1]}, "
        f"seed {report['seed']}. The judge is right on {_list(report['judge'])} of held-out single frames."
    )


def _cell(value: float | None, column: Column) -> str:
    if value is None:
        return "–"
    return f"{100 * value:.1f} %" if column.unit == "%" else f"{value:.1f}"


def _list(accuracy: dict[str, float]) -> str:
    return ", ".join(f"{100 * value:.1f} % ({name.replace('color', 'colour')})" for name, value in accuracy.items())


def pictures(report: dict, rows: list[dict], fill: Fill, most: int = 8) -> Image.Image:
    """The sheet of a method by its clips' measures: the worst and the best, most that is wrong first, then by PSNR."""
    order = sorted(range(len(rows)), key=lambda i: _score(rows[i]))
    chosen = dict.fromkeys(order[:most] + order[::-1][:most])
    parts = []
    for i in chosen:
        clip = held_out(report["seed"], i, report["frames"], report["size"][0])
        result = fill(clip.frames, clip.mask, clip.caption)
        parts.append(_line(i, clip, result, rows[i]))
    return sheet.stacked(parts)


def _score(row: dict) -> tuple:
    wrong = sum(not value for name, value in row.items() if isinstance(value, bool))
    return -wrong, row.get("psnr_deleted", row.get("psnr_steps", 0.0))


def _line(index: int, clip: FillClip, result: np.ndarray, row: dict) -> Image.Image:
    strip = sheet.strip(Clip(str(index), clip.caption, clip.frames, clip.clean, clip.mask), Edit("", result, clip.mask))
    wrong = [COLUMNS[name].title for name, value in row.items() if value is False]
    verdict = fill_judge.load().verdict(result, centers(result, clip)).clip
    text = f'{index} {clip.task} ({clip.region}): "{clip.caption}"; seen: {" ".join(verdict)}'
    out = Image.new("RGB", (strip.width, strip.height + 20))
    out.paste(strip, (0, 20))
    ImageDraw.Draw(out).text((4, 4), text + (f"; not {', not '.join(wrong)}" if wrong else ""), fill="white")
    return out


def main(arguments: list[str]) -> None:
    """`python -m train.evaluate fill`: write the report, its table and the sheet, and print the table."""
    options = parser("fill", __doc__, clips=300).parse_args(arguments)
    check(options)
    methods = {
        path.stem: of_checkpoint(path, options.steps, options.guidance, options.device) for path in options.checkpoint
    }
    report, rows = evaluate(methods, options.clips, options.frames, options.pixels, options.seed)
    sheets = {name: pictures(report, rows[name], fill) for name, fill in (methods or BASELINES).items()}
    write(report, table(report), sheets, options.output)


def parser(name: str, description: str, clips: int) -> argparse.ArgumentParser:
    """The options of `python -m train.evaluate NAME` for checkpoints that fill."""
    found = argparse.ArgumentParser(prog=f"python -m train.evaluate {name}", description=description.splitlines()[0])
    found.add_argument("--checkpoint", type=Path, action="append", default=[], help="may be given several times")
    found.add_argument("--steps", type=int, help="sampling steps; default: what the checkpoint recommends")
    found.add_argument("--guidance", type=float, help="guidance scale; default: what the checkpoint recommends")
    found.add_argument("--device", help="default: cuda where there is one, else cpu")
    found.add_argument("--clips", type=int, default=clips)
    found.add_argument("--frames", type=int, default=8)
    found.add_argument("--pixels", type=int, default=64)
    found.add_argument("--seed", type=int, default=SEED)
    found.add_argument("--output", type=Path, default=Path(f"{name}.json"), help=f"default: {name}.json")
    return found


def check(options: argparse.Namespace) -> None:
    """Raises `InputError` for a report that cannot be written, and makes its folder."""
    if options.output.suffix != ".json":
        raise InputError(f"--output is {options.output}; it must end in .json")
    options.output.parent.mkdir(parents=True, exist_ok=True)


def write(report: dict, text: str, sheets: dict[str, Image.Image], output: Path) -> None:
    """Writes the report, its table and the sheets beside each other, and prints the table."""
    write_json(report, output)
    write_text(text + "\n", output.with_suffix(".md"))
    for name, picture in sheets.items():
        sheet.save(picture, output.with_name(f"{output.stem}-{name.replace(' ', '-')}.png"))
    print(f"{text}\n\nwritten to {output}, with {output.with_suffix('.md')} and sheets beside it")
