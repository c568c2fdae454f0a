"""Outputs that one process at a time works on."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from .errors import InputError


@contextlib.contextmanager
def alone(output: str | os.PathLike, main: bool = True) -> Iterator[None]:
    """Keeps other processes that ask for the same output away while the block runs.

    The lock is the system's own, on a file beside the output: it goes with the process, however that ends. main: False
    in processes that work together with one that has the lock. Raises `InputError` that names the process which has it.
    """
    if not main:
        yield
        return
    place = Path(os.path.realpath(output))
    lock, holder = (place.with_name(f".{place.name}.{what}") for what in ("lock", "holder"))
    held = FileLock(lock, timeout=0)
    try:
        held.acquire()
    except Timeout:
        raise InputError(f"{output} is being made by {_name(holder)}: wait for it, or give another output") from None
    except OSError as error:
        raise InputError(f"{lock} could not be written ({error.strerror or error}): give another output") from error
    try:
        with contextlib.suppress(OSError):  # the lock is held without it too; a full disk is told where it matters
            holder.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        yield
    finally:
        holder.unlink(missing_ok=True)
        if os.name != "nt":  # there no file goes while it is open; elsewhere one that is let go of may be held again
            lock.unlink(missing_ok=True)
        held.release()
        if os.name == "nt":
            with contextlib.suppress(OSError):
                lock.unlink()


def _name(holder: Path) -> str:
    try:
        return holder.read_text()
    except FileNotFoundError:  # it has just begun, or ended
        return "another process"
