"""Some of the conversations that a chat model wrote, as a page with their frames: to look at before training."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import jinja2
import numpy as np
from PIL import Image

from ..watching import pictures
from ..watching.journal import write_whole
from .annotate_run import Scenes, left_out

SHOWN = 36  # samples
WIDTH = 440  # pixels, of a frame and the same with its mask


def write(lines: dict[int, dict], scenes: Scenes, how: dict, path: Path) -> None:
    """Write the page of all that is told in `lines`; `how` is listed beside it."""
    talked = [i for i, line in lines.items() if line["said"]]
    shown = [talked[i * len(talked) // SHOWN] for i in range(SHOWN)] if len(talked) > SHOWN else talked
    reasons = left_out(lines)
    count = sum(len(line["said"]) for line in lines.values())
    facts = {
        "conversations": count,
        "samples they are about": len(talked),
        "samples": len(lines),
        "conversations left out": sum(left.times for left in reasons.values()),
    }
    loader = jinja2.PackageLoader("train", "watching")
    page = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    content = page.get_template("conversations.html").render(
        name=path.stem,
        facts={title: f"{value:,}" for title, value in facts.items()},
        samples=[{**lines[i], "picture": _picture(scenes, i)} for i in shown],
        left_out=reasons,
        how=how,
    )
    write_whole(path, content)


def _picture(scenes: Scenes, i: int) -> str:
    """The frame, and what is to go marked in it, as a data URL of WebP."""
    frame, mask = scenes.frame(i)
    both = Image.fromarray(np.concatenate([frame, pictures.with_mask(frame, mask)], axis=1))
    file = io.BytesIO()
    both.resize((WIDTH, round(both.height * WIDTH / both.width)), Image.LANCZOS).save(file, "WEBP", quality=88)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
