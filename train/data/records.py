"""Clips on disk: pictures in order or video files, plain or in tar files, and the records that layouts make of them."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from lgvi_core.errors import InputError
from lgvi_core.video import PICTURE_ENDINGS, open_video

UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # what Pillow raises for a bad picture


@dataclass(frozen=True)
class File:
    """A file, or `size` bytes of a tar file from `offset` on, which there has the name `member`."""

    path: Path
    member: str = ""
    offset: int = 0
    size: int = 0

    def __str__(self):
        return f"{self.path}:{self.member}" if self.member else str(self.path)

    @property
    def suffix(self) -> str:
        return Path(self.member or self.path).suffix.lower()

    def read(self) -> bytes:
        if not self.member:
            return self.path.read_bytes()
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)

    def picture(self) -> Image.Image:
        """The picture, its pixels not decoded yet; `InputError` where the file is none."""
        try:
            return Image.open(io.BytesIO(self.read()) if self.member else self.path)
        except UNREADABLE as error:
            raise InputError(f"{self} cannot be read as a picture: {error}") from None


@dataclass(frozen=True)
class Track:
    """The frames of a clip: one picture file each, or one video file for all; no names where there is nothing."""

    path: Path  # the folder or tar file that the files are in
    names: tuple[str, ...]
    places: tuple[tuple[int, int], ...] = ()  # offset and size of each file in the tar file

    def __str__(self):
        return str(self.file(0) if len(self.names) == 1 else self.path)

    def file(self, i: int) -> File:
        if self.places:
            return File(self.path, self.names[i], *self.places[i])
        return File(self.path / self.names[i])

    @property
    def is_video(self) -> bool:
        return len(self.names) == 1 and not self.places and self.file(0).suffix not in PICTURE_ENDINGS

    def describe(self) -> tuple[int, int, int]:
        """Frames, height and width, from the headers; of folders, that of the first picture."""
        self._check()
        if self.is_video:
            video = open_video(self.file(0).path)
            return video.frame_count or sum(1 for _ in video), video.height, video.width
        with self.file(0).picture() as picture:
            try:
                turned = picture.getexif().get(0x0112, 1) >= 5  # EXIF orientation: width and height change places
            except UNREADABLE as error:
                raise InputError(f"{self.file(0)} is a damaged picture: {error}") from None
            width, height = picture.size[::-1] if turned else picture.size
        return len(self.names), height, width

    def _check(self) -> None:
        if not self.names:
            raise InputError(f"{self.path} {'holds no pictures' if self.path.exists() else 'does not exist'}")

    def only(self, places: list[int]) -> Track:
        """The track of some of its files."""
        names, spots = (tuple(part[i] for i in places if part) for part in (self.names, self.places))
        return Track(self.path, names, spots)

    @property
    def frame_names(self) -> list[str]:
        """What pictures of one frame have in common: the file's name without its ending; in shards, the last part."""
        stems = [name.rpartition(".")[0] for name in self.names]
        return [stem.rpartition(".")[2] for stem in stems] if self.places else stems

    def like(self, other: Track) -> Track:
        """This track with one picture for each of the other's: of the same name, or the same place if none has it.

        Raises `InputError` where there is none, where some have their match and others do not, and where the numbers
        differ.
        """
        self._check()
        if self.is_video or other.is_video or len(other.names) == 1:
            return self
        place = {name: i for i, name in enumerate(self.frame_names)}
        found = [place.get(name) for name in other.frame_names]
        absent = [name for name, i in zip(other.frame_names, found) if i is None]
        if not absent:
            return self.only(found)
        if len(self.names) == len(other.names) == len(absent):
            return self
        raise InputError(f"{self.path} has no picture for {len(absent)} of the {len(found)} frames: {some(absent)}")

    def frames(self, indices: list[int]) -> list[np.ndarray]:
        """RGB pictures (H, W, 3) uint8. Of a video everything up to the last wanted one is decoded."""
        if not self.is_video:
            return [_rgb(self.file(i)) for i in indices]
        wanted, last = set(indices), max(indices)
        kept = {}
        for i, frame in enumerate(open_video(self.file(0).path)):
            if i in wanted:
                kept[i] = frame.image
            if i == last:
                return [kept[i] for i in indices]
        raise InputError(f"{self} has no frame {last}: only {i + 1} can be decoded")

    def masks(self, indices: list[int], object_id: int | None) -> list[np.ndarray]:
        """Masks (H, W) bool: where the pixel is `object_id`; without one, where it is white or not of colour 0."""
        if self.is_video:
            return [frame.mean(2) > 127 for frame in self.frames(indices)]
        return [_mask(self.file(i), object_id) for i in indices]


def track(path: Path) -> Track:
    """The track at a path: the pictures of a folder in natural order, or the one file; no files if nothing is there."""
    if path.is_dir():
        names = (name for name in os.listdir(path) if name.lower().endswith(PICTURE_ENDINGS) and name[0] != ".")
        return Track(path, tuple(sorted(map(sys.intern, names), key=natural)))
    return Track(path.parent, (path.name,)) if path.is_file() else Track(path, ())


def inside(folder: Path, name: str) -> Track:
    """The track `name` of a folder: a folder of pictures, or a picture or video with one of the usual endings."""
    found = next((folder / f"{name}{ending}" for ending in ENDINGS if (folder / f"{name}{ending}").exists()), None)
    return track(found or folder / name)


ENDINGS = ("", *PICTURE_ENDINGS, ".mp4", ".mov", ".mkv", ".webm", ".avi", ".gif")


def natural(name: str) -> list:
    """Sorts 9 before 10."""
    return [int(part) if part.isdecimal() else part.lower() for part in re.split(r"([0-9]+)", name)]


@dataclass(frozen=True)
class Record:
    """A video, what is to be removed from it, the video without it, and the sentences that ask for that."""

    name: str
    video: Track
    mask: Track
    clean: Track
    captions: tuple[str, ...]
    object_id: int | None = None  # pixel value in the masks


def request(expression: str) -> str:
    """The request to remove what an expression names; expressions that are requests already stay."""
    words = expression.split()
    return expression if words and words[0].lower().strip(",") in VERBS else f"remove {expression}"


VERBS = ("remove", "delete", "erase", "take", "get", "please", "can", "could", "i", "clear", "eliminate", "drop")


def some(names: Iterable, most: int = 5) -> str:
    """The first names of many, as text."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more


def resized(pictures: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """Pictures (H, W, 3) uint8 as one array of that size; areas are averaged where they shrink."""
    out = np.empty((len(pictures), height, width, 3), np.uint8)
    for target, picture in zip(out, pictures):
        target[:] = _resize(picture, height, width, cv2.INTER_CUBIC)
    return out


def resized_masks(masks: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """Masks (H, W) bool as one array of that size: true where half of a pixel's area is."""
    out = np.empty((len(masks), height, width), bool)
    for target, mask in zip(out, masks):
        target[:] = _resize(mask.astype(np.uint8) * 255, height, width, cv2.INTER_NEAREST) >= 128
    return out


def _resize(picture: np.ndarray, height: int, width: int, growing: int) -> np.ndarray:
    if picture.shape[:2] == (height, width):
        return picture
    shrinks = height <= picture.shape[0] and width <= picture.shape[1]
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA if shrinks else growing)


def _rgb(file: File) -> np.ndarray:
    with file.picture() as picture:
        try:
            return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
        except UNREADABLE as error:
            raise InputError(f"{file} is a damaged picture: {error}") from None


def _mask(file: File, object_id: int | None) -> np.ndarray:
    with file.picture() as picture:
        try:
            values = np.asarray(picture if picture.mode in ("1", "L", "P", "I;16", "I") else picture.convert("L"))
        except UNREADABLE as error:
            raise InputError(f"{file} is a damaged picture: {error}") from None
        if object_id is None:
            return values > (0 if picture.mode in ("1", "P") or values.max() <= 1 else 127)
        if picture.mode not in ("1", "L", "P", "I;16", "I"):
            raise InputError(f"{file} is a mask in {picture.mode}; object numbers are grey or palette values")
        return values == object_id
