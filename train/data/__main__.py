"""Look at datasets, pack, annotate and build them: `python -m train.data check`, `shard`, `annotate`, `build-vivid`.

`check` says what is wrong with a dataset, file by file, and ends with 0 where nothing is, 1 where something is and 2
where it cannot be read at all. `shard` writes it as tar files for training from slow or remote disks. `annotate
DIR --model FOLDER -o FILE` has a chat model write requests and answers, see docs/conversations.md. `build-vivid CLIPS
-o DATASET` makes a dataset to fill from clips and where objects are in them, see docs/build-vivid.md.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections import Counter
from pathlib import Path

from tqdm import tqdm

from lgvi_core.errors import InputError

from . import annotate_command, build_command, dataset_options, inspection, shards, sheet
from .records import Record
from .sources import FileSource, open_source, records_of

log = logging.getLogger(__name__)


def check(options: argparse.Namespace) -> int:
    name, given = dataset_options.on_disk(options)
    records, settings = records_of(name, given)
    found: list[inspection.Finding] = []
    looked_at, interrupted = 0, False

    def tell(findings):
        for finding in findings:
            found.append(finding)
            tqdm.write(str(finding), file=sys.stdout)

    try:
        tell(inspection.across(records))
        if settings["dialogues"]:
            tell(inspection.dialogues(records, Path(settings["dialogues"]).expanduser()))
        for record in tqdm(records, unit="sample", desc="checking"):
            tell(inspection.of(record, settings["resize"]))
            looked_at += 1
    except KeyboardInterrupt:
        interrupted = True
    levels = Counter(finding.level for finding in found)
    wrong = len({finding.name for finding in found if finding.level == "error"})
    note = f", stopped after {looked_at}" if interrupted else ""
    summary = f"{levels['error']} errors in {wrong} samples, {levels['warning']} warnings"
    sys.stdout.write(f"{settings['root']} ({given['kind']}): {len(records)} samples{note}; {summary}\n")
    if options.sheet and not interrupted:
        _draw(records, Path(options.sheet))
    return 130 if interrupted else 1 if levels["error"] else 0


def _draw(records: list[Record], path: Path, most: int = 24) -> None:
    count = min(most, len(records))
    rows = []
    for record in (records[i * len(records) // count] for i in range(count)):
        try:
            source = FileSource("sheet", [record], {"root": "", "flip": False, "resize": True, "skip_broken": False})
            entry = source.entry(0)
            rows.append(sheet.row(entry, source.load(0, [entry.frames // 2], entry.height, entry.width)))
        except (InputError, OSError):
            log.warning("%s is not on the sheet: it cannot be read", record.name)
    if rows:
        sheet.save(rows, path)
        log.info("wrote %s", path)


def shard(options: argparse.Namespace) -> int:
    if options.samples < 1:
        raise InputError(f"--samples is {options.samples}; it must be at least 1")
    source = open_source(*dataset_options.on_disk(options))
    count = shards.write(source, Path(options.output), options.samples)
    log.info("wrote %d samples into %d shards in %s", len(source), count, options.output)
    return 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m train.data", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for run, what in ((check, "say what is wrong with a dataset"), (shard, "write a dataset as WebDataset shards")):
        command = commands.add_parser(run.__name__, help=what, description=what)
        command.set_defaults(run=run)
        dataset_options.add(command)
        if run is check:
            command.add_argument("--sheet", metavar="PNG", help="draw a contact sheet: input | mask | clean | caption")
        else:
            command.add_argument("-o", "--output", required=True, metavar="OUT", help="a new folder")
            command.add_argument("--samples", type=int, default=100, help="in each shard (default: 100)")
    annotate_command.options(commands)
    build_command.options(commands)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        return options.run(options)
    except InputError as error:
        log.error("%s", error)
        return 2
    except KeyboardInterrupt:
        log.info("interrupted")
        return 130


if __name__ == "__main__":
    sys.exit(main())
