"""`python -m lgvi_core remove --request` and `chat`: what their options are, and what they print."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

from tqdm.contrib.logging import logging_redirect_tqdm

from . import video_commands
from .errors import InputError
from .video_commands import Progress
from .wording import read

if TYPE_CHECKING:
    from .understanding import Reader, Understanding

HELP = "Say in your own words what should go or stay. undo goes back a turn, quit (or Ctrl-D) ends."
INTERRUPTED = 130


def add_command(commands) -> None:
    """Adds `chat` to the subcommands of a parser."""
    command = commands.add_parser(
        "chat",
        help="a conversation about what to remove from a video",
        description="A conversation about what to remove from a video. Each turn acts on what the turns before left: "
        "OUTPUT is the video as it is then, and every turn's own video and contact sheet stay in OUTPUT-turns.",
        epilog='example: printf "I only want the red circle\\nquit\\n" | python -m lgvi_core chat in.mp4 -o out.mp4',
    )
    command.set_defaults(run=chat)
    command.add_argument("video", help="video file, folder of numbered pictures, or a picture")
    command.add_argument("-o", "--output", required=True, help=video_commands.OUTPUT)
    command.add_argument("--checkpoint", metavar="PATH", help="checkpoint file or folder (default: the demo one)")
    _add_request_model(command)
    video_commands.add_removal(command)


def add_requests(command) -> None:
    """Adds to `remove` a request in a person's own words, and who reads it."""
    _add_request_model(command).add_argument(
        "--request",
        dest="own_words",
        metavar="WORDS",
        help='in your own words what should go or stay, in place of the direct one, e.g. "I only want the dog to stay"',
    )


def in_own_words(options) -> bool:
    """Whether `remove` has a --request; `InputError` if it has a direct one too, or neither."""
    if (options.request is None) == (options.own_words is None):
        given = "both ways" if options.request else "not at all"
        raise InputError(
            f'what to remove is said {given}: say it directly ("remove the dog on the left"), or in your own words '
            "with --request"
        )
    for name in ("model", "device", "bits"):
        if options.own_words is None and getattr(options, f"request_{name}") is not None:
            raise InputError(f"--request-{name} is about reading a --request, and there is none: give one")
    return options.own_words is not None


def _add_request_model(command):
    group = command.add_argument_group("who reads requests (default: the checkpoint's own language model, or rules)")
    group.add_argument(
        "--request-model",
        metavar="PATH",
        help="LGVI-I's folder, LLaVA's beneath LGVI-I as the checkpoint, any chat model's as transformers writes it, or "
        "'rules' for plain rules",
    )
    group.add_argument("--request-device", metavar="DEVICE", help="where it runs (default: as --device)")
    group.add_argument("--request-bits", type=int, choices=(8, 4), help="quantise it (needs bitsandbytes)")
    return group


def remove(options) -> int:
    """`remove --request`: understands, says so, and removes, or leaves the video as it is."""
    from . import requested

    with logging_redirect_tqdm(), Progress(not options.quiet) as progress:
        outcome = requested.remove(
            options.video,
            options.own_words,
            options.output,
            reader=_reader(options),
            told=_tell,
            mask=options.mask,
            **video_commands.shared(options, progress),
        )
    if outcome.understood.kind == "absent" and outcome.result.unchanged:
        _tell_answer(outcome.understood)
    return video_commands.report(options, outcome.result)


def chat(options) -> int:
    """`chat`: a turn for every line of the terminal or of a pipe."""
    from .chat import Chat

    shared = video_commands.shared(options, None)
    with logging_redirect_tqdm(), Chat(options.video, options.output, _reader(options), **shared) as conversation:
        print(HELP)
        try:
            for line in _lines():
                if line.lower() in ("quit", "exit"):
                    break
                _turn(conversation, line, options)
        except KeyboardInterrupt:
            print(f"\ninterrupted: {options.output} is as the last turn left it", file=sys.stderr)
            return INTERRUPTED
    return 0


def _turn(conversation, line: str, options) -> None:
    if line.lower() == "undo":
        print(f"{options.output}: back by a turn" if conversation.undo() else "nothing to undo")
        return
    try:
        with Progress(not options.quiet) as progress:
            conversation.options["callback"] = progress
            said = conversation.say(line, _tell)
    except (InputError, FloatingPointError) as error:
        print("error:", " ".join(str(error).splitlines()), file=sys.stderr)
        return
    if said.output is None:
        if said.outcome is not None:
            _tell_answer(said.understood)
        if read(line).kind == "restore":
            print("undo takes back the last removal")
        print(f"{options.output}: as before")
    else:
        print(f"{options.output}: mask covers {100 * said.outcome.result.mask_area:.2f} %")
        print(f"this turn: {said.output}\nsheet: {said.sheet}")


def _tell(understood: Understanding) -> None:
    """What is shown before long work starts."""
    _tell_answer(understood)
    if understood.region is not None and understood.region.box is not None:
        left, top, width, height = understood.region.box
        print(f"place: {left:.2f},{top:.2f} to {left + width:.2f},{top + height:.2f} of the first frame")
    print(f"prompt: {understood.prompt}" if understood.met else f"prompt: none ({understood.kind})", flush=True)


def _tell_answer(understood: Understanding) -> None:
    """The answer without characters that would steer a terminal."""
    print("answer:", "".join(c if c.isprintable() or c == "\n" else " " for c in understood.answer))


def _reader(options) -> Reader:
    from .inpaint import DEMO
    from .understanding import open_reader

    return open_reader(
        options.request_model,
        options.checkpoint or DEMO,
        options.request_device or options.device,
        options.request_bits,
    )


def _lines():
    """What is typed, line by line; of a pipe, each line is shown as if it were typed."""
    typed = sys.stdin.isatty()
    if typed:
        with contextlib.suppress(ImportError):  # Windows' own terminal does the same
            import readline  # noqa: F401  input() then edits lines and remembers them
    while True:
        try:
            line = input("> " if typed else "").strip()
        except EOFError:
            return
        if line:
            if not typed:
                print(f"> {line}", flush=True)
            yield line
