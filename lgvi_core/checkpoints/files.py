"""What a file on disk is, judged by its first bytes, and what to say when it cannot be that."""

from __future__ import annotations

import json
from pathlib import Path

from ..errors import InputError


def half_downloaded(path: Path, why: str) -> InputError:
    """The error for a file that did not arrive whole."""
    return InputError(f"{path} looks half downloaded: {why}. Download it again")


def first_bytes(path: Path, count: int) -> bytes:
    """The start of a file; `InputError` if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(count)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def recognise(path: Path) -> str:
    """"safetensors" or "torch", by content; `InputError` for anything else, which says what it looks like."""
    head = first_bytes(path, 64)
    if not head:
        raise half_downloaded(path, "it is empty")
    if head.startswith(b"version https://git-lfs"):
        raise half_downloaded(path, "it is a Git LFS pointer, a few lines of text in place of the weights")
    if head.lstrip().startswith(b"<"):
        raise half_downloaded(path, "it is a web page, not weights")
    if len(head) < 16:
        raise half_downloaded(path, f"it has only {len(head)} bytes")
    if head[8:9] == b"{":
        return "safetensors"
    if head.startswith((b"PK\x03\x04", b"\x80")):
        return "torch"
    if head.startswith(b"GGUF"):
        raise InputError(f"{path} is a GGUF file (quantised); LGVI checkpoints are .safetensors or PyTorch .bin files")
    if not any(head):
        raise half_downloaded(path, "it starts with zeros")
    raise InputError(f"{path} is neither a safetensors nor a PyTorch file: it starts with {head[:12]!r}")


def read_json(path: Path) -> dict:
    """The object in a JSON file; `InputError` if it cannot be read or is no object."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise half_downloaded(path, f"it is not valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a JSON {type(content).__name__}; expected an object of settings")
    return content


def listing(items: list[str], limit: int = 8) -> str:
    """The first few of a list in words: "a, b and 3 more"."""
    if len(items) <= limit:
        return ", ".join(items)
    return f"{', '.join(items[:limit])} and {len(items) - limit} more"
