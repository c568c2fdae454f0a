"""A journal's records as curves."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = ("#3b6fd4", "#d9622b", "#2f9e6e", "#b4467f", "#8a6fd1", "#a08321", "#4aa3b8", "#777d88")
RATIOS = ("correct", "removed", "damaged", "mask_iou", "empty_where_nothing_matches")
DECIBELS = ("psnr_inside", "psnr_frame")
SMOOTH = 40  # of so many points one is drawn: the rest is behind it, pale


def panels(records: list[dict]) -> dict[str, Callable[[Axes], None]]:
    """Titles and drawing functions of the panels that the records have something for."""
    steps = [record for record in records if "total" in record]
    held = [{"step": record["step"], **record["held_out"]} for record in records if "held_out" in record]
    rates = [{"step": record["step"], **record["rates"]} for record in steps]
    parts = (
        [name for name in steps[-1] if isinstance(steps[-1][name], float) and name not in NOT_LOSSES] if steps else []
    )
    below = [name for name in parts if any((record.get(name) or 0) < 0 for record in steps)]
    plain = {
        "losses": (steps, [name for name in parts if name not in below], {"log": True, "smooth": True}),
        f"losses below zero: {', '.join(below)}": (steps, below, {"smooth": True}),
        "held-out loss, fixed noise": (held, ("loss", "diffusion", "mask"), {"log": True}),
        "held-out clips, share": (held, RATIOS, {}),
        "held-out clips, PSNR in dB": (held, DECIBELS, {}),
        "learning rate": (rates, [name for name in rates[-1] if name != "step"] if rates else (), {}),
        "samples per second": (steps, ("per_second",), {"smooth": True}),
    }
    columns = {title: (_columns(rows, names), how) for title, (rows, names, how) in plain.items()}
    found = {title: partial(_lines, columns=lines, **how) for title, (lines, how) in columns.items() if lines}
    if any(value is not None for record in steps for value in record["bins"]):
        found["diffusion loss by part of the schedule, running mean"] = partial(_bins, steps=steps)
    return found


NOT_LOSSES = ("per_second", "seconds")


def save(records: list[dict], path: Path) -> None:
    """All panels as one PNG; none without records to draw."""
    drawn = panels(records)
    if not drawn:
        return
    rows = -(-len(drawn) // 2)
    figure = Figure((12, 3.4 * rows), layout="constrained")
    axes = figure.subplots(rows, 2, squeeze=False).ravel()
    for panel, (title, draw) in zip(axes, drawn.items()):
        draw(panel)
        panel.set_title(title, loc="left", fontsize=10)
    for panel in axes[len(drawn) :]:
        panel.set_axis_off()
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        figure.savefig(temporary, format="png", dpi=100)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def drawings(records: list[dict]) -> dict[str, str]:
    """Each panel as SVG for a page, by title."""
    return {title: svg(draw) for title, draw in panels(records).items()}


def svg(draw: Callable[[Axes], None]) -> str:
    """One panel as SVG for a page; the same drawing gives the same text."""
    figure = Figure((6.2, 3.1), layout="constrained")
    figure.patch.set_alpha(0)
    draw(figure.subplots())
    file = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "lgvi"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    return "".join(file.getvalue().partition("<svg")[1:])


def _columns(records: list[dict], names) -> dict[str, tuple[list, list]]:
    """Steps and values by name, for the names that any record has a number for."""
    found = {}
    for name in names:
        points = [(record["step"], record[name]) for record in records if record.get(name) is not None]
        if points:
            found[name] = tuple(map(list, zip(*points)))
    return found


def _lines(axes: Axes, columns: dict[str, tuple[list, list]], log: bool = False, smooth: bool = False) -> None:
    """`log`: a logarithmic axis, unless values are below zero."""
    log = log and all(min(values) >= 0 for _, values in columns.values())
    for (name, (steps, values)), colour in zip(columns.items(), COLOURS * len(columns)):
        values = np.asarray(values, float)
        if log:
            values = np.where(values > 0, values, np.nan)
        width = max(1, len(values) // SMOOTH)
        if smooth and width > 1:
            axes.plot(steps, values, color=colour, linewidth=0.6, alpha=0.25)
            values = _smoothed(values, width)
        marker = "o" if len(values) < 30 else None
        axes.plot(steps, values, color=colour, linewidth=1.4, marker=marker, markersize=3, label=name.replace("_", " "))
    if log:
        axes.set_yscale("log")
    finish(axes)
    if len(columns) > 1:
        legend(axes, ncols=4)


def _smoothed(values: np.ndarray, width: int) -> np.ndarray:
    """Mean over the `width` values up to each one, fewer at the start; gaps do not count."""
    there = np.isfinite(values)
    sums, counts = (np.cumsum(np.concatenate([np.zeros(width), x])) for x in (np.where(there, values, 0), there))
    with np.errstate(invalid="ignore"):
        return (sums[width:] - sums[:-width]) / (counts[width:] - counts[:-width])


def _bins(axes: Axes, steps: list[dict]) -> None:
    """The least noise is the palest."""
    count = len(steps[-1]["bins"])
    for i in range(count):
        points = [(record["step"], record["bins"][i]) for record in steps if record["bins"][i] is not None]
        if points:
            shade = 0.25 + 0.75 * (i + 0.5) / count
            label = f"{100 * i // count} to {100 * (i + 1) // count} %"
            colour = tuple(1 - shade * (1 - part) for part in (0.13, 0.32, 0.68))
            axes.plot(*zip(*points), color=colour, linewidth=1.3, label=label)
    axes.set_yscale("log")
    finish(axes)
    legend(axes, ncols=5)


def legend(axes: Axes, ncols: int) -> None:
    """Below the axes, where it covers nothing."""
    axes.legend(frameon=False, fontsize=7.5, ncols=ncols, loc="upper center", bbox_to_anchor=(0.5, -0.17))


def finish(axes: Axes, label: str = "step") -> None:
    """The look of all panels; `label` below the axis."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e8ee", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8, color="#9aa0ab")
    axes.set_xlabel(label, fontsize=8, color="#6a707c")
