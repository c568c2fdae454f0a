"""A run as one page: `python -m train.report OUTPUT` writes `OUTPUT/report.html`, at any time, also of a killed run.

The page holds all that it shows: curves, samples, the first batch, config, measures, environment, what was loaded and
what is new, and which samples could not be read.
"""

from __future__ import annotations

import argparse
import base64
import json
import logging
import sys
import time
from collections import Counter
from pathlib import Path

import jinja2
import numpy as np
import yaml

from lgvi_core.errors import InputError

from .watching import curves, journal, pictures

log = logging.getLogger(__name__)

SAMPLES = 12  # sample pictures on the page, spread over the run, the first and last among them
BROKEN = 50  # broken samples that are named
SHARES = ("correct", "removed", "damaged", "empty_where_nothing_matches")


def write_report(output: Path) -> Path:
    """Write the report of the run in folder `output`; raises `InputError` where there is none."""
    output = Path(output)
    log_path, config_path = output / journal.NAME, output / "config.json"
    for path in (log_path, config_path):
        if not path.is_file():
            raise InputError(f"{output} holds no run: there is no {path.name}; give the config's output folder")
    records = journal.read(log_path)
    config = json.loads(config_path.read_text("utf-8"))
    loader = jinja2.PackageLoader("train", "watching")
    page = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page.filters |= {"number": number, "duration": duration, "words": lambda name: name.replace("_", " ")}
    content = page.get_template("report.html").render(
        name=output.resolve().name,
        state=state(records, config["steps"]),
        written=time.strftime("%Y-%m-%d %H:%M", time.localtime(log_path.stat().st_mtime)),
        facts=facts(records),
        curves=curves.drawings(records),
        measures=measures(records),
        samples=samples(records, output),
        first_batch=embedded(output / "first-batch.png"),
        config=yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=100),
        environment=next((r["environment"] for r in reversed(records) if "environment" in r), {}),
        parts=[record["step"] for record in records if "environment" in record],
        messages=messages(records),
        broken=broken(records),
    )
    path = output / "report.html"
    journal.write_whole(path, content)
    return path


def state(records: list[dict], steps: int) -> dict:
    """What became of the run: a word, how many of its steps are done."""
    done = max((r["step"] + ("total" in r) for r in records if "environment" not in r), default=0)
    ends = [record for record in records if "finished" in record]
    if not ends:
        word = "without an end: running, or killed"
    else:
        word = "finished" if ends[-1]["finished"] else "stopped, to be resumed"
    return {"word": word, "finished": word == "finished", "done": done, "steps": steps}


def facts(records: list[dict]) -> dict[str, str]:
    """The page's first figures, by name."""
    losses = [record for record in records if "total" in record]
    held = [record for record in records if "held_out" in record]
    found = {}
    if losses:
        last = losses[-1]
        speeds = [record["per_second"] for record in losses[1:] or losses]
        found |= {"samples seen": f"{last['samples']:,}", "training time": duration(last["seconds"])}
        found |= {"samples per second": number(float(np.median(speeds))), "loss": number(last["total"])}
    if held:
        best = min(held, key=lambda record: record["held_out"]["loss"])
        found["held-out loss"] = number(held[-1]["held_out"]["loss"])
        found[f"best held-out loss, step {best['step']}"] = number(best["held_out"]["loss"])
        found |= {
            name.replace("_", " "): f"{100 * held[-1]['held_out'][name]:.1f} %"
            for name in SHARES[:2]
            if held[-1]["held_out"].get(name) is not None
        }
    return found


def measures(records: list[dict]) -> dict:
    """The held-out measures as a table: `titles` of the first, the best (by loss) and the last, `rows` by name."""
    held = [record for record in records if "held_out" in record]
    if not held:
        return {}
    best = min(held, key=lambda record: record["held_out"]["loss"])
    columns = {f"first, step {held[0]['step']}": held[0], f"best, step {best['step']}": best}
    columns[f"last, step {held[-1]['step']}"] = held[-1]
    rows = {name: [record["held_out"].get(name) for record in columns.values()] for name in held[-1]["held_out"]}
    return {"titles": list(columns), "rows": rows}


def messages(records: list[dict]) -> list[dict]:
    """Every message, where it was said first."""
    return list({record["message"]: record for record in reversed(records) if "message" in record}.values())[::-1]


def samples(records: list[dict], output: Path) -> list[dict]:
    """Step and picture of some of the sample sheets that are still there."""
    there = {r["step"]: output / r["picture"] for r in records if "picture" in r and (output / r["picture"]).is_file()}
    steps = sorted(there)
    picks = sorted(set(np.linspace(0, len(steps) - 1, min(SAMPLES, len(steps))).round().astype(int).tolist()))
    return [{"step": steps[i], "picture": embedded(there[steps[i]])} for i in picks]


def broken(records: list[dict]) -> dict:
    """How many samples could not be read, over all steps, and which, most often first."""
    counts = Counter(tuple(item) for record in records for item in record.get("broken", ()))
    rows = [{"name": name, "reason": reason, "times": times} for (name, reason), times in counts.most_common(BROKEN)]
    return {"times": counts.total(), "different": len(counts), "rows": rows}


def embedded(path: Path) -> str | None:
    """A picture as a data URL; None where there is no such file."""
    if not path.is_file():
        return None
    return "data:image/webp;base64," + base64.b64encode(pictures.embedded(path)).decode()


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m train.report", description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="the run's output folder")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        log.info("wrote %s", write_report(options.output))
    except InputError as error:
        log.error("%s", error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
