"""Pictures of samples: input, mask found, result, truth; and the sheet of the worst and best of them."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lgvi_core import masks

from .methods import Clip, Edit

TITLES = ("input", "mask found", "result", "truth")
WIDTH = 240  # pixels of one picture
MOST_HEIGHT = 240
GREY = (90, 90, 90)
LINE = 16  # pixels
AT_MOST = 4  # samples at either end


def strip(clip: Clip, edit: Edit) -> Image.Image:
    """The frame with most to remove: input, mask found (grey where the method finds none), result, truth."""
    t = int(masks.area(clip.mask).argmax())
    if edit.mask is None:
        found = np.full_like(clip.frames[t], GREY)
    else:
        found = masks.overlay(clip.frames[t : t + 1], edit.mask[t : t + 1], (255, 0, 255))[0]
    height, width = found.shape[:2]
    scale = min(WIDTH / width, MOST_HEIGHT / height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    how = Image.NEAREST if scale > 1 else Image.BILINEAR
    row = Image.new("RGB", (WIDTH * len(TITLES), size[1]))
    for i, picture in enumerate((clip.frames[t], found, edit.frames[t], clip.clean[t])):
        row.paste(Image.fromarray(picture).resize(size, how), (i * WIDTH + (WIDTH - size[0]) // 2, 0))
    return row


def ends(lines: list[dict], most: int = AT_MOST) -> tuple[str, list[dict], list[dict]]:
    """(measure, worst, best) of the lines of one row of the table, the extreme ones first; a line is in one of them.

    Ordered by PSNR in the mask where there is one, which doing nothing cannot win, else by PSNR; infinite is best.
    """
    by = "psnr_mask" if any("psnr_mask" in line["values"] for line in lines) else "psnr"
    ordered = sorted((line for line in lines if by in line["values"]), key=lambda line: _number(line["values"][by]))
    at_best = min(most, len(ordered) // 2)
    at_worst = min(most, len(ordered) - at_best)
    return by, ordered[:at_worst], ordered[::-1][:at_best]


def _number(value) -> float:
    if isinstance(value, list):
        return float(np.mean([_number(one) for one in value]))
    return float("inf") if value is None else value


def draw(method: str, lines: list[dict], pictures: dict[str, Path]) -> Image.Image:
    """The sheet of a method. lines: as in `progress`, with `sample`, `caption`, `values`; pictures: by sample."""
    by, worst, best = ends(lines)
    title = {"psnr_mask": "PSNR in the mask", "psnr": "PSNR"}[by]
    parts = []
    for end, shown in (("worst", worst), ("best", best)):
        parts += [_text([f"{method}: {end} by {title}"], head=True)] if shown else []
        for line in shown:
            parts += [_text(_words(line)), _picture(pictures[line["sample"]])]
    return stacked(parts)


def stacked(parts: list[Image.Image]) -> Image.Image:
    """Pictures below each other."""
    sheet = Image.new("RGB", (max(part.width for part in parts), sum(part.height for part in parts)))
    top = 0
    for part in parts:
        sheet.paste(part, (0, top))
        top += part.height
    return sheet


def save(picture: Image.Image, path: Path) -> None:
    """As PNG, to a temporary name first."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        picture.save(temporary, "PNG")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _picture(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        return picture.convert("RGB")


def _words(line: dict) -> list[str]:
    values = line["values"]
    numbers = []
    if "psnr_mask" in values:
        before = _shown(_number(values["psnr_mask_input"]))
        numbers.append(f"PSNR in the mask {_shown(_number(values['psnr_mask']))} dB (input {before})")
    numbers.append(f"PSNR {_shown(_number(values['psnr']))} dB")
    if "mask_iou" in values:
        numbers.append(f"mask IoU {values['mask_iou']:.2f}")
    return [f"{line['sample']}: {line['caption']}", ", ".join(numbers)]


def _shown(value: float) -> str:
    return f"{value:.1f}" if np.isfinite(value) else "infinite"


def _text(paragraphs: list[str], head: bool = False) -> Image.Image:
    lines = [part for paragraph in paragraphs for part in textwrap.wrap(paragraph, 150)[:4]]
    if not head:
        lines.append("")  # room for the titles of the pictures
    picture = Image.new("RGB", (WIDTH * len(TITLES), LINE * len(lines) + 8), (40, 40, 80) if head else "black")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(12)
    for i, line in enumerate(lines):
        pen.text((4, 4 + i * LINE), line, fill="white", font=font)
    for i, title in enumerate(() if head else TITLES):
        pen.text((i * WIDTH + 4, 4 + (len(lines) - 1) * LINE), title, fill=(170, 170, 170), font=font)
    return picture
