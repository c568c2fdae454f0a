"""What an evaluation has measured so far, one JSON line each, so that an interrupted one goes on."""

from __future__ import annotations

import base64
import json
import logging
import os
from pathlib import Path

import numpy as np

from lgvi_core.errors import InputError

log = logging.getLogger(__name__)


class Progress:
    """Lines of a file: the first says what is evaluated, each other one the results of a method on a sample.

    A line that was cut off is dropped. Raises `InputError` where the file is of another evaluation.
    """

    def __init__(self, path: Path, about: dict):
        self.path = path
        self.lines: dict[tuple[str, str], dict] = {}  # by sample and method
        lines = self._read()
        if not lines:
            self._write(about, truncate=True)
            return
        differs = [key for key in about.keys() | lines[0].keys() if about.get(key) != lines[0].get(key)]
        if differs:
            changes = "; ".join(f"{key} was {lines[0].get(key)!r}, is {about.get(key)!r}" for key in sorted(differs))
            raise InputError(f"{path} is of another evaluation ({changes}): remove it, or give another --output")
        self.lines = {(line["sample"], line["method"]): line for line in lines[1:]}

    def get(self, sample: str, caption: str, method: str, identity: str) -> dict | None:
        """The line of a method on a sample. Raises `InputError` where the method or the words have changed since."""
        line = self.lines.get((sample, method))
        if line is not None and (line["caption"], line["identity"]) != (caption, identity):
            raise InputError(
                f"{self.path} has results of {method} from {line['identity']!r} with the words {line['caption']!r} on "
                f"{sample}; now they are {identity!r} and {caption!r}: remove the file, or give another --output"
            )
        return line

    def add(self, sample: str, caption: str, method: str, identity: str, **results) -> None:
        line = {"sample": sample, "caption": caption, "method": method, "identity": identity, **results}
        self._write(line)
        self.lines[sample, method] = line

    def _write(self, line: dict, truncate: bool = False) -> None:
        with self.path.open("w" if truncate else "a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _read(self) -> list[dict]:
        if not self.path.exists():
            return []
        text = self.path.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]
        if whole != text:
            log.warning("%s was cut off in its last line, which is measured again", self.path)
            with self.path.open("r+b") as file:
                file.truncate(len(whole))
        try:
            return [json.loads(line) for line in whole.splitlines()]
        except ValueError as error:
            raise InputError(f"{self.path} is damaged ({error}): remove it") from None


def pack(features: dict[str, np.ndarray]) -> dict[str, str]:
    """Vectors as text, exactly."""
    return {name: base64.b64encode(vector.astype("<f4").tobytes()).decode() for name, vector in features.items()}


def unpack(texts: dict[str, str]) -> dict[str, np.ndarray]:
    return {name: np.frombuffer(base64.b64decode(text), "<f4") for name, text in texts.items()}
