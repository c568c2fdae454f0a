"""What is said about a clip: a request, the turns before it, and the answer that a language model learns to give.

On disk the setting `dialogues` of a dataset names a JSON-lines file; a line has the sample's `name` and a `dialogue`:

    {"name": "0a1b/2", "dialogue": [{"role": "user", "text": "I only want the white dog."},
        {"role": "assistant", "text": "Then the brown one goes. {{prompt}} remove the brown dog {{/prompt}}"}]}

The last turn is the answer, the one before it the request. A sample may have several lines; one without a line is asked
for by its caption. Other keys of a line are for people. `annotate` has a chat model write such a file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from lgvi_core.answer import CLOSE, OPEN
from lgvi_core.conversation import Turn, read_turns
from lgvi_core.errors import InputError
from lgvi_core.wording import clean

from .records import some
from .words import mirrored


@dataclass(frozen=True)
class Dialogue:
    """A request, the answer to it as a language model writes it, tags and all, and the turns before."""

    request: str
    answer: str
    turns: tuple[Turn, ...] = ()


def plain(sentence: str) -> Dialogue:
    """The dialogue of a direct request ("remove the dog on the left")."""
    return Dialogue(sentence, f"I will {sentence}. {OPEN} {sentence} {CLOSE}")


def plainly(text: str) -> str:
    """What a text is compared by: small letters, plain characters, no stop at its end."""
    return clean(text).lower().strip(" .!?,")


def in_mirror(dialogue: Dialogue) -> Dialogue | None:
    """The dialogue about the clip seen in a mirror; None where one of its texts cannot be turned, see `words`."""
    texts = [text for turn in dialogue.turns for text in (turn.text, turn.prompt)]
    turned = [mirrored(text) for text in (dialogue.request, dialogue.answer, *texts)]
    if None in turned:
        return None
    request, answer, *rest = turned
    said = zip(dialogue.turns, rest[::2], rest[1::2])
    return Dialogue(request, answer, tuple(replace(turn, text=text, prompt=prompt) for turn, text, prompt in said))


def read_dialogues(path: Path) -> dict[str, tuple[Dialogue, ...]]:
    """The dialogues of a file, by the samples' names; `InputError` names the lines that are wrong."""
    found: dict[str, tuple[Dialogue, ...]] = {}
    problems = []
    for line in read_lines(path):
        if line.problem:
            problems.append(f"line {line.number}: {line.problem}")
        else:
            found[line.name] = (*found.get(line.name, ()), line.dialogue)
    if problems:
        raise InputError(f"{path}: {some(problems)}")
    return found


class Line(NamedTuple):
    """A line of a file of dialogues: the sample's name and what is said about it, or what is wrong with the line."""

    number: int
    name: str = ""
    dialogue: Dialogue | None = None
    problem: str = ""


def read_lines(path: Path) -> Iterator[Line]:
    """All lines of a file of dialogues that are not empty. Raises `InputError` for a file that cannot be read."""
    if not path.is_file():
        raise InputError(f"there is no file of dialogues at {path}; leave `dialogues` out to ask by captions alone")
    try:
        lines = path.read_text("utf-8-sig").split("\n")  # JSON may have other ends of lines inside
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no UTF-8 text: {error}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            yield Line(number, str(row["name"]), _dialogue(row["dialogue"]))
        except KeyError as error:
            yield Line(number, problem=f"it has no {error}")
        except (ValueError, TypeError) as error:  # `InputError` among them
            yield Line(number, problem=str(error))


def _dialogue(said: list[dict]) -> Dialogue:
    turns = read_turns(json.dumps(said))
    if len(turns) < 2 or [turn.role for turn in turns[-2:]] != ["user", "assistant"]:
        raise InputError("a dialogue ends with a request of the user and the assistant's answer")
    answer = next(str(value) for key, value in said[-1].items() if key in ("text", "content", "value"))
    return Dialogue(turns[-2].text, answer.strip(), turns[:-2])
