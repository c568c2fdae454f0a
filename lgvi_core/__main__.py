"""`python -m lgvi_core`: remove what words name, fill a mask, carry an edit on, merge models, describe a checkpoint."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys

from . import __version__, chat_command, keyframe_commands, merging_command, video_commands
from .errors import InputError

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 2 for input that cannot be used, 130 when interrupted, 1 otherwise."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    options = _parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for library in ("httpx", "diffusers", "transformers", "libav"):
        logging.getLogger(library).setLevel(logging.ERROR)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # being ended cleans up as Ctrl-C does
    try:
        return options.run(options)
    except (InputError, FloatingPointError) as error:
        print("error:", " ".join(str(error).splitlines()), file=sys.stderr)
        return EXIT_USAGE if isinstance(error, InputError) else EXIT_FAILED
    except KeyboardInterrupt:
        print("interrupted: no output was written", file=sys.stderr)
        return EXIT_INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, before)


def info(options) -> int:
    from . import checkpoints

    print(checkpoints.describe(options.path, options.base))
    return EXIT_OK


class Parser(argparse.ArgumentParser):
    """Says what is wrong with the arguments in one line, like every other error."""

    def error(self, message):
        self.exit(EXIT_USAGE, f"error: {message}; see {self.prog} --help\n")


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options; a last argument that need not be given may stand behind options, which argparse alone refuses."""
    parser = _parser()
    options, more = parser.parse_known_args(arguments)
    for name in ("prompt", "request"):
        if len(more) == 1 and not more[0].startswith("-") and getattr(options, name, "") is None:
            setattr(options, name, more.pop())
    if more:
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    return options


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m lgvi_core", description="Language-driven video inpainting.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    video_commands.add_commands(commands)
    keyframe_commands.add_commands(commands)
    chat_command.add_command(commands)

    command = commands.add_parser("info", help="tell what a checkpoint file or folder is")
    command.set_defaults(run=info)
    command.add_argument("path")
    command.add_argument("--base", metavar="PATH", help="Stable Diffusion 1.5 inpainting, for CoCoCo's shards alone")

    merging_command.add_command(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
