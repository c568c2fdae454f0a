"""`log.jsonl`: what happened in a run, one JSON object a line, so that a run that is killed loses nothing.

Kinds of lines, told apart by a key: `total` (losses of the steps since the line before), `held_out`, `environment`,
`message`, `broken`, `finished`. `step` counts from 0; in a `held_out` line it is how many steps were done.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

from lgvi_core.errors import InputError

NAME = "log.jsonl"


class Journal:
    """Goes on with the journal at `path` from step `start`: lines of what is done again are dropped."""

    def __init__(self, path: Path, start: int):
        self.path = path
        before = read(path) if path.exists() and start else []
        self.records = [record for record in before if _stays(record, start)]  # of the run until here
        write_whole(path, "".join(_line(record) for record in self.records))
        self.file = path.open("a", encoding="utf-8")

    def write(self, record: dict) -> None:
        self.records.append(record)
        self.file.write(_line(record))
        self.file.flush()

    def close(self) -> None:
        self.file.close()


def read(path: Path) -> list[dict]:
    """The journal's records, without a last line that a kill cut off. Raises `InputError` for other files."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the journal {path} cannot be read: {error}") from None
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise InputError(f"line {number} of the journal {path} is no JSON: {error}") from None
    return records


def write_whole(path: Path, content: str | bytes) -> None:
    """A file that is there as a whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _stays(record: dict, start: int) -> bool:
    """Whether a record is of before step `start`; the end that a run had is none any more."""
    if "finished" in record:
        return False
    return record["step"] < start or ("held_out" in record and record["step"] == start)


def _line(record: dict) -> str:
    return json.dumps(_rounded(record), ensure_ascii=False) + "\n"


def _rounded(value):
    """Floats with six digits; JSON has no NaN and no infinity, null stands for them."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(part) for part in value]
    return value
