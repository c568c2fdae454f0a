"""WebDataset shards, for sets of many files: tar files whose members' names begin with the sample's key.

    *.tar
        <key>.json               {"name": ..., "captions": [...]}; "name" is optional
        <key>.video.<frame>.jpg  the video, one picture a frame in natural order
        <key>.mask.<frame>.png   white, or any palette colour but the first, is removed
        <key>.clean.<frame>.jpg  the video without it

The key has no dot; pictures are of any kind. The tar files are not compressed: a sample is read from its place in them.
`python -m train.data shard DIR -o OUT` writes shards from any other layout: pictures are copied byte for byte, the
frames of video files become PNG, masks black and white PNG.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from lgvi_core.errors import InputError

from .records import File, Record, Track, natural

MARK = "files *.tar"
WHERE = "give the folder that has the tar files"
SETTINGS: dict = {}
PARTS = ("video", "mask", "clean")


def matches(root: Path) -> bool:
    return next(root.glob("*.tar"), None) is not None


def records(root: Path, settings: dict) -> Iterator[Record]:
    """The records of all shards, in the order of their names and then of the keys in them."""
    shards = sorted(root.glob("*.tar"), key=lambda path: natural(path.name))
    if not shards:
        raise InputError(f"{root} has no files *.tar")
    for path in tqdm(shards, desc=f"indexing {root.name}", unit="shard", delay=2, leave=False):
        for key, members in _samples(path).items():
            if "json" not in members:
                raise InputError(f"{path}: the sample {key} has no {key}.json")
            try:
                said = json.loads(members.pop("json").read())
                name, captions = str(said.get("name", key)), tuple(said["captions"])
            except (ValueError, KeyError, AttributeError, TypeError) as error:
                raise InputError(f"{path}: {key}.json is not as expected, an object with captions: {error!r}") from None
            tracks = []
            for part in PARTS:
                files = [members[rest] for rest in sorted(members, key=natural) if rest.split(".")[0] == part]
                names, places = (file.member for file in files), ((file.offset, file.size) for file in files)
                tracks.append(Track(path, tuple(names), tuple(places)))
            yield Record(name, *tracks, captions)


def _samples(path: Path) -> dict[str, dict[str, File]]:
    """The members of a shard by key and by the rest of their name."""
    samples: dict[str, dict[str, File]] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.isfile():
                    folder, _, name = member.name.rpartition("/")
                    key, _, rest = name.partition(".")
                    key = f"{folder}/{key}" if folder else key
                    samples.setdefault(key, {})[rest] = File(path, member.name, member.offset_data, member.size)
    except (tarfile.TarError, OSError) as error:
        raise InputError(f"{path} cannot be read as a tar file: {error}") from None
    return samples


def write(source, out: Path, samples_per_shard: int = 100) -> int:
    """Write the samples of a source (on disk) as shards into a new folder; returns how many shards there are."""
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        raise InputError(f"{out} is not empty; give a new folder")
    starts = range(0, len(source), samples_per_shard)
    with tqdm(total=len(source), unit="sample") as bar:
        for number, start in enumerate(starts):
            path = out / f"shard-{number:06d}.tar"
            temporary = path.with_name(f".{path.name}.{os.getpid()}")
            try:
                with tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
                    for i in range(start, min(start + samples_per_shard, len(source))):
                        _add(tar, f"{i:08d}", source.records[i], source.entry(i).frames)
                        bar.update()
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
    return len(starts)


def _add(tar: tarfile.TarFile, key: str, record: Record, frames: int) -> None:
    said = {"name": record.name, "captions": list(record.captions)}
    _member(tar, f"{key}.json", json.dumps(said, ensure_ascii=False).encode())
    for part in ("video", "clean"):
        pictures = getattr(record, part)
        if pictures.is_video:
            decoded = pictures.frames(list(range(frames)))
            files = ((".png", _png(Image.fromarray(picture))) for picture in decoded)
        else:
            files = ((file.suffix, file.read()) for file in map(pictures.file, range(frames)))
        for t, (suffix, content) in enumerate(files):
            _member(tar, f"{key}.{part}.{t:05d}{suffix}", content)
    for t, mask in enumerate(record.mask.masks(list(range(frames)), record.object_id)):
        _member(tar, f"{key}.mask.{t:05d}.png", _png(Image.fromarray(mask)))


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def _member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
