"""`python -m train.data annotate DATASET --model FOLDER -o dialogues.jsonl`: the command line of `annotate_run`."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch

from lgvi_core.errors import InputError
from lgvi_core.locks import alone

from . import annotate_page, annotate_run, dataset_options
from .annotate import Annotator
from .long_run import processes
from .sources import open_source

log = logging.getLogger(__name__)

WHAT = "have a chat model write requests and answers for a dataset"


def options(commands) -> None:
    """Add the command to those of a parser."""
    parser = commands.add_parser("annotate", help=WHAT, description=WHAT)
    parser.set_defaults(run=run)
    dataset_options.add(parser)
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, required=True, help="a new .jsonl, or one begun")
    group = parser.add_argument_group("the chat model")
    group.add_argument("--model", metavar="FOLDER", type=Path, required=True, help="as transformers writes it")
    group.add_argument("--device", help="(default: a GPU for each process, or the CPU)")
    group.add_argument("--bits", type=int, choices=(8, 4), help="quantise it, by bitsandbytes")
    group.add_argument("--temperature", type=float, default=0.7, help="of the words it draws (default: 0.7)")
    group.add_argument("--max-tokens", type=int, default=512, metavar="N", help="of what it writes (default: 512)")
    parser.add_argument("--requests", type=int, default=1, metavar="N", help="for each sample (default: 1)")
    parser.add_argument("--tries", type=int, default=4, metavar="N", help="of each step (default: 4)")
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    parser.add_argument("--absent", action="store_true", help="requests for what is not there, and answers that say so")


def run(given: argparse.Namespace) -> int:
    """Annotate the dataset, this process's part of it; the first process writes the file and the page."""
    _check(given)
    name, settings = dataset_options.read(given)
    if "dialogues" in settings:
        settings = {**settings, "dialogues": ""}  # they are what is to be written
    scenes = annotate_run.Scenes(open_source(name, settings))
    state = processes()
    chat = _open(given, state.local_process_index)
    if given.absent and not chat.sees:
        raise InputError(f"--absent needs a model that looks at pictures; {given.model} cannot know what is not there")
    asked = {name: getattr(given, name) for name in ("requests", "tries", "seed", "absent")}
    annotator = Annotator(chat, chat.sees, **asked)
    drawn = {name: getattr(given, name) for name in ("bits", "temperature", "max_tokens")}
    how = {"data": _plain(settings), "model": str(given.model.resolve()), **drawn, **asked}
    work = _work(given.output)
    with alone(given.output, state.is_main_process):
        if state.is_main_process:
            annotate_run.begin(work, scenes.source, how)
        state.wait_for_everyone()
        done = annotate_run.told(work)
        state.wait_for_everyone()  # nobody writes before all have read
        annotate_run.run(scenes, annotator, work, done, state.process_index, state.num_processes)
        state.wait_for_everyone()
        code = _finish(scenes, how, work, given.output) if state.is_main_process else 0
    state.destroy_process_group()
    return code


def _finish(scenes: annotate_run.Scenes, how: dict, work: Path, output: Path) -> int:
    lines = annotate_run.told(work)
    log.info("%s", annotate_run.summary(lines))
    if not any(line["said"] for line in lines.values()):
        log.error("no conversation came of it, and no file is written; remove %s to begin anew", work)
        return 1
    page = output.with_suffix(".html")
    annotate_page.write(lines, scenes, how, page)
    annotate_run.write(lines, Path(how["model"]).name, output)
    annotate_run.finish(work)
    log.info("%s\n%s", page, output)
    return 0


def _check(given: argparse.Namespace) -> None:
    for name in ("requests", "tries", "max_tokens"):
        if getattr(given, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} is {getattr(given, name)}; it must be at least 1")
    if not 0 < given.temperature <= 2:
        raise InputError(
            f"--temperature is {given.temperature}; it must be above 0 (at 0 all tries are alike) and up to 2"
        )
    if given.output.suffix != ".jsonl":
        raise InputError(f"--output is {given.output}; dialogues are a file that ends in .jsonl")
    if given.output.exists() and not _work(given.output).exists():
        raise InputError(f"{given.output} is there already: give another --output, or remove it")


def _work(output: Path) -> Path:
    return output.with_name(f"{output.name}.work")


def _open(given: argparse.Namespace, place: int):
    from lgvi_core.chat_model import ChatModel

    device = given.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and torch.cuda.is_available():
        device = f"cuda:{place % torch.cuda.device_count()}"
    return ChatModel(given.model, device, given.bits, given.max_tokens, given.temperature)


def _plain(settings: dict) -> dict:
    """The settings without what depends on where the command is started."""
    return {**settings, **({"root": str(Path(settings["root"]).expanduser().resolve())} if "root" in settings else {})}
