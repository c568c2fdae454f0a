"""A personal style merged into a model that fills, at several strengths: what the words lose, what the style gains.

    python -m train.evaluate style --checkpoint lgvi_core/demo/fill-demo.safetensors \\
        --personal lgvi_core/demo/fill-outline.safetensors

The measures are those of `fill`; of the demo's style, a dark outline, "dark in the rim" tells. The sheet has a row for
each of some clips, and a column for each strength.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from lgvi_core import masks
from lgvi_core.errors import InputError
from lgvi_core.task_vectors import Personal, Strength, merge

from . import fill, sheet
from .fill_checkpoint import of_checkpoint

BETAS = "0,0.5,1,1.5"
ROWS = 6
CELL = 128  # pixels


def merged(checkpoint: Path, personals: list[Path], betas: list[float], device: str | None = None) -> dict:
    """A function that fills, for each beta under its name: the checkpoint with all personal models at that beta.

    Raises `InputError` as `task_vectors.merge` does.
    """
    methods = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "merged.safetensors"
        for beta in betas:
            merge(checkpoint, [Personal(one, Strength.of(beta)) for one in personals], path)
            methods[f"beta {beta:g}"] = of_checkpoint(path, device=device)
    return methods


def pictures(report: dict, methods: dict[str, fill.Fill], rows: int = ROWS) -> Image.Image:
    """The middle frame of the first clips that something is asked for in: with the region, and by each method."""
    parts, index = [], 0
    while len(parts) < min(rows, report["clips"]):
        clip = fill.held_out(report["seed"], index, report["frames"], report["size"][0], tasks={"replace": 1, "add": 1})
        index += 1
        shown = {"region": masks.overlay(clip.frames, clip.mask)}
        shown |= {name: method(clip.frames, clip.mask, clip.caption) for name, method in methods.items()}
        parts.append(_row({name: frames[len(frames) // 2] for name, frames in shown.items()}, clip.caption))
    return sheet.stacked(parts)


def _row(shown: dict[str, np.ndarray], caption: str) -> Image.Image:
    out = Image.new("RGB", (CELL * len(shown), CELL + 32))
    pen = ImageDraw.Draw(out)
    pen.text((4, 2), caption, fill="white")
    for column, (name, frame) in enumerate(shown.items()):
        out.paste(Image.fromarray(frame).resize((CELL - 4, CELL - 4), Image.Resampling.NEAREST), (CELL * column, 32))
        pen.text((CELL * column + 4, 17), name, fill="grey")
    return out


def main(arguments: list[str]) -> None:
    """`python -m train.evaluate style`: write the report, its table and the sheet, and print the table."""
    parser = fill.parser("style", __doc__, clips=100)
    parser.add_argument("--personal", type=Path, action="append", required=True, help="may be given several times")
    parser.add_argument("--betas", default=BETAS, help=f"strengths, default {BETAS}")
    options = parser.parse_args(arguments)
    fill.check(options)
    checkpoint, betas = _given(options)
    methods = merged(checkpoint, options.personal, betas, options.device)
    report, _ = fill.evaluate(methods, options.clips, options.frames, options.pixels, options.seed)
    fill.write(report, fill.table(report), {"betas": pictures(report, methods)}, options.output)


def _given(options) -> tuple[Path, list[float]]:
    if len(options.checkpoint) != 1:
        raise InputError(f"--checkpoint is given {len(options.checkpoint)} times; a style is merged into one")
    try:
        return options.checkpoint[0], [float(beta) for beta in options.betas.split(",")]
    except ValueError:
        raise InputError(f"--betas is {options.betas!r}; give numbers with commas, such as {BETAS}") from None
