"""What a model is given with a keyframe: `python -m benchmarks.keyframe_picture [--checkpoint PATH] -o FILE`.

A drawn clip, its region, and the masked video with an edited first frame; with a checkpoint also what it makes of that,
and what without the keyframe, both with no words.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

from lgvi_core import masks
from lgvi_core.errors import InputError
from train.evaluation import sheet
from train.evaluation.fill import held_out
from train.evaluation.fill_checkpoint import of_checkpoint
from train.evaluation.propagate import TASKS, film
from train.evaluation.quiet import only_errors
from train.objectives import masked_video

SEED = 7


@only_errors()
def main(arguments: list[str] | None = None) -> int:
    """Draw and write; returns the exit code, 2 for input that cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.keyframe_picture", description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, metavar="PATH", help="one that fills")
    parser.add_argument("--device", help="default: cuda where there is one, else cpu")
    parser.add_argument("--clip", type=int, default=3, help="which drawn clip")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE")
    options = parser.parse_args(arguments)
    clip = held_out(SEED, options.clip, tasks=TASKS)
    shown = {"video and mask": masks.overlay(clip.frames, clip.mask), "what is given": given(clip)}
    try:
        if options.checkpoint is not None:
            fill = of_checkpoint(options.checkpoint, device=options.device)
            shown["with the keyframe"] = fill(clip.frames, clip.mask, "", clip.clean[0])
            shown["without it"] = fill(clip.frames, clip.mask, "")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    sheet.save(film(shown, "the first frame is edited; the rest is to follow it"), options.output)
    return 0


def given(clip) -> np.ndarray:
    """The masked video (T, H, W, 3) uint8 as in training, its first frame a keyframe."""
    keyframe = torch.zeros(1, len(clip.frames), dtype=torch.bool)
    keyframe[0, 0] = True
    batch = {name: torch.from_numpy(getattr(clip, name))[None] for name in ("frames", "clean", "mask")}
    return masked_video(batch, keyframe)["frames"][0].round().byte().numpy()


if __name__ == "__main__":
    sys.exit(main())
