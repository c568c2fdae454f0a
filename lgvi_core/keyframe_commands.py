"""`python -m lgvi_core edit-frame` and `propagate`: what their options are, and what they print."""

from __future__ import annotations

from tqdm.contrib.logging import logging_redirect_tqdm

from . import video_commands
from .errors import InputError
from .video_commands import FAMILY, Progress


def add_commands(commands) -> None:
    """Adds `edit-frame` and `propagate` to the subcommands of a parser."""
    command = commands.add_parser(
        "edit-frame",
        help="edit one frame with several seeds, to choose a keyframe from",
        description="Fill a mask in one frame of a video, or in a picture, once for each of several seeds. Writes "
        "NAME-SEED.png for each, and NAME-sheet.png that shows them side by side.",
        epilog='example: python -m lgvi_core edit-frame in.mp4 --mask mask.mp4 "a wooden boat" -o edited.png --seeds 4',
    )
    command.set_defaults(run=edit_frame)
    video_commands.add_filling(command, 'what to fill the mask with, e.g. "a wooden boat"')
    command.add_argument("-o", "--output", required=True, help="a .png, of several seeds the start of their names")
    command.add_argument("--checkpoint", metavar="PATH", help=FAMILY)
    command.add_argument("--frame", type=int, default=0, metavar="N", help="from 0; from the end where negative")
    command.add_argument("--seeds", type=int, default=4, metavar="COUNT", help="how many, from --seed on (default 4)")
    video_commands.add_sampling(command, None)
    video_commands.add_edge_and_machine(command)

    command = commands.add_parser(
        "propagate",
        help="carry edited frames through the rest of a video",
        description="Carry frames that are edited already, by edit-frame or any other program, through the rest of a "
        "video, forwards and backwards. They come back as given within the mask; sound, frame rate and length stay. "
        "What is done is kept in OUTPUT.parts: after an interruption the same command goes on there.",
        epilog="example: python -m lgvi_core propagate in.mp4 --mask mask.mp4 --keyframe 0=edited.png -o out.mp4",
    )
    command.set_defaults(run=propagate)
    video_commands.add_filling(command, "what the edit shows; may be left out")
    video_commands.add_files(command, FAMILY)
    command.add_argument(
        "--keyframe", metavar="N=PICTURE", action="append", default=[],
        help="the edited frame N, from 0; may be given several times; from the end as --keyframe=-1=PICTURE",
    )  # fmt: skip
    command.add_argument(
        "--keyframe-outside", default="keep", metavar="keep|blend",
        help="where a keyframe differs outside of the mask: keep the video's own, or take it over and fade it out over "
        "the frames near it (default keep)",
    )  # fmt: skip
    video_commands.add_windows(command, chain=True, track=True)
    video_commands.add_sampling(command, "as trained")
    video_commands.add_edge_and_machine(command)


def edit_frame(options) -> int:
    from .frame_editing import edit_frame

    with logging_redirect_tqdm(), Progress(not options.quiet) as progress:
        edited = edit_frame(
            options.video,
            video_commands.prompt(options),
            options.output,
            frame=options.frame,
            seeds=options.seeds,
            **video_commands.filling(options),
            **video_commands.shared(options, progress),
        )
    for seed, path in edited.files.items():
        print(f"{path}: frame {edited.frame}, seed {seed}")
    if edited.sheet is not None:
        print(f"sheet: {edited.sheet}")
    return 0


def propagate(options) -> int:
    from .propagation import propagate

    with logging_redirect_tqdm(), Progress(not options.quiet) as progress:
        result = propagate(
            options.video,
            video_commands.prompt(options),
            options.output,
            keyframes=[keyframe(text) for text in options.keyframe],
            keyframe_outside=options.keyframe_outside,
            **video_commands.filling(options),
            **video_commands.windows(options),
            **video_commands.shared(options, progress),
        )
    return video_commands.report(options, result)


def keyframe(text: str) -> tuple[int, str]:
    """A frame's number and the picture's path, from "40=edited.png"."""
    number, equals, path = text.partition("=")
    if not equals or not path or not number.strip().removeprefix("-").isdecimal():
        raise InputError(f"the keyframe {text!r} is not of the form N=PICTURE, such as 40=edited.png")
    return int(number), path
