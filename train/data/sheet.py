"""A contact sheet of a dataset: input, mask, clean and caption of some of its samples."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .entries import Entry, Sample

WIDTH, GAP, TEXT = 240, 6, 14  # pixels: of a picture, between pictures, of the letters
COLOUR = (191, 0, 191)  # three quarters of what is seen in the mask


def row(entry: Entry, sample: Sample) -> Image.Image:
    """input | mask | clean of a sample's first frame, its name and captions below."""
    height = round(WIDTH * sample.frames.shape[1] / sample.frames.shape[2])
    marked = np.where(sample.mask[0, ..., None], sample.frames[0] // 4 + np.array(COLOUR), sample.frames[0])
    lines = textwrap.wrap(f"{entry.name}: {' / '.join(entry.captions)}", 3 * WIDTH // (TEXT // 2) - 4)[:3]
    strip = Image.new("RGB", (3 * WIDTH + 4 * GAP, height + 2 * GAP + (TEXT + 4) * len(lines)), "white")
    for i, picture in enumerate((sample.frames[0], marked.astype(np.uint8), sample.clean[0])):
        strip.paste(Image.fromarray(picture).resize((WIDTH, height)), (GAP + i * (WIDTH + GAP), GAP))
    pen, font = ImageDraw.Draw(strip), ImageFont.load_default(TEXT)
    for i, line in enumerate(lines):
        pen.text((GAP, height + GAP + 2 + i * (TEXT + 4)), line, "black", font)
    return strip


def save(rows: list[Image.Image], path: Path) -> None:
    """Write rows below each other as a PNG; one per row of the sheet up to 12, then two side by side."""
    columns = 1 if len(rows) <= 12 else 2
    stacks = [rows[i::columns] for i in range(columns)]
    sheet = Image.new("RGB", (columns * rows[0].width, max(sum(r.height for r in stack) for stack in stacks)), "white")
    for i, stack in enumerate(stacks):
        top = 0
        for strip in stack:
            sheet.paste(strip, (i * strip.width, top))
            top += strip.height
    temporary = path.with_name(f".{path.name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(temporary, "PNG")
    temporary.replace(path)
