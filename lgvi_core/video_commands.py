"""`python -m lgvi_core remove` and `fill`: what their options are, and what they print."""

from __future__ import annotations

import argparse

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from .editing import DELETION
from .errors import InputError

SETTINGS = (
    "steps", "guidance_scale", "image_guidance_scale", "scheduler", "seed", "size", "window", "overlap",
    "batch_passes", "dilate", "feather", "keep_outside",
)  # fmt: skip
MASK = "white: video, folder or picture"
OUTPUT = ".mp4 .mov .mkv .webm .gif, a folder for PNG files, or .png for a picture"
FAMILY = "checkpoint file or folder of the CoCoCo family (default: the demo one)"


def add_commands(commands) -> None:
    """Adds `remove` and `fill` to the subcommands of a parser."""
    from . import chat_command

    command = commands.add_parser(
        "remove",
        help="remove what a sentence names from a video",
        description="Remove what a sentence names from a video; sound, frame rate and length stay.",
        epilog='example: python -m lgvi_core remove in.mp4 "remove the red circle on the left" -o out.mp4',
    )
    command.set_defaults(run=remove)
    command.add_argument("video", help="video file, folder of numbered pictures, or a picture")
    command.add_argument("request", nargs="?", help='what to remove, e.g. "remove the red circle on the left"')
    add_files(command, "checkpoint file or folder (default: the demo one)")
    command.add_argument("--mask", metavar="PATH", help=f"where changes are kept ({MASK})")
    chat_command.add_requests(command)
    add_removal(command)

    command = commands.add_parser(
        "fill",
        help="fill a mask in a video with what a prompt says",
        description="Fill a mask in a video with what a prompt says; sound, frame rate and length stay. The mask comes "
        "from a file, a colour, a box or words, or from the prompt itself (replace A with B).",
        epilog='example: python -m lgvi_core fill in.mp4 --mask mask.mp4 "a wooden boat" -o out.mp4',
    )
    command.set_defaults(run=fill)
    add_filling(
        command, 'what to fill the mask with, e.g. "a wooden boat", or "replace the red circle with a yellow star"'
    )
    add_files(command, FAMILY)
    add_windows(command, chain=False, track=False)
    add_sampling(command, "as trained")
    add_edge_and_machine(command)


def remove(options) -> int:
    from . import chat_command
    from .inpaint import inpaint

    if chat_command.in_own_words(options):
        return chat_command.remove(options)
    with logging_redirect_tqdm(), Progress(not options.quiet) as progress:
        result = inpaint(
            options.video, options.request, options.output, mask=options.mask, **shared(options, progress)
        )
    return report(options, result)


def fill(options) -> int:
    from .inpaint import fill

    if options.prompt is None and not options.delete:
        raise InputError("no prompt is given: say what comes into the mask, or --delete to remove what is in it")
    with logging_redirect_tqdm(), Progress(not options.quiet) as progress:
        result = fill(
            options.video, prompt(options), options.output, **filling(options), **windows(options),
            **shared(options, progress),
        )  # fmt: skip
    return report(options, result)


def prompt(options) -> str:
    """The prompt, by default of --delete the caption that deletion is trained with."""
    return options.prompt or (DELETION if options.delete else "")


def filling(options) -> dict:
    """What options say to the engine of what is filled."""
    named = {name: getattr(options, name) for name in ("mask_words", "mask_shape", "mask_grow", "negative_prompt")}
    named |= {"mask": _mask(options), "base": options.base}
    return named | ({"mask_checkpoint": options.mask_checkpoint} if options.mask_checkpoint else {})


def windows(options) -> dict:
    """What options say to the engine of how an edit goes through a video."""
    return {name: getattr(options, name) for name in ("chain", "match_colours", "cross_cuts", "track", "mask_frame")}


def _mask(options):
    from .user_mask import Box, Colour

    if options.mask_box and (options.mask or options.mask_colour):
        raise InputError("the mask is given twice, as --mask-box and otherwise: give one")
    if options.mask_box:
        return Box.parse(options.mask_box)
    return Colour.parse(options.mask_colour, options.mask) if options.mask_colour else options.mask


def shared(options, progress: Progress) -> dict:
    """What options say to the engine, whatever the command."""
    shared = {name: getattr(options, name) for name in SETTINGS if hasattr(options, name)}
    files_and_machine = ("mask_output", "sheet", "device", "dtype")
    shared |= {name: getattr(options, name) for name in files_and_machine if hasattr(options, name)}
    return shared | {"callback": progress} | ({"checkpoint": options.checkpoint} if options.checkpoint else {})


def report(options, result) -> int:
    """Prints what was written; gives the exit code."""
    print(f"{options.output}: {result.frame_count} frames, mask covers {100 * result.mask_area:.2f} %")
    for name, path in (("mask", options.mask_output), ("sheet", options.sheet)):
        if path:
            print(f"{name}: {path}")
    return 0


def add_files(command, checkpoint: str) -> None:
    """Adds what is written, and by which checkpoint."""
    command.add_argument("-o", "--output", required=True, help=OUTPUT)
    command.add_argument("--checkpoint", metavar="PATH", help=checkpoint)
    command.add_argument("--mask-output", metavar="PATH", help="write the mask as a video or a folder of PNG files")
    command.add_argument("--sheet", metavar="PATH", help="write a contact sheet (PNG): input | mask | result")


def add_filling(command, prompt: str) -> None:
    """Adds the video, what is filled, and with what."""
    command.add_argument("video", help="video file, folder of numbered pictures, or a picture")
    command.add_argument("prompt", nargs="?", help=prompt)
    command.add_argument(
        "--delete", action="store_true", help="remove what is in the mask: the prompt is VIVID's, if none is given"
    )
    command.add_argument("--base", metavar="PATH", help="Stable Diffusion 1.5 inpainting, for CoCoCo's shards alone")
    command.add_argument("--negative-prompt", metavar="WORDS", default="", help="what is not wanted in the mask")
    mask = command.add_argument_group("mask")
    mask.add_argument("--mask", metavar="PATH", help=f"what to fill ({MASK})")
    mask.add_argument(
        "--mask-colour", metavar="#RRGGBB", help="fill the pixels of this colour, of the file of --mask or of the video"
    )
    mask.add_argument("--mask-box", metavar="X,Y,W,H", help="fill a box, in pixels or in fractions of the frame")
    mask.add_argument("--mask-words", metavar="WORDS", help='fill what is named, e.g. "the red circle"')
    mask.add_argument(
        "--mask-checkpoint", metavar="PATH", help="LGVI checkpoint that finds the words (default: the demo one)"
    )
    mask.add_argument(
        "--mask-shape", metavar="SHAPE", default="exact",
        help="what is made of the mask: exact, expand, hull, box, hull_expand or box_expand (default exact)",
    )  # fmt: skip
    mask.add_argument(
        "--mask-grow", metavar="PIXELS", type=float, help="how far a shape expands (default: 1/16 of the shorter side)"
    )


def add_windows(command, chain: bool, track: bool) -> None:
    """Adds how an edit goes through a video, and what a mask of one frame is for."""
    long = command.add_argument_group("clips that are longer than a window")
    way = long.add_mutually_exclusive_group()
    way.add_argument(
        "--chain", action="store_const", const=True, default=chain,
        help="the last frames of a window guide the next one; an interrupted run goes on where it stopped"
        + " (default)" * chain,
    )  # fmt: skip
    way.add_argument(
        "--blend", action="store_const", const=False, dest="chain",
        help="windows are made apart, and blended where they overlap" + " (default)" * (not chain),
    )  # fmt: skip
    long.add_argument(
        "--match-colours", action=argparse.BooleanOptionalAction, default=True,
        help="in a chain, put right what drifts of the colours around the mask",
    )  # fmt: skip
    long.add_argument("--cross-cuts", action="store_true", help="in a chain, go on over scene cuts too")
    long.add_argument(
        "--track", action=argparse.BooleanOptionalAction, default=track,
        help="track a mask of one frame through the video; else it is for all frames",
    )  # fmt: skip
    long.add_argument(
        "--mask-frame", type=int, metavar="N", help="the frame of such a mask (default: the first keyframe's, or 0)"
    )


def add_sampling(command, window: str | None):
    """Adds how to sample; gives the group of options. window: what its default is called; None: there are none."""
    sampling = command.add_argument_group("sampling (default: what the checkpoint recommends)")
    sampling.add_argument("--steps", type=int, help="denoising steps")
    sampling.add_argument("--guidance", type=float, dest="guidance_scale", help="guidance scale of the words; 1 is off")
    sampling.add_argument("--scheduler", help="ddim, pndm, euler, euler_a, heun, dpm++, unipc, deis, lcm or ddpm")
    sampling.add_argument("--seed", type=int, default=0, help="same seed, same result (default 0)")
    sampling.add_argument("--size", type=_size, metavar="WxH", help="size the model works at (default: as trained)")
    if window is not None:
        sampling.add_argument("--window", type=int, help=f"frames the model sees at once (default {window})")
        sampling.add_argument(
            "--overlap", type=int, help="frames that windows share (default 8, at most half of the window)"
        )
    sampling.add_argument(
        "--batch-passes",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="guidance passes of a step as one batch or one by one (default: as memory allows)",
    )
    return sampling


def add_removal(command) -> None:
    """Adds what `remove` and `chat` share: how to sample, what may change, on what machine."""
    sampling = add_sampling(command, "24")
    sampling.add_argument(
        "--image-guidance", type=float, dest="image_guidance_scale", help="guidance scale of the video"
    )
    add_edge_and_machine(command)


def add_edge_and_machine(command) -> None:
    """Adds what may change, and on what machine."""
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


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form WIDTHxHEIGHT, such as 512x320")
    return int(width), int(height)


class Progress:
    """A bar over all steps of all windows, with the time left, from the first step on; one of its own for a mask."""

    def __init__(self, shown: bool):
        self.shown = shown
        self.bars = {}  # by what is found; None: what is all about

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for bar in self.bars.values():
            bar.close()

    def __call__(self, step: dict) -> None:
        windows = step["windows"] and max(step["windows"], step["window"] + 1)
        total = windows and windows * step["steps"]
        at = f"{step.get('window_is', 'window')} {step['window'] + 1} of {windows or '?'}"
        done = step["window"] * step["steps"] + step["i"] + 1  # windows with nothing to fill are passed over
        found = step.get("finding")
        at = at if found is None else f"finding {found!r}, {at}"
        bar = self.bars.get(found)
        if bar is None:
            options = {"disable": not self.shown, "unit": "step", "dynamic_ncols": True}
            self.bars[found] = tqdm(desc=at, total=total, initial=done, **options)
            return
        bar.total = total
        bar.set_description(at, refresh=False)
        bar.update(done - bar.n)
