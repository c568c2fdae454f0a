"""A reader of requests on held-out drawn conversations: what it understands, and what LGVI makes of it.

Understood: the share of requests that can be met whose prompt names the right things, and of the others that are
answered as what they are (which one? not there; no removal). Removed: the measures of `train.evaluate demo`, where LGVI
is given the raw request, the reader's words, and the reader's hidden states; and, as the most that words can do, the
true prompt.
"""

from __future__ import annotations

import argparse
import logging
from collections import defaultdict
from pathlib import Path

import numpy as np
from tqdm import tqdm

from lgvi_core import checkpoints
from lgvi_core.checkpoints import request_file
from lgvi_core.inpaint import DEMO, inpaint
from lgvi_core.models import RequestEncoder
from lgvi_core.understanding import EndToEnd, Understanding

from ..data.synthetic_talk import TalkClip, draw_talk
from ..data.synthetic_talk_requests import ANSWERABLE, KINDS
from ..talk_held_out import ANSWERS, MOST_TOKENS, judge
from .demo import COLUMNS, composited, mean, measure, rows_table
from .files import write_json
from .quiet import only_errors

log = logging.getLogger(__name__)

SEED = 20_250_801  # of the held-out conversations; training never sees it
RAW, WORDS, STATES, TRUTH = "LGVI, raw request", "two-stage (words)", "end to end (states)", "LGVI, true prompt"


@only_errors()
def evaluate(
    encoder: RequestEncoder,
    removal: checkpoints.Checkpoint,
    clips: int,
    frames: int = 8,
    pixels: int = 64,
    seed: int = SEED,
    steers: bool = True,
    removes: bool = True,
) -> dict:
    """The report: what is understood, by kind of request, by how it is said and by what was said before; and removed.

    steers: whether the reader was trained to steer this U-Net. removes: False leaves out all but the understanding.
    """
    reader = EndToEnd(encoder, steers, max_tokens=MOST_TOKENS)
    understood: dict[str, dict[str, list]] = {part: defaultdict(list) for part in ("kind", "about", "history")}
    answered: dict[str, dict[str, int]] = {kind: dict.fromkeys(ANSWERS.values(), 0) for kind in KINDS}
    rows: dict[str, list[dict]] = {name: [] for name in (RAW, WORDS, *((STATES,) if steers else ()), TRUTH)}
    for i in tqdm(range(clips), unit="clip"):
        clip = draw_talk(seed, i, frames, pixels, pixels, held_out=True)
        read = reader(clip.frames[:1], clip.dialogue.request, clip.dialogue.turns)
        (right,) = judge(clip, read).values()
        answered[clip.kind][read.kind] += 1
        for part, groups in understood.items():
            groups[getattr(clip, part)].append(right)
        if removes:
            for name, row in _removed(clip, read, removal, steers).items():
                rows[name].append(row)
    return {
        "clips": clips,
        "frames": frames,
        "size": [pixels, pixels],
        "seed": seed,
        "understood": {
            part: {name: {"right": float(np.mean(found)), "clips": len(found)} for name, found in groups.items()}
            for part, groups in understood.items()
        },
        "answered": answered,
        "rows": {name: mean(found, COLUMNS) for name, found in rows.items()} if removes else {},
    }


def _removed(clip: TalkClip, read: Understanding, removal: checkpoints.Checkpoint, steers: bool) -> dict[str, dict]:
    """The measures of each way on a clip; one that does not act leaves all as it is."""
    settings = {"checkpoint": removal, "window": max(24, len(clip.frames)), "size": clip.frames.shape[2:0:-1]}

    def by(words: str, features=None) -> dict:
        if not words:
            return measure(clip, clip.frames, np.zeros_like(clip.mask), clip.frames)
        result = inpaint(clip.frames, words, features=features, keep_outside=False, **settings)
        return measure(clip, composited(clip.frames, result), result.mask, result.frames)

    ways = {RAW: by(clip.dialogue.request), WORDS: by(read.prompt)}
    if steers:
        ways[STATES] = by(read.prompt, read.features)
    if clip.kind == ANSWERABLE:
        ways[TRUTH] = by(clip.sentence)
    return ways


def table(report: dict) -> str:
    """The report as Markdown: what is understood, and the measures of each way."""
    lines = ["|request|clips|understood|", "|---|---|---|"]
    for kind in KINDS:
        found = report["understood"]["kind"].get(kind)
        if found:
            lines.append(f"|{kind}|{found['clips']}|{100 * found['right']:.1f} %|")
    if report["rows"]:
        lines += ["", *rows_table(report["rows"])]
    for part, title in (("about", "how it is said"), ("history", "what was said before")):
        groups = sorted(report["understood"][part].items(), key=lambda item: item[1]["right"])
        told = ", ".join(f"{name} {100 * found['right']:.0f} % of {found['clips']}" for name, found in groups)
        lines += ["", f"Understood, by {title}: {told}."]
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """`python -m train.evaluate talk`: write the report and print its tables."""
    parser = argparse.ArgumentParser(prog="python -m train.evaluate talk", description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True, type=Path, help="a request encoder: a file, or LGVI-I's folder")
    parser.add_argument("--base", type=Path, help="LLaVA's folder, for LGVI-I's")
    parser.add_argument("--removal", type=Path, default=DEMO, help="LGVI's checkpoint; default: the demo checkpoint")
    parser.add_argument("--clips", type=int, default=300)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--pixels", type=int, default=64)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--understanding", action="store_true", help="only what is understood; nothing is removed")
    parser.add_argument("--output", type=Path, default=Path("talk-evaluation.json"))
    options = parser.parse_args(arguments)
    source = checkpoints.open_source(options.removal)
    encoder = checkpoints.load_request_encoder(options.checkpoint, options.base)
    steers = not request_file.matches(options.checkpoint) or request_file.steers(options.checkpoint, source.unet)
    if not steers:
        log.warning("%s was not trained to steer %s: only its words are judged", options.checkpoint, options.removal)
    where = options.clips, options.frames, options.pixels, options.seed
    report = evaluate(encoder, checkpoints.load(options.removal), *where, steers, not options.understanding)
    write_json(report, options.output)
    print(table(report))
    print(f"\nwritten to {options.output}")
