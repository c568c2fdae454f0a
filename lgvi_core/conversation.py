"""A conversation about what to remove: its turns as text, the model's instruction, and plain rules without a model.

`parse` reads what a language model answers to `instruction`; `rules` answers direct requests itself. Both give an
`Answer`, and neither guesses: what is unclear, ambiguous or no removal gets words for the user and no prompt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from .answer import CLOSE, MARKS, NOT_A_REMOVAL, OPEN, Answer, parse, split_tags
from .errors import InputError
from .region import Box
from .wording import Reading, clean, read

__all__ = ["Answer", "Turn", "instruction", "parse", "read_turns", "rules", "unseen", "write_turns"]

SPEAKERS = {
    "user": "user", "human": "user", "you": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "lgvi": "assistant",
}  # fmt: skip
LABELLED = re.compile(rf"^({'|'.join(SPEAKERS)})[ \t]*:", re.IGNORECASE | re.MULTILINE)
HISTORY = 'give lines that begin with "User:" and "Assistant:", or a JSON list of {"role": …, "text": …}'

TASK = f"""\
Read the request and answer it.

First write one or two short sentences to the person. Then, only if it is clear what has to go, write the removal \
prompt on a line of its own between {OPEN} and {CLOSE}.

The removal prompt:
- begins with "remove" and names the thing so that it fits nothing else in the picture: what it is, its colour or \
size, where it is (left, right, top, bottom, in the middle), what it does;
- says what has to go even if the person only says what should stay, or why something bothers them;
- is one plain sentence in English, without reasons or politeness.

Write no prompt, say why or ask back, and end with
- {MARKS["ask"]} if several things fit and the person did not say which;
- {MARKS["absent"]} if the thing is not in the picture;
- {MARKS["not a removal"]} if they want something added, replaced or changed, or ask a question.

Examples:
User: That lamp post ruins the shot.
Assistant: I will take the lamp post away.
{OPEN}remove the lamp post{CLOSE}
User: I want to see the two swans and no other bird.
Assistant: The gull at the top has to go then.
{OPEN}remove the gull at the top{CLOSE}
User: Take the car away.
Assistant: There are two cars, a red one on the left and a black one behind it. Which one? {MARKS["ask"]}
User: The cow has to go.
Assistant: I see no cow, only sheep. {MARKS["absent"]}
User: Give the bus a new colour.
Assistant: I can only remove things. Shall I remove the bus? {MARKS["not a removal"]}"""
ROLE = "You help a person to remove things from a video."
SEEN = {
    0: "You cannot see the video: rely on their words.",
    1: "The picture is the first frame of the video.",
    2: "The pictures are {} frames of the video in their order.",
}

REASONS = {  # what the user is told where the rules cannot say what to remove, by `Reading.kind`
    "empty": 'Tell me what to remove, for example "remove the dog on the left".',
    "long": "This is too long for me. Say in one sentence what to remove.",
    "language": 'I read plain English only, such as "remove the dog on the left"; a language model reads more.',
    "unclear": 'I cannot read from this what to remove. Say it directly, such as "remove the dog on the left", '
    "or connect a language model.",
    "several": 'I read more than one thing in this. Say in one sentence what to remove, such as "remove the dog".',
    "mixed": "I can only remove. Ask for the removal alone; I cannot add or change anything.",
    "negated": 'I read what to leave alone, but not what to remove. Say "remove …" or "keep only …".',
    "which": 'Which one? Say it so that it fits one thing, such as "remove the dog on the left".',
    "medium": "I remove things that are seen in the picture and fill their place; that is not such a thing.",
    "only": 'Should only that go, or only that stay? Say "remove …" or "keep only …".',
    "this": 'I cannot tell what is meant. Mark it on the first frame, or name it, such as "remove the dog".',
    "keep this": "I cannot keep only what is marked. Name what should stay, or mark what should go.",
    "other": "I cannot tell which other one is meant. Name it, or mark it on the first frame.",
    "stay or go": 'Should it go, or stay as well? Say "remove …" or "keep only …".',
    "question": 'I cannot look at the video without a language model. Say what to remove, such as "remove the dog".',
    "about": 'Should it go? Then say "remove …".',
    "add": "I can only remove things, not add any. Tell me what to remove.",
    "change": 'I can only remove things, not change them. Say what to remove, such as "remove the dog".',
    "restore": "I cannot bring anything back. Start again from the original video.",
}

POSITIONS = {
    "left": "right", "leftmost": "rightmost", "right": "left", "rightmost": "leftmost",
    "top": "bottom", "upper": "lower", "topmost": "lower", "bottom": "top", "lower": "upper",
}  # fmt: skip
SIZES = {
    "small": "large", "little": "large", "tiny": "large", "smaller": "larger", "smallest": "largest",
    "large": "small", "big": "small", "larger": "smaller", "largest": "smallest", "bigger": "smaller",
}  # fmt: skip
MANY = re.compile(r"\b(?:and|all|both|every|each|every\w+|middle|cent(?:re|er))\b|,", re.IGNORECASE)
PLACE = re.compile(r"\b(?:on|at|in|to|of|with|behind|near|next|under|over|above|below|beside|by|that|who|which)\b")
OTHER = re.compile(r"(?:the |that )?other(?: (?P<rest>.+))?", re.IGNORECASE)
OTHERS = re.compile(r"(?:all )?(?:of )?(?:the )?(?:others|rest)|everything else|everyone else", re.IGNORECASE)
KEPT = re.compile(r"remove everything (?:but|except) (?P<what>.+)", re.IGNORECASE)
ALSO = re.compile(r"\b(?:and|also|plus|too|as well)\b")
YES = re.compile(r"(?:yes|yeah|yep|sure|ok|okay|right|exactly|correct|do it|go ahead|please| |,)+[.!]*", re.IGNORECASE)
OFFER = re.compile(r"(?:shall i|should i|do you want me to|would you like me to) (?P<offer>[^.?!]+)\?", re.IGNORECASE)


@dataclass(frozen=True)
class Turn:
    """What was said. role: "user" or "assistant"; prompt: what the assistant then removed, empty if nothing."""

    role: str
    text: str
    prompt: str = ""


def read_turns(text: str) -> tuple[Turn, ...]:
    """Earlier turns from "User: …" and "Assistant: …" lines, or from a JSON list of {"role", "text"}.

    A line without a speaker goes on with the turn before it; prompt tags in an assistant's turn become its prompt.
    "from" / "value" and "content" are understood as keys too, turns of the system are left out. Raises `InputError` for
    a turn without a speaker, an unknown role, or a text that is not a string.
    """
    text = text.strip()
    said = _json_turns(text) if text.startswith("[") else _labelled_turns(text)
    turns = []
    for speaker, words in said:
        role = SPEAKERS.get(str(speaker).lower())
        if role is None or not isinstance(words, str):
            raise InputError(f"history turn {len(turns) + 1} is by {speaker!r} and says {words!r:.60}; {HISTORY}")
        words = "\n".join(line.strip() for line in words.strip().splitlines())
        visible, tagged = split_tags(words) if role == "assistant" else (words, {})
        turns.append(Turn(role, visible, (tagged.get("prompt") or [""])[-1]))
    return tuple(turns)


def write_turns(turns: Sequence[Turn]) -> str:
    """The turns as text that `read_turns` reads back: speakers at the beginning of lines, all else indented."""
    lines = []
    for turn in turns:
        words = f"{turn.text}\n{OPEN}{turn.prompt}{CLOSE}" if turn.prompt else turn.text
        lines.append(f"{turn.role.capitalize()}: " + "\n  ".join(words.splitlines()))
    return "\n".join(lines)


def instruction(request: str, turns: Sequence[Turn] = (), box: Box | None = None, frames: int = 1) -> str:
    """What a language model is told about one request.

    turns: earlier ones. box: a region the person marked, (x, y, width, height) in fractions of the frame. frames: how
    many pictures the model is shown beside the text, 0 if none.
    """
    parts = [f"{ROLE} {SEEN[min(frames, 2)].format(frames)} {TASK}"]
    if turns:
        parts.append("The conversation so far:\n" + write_turns(turns))
    if removed := [turn.prompt for turn in turns if turn.prompt]:
        parts.append("Done already, and not to be asked for again: " + "; ".join(removed) + ".")
    if box:
        left, top, right, bottom = box[0], box[1], box[0] + box[2], box[1] + box[3]
        parts.append(
            f"The person marked the part of the picture from {left:.0%} to {right:.0%} of its width and from {top:.0%} "
            f'to {bottom:.0%} of its height. "This" or "it" means what is there; name it in the prompt all the same.'
        )
    return "\n\n".join([*parts, f"User: {request.strip()}\nAssistant:"])


def rules(request: str, turns: Sequence[Turn] = (), marked: bool = False, gone: bool = False) -> Answer:
    """The answer to a request by plain rules, without a model: direct requests in English only.

    turns: earlier ones, for "and the other one" or "the dog too". marked: the user marked a region, which "this" means.
    gone: what earlier turns removed is gone from the video, so that the other of two needs no place to be named by.
    """
    reading = read(request)
    if marked and (reading.kind == "this" or OTHER.fullmatch(reading.what)):
        reading = Reading("remove", reading.what if reading.kind == "this" else "the object")
    reading = _in_context(reading, request, turns, gone)
    if not reading.prompt:
        return Answer("", REASONS[reading.kind], kind="not a removal" if reading.kind in NOT_A_REMOVAL else "ask")
    where = " in the marked region" if marked else ""
    return Answer(reading.prompt, f"I will {reading.prompt}{where}.", kind="remove")


def unseen(prompt: str) -> str:
    """What the user is told where nothing in the video fits a removal prompt."""
    return f'I see nothing in the video that fits "{prompt.removeprefix("remove ")}": nothing is removed.'


def _in_context(reading: Reading, request: str, turns: Sequence[Turn], gone: bool) -> Reading:
    """The reading with what it leaves to earlier turns filled in; "other" or "stay or go" if they do not tell."""
    last = turns[-1] if turns else Turn("assistant", "")
    done = [turn.prompt for turn in turns if turn.prompt]
    if last.role == "assistant" and YES.fullmatch(clean(request)) and (offer := OFFER.search(last.text)):
        return read(offer["offer"])
    if reading.kind == "about" and done:
        reading = reading._replace(kind="thing")
    if reading.prompt and OTHERS.fullmatch(reading.what):
        return Reading("other")
    if reading.kind in ("remove", "thing") and (other := OTHER.fullmatch(reading.what)):
        what = _other(other["rest"], done, gone)
        return Reading("remove", what) if what else Reading("other")
    if reading.kind == "thing" and done and (kept := KEPT.fullmatch(done[-1])):
        before, _, after = clean(request).lower().partition(reading.what.lower())
        also = ALSO.search(f"{before} {after}")
        return Reading("keep", f"{kept['what']} and {reading.what}") if also else Reading("stay or go")
    if reading.prompt and turns:
        noun = _noun(_subject(turns))
        if noun:
            return reading._replace(what=re.sub(r"\bone\b", noun, reading.what, count=1))
    return reading


def _other(rest: str | None, done: Sequence[str], gone: bool) -> str:
    """What "the other …" is after the prompts that are done: the opposite of the last like it, or "" if unknown."""
    any_noun = rest is None or rest.lower() == "one"
    noun = "" if any_noun else _noun(rest)
    alike = [prompt for prompt in done if noun in _forms(_noun(prompt))] if noun else done[-1:] if any_noun else []
    known = _noun(alike[-1]) if alike else ""
    if not known:
        return ""
    if not any_noun and rest.lower() != known:
        return f"the {rest}"  # it says more than the noun
    words = alike[-1].removeprefix("remove ").split()
    for table in (POSITIONS, SIZES):
        if sum(word.lower() in table for word in words) == 1:
            opposite = " ".join(table.get(word.lower(), word) for word in words)
            if f"remove {opposite}" in done:
                return ""
            return _without_place(opposite) if gone and table is POSITIONS else opposite
    return f"the {known}"  # the one before it is gone: the noun alone says which


def _without_place(what: str) -> str:
    """A thing without the words for its place: "the red circle" of "the red circle on the right"."""
    return " ".join(word for word in PLACE.split(what)[0].split() if word.lower() not in POSITIONS)


def _subject(turns: Sequence[Turn]) -> str:
    """What the last exchange was about: the prompt it led to, or what the user asked for in vain."""
    if turns[-1].prompt:
        return turns[-1].prompt
    asked = [turn.text for turn in turns if turn.role == "user"]
    return read(asked[-1]).prompt if asked else ""


def _noun(phrase: str) -> str:
    """The noun of a phrase about one thing, its last word before any place or clause; "" if there is none."""
    words = PLACE.split(phrase.lower())[0].split()
    return words[-1] if words and not MANY.search(phrase) and words[-1] not in ("one", "ones", "remove") else ""


def _forms(noun: str) -> tuple[str, ...]:
    return (noun, f"{noun}s", f"{noun}es") if noun else ()


def _labelled_turns(text: str) -> list[tuple[str, str]]:
    start, *pieces = LABELLED.split(text)
    if start.strip():
        raise InputError(f"the history begins with {start.strip()!r:.60}, which nobody says; {HISTORY}")
    return list(zip(pieces[::2], pieces[1::2]))


def _json_turns(text: str) -> list[tuple[str, str]]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the history is not the JSON that it begins like ({error}); {HISTORY}") from error
    if not all(isinstance(turn, dict) for turn in data):
        raise InputError(f"the history is a JSON list of something else than turns; {HISTORY}")
    said = [
        (turn.get("role", turn.get("from")), turn.get("text", turn.get("content", turn.get("value")))) for turn in data
    ]
    return [turn for turn in said if turn[0] != "system"]
