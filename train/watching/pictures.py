"""Rows of pictures with a caption above each, as one sheet: the first batch, samples, the worst and the best."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

from lgvi_core import masks

CELL = 256  # pixels: how wide a picture is at most; smaller ones are enlarged by whole numbers ...
LARGEST = 2  # ... up to this
PAGE = 1200  # pixels: how wide a sheet of several rows beside each other may be
LINE = 20  # pixels above a row, for its caption
GAP = 4
INK, PAPER, FAINT = (30, 34, 42), (255, 255, 255), (120, 126, 138)
MASK_COLOUR = (255, 0, 255)


@dataclass(frozen=True)
class Row:
    """Pictures (H, W, 3) uint8 of one size, beside each other under a caption."""

    caption: str
    pictures: list[np.ndarray]


def sheet(titles: list[str], rows: list[Row]) -> Image.Image:
    """The rows below each other, as many beside each other as `PAGE` holds; the columns' titles above."""
    font = ImageFont.truetype(font_manager.findfont("DejaVu Sans"), 12)
    cells = [[_cell(picture) for picture in row.pictures] for row in rows]
    width = GAP + max(sum(picture.width + GAP for picture in row) for row in cells)
    height = LINE + GAP + max(row[0].height for row in cells)
    beside = max(1, min(PAGE // width, len(rows)))
    page = Image.new("RGB", (beside * width, LINE + -(-len(rows) // beside) * height), PAPER)
    pen = ImageDraw.Draw(page)
    for i, (row, pictures) in enumerate(zip(rows, cells)):
        left, top = GAP + i % beside * width, LINE + i // beside * height
        pen.text((left, top + 3), _fit(row.caption, font, width - 2 * GAP), INK, font)
        for title, picture in zip(titles, pictures):
            page.paste(picture, (left, top + LINE))
            if i < beside:
                pen.text((left, 3), _fit(title, font, picture.width), FAINT, font)
            left += picture.width + GAP
    return page


def with_mask(frame: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A frame (H, W, 3) uint8 with the mask (H, W) shown."""
    return masks.overlay(frame[None], mask[None], MASK_COLOUR)[0]


def save(picture: Image.Image, path: Path) -> None:
    """Write a PNG, to a temporary name first."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        picture.save(temporary, "PNG")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def embedded(path: Path, widest: int = 1400) -> bytes:
    """A picture file as WebP, no wider than `widest`: small enough for a page that holds many."""
    picture = Image.open(path).convert("RGB")
    if picture.width > widest:
        picture = picture.resize((widest, round(picture.height * widest / picture.width)), Image.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=88)
    return file.getvalue()


def _cell(picture: np.ndarray) -> Image.Image:
    image = Image.fromarray(picture)
    scale, how = CELL / image.width, Image.LANCZOS
    if scale > 1:
        scale, how = min(int(scale), LARGEST), Image.NEAREST
    return image.resize((round(image.width * scale), max(1, round(image.height * scale))), how)


def _fit(text: str, font, width: int) -> str:
    """`text` cut so that it is at most `width` pixels long."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
