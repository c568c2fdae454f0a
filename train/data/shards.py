"""WebDataset shards, for sets of many files: tar files whose members' names begin with the sample's key.

    *.tar
        <key>.json               {"name": ..., "captions": [...]}; "name" is optional
        <key>.video.<frame>.jpg  the video, one picture a frame in natural order
        <key>.mask.<frame>.png   white, or any palette colour but the first, is removed
        <key>.clean.<frame>.jpg  the video without it

With "fill": true in the JSON, captions say what stands in the mask, and the video is its own truth: there is no clean.
There may be other masks then, `<key>.mask_<shape>.<frame>.png`; each makes a sample more, `<name>/<shape>`; and masks
`<key>.objects.<frame>.png` of all that is in the video. A setting beside those of every layout, for samples with those:

deletion     share of samples that ask for nothing, see `deletion`, with VIVID's fixed caption (0.0)

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

from . import instances
from .records import File, Record, Track, natural

MARK = "files *.tar"
WHERE = "give the folder that has the tar files"
SETTINGS: dict = {"deletion": 0.0}
PARTS = ("video", "mask", "clean")


def matches(root: Path) -> bool:
    return next(root.glob("*.tar"), None) is not None


def records(root: Path, settings: dict) -> Iterator[Record]:
    """The records of all shards, in the order of their names and then of the keys in them, and those of `deletion`."""
    shards = sorted(root.glob("*.tar"), key=lambda path: natural(path.name))
    if not shards:
        raise InputError(f"{root} has no files *.tar")
    instances.check_share(settings["deletion"])
    count, things, others = 0, {}, []
    for path in tqdm(shards, desc=f"indexing {root.name}", unit="shard", delay=2, leave=False):
        for found, objects in _read(path):
            yield from found
            count += len(found)
            if settings["deletion"] and objects.names:
                name, video, mask = found[0].name, found[0].video, found[0].mask
                things[name] = [instances.Things(video, video.describe(), drawn=objects)]
                others.append((name, mask))
    if settings["deletion"]:
        yield from instances.deletions(root, things, others, count, settings["deletion"])


def of_file(path: Path) -> Iterator[Record]:
    """The records of one shard, in the order of their keys."""
    for found, _ in _read(path):
        yield from found


def _read(path: Path) -> Iterator[tuple[list[Record], Track]]:
    """The records that each sample of a shard makes, and the masks of all that is in its video."""
    for key, members in _samples(path).items():
        if "json" not in members:
            raise InputError(f"{path}: the sample {key} has no {key}.json")
        try:
            said = json.loads(members.pop("json").read())
            name, captions = str(said.get("name", key)), tuple(said["captions"])
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise InputError(f"{path}: {key}.json is not as expected, an object with captions: {error!r}") from None
        files: dict[str, list[File]] = {part: [] for part in (*PARTS, "objects")}
        for rest in sorted(members, key=natural):
            files.setdefault(rest.split(".")[0], []).append(members[rest])
        tracks = {part: _track(path, some) for part, some in files.items()}
        video, masks = tracks["video"], {"": tracks["mask"]}
        clean = tracks["clean"]
        if said.get("fill"):
            clean = video
            masks |= {f"/{part[5:]}": masks for part, masks in tracks.items() if part.startswith("mask_")}
        yield [Record(name + shape, video, mask, clean, captions) for shape, mask in masks.items()], tracks["objects"]


def _track(path: Path, files: list[File]) -> Track:
    return Track(path, tuple(file.member for file in files), tuple((file.offset, file.size) for file in files))


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
    member(tar, f"{key}.json", json.dumps(said, ensure_ascii=False).encode())
    for part in ("video", "clean"):
        pictures = getattr(record, part)
        if pictures.is_video:
            decoded = pictures.frames(list(range(frames)))
            files = ((".png", png(Image.fromarray(picture))) for picture in decoded)
        else:
            files = ((file.suffix, file.read()) for file in map(pictures.file, range(frames)))
        for t, (suffix, content) in enumerate(files):
            member(tar, f"{key}.{part}.{t:05d}{suffix}", content)
    for t, mask in enumerate(record.mask.masks(list(range(frames)), record.object_id)):
        member(tar, f"{key}.mask.{t:05d}.png", png(Image.fromarray(mask)))


def png(picture: Image.Image) -> bytes:
    """The picture as a PNG file."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a file to a tar file; it has no time and no owner, so that the same content makes the same bytes."""
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))
