"""Files written whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path


def write_text(text: str, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, "utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(report: dict, path: Path) -> None:
    write_text(json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n", path)
