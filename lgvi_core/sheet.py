"""A contact sheet: `input | mask overlay | result` for a few frames of a clip."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from . import masks
from .errors import InputError

TITLES = ("input", "mask", "result")
MASK_COLOUR = (255, 0, 255)
ROW_HEIGHT = 180  # pixels; smaller frames are enlarged by whole numbers
COLUMN_WIDTH = 480  # pixels, for wide frames
MARGIN = 18  # pixels above each row, for its title


class ContactSheet:
    """Keeps `rows` frames spread evenly over a clip whose length need not be known, then draws them."""

    def __init__(self, rows: int = 4):
        self.rows = rows
        self.kept = []  # (frame number, row picture), every `stride`-th frame
        self.stride = 1
        self.seen = 0

    def add(self, source: np.ndarray, mask: np.ndarray, result: np.ndarray) -> None:
        """The next frame: source and result (H, W, 3) uint8, mask (H, W) bool."""
        if self.seen % self.stride == 0:
            shown = masks.overlay(source[None], mask[None], MASK_COLOUR)[0]
            self.kept.append((self.seen, _row([source, shown, result])))
            if len(self.kept) == 4 * self.rows:
                self.kept = self.kept[::2]
                self.stride *= 2
        self.seen += 1

    def draw(self) -> Image.Image:
        """The sheet of the frames so far."""
        picks = np.linspace(0, len(self.kept) - 1, min(self.rows, len(self.kept))).round().astype(int)
        rows = [self.kept[i] for i in picks]
        width, height = rows[0][1].size
        sheet = Image.new("RGB", (width, len(rows) * (height + MARGIN)), "black")
        pen = ImageDraw.Draw(sheet)
        for i, (number, picture) in enumerate(rows):
            top = i * (height + MARGIN)
            sheet.paste(picture, (0, top + MARGIN))
            for column, title in enumerate(TITLES):
                label = f"{title}, frame {number}" if column == 0 else title
                pen.text((column * width // len(TITLES) + 4, top + 3), label, fill="white")
        return sheet

    def save(self, path: str | os.PathLike) -> None:
        """Write the sheet as PNG, to a temporary name first."""
        save_sheet(self.draw(), path)


def side_by_side(pictures: Mapping[str, np.ndarray], columns: int = 5) -> Image.Image:
    """Pictures (H, W, 3) uint8 of one size beside each other, each under its name."""
    named = list(pictures.items())
    rows = [named[first : first + columns] for first in range(0, len(named), columns)]
    drawn = [_row([picture for _, picture in row]) for row in rows]
    width, height = drawn[0].size
    sheet = Image.new("RGB", (width, len(rows) * (height + MARGIN)), "black")
    pen = ImageDraw.Draw(sheet)
    for number, (row, picture) in enumerate(zip(rows, drawn)):
        top = number * (height + MARGIN)
        sheet.paste(picture, (0, top + MARGIN))
        for column, (name, _) in enumerate(row):
            pen.text((column * width // len(rows[0]) + 4, top + 3), name, fill="white")
    return sheet


def save_sheet(sheet: Image.Image, path: str | os.PathLike) -> None:
    """Write a sheet as PNG, to a temporary name first. Raises `InputError` where it cannot be written."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        sheet.save(temporary, "PNG")
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"the contact sheet {path} could not be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def check_sheet(path: str | os.PathLike, read: Iterable[str | os.PathLike] = ()) -> None:
    """Raises `InputError` unless `path` can become a PNG, outside of all that is `read`; makes its folder."""
    path = Path(path)
    place = Path(os.path.realpath(path))
    for one in read:
        if Path(os.path.realpath(one)) in (place, *place.parents):
            raise InputError(f"the contact sheet {path} is or lies in {one}, which is read: give another place")
    if path.suffix.lower() != ".png" or path.is_dir():
        raise InputError(f"the contact sheet {path} must be a file that ends in .png")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the contact sheet {path} cannot be written: {error.strerror}") from error
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"the contact sheet {path} cannot be written: no permission in {path.parent}")


def _row(frames: list[np.ndarray]) -> Image.Image:
    height, width = frames[0].shape[:2]
    pictures = [Image.fromarray(frame) for frame in frames]
    scale, how = min(ROW_HEIGHT / height, COLUMN_WIDTH / width), Image.BILINEAR
    if scale > 1:
        scale, how = int(scale), Image.NEAREST
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    row = Image.new("RGB", (len(pictures) * size[0], size[1]))
    for i, picture in enumerate(pictures):
        row.paste(picture.resize(size, how), (i * size[0], 0))
    return row
