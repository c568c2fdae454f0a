"""What commands that work for days share: a folder that goes on only as it was begun, and processes side by side."""

from __future__ import annotations

import json
import os
from datetime import timedelta
from pathlib import Path

from lgvi_core.errors import InputError

from ..watching.journal import write_whole

LONGEST = timedelta(days=30)  # that a process waits for the others


def begin(path: Path, plan: dict, instead: str) -> None:
    """Write the plan of the work in a new folder at `path`, or see that what was begun there is the same.

    plan: all that the work depends on, as JSON has it. instead: what to do where that is not so. Raises `InputError`
    for a folder with other things in it, and for work that was begun otherwise, with what differs.
    """
    folder, written = path.parent, json.dumps(plan, indent=1, ensure_ascii=False) + "\n"
    if not path.is_file():
        if folder.exists() and any(folder.iterdir()):
            raise InputError(f"{folder} is not empty, and nothing that this command began: {instead}")
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, written)
        return
    try:
        before, now = json.loads(path.read_text("utf-8")), json.loads(written)
    except ValueError as error:
        raise InputError(f"{path} is no JSON: {error}; {instead}") from None
    changed = [_change(key, before.get(key), now[key]) for key in now if before.get(key) != now[key]]
    if changed:
        raise InputError(f"{folder} was begun otherwise; now it is {'; '.join(changed)}: {instead}, or what it was")


def _change(key: str, before, now) -> str:
    """What differs in a plan: of lists how long they were, of all else the values."""
    if isinstance(before, list) and isinstance(now, list):
        return f"other {key} than the {len(before)} then"
    return f"{key} {now!r} (then {before!r})"


def processes():
    """Accelerate's state of the processes that were started together; they exchange nothing but that they are done."""
    from accelerate import PartialState  # it takes seconds, and few commands need it

    several = int(os.environ.get("WORLD_SIZE", 1)) > 1  # one needs no group
    return PartialState(cpu=True, **({"timeout": LONGEST} if several else {}))
