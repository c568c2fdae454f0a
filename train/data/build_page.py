"""What is in a dataset that was built, as a page: `statistics.html`, and its figures as `statistics.json`.

The page holds captions by length and by word, sizes of masks, and motion of foreground, background and of one against
the other, as figures 4 and 5 of VIVID-10M (arXiv 2411.15260), beside some samples and what was left out.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path

import jinja2
import numpy as np
from matplotlib.axes import Axes

from lgvi_core import mask_shapes

from ..watching import pictures
from ..watching.curves import COLOURS, finish, legend, svg
from ..watching.journal import write_whole
from . import shards
from .build_vivid import PLAN, left_out, reports
from .records import Record

SHOWN, BROKEN, WORDS, BINS = 8, 50, 20, 24
LITTLE_WORDS = (
    "a", "an", "and", "are", "as", "at", "by", "for", "from", "has", "in", "is", "it", "its", "of", "on", "or", "that",
    "the", "this", "to", "with",
)  # fmt: skip


def write(out: Path) -> None:
    """Write the page of a finished dataset."""
    told = list(reports(out))
    objects = [one for clip in told for one in clip["objects"]]
    kept = [one for one in objects if not one["left_out"]]
    reasons = {"clips": left_out(told), "objects": left_out(objects)}
    figures = facts(told, objects, kept)
    plan = json.loads((out / PLAN).read_text("utf-8"))
    plan["clips"] = len(plan["clips"])
    if plan["vocabulary"] is not None:
        plan["vocabulary"] = f"{len(plan['vocabulary'])} labels"
    loader = jinja2.PackageLoader("train", "watching")
    page = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    content = page.get_template("dataset.html").render(
        name=out.resolve().name,
        how=f"captions from {plan['captions']}",
        facts={title: f"{value:,}" for title, value in figures.items()},
        sheet=_sheet(out),
        drawings={title: svg(draw) for title, draw in panels(kept).items()},
        left_out=reasons,
        plan=plan,
        broken=[clip for clip in told if "why" in clip][:BROKEN],
    )
    numbers = {"counts": figures, "left_out": reasons, "distributions": distributions(kept)}
    write_whole(out / "statistics.json", json.dumps(numbers, indent=1, ensure_ascii=False) + "\n")
    write_whole(out / "statistics.html", content)


def facts(told: list[dict], objects: list[dict], kept: list[dict]) -> dict[str, int]:
    """The page's first figures, by name."""
    videos = sum(one["frames"] > 1 for one in kept)
    return {
        "samples": len(kept) * len(mask_shapes.SHAPES),
        "objects": len(kept),
        "of them in videos": videos,
        "of them in pictures": len(kept) - videos,
        "frames": sum(one["frames"] for one in kept),
        "captions": sum(len(one["captions"]) for one in kept),
        "clips looked at": len(told),
        "objects looked at": len(objects),
    }


def distributions(kept: list[dict]) -> dict[str, dict[str, float]]:
    """Mean, least, median and greatest of what the page draws."""
    columns = {
        "words of a caption": [len(text.split()) for one in kept for text in one["captions"]],
        "frames": [one["frames"] for one in kept],
        "percent of the frame masked": [100 * one["area"] for one in kept],
    }
    for part in MOTIONS:
        columns[f"{part} motion, percent of the diagonal a frame"] = _motion(kept, part)
    found = {}
    for title, values in columns.items():
        if values:
            middle = zip(("mean", "least", "median", "greatest"), (np.mean, np.min, np.median, np.max))
            found[title] = {name: round(float(of(values)), 4) for name, of in middle}
    return found


def panels(kept: list[dict]) -> dict[str, Callable[[Axes], None]]:
    """Titles and drawing functions of what there is something to draw for."""
    lengths = {}
    for i, name in enumerate(("first", "second", "third")):
        lengths[f"{name} caption"] = [len(one["captions"][i].split()) for one in kept if len(one["captions"]) > i]
    words = Counter(
        word for one in kept for text in one["captions"] for word in re.findall(r"[\w'-]+", text.lower())
        if word not in LITTLE_WORDS
    )  # fmt: skip
    plain = {
        "captions by length": (lengths, "words", "whole"),
        "masks by size": ({"": [100 * one["area"] for one in kept]}, "% of the frame, mean over the sample", ""),
        "motion": ({part: _motion(kept, part) for part in MOTIONS}, "% of the frame's diagonal, from frame to frame",
                   "log"),
        "samples by length": ({"": [one["frames"] for one in kept]}, "frames", "whole"),
    }  # fmt: skip
    found = {}
    for title, (columns, label, how) in plain.items():
        columns = {name: values for name, values in columns.items() if values}
        if columns:
            found[title] = partial(_histogram, columns=columns, label=label, how=how)
    if words:
        found["most frequent words of captions"] = partial(_bars, counts=dict(words.most_common(WORDS)))
    return found


MOTIONS = ("foreground", "background", "relative")


def _motion(kept: list[dict], part: str) -> list[float]:
    return [one["motion"][part] for one in kept if one["motion"]]


def _histogram(axes: Axes, columns: dict[str, list], label: str, how: str) -> None:
    """`how`: "whole" numbers have bins around them, "log" has bins of equal ratio."""
    values = np.concatenate([np.asarray(column, float) for column in columns.values()])
    low, high = values.min(), values.max()
    if how == "log":
        low = max(low, 1e-2)
        edges = np.geomspace(low, max(high, 1.1 * low), BINS + 1)
        columns = {name: np.maximum(column, low) for name, column in columns.items()}
        axes.set_xscale("log")
    elif how == "whole":
        step = max(1, round(high / BINS))
        edges = np.arange(-0.5, high + 0.5 + step, step)
        axes.xaxis.get_major_locator().set_params(integer=True)
    else:
        edges = np.linspace(0, max(high, 1e-6), BINS + 1)
    alone = len(columns) == 1
    for (name, column), colour in zip(columns.items(), COLOURS):
        kind = {"histtype": "stepfilled", "alpha": 0.85} if alone else {"histtype": "step", "linewidth": 1.6}
        axes.hist(column, edges, color=colour, label=name, **kind)
    axes.yaxis.get_major_locator().set_params(integer=True)
    finish(axes, label)
    if not alone:
        legend(axes, ncols=3)


def _bars(axes: Axes, counts: dict[str, int]) -> None:
    axes.barh(list(counts)[::-1], list(counts.values())[::-1], color=COLOURS[0], height=0.72)
    axes.xaxis.get_major_locator().set_params(integer=True)
    finish(axes, "times")
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", labelsize=6.5, length=0)


def _sheet(out: Path) -> str | None:
    """Some samples, from all over the dataset, as a data URL of WebP."""
    paths = sorted(out.glob("shard-*.tar"))
    rows = []
    for place in sorted(set(np.linspace(0, len(paths) - 1, min(SHOWN, len(paths))).round().astype(int).tolist())):
        exact = (record for record in shards.of_file(paths[place]) if ".mask." in record.mask.names[0])
        rows += [_row(record) for record in islice(exact, -(-SHOWN // len(paths)))]
    if not rows:
        return None
    titles = ["first frame", "mask", "erased", "last frame, mask"]
    file = io.BytesIO()
    pictures.sheet(titles, rows).save(file, "WEBP", quality=88)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


def _row(record: Record) -> pictures.Row:
    ends = [0, len(record.video.names) - 1]
    frames, masks = record.video.frames(ends), record.mask.masks(ends, None)
    erased = np.where(masks[0][..., None], np.uint8(127), frames[0])
    shown = [frames[0], pictures.with_mask(frames[0], masks[0]), erased, pictures.with_mask(frames[1], masks[1])]
    return pictures.Row(f"{record.name}: {' / '.join(record.captions)}", shown)
