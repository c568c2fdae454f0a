"""Keyframes on held-out drawn clips: whether what the first frame shows goes on in the frames after it.

    python -m train.evaluate propagate --checkpoint out/train/fill-demo/checkpoint.safetensors

Every clip asks for a thing. Four runs of a checkpoint: with the true first frame as a keyframe and a prompt that leaves
the look open (`--prompt`, by default nothing at all); with that prompt and no keyframe; edited directly, by the clip's
caption; and by VIVID's mechanism (KIVE, arXiv 2411.15260, section 4.3), the first frame edited alone by the caption and
carried on by the same. Measured are the frames after the first, with the source put back outside of the region.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm

from lgvi_core import masks
from lgvi_core.errors import InputError
from lgvi_core.metrics.background import background_change
from lgvi_core.metrics.removal import psnr

from ..data.regions import boxes_of
from ..data.synthetic_fill import FillClip
from . import fill_judge, sheet
from .demo import mean, mean_colour
from .fill import ASPECTS, SEED, Column, about, centers, check, held_out, markdown, parser, write
from .fill_checkpoint import of_checkpoint
from .measures import Networks
from .quiet import only_errors

# frames, mask, prompt, the edited first frame or None -> frames, the model's own outside of the mask too
Propagate = Callable[[np.ndarray, np.ndarray, str, np.ndarray | None], np.ndarray]

TASKS = {"replace": 1, "add": 1}
COLUMNS = {
    "color": Column("colour right", "%"),
    "shape": Column("shape right", "%"),
    "both": Column("both right", "%"),
    "frames": Column("both right, frame by frame", "%"),
    "as_first": Column("as in the first frame, frame by frame", "%"),
    "psnr": Column("PSNR in the mask", "dB"),
    "bp": Column("BP", ""),
    "tc": Column("TC", ""),
    "ta": Column("TA", ""),
}
GIVEN, ABSENT, DIRECT, KIVE = "the true keyframe", "no keyframe", "edited directly", "its own keyframe"
SHOWN = 5  # frames of a clip in the pictures
SIDE = 96  # pixels of one
TITLE = 150  # pixels left of them


def measure(clip: FillClip, result: np.ndarray, clip_model=None, by_words: bool = False) -> dict[str, float | bool]:
    """The measures of one result (T, H, W, 3) uint8 of at least two frames, in all but the first.

    Right is the look of the truth or, with `by_words`, what the caption says of it; what it leaves open is not judged,
    nor held against the truth. BP is that of the result as it is. clip_model: for TC and TA, see `Clip`.
    """
    row = {"bp": background_change(result[1:], clip.frames[1:], clip.mask[1:])}
    result = np.where(clip.mask[..., None], result, clip.frames)
    verdict = fill_judge.load().verdict(result, centers(result, clip))
    later = fill_judge.load().verdict(result[1:], centers(result, clip)[1:]).clip
    wanted = clip.asked if by_words else clip.look
    named = [i for i, name in enumerate(ASPECTS) if name in ("shape", "color") and wanted[i] is not None]
    right = {ASPECTS[i]: later[i] == wanted[i] for i in named}
    if right:
        row |= right | {"both": all(right.values())}
        row["frames"] = float(np.mean([all(seen[i] == wanted[i] for i in named) for seen in verdict.frames[1:]]))
    row["as_first"] = float(np.mean([seen[:2] == verdict.frames[0][:2] for seen in verdict.frames[1:]]))
    if not by_words:
        row["psnr"] = psnr(result[1:], clip.clean[1:], clip.mask[1:])
    if clip_model is not None:
        row["tc"] = clip_model.consistency(result)
        row["ta"] = clip_model.score(result[1:], clip.mask[1:], clip.caption)
    return {name: value for name, value in row.items() if value is not None}


def moved_crop(frames: np.ndarray, mask: np.ndarray, prompt: str, keyframe: np.ndarray | None) -> np.ndarray:
    """Trivial propagation: what the keyframe shows in the mask, moved with the middle of the mask's box, by whole
    pixels; what it does not reach is the mean colour around. Without a keyframe, that alone."""
    out = mean_colour(frames, mask)
    if keyframe is None:
        return out
    boxes = boxes_of(mask)
    middles = boxes[:, :2] + boxes[:, 2:] / 2
    cut, inside = keyframe * mask[0][..., None], mask[0].astype(np.uint8)
    for frame, hole, step in zip(out, mask, np.round(middles - middles[0])):
        if np.isfinite(step).all():
            shift = np.array([[1, 0, step[0]], [0, 1, step[1]]])
            picture, reach = (cv2.warpAffine(part, shift, mask.shape[:0:-1]) for part in (cut, inside))
            frame[(reach > 0) & hole] = picture[(reach > 0) & hole]
    return out


def runs_of(propagate: Propagate, prompt: str) -> dict[str, Callable[[FillClip], np.ndarray]]:
    """The runs of a checkpoint by their names; `prompt` is said where the look is left open."""

    def kive(clip):
        (keyframe,) = propagate(clip.frames[:1], clip.mask[:1], clip.caption, None)
        keyframe = np.where(clip.mask[0][..., None], keyframe, clip.frames[0])
        return _with(propagate, clip, clip.caption, keyframe)

    return {
        GIVEN: lambda clip: _with(propagate, clip, prompt, clip.clean[0]),
        ABSENT: lambda clip: propagate(clip.frames, clip.mask, prompt, None),
        DIRECT: lambda clip: propagate(clip.frames, clip.mask, clip.caption, None),
        KIVE: kive,
    }


def _with(propagate: Propagate, clip: FillClip, prompt: str, keyframe: np.ndarray) -> np.ndarray:
    return np.concatenate([keyframe[None], propagate(clip.frames, clip.mask, prompt, keyframe)[1:]])


def evaluate(methods: dict[str, Propagate], clips: int = 150, frames: int = 8, pixels: int = 64, seed: int = SEED,
             prompt: str = "", networks: Networks | None = None) -> tuple[dict, dict[str, list[dict]]]:  # fmt: skip
    """The report, with rows for each run of each of `methods`, for the moved crop and the truth; and each clip's.

    Raises `InputError` for fewer than one clip, or two frames.
    """
    if clips < 1 or frames < 2:
        raise InputError(f"clips is {clips} and frames {frames}; at least 1 clip of 2 frames is needed")
    networks = networks or Networks()
    judged = {f"{name}, {run}": (made, run in (DIRECT, KIVE)) for name, propagate in methods.items()
              for run, made in runs_of(propagate, prompt).items()}  # fmt: skip
    judged["the keyframe's crop, moved"] = runs_of(moved_crop, prompt)[GIVEN], False
    judged["the truth"] = (lambda clip: clip.clean), False
    rows: dict[str, list[dict]] = {name: [] for name in judged}
    for i in tqdm(range(clips), unit="clip"):
        clip = held_out(seed, i, frames, pixels, tasks=TASKS)
        for name, (made, by_words) in judged.items():
            rows[name].append(measure(clip, made(clip), networks.clip, by_words))
    return {
        "clips": clips, "frames": frames, "size": [pixels, pixels], "seed": seed, "prompt": prompt,
        "judge": fill_judge.accuracy(),
        "left_out": {COLUMNS[name].title: networks.absent[part] for name, part in (("tc", "tc"), ("ta", "clip_score"))
                     if part in networks.absent},
        "rows": {name: mean(values, COLUMNS) for name, values in rows.items()},
    }, rows  # fmt: skip


def table(report: dict) -> str:
    """The rows as a Markdown table, and what they stand on."""
    said = f'the prompt {report["prompt"]!r}' if report["prompt"] else "no words"
    text = f"{about(report)} With and without the true keyframe there are {said}."
    for reason in dict.fromkeys(report["left_out"].values()):
        names = [name for name, why in report["left_out"].items() if why == reason]
        text += f" Left out: {' and '.join(names)}, {reason}."
    return f"{markdown(report['rows'], COLUMNS)}\n\n{text}"


def pictures(report: dict, rows: dict[str, list[dict]], name: str, propagate: Propagate, most: int = 4) -> Image.Image:
    """The sheet of a method: the clips where the least and where the most goes on as the true keyframe shows it."""
    given = rows[f"{name}, {GIVEN}"]
    order = sorted(range(len(given)), key=lambda i: (given[i]["frames"], min(given[i]["psnr"], 99)))
    runs, parts = runs_of(propagate, report["prompt"]), []
    for i in dict.fromkeys(order[:most] + order[::-1][:most]):
        clip = held_out(report["seed"], i, report["frames"], report["size"][0], tasks=TASKS)
        made = {run: np.where(clip.mask[..., None], of(clip), clip.frames) for run, of in runs.items()}
        shown = {"input and mask": masks.overlay(clip.frames, clip.mask), **made, "the truth": clip.clean}
        parts.append(film(shown, f'{i} ({clip.region}): "{clip.caption}"'))
    return sheet.stacked(parts)


def film(clips: dict[str, np.ndarray], title: str) -> Image.Image:
    """Some frames of clips (T, H, W, 3) of one length, a clip a row."""
    count = len(next(iter(clips.values())))
    places = sorted(set(np.linspace(0, count - 1, SHOWN).round().astype(int).tolist()))
    out = Image.new("RGB", (TITLE + SIDE * len(places), 20 + SIDE * len(clips)))
    pen = ImageDraw.Draw(out)
    pen.text((4, 4), title, fill="white")
    for row, (name, frames) in enumerate(clips.items()):
        pen.text((4, 20 + SIDE * row + SIDE // 2), name, fill="white")
        for column, t in enumerate(places):
            picture = Image.fromarray(frames[t]).resize((SIDE, SIDE), Image.NEAREST)
            out.paste(picture, (TITLE + SIDE * column, 20 + SIDE * row))
    return out


@only_errors()
def main(arguments: list[str]) -> None:
    """`python -m train.evaluate propagate`: write the report, its table and the sheets, and print the table."""
    options = parser("propagate", __doc__, clips=150)
    options.add_argument("--prompt", default="", help="what is said where the look is left open; default: nothing")
    options.add_argument("--clip", type=Path, metavar="FOLDER", help="a CLIP model, for TC and TA")
    options = options.parse_args(arguments)
    check(options)
    networks = Networks.open(None, None, options.clip, options.device or "cpu")
    methods = {
        path.stem: of_checkpoint(path, options.steps, options.guidance, options.device, keep_outside=False)
        for path in options.checkpoint
    }
    size = options.clips, options.frames, options.pixels, options.seed
    report, rows = evaluate(methods, *size, options.prompt, networks)
    sheets = {name: pictures(report, rows, name, propagate) for name, propagate in methods.items()}
    write(report, table(report), sheets, options.output)
