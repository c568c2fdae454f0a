"""`python -m lgvi_core`: remove what a sentence names from a video, or tell what a checkpoint is."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from . import __version__
from .errors import InputError

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 2 for input that cannot be used, 130 when interrupted, 1 otherwise."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    options = _parser().parse_args(arguments)
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
        print("interrupted: nothing was written", file=sys.stderr)
        return EXIT_INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, before)


def remove(options) -> int:
    from .inpaint import inpaint

    settings = {name: getattr(options, name) for name in SETTINGS}
    with logging_redirect_tqdm(), Progress(not options.quiet) as progress:
        result = inpaint(
            options.video,
            options.request,
            options.output,
            mask=options.mask,
            mask_output=options.mask_output,
            sheet=options.sheet,
            device=options.device,
            dtype=options.dtype,
            callback=progress,
            **({"checkpoint": options.checkpoint} if options.checkpoint else {}),
            **settings,
        )
    print(f"{options.output}: {result.frame_count} frames, mask covers {100 * result.mask_area:.2f} %")
    for name, path in (("mask", options.mask_output), ("sheet", options.sheet)):
        if path:
            print(f"{name}: {path}")
    return EXIT_OK


def info(options) -> int:
    from . import checkpoints

    print(checkpoints.describe(options.path))
    return EXIT_OK


class Progress:
    """A bar over all steps of all windows, with the time left, from the first step on."""

    def __init__(self, shown: bool):
        self.shown = shown
        self.bar = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.bar is not None:
            self.bar.close()

    def __call__(self, step: dict) -> None:
        windows = step["windows"] and max(step["windows"], step["window"] + 1)
        total = windows and windows * step["steps"]
        at = f"window {step['window'] + 1} of {windows or '?'}"
        if self.bar is None:
            self.bar = tqdm(disable=not self.shown, desc=at, total=total, initial=1, unit="step", dynamic_ncols=True)
            return
        self.bar.total = total
        self.bar.set_description(at, refresh=False)
        self.bar.update()


SETTINGS = (
    "steps", "guidance_scale", "image_guidance_scale", "scheduler", "seed", "size", "window", "overlap",
    "batch_passes", "dilate", "feather", "keep_outside",
)  # fmt: skip


class Parser(argparse.ArgumentParser):
    """Says what is wrong with the arguments in one line, like every other error."""

    def error(self, message):
        self.exit(EXIT_USAGE, f"error: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m lgvi_core", description="Language-driven video inpainting.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    command = commands.add_parser(
        "remove",
        help="remove what a sentence names from a video",
        description="Remove what a sentence names from a video; sound, frame rate and length stay.",
        epilog='example: python -m lgvi_core remove in.mp4 "remove the red circle on the left" -o out.mp4',
    )
    command.set_defaults(run=remove)
    command.add_argument("video", help="video file, folder of numbered pictures, or a picture")
    command.add_argument("request", help='what to remove, e.g. "remove the red circle on the left"')
    command.add_argument("-o", "--output", required=True, help=".mp4 .mov .mkv .webm .gif, or a folder for PNG files")
    command.add_argument("--checkpoint", metavar="PATH", help="checkpoint file or folder (default: the demo one)")
    command.add_argument("--mask", metavar="PATH", help="where changes are kept (white): video, folder or picture")
    command.add_argument("--mask-output", metavar="PATH", help="write the mask as a video or a folder of PNG files")
    command.add_argument("--sheet", metavar="PATH", help="write a contact sheet (PNG): input | mask | result")

    sampling = command.add_argument_group("sampling (default: what the checkpoint recommends)")
    sampling.add_argument("--steps", type=int, help="denoising steps")
    sampling.add_argument("--guidance", type=float, dest="guidance_scale", help="guidance scale of the words; 1 is off")
    sampling.add_argument(
        "--image-guidance", type=float, dest="image_guidance_scale", help="guidance scale of the video"
    )
    sampling.add_argument("--scheduler", help="ddim, pndm, euler, euler_a, heun, dpm++, unipc, deis, lcm or ddpm")
    sampling.add_argument("--seed", type=int, default=0, help="same seed, same result (default 0)")
    sampling.add_argument("--size", type=_size, metavar="WxH", help="size the model works at (default: as trained)")
    sampling.add_argument("--window", type=int, default=24, help="frames the model sees at once (default 24)")
    sampling.add_argument("--overlap", type=int, default=8, help="frames that windows share (default 8)")
    sampling.add_argument(
        "--batch-passes",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="guidance passes of a step as one batch or one by one (default: as memory allows)",
    )

    edge = command.add_argument_group("what may change, in pixels of the video")
    edge.add_argument("--dilate", type=float, help="grow the mask (default: a pixel of the model's mask, at least 2)")
    edge.add_argument("--feather", type=float, help="soften its edge from outside inwards (default: half of dilate)")
    edge.add_argument(
        "--keep-outside",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="keep the source's own pixels outside the mask",
    )

    machine = command.add_argument_group("machine")
    machine.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: cuda if there is one)")
    machine.add_argument("--dtype", help="float32, float16 or bfloat16 (default: float16 on cuda, else float32)")
    machine.add_argument("--quiet", action="store_true", help="no progress bar")

    command = commands.add_parser("info", help="tell what a checkpoint file or folder is")
    command.set_defaults(run=info)
    command.add_argument("path")
    return parser


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form WIDTHxHEIGHT, such as 512x320")
    return int(width), int(height)


if __name__ == "__main__":
    sys.exit(main())
