"""`python -m train.data build-vivid CLIPS -o DATASET`: the command line of `build_vivid`."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from lgvi_core.errors import InputError
from lgvi_core.locks import alone

from . import build_clips, build_page, build_vivid
from .build_captions import Chat, from_label
from .build_filters import Limits
from .long_run import processes

log = logging.getLogger(__name__)

WHAT = "make a dataset to fill from clips and where objects are in them"


def options(commands) -> None:
    """Add the command to those of a parser."""
    parser = commands.add_parser("build-vivid", help=WHAT, description=WHAT)
    parser.set_defaults(run=run)
    parser.add_argument("clips", metavar="CLIPS", type=Path, help="a folder of videos, pictures, folders of pictures")
    parser.add_argument("-o", "--output", metavar="DATASET", type=Path, required=True, help="a new one, or one begun")
    parser.add_argument("--objects", metavar="DIR", type=Path, help="where masks and detections are (default: CLIPS)")
    group = parser.add_argument_group("captions", "without --captions, the objects' labels with an article")
    group.add_argument("--captions", metavar="URL", help="a chat server of your own, as http://localhost:8080/v1")
    group.add_argument("--captions-model", metavar="NAME", default="", help="its model (default: the first it has)")
    group.add_argument("--vocabulary", metavar="FILE", type=Path, help="labels that stay, one a line")
    parser.add_argument("--clips-per-shard", type=int, default=16, metavar="N", help="(default: 16)")
    Limits.options(parser)


def run(given: argparse.Namespace) -> int:
    """Build the dataset, this process's part of it; the first process writes the page."""
    if given.clips_per_shard < 1:
        raise InputError(f"--clips-per-shard is {given.clips_per_shard}; it must be at least 1")
    if given.captions_model and not given.captions:
        raise InputError("--captions-model names a model of a server: give the server with --captions")
    objects = given.objects or given.clips
    clips = build_clips.find(given.clips, objects)
    chat = Chat(given.captions, given.captions_model) if given.captions else None
    build = build_vivid.Build(
        labels=build_clips.labels(objects),
        limits=Limits.of(given),
        captioner=chat or from_label,
        vocabulary=None if given.vocabulary is None else _words(given.vocabulary),
    )
    how = build_vivid.settings(build, chat.model if chat else "labels", objects)
    state = processes()
    with alone(given.output, state.is_main_process):
        if state.is_main_process:
            build_vivid.begin(given.output, clips, given.clips_per_shard, how)
        state.wait_for_everyone()
        build_vivid.run(clips, given.output, build, given.clips_per_shard, state.process_index, state.num_processes)
        state.wait_for_everyone()
        if state.is_main_process:
            build_vivid.finish(given.output)
            build_page.write(given.output)
            log.info("%s\n%s", build_vivid.summary(list(build_vivid.reports(given.output))), given.output)
    state.destroy_process_group()
    return 0


def _words(path: Path) -> frozenset[str]:
    try:
        words = frozenset(line.strip().lower() for line in path.read_text("utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the vocabulary {path} cannot be read: {error}") from None
    if not words:
        raise InputError(f"the vocabulary {path} has no labels: give one a line")
    return words
