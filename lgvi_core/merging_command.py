"""`python -m lgvi_core merge`: an inpainting model in the style of personal models."""

from __future__ import annotations

from pathlib import Path

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from .errors import InputError


def add_command(commands) -> None:
    """Adds `merge` to the subcommands of a parser."""
    command = commands.add_parser(
        "merge",
        help="give an inpainting model the style of personal checkpoints and LoRA files",
        description="Give an inpainting model the style of personal models by task vectors: base + alpha * (inpainting "
        "- base) + beta * (personal - base). LoRA files alone, with alpha 1, need no base.",
        epilog="example: python -m lgvi_core merge sd-v1-5-inpainting.safetensors --personal style.safetensors=1.2 -o "
        "style-inpainting.safetensors",
    )
    command.set_defaults(run=run)
    command.add_argument("inpaint", help="inpainting model: checkpoint file, diffusers folder, or a file of ours")
    command.add_argument("-o", "--output", required=True, metavar="FILE", help="the .safetensors file to write")
    command.add_argument("--base", metavar="PATH", help="Stable Diffusion 1.5, which personal models were made from")
    command.add_argument(
        "--personal",
        metavar="FILE=BETA",
        action="append",
        default=[],
        help="personal checkpoint or LoRA file; =BETA may be left out; may be given several times",
    )
    command.add_argument("--alpha", default="1", help="how much inpainting; 0.8, or by part 0.8,unet=1,text=1,vae=1")
    command.add_argument("--beta", default="1", help="how much of each personal model, written as alpha is")
    command.add_argument("--ignore-unknown", action="store_true", help="merge what fits, and say what does not")
    command.add_argument("--quiet", action="store_true", help="no progress bar")


def run(options) -> int:
    from .task_vectors import Personal, Strength, merge

    beta = Strength.parse(options.beta)
    personals = [Personal(*_file_and_beta(text, beta)) for text in options.personal]
    with logging_redirect_tqdm(), tqdm(disable=options.quiet, unit="tensor", dynamic_ncols=True) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        merge(
            options.inpaint,
            personals,
            options.output,
            base=options.base,
            alpha=Strength.parse(options.alpha),
            ignore_unknown=options.ignore_unknown,
            callback=progress,
        )
    print(f"{options.output}: {len(personals)} personal models merged")
    return 0


def _file_and_beta(text: str, beta):
    """A path and its beta, which stands behind the first "=" that has a path in front of it; `beta` without one."""
    from .task_vectors import Strength

    if Path(text).expanduser().exists():
        return text, beta
    for place, letter in enumerate(text):
        if letter == "=" and Path(text[:place]).expanduser().exists():
            return text[:place], Strength.parse(text[place + 1 :])
    raise InputError(f"there is no personal model at {text.partition('=')[0]}: no such file or folder")
