"""The report as Markdown: a table, what was left out and why, and the paper's numbers where they belong."""

from __future__ import annotations

from . import paper_tables
from .measures import COLUMNS
from .methods import GIVEN


def markdown(report: dict) -> str:
    """Columns that no row has are left out of the table and named below it with their reason."""
    shown = [name for name in COLUMNS if any(row.get(name) is not None for row in report["rows"])]
    data = report["data"]
    lines = [f"# Evaluation on {data['root']}", "", _sentence(report), ""]
    heads = ["method", "source put back outside", *(COLUMNS[name].title for name in shown)]
    lines += [_row(heads), "|---" * len(heads) + "|"]
    for row in report["rows"]:
        lines.append(_row([row["method"], row["composited"], *(_cell(row, name) for name in shown)]))
    lines += ["", *_notes(report, shown)]
    for title, rows in report.get("paper", {}).items():
        heads = ["method", *paper_tables.COLUMNS]
        lines += ["", f"## The paper's {title[0].lower()}{title[1:]}", "", _row(heads), "|---" * len(heads) + "|"]
        digits = {"psnr": 2, "ssim": 3, "vfid_paper": 3, "e_warp": 3}
        lines += [_row([row["method"], *(f"{row[key]:.{n}f}" for key, n in digits.items())]) for row in rows]
    return "\n".join(lines) + "\n"


def _sentence(report: dict) -> str:
    data, count = report["data"], report["samples"]
    frames = f"the first {report['frames']} frames" if report["frames"] else "all frames"
    split = f", split {data['split']}" if data.get("split") else ""
    used = "; ".join(f"{name}: {what}" for name, what in report["networks"].items())
    windows = ", ".join(map(str, report["ssim_windows"]))
    return (
        f"{count} of {data['samples']} samples ({data['kind']}{split}), {frames} at their own size, seed "
        f"{report['seed']}, each with its first caption. SSIM window: {windows}. {used}."
    )


def _row(cells: list[str]) -> str:
    return "|" + "|".join(cell.replace("|", "\\|") for cell in cells) + "|"


def _cell(row: dict, name: str) -> str:
    value, column = row.get(name), COLUMNS[name]
    if value is None:
        return "–"
    if column.unit == "%":
        return f"{100 * value:.{column.digits}f} %"
    return f"{value:.{column.digits}f}"


def _notes(report: dict, shown: list[str]) -> list[str]:
    lines = []
    everywhere = {name: report["rows"][0]["left_out"][name] for name in COLUMNS if name not in shown}
    for reason in dict.fromkeys(everywhere.values()):
        names = [_plain(COLUMNS[name].title) for name in everywhere if everywhere[name] == reason]
        lines.append(f"* Left out: {', '.join(names)}: {reason}.")
    for name in shown:
        column = COLUMNS[name]
        absent = {row["method"]: row["left_out"][name] for row in report["rows"] if name in row["left_out"]}
        for reason in dict.fromkeys(absent.values()):
            methods = [method for method in absent if absent[method] == reason]
            lines.append(f"* –, {_plain(column.title)} of {', '.join(methods)}: {reason}.")
        for row in report["rows"]:
            if row.get(f"{name}_identical"):
                what = f"{row[f'{name}_identical']} {'frames' if name == 'psnr' else 'samples'}"
                lines.append(
                    f"* {_plain(column.title)}, {row['method']} ({row['composited']}): {what} are identical to the "
                    "truth; their PSNR is infinite and not in the mean."
                )
    if "clip_score" in shown:
        fill = any(row["composited"] == GIVEN for row in report["rows"])
        what = "asked for: it rises where that stands there" if fill else "removed: it falls where that is gone"
        lines.append(f"* The CLIP score is of the words that name what is {what}.")
    for name, reason in report["broken"]:
        lines.append(f"* Could not be read and is not in any row: {name}: {reason}")
    return lines


def _plain(title: str) -> str:
    return title.rstrip(" ↑↓")
