"""An evaluation from data and methods to a report, sample by sample."""

from __future__ import annotations

import hashlib
import logging
import platform
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from lgvi_core.errors import InputError
from lgvi_core.metrics.vfid import frechet_distance

from ..data.entries import Entry
from . import paper_tables, sheet
from .measures import COLUMNS, Networks, Reference, i3d_features, mean, measure, ssim_windows
from .methods import Clip, Method
from .others import OtherObjects
from .progress import Progress, pack, unpack

log = logging.getLogger(__name__)

TRUTH = "the truth"  # a line of progress, not a row: its features


@dataclass(frozen=True)
class Evaluation:
    """data: what the report says of it, `kind`, `root` and `samples` at least. frames: the first so many; None: all."""

    source: object
    data: dict
    methods: list[Method]
    networks: Networks
    output: Path
    limit: int | None = None
    frames: int | None = None
    seed: int = 0

    def run(self) -> dict:
        """The report. What was measured is kept beside `output`, and not measured again by the same call. Pictures of
        every sample and a sheet of the worst and best ones of each method are drawn on the way.

        Raises `InputError` for what can be seen to be wrong before anything is measured.
        """
        entries = [self.source.entry(i) for i in range(min(len(self.source), self.limit or len(self.source)))]
        self._check(entries)
        progress = Progress(self.output.with_suffix(".jsonl"), self._about())
        others = OtherObjects(self.source)
        broken = [list(pair) for pair in self.source.broken]
        with tqdm(entries, unit="sample") as bar:
            for i, entry in enumerate(bar):
                bar.set_postfix_str(entry.name)
                try:
                    self._sample(i, entry, others, progress)
                except BrokenSample as error:
                    broken.append([entry.name, str(error)])
                    log.warning("%s cannot be read: %s", entry.name, error)
        failed = {name for name, _ in broken}
        done = [entry for entry in entries if entry.name not in failed]
        if not done:
            raise InputError(f"no sample of {self.data['root']} can be read: {broken[0][0]}: {broken[0][1]}")
        for method in self.methods:
            self._sheet(method, done, progress)
        return self._report(done, progress, broken)

    def sheet(self, method: str) -> Path:
        """Where the sheet of a method is."""
        return self.output.with_name(f"{self.output.stem}-{method}.png")

    def picture(self, method: str, sample: str) -> Path:
        """Where the strip of a method's first result on a sample is."""
        mark = hashlib.sha256(sample.encode()).hexdigest()[:8]  # two names may differ in what a file name cannot hold
        name = f"{re.sub(r'[^A-Za-z0-9._-]+', '_', sample)[:80]}-{mark}.png"
        return self.output.with_name(f"{self.output.stem}-{method}") / name

    def _check(self, entries: list[Entry]) -> None:
        if not entries:
            raise InputError(f"{self.data['root']} has no sample to evaluate")
        names = [method.name for method in self.methods]
        for name in names:
            if names.count(name) > 1:
                raise InputError(f"two of the methods are called {name!r}: rename one's file or folder")
        if len({entry.name for entry in entries}) < len(entries):
            raise InputError(f"{self.data['root']} has two samples of one name")
        for method in self.methods:
            for entry in entries:
                count = min(entry.frames, self.frames or entry.frames)
                method.check(entry.name, count, entry.frames, entry.height, entry.width)

    def _about(self) -> dict:
        fixed = {key: value for key, value in self.data.items() if key != "samples"}
        return {"data": fixed, "frames": self.frames, "seed": self.seed, "networks": self.networks.used}

    def _sample(self, i: int, entry: Entry, others: OtherObjects, progress: Progress) -> None:
        caption = entry.captions[0]
        identities = {TRUTH: TRUTH, **{method.name: method.identity for method in self.methods}}
        absent = {n for n, identity in identities.items() if progress.get(entry.name, caption, n, identity) is None}
        if not absent:
            return
        try:
            frames = list(range(min(entry.frames, self.frames or entry.frames)))
            sample = self.source.load(i, frames, entry.height, entry.width)
            staying = others.of(i, sample.mask)
        except (InputError, OSError) as error:
            raise BrokenSample(str(error)) from error
        clip = Clip(entry.name, caption, sample.frames, sample.clean, sample.mask)
        reference = Reference(clip, self.networks, staying)
        if TRUTH in absent:
            progress.add(entry.name, caption, TRUTH, TRUTH, features=pack(reference.features))
        for method in (one for one in self.methods if one.name in absent):
            edits, results = list(method.edit(clip)), {}
            for edit in edits:
                features = pack(i3d_features(self.networks, edit.frames))
                results[edit.composited] = {"values": measure(reference, edit), "features": features}
            picture = self.picture(method.name, entry.name)
            picture.parent.mkdir(parents=True, exist_ok=True)
            sheet.save(sheet.strip(clip, edits[0]), picture)
            progress.add(entry.name, caption, method.name, method.identity, results=results)

    def _report(self, done: list[Entry], progress: Progress, broken: list) -> dict:
        report = {
            "data": self.data,
            "samples": len(done),
            "frames": self.frames,
            "seed": self.seed,
            "networks": self.networks.used,
            "ssim_windows": ssim_windows({(entry.height, entry.width) for entry in done}),
            "machine": _machine(),
            "broken": broken,
            "rows": [self._row(method, mode, done, progress) for method in self.methods for mode in method.modes],
        }
        if self.data["kind"] == "rovi" and self.data.get("split") == "test":
            report["paper"] = paper_tables.as_json()
        return report

    def _row(self, method: Method, mode: str, entries: list[Entry], progress: Progress) -> dict:
        lines = [progress.lines[entry.name, method.name]["results"][mode] for entry in entries]
        row = {"method": method.name, "identity": method.identity, "composited": mode}
        row |= mean([line["values"] for line in lines])
        truths = [unpack(progress.lines[entry.name, TRUTH]["features"]) for entry in entries]
        made = [unpack(line["features"]) for line in lines]
        for name in ("vfid_paper", "vfid"):
            pairs = [(truth[name], one[name]) for truth, one in zip(truths, made) if name in truth]
            if len(pairs) > 1:
                row[name] = frechet_distance(*map(np.stack, zip(*pairs)))
        absent = {name: column.absent for name, column in COLUMNS.items() if name not in row} | {
            name: reason for name, reason in self.networks.absent.items() if name not in row
        }
        return row | {"left_out": absent}

    def _sheet(self, method: Method, entries: list[Entry], progress: Progress) -> None:
        lines = [progress.lines[entry.name, method.name] for entry in entries]
        shown = [line | {"values": line["results"][method.modes[0]]["values"]} for line in lines]
        pictures = {entry.name: self.picture(method.name, entry.name) for entry in entries}
        drawn = sheet.draw(f"{method.name} ({method.modes[0]})", shown, pictures)
        sheet.save(drawn, self.sheet(method.name))


def _machine() -> str:
    cuda = f"{torch.cuda.get_device_name()}, " if torch.cuda.is_available() else ""
    return f"{cuda}{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"


class BrokenSample(Exception):
    """A sample whose files cannot be read; it is reported and counted."""
