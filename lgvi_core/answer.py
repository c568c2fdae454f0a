"""What a language model answered: the removal prompt, the words to the user, a region, whether the request is met.

A model puts the prompt between `{{prompt}}` and `{{/prompt}}` (LGVI-I's way; its paper writes <PROMPT>), or answers
with <Module>, <Instruction> and <Region> (Vitron's). Models forget, repeat and decorate tags, so everything is read.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import dataclass

from .errors import InputError
from .region import Region, check_box
from .wording import read

OPEN, CLOSE = "{{prompt}}", "{{/prompt}}"
MODULES = {  # Vitron's letters; the names of those that cannot end in something removed begin with "other: "
    "a": "other: image generation",
    "b": "image segmentation",
    "c": "image editing",
    "d": "other: video generation",
    "e": "video segmentation and tracking",
    "f": "video editing",
    "g": "other: image to video",
}
KEYS = {  # how models name the parts of an answer in JSON
    "response": ("response", "answer", "reply", "message"),
    "module": ("module",),
    "prompt": ("prompt", "removal_prompt", "instruction"),
    "region": ("region", "box", "bbox"),
}
SILENT = "The model gave no answer in words."
TAG = re.compile(
    r"\{{1,3}\s{0,9}(/?)\s{0,9}(prompt)\s{0,9}\}{1,3}|[<\[]\s{0,9}(/?)\s{0,9}(prompt|module|instruction|region)\s{0,9}[>\]]",
    re.IGNORECASE,
)
THOUGHTS = re.compile(r"<(think|thinking|thought|reasoning)\b[^<>]*>(?:.*?</\1\s*>|.*)", re.IGNORECASE | re.DOTALL)
THOUGHT_TAG = re.compile(r"</?(?:think|thinking|thought|reasoning)\s{0,9}>", re.IGNORECASE)
MARKUP = re.compile(
    r"```(?:(?:json|xml|html|text|plaintext|markdown|md)(?![a-z]))?|<\|[^<>|\s]{1,40}\|>(?:assistant\n)?"
    r"|</?s>|<(?:eos|bos|pad|unk|end_of_turn|start_of_turn|turn\|)>",
    re.IGNORECASE,
)
SPEAKER = re.compile(r"^\s*(?:assistant|response|answer)\s*:", re.IGNORECASE)
ENDED = re.compile(r"(?:^|[\n.!?…)\]\"'”])\s*$")
NUMBER = re.compile(r"-?\d*\.?\d+")


@dataclass(frozen=True)
class Answer:
    """What becomes of a request.

    prompt: what to remove, in words for the U-Net; empty unless `met`. response: what the user reads, never empty.
    region: where, if stated. met: whether there is something to remove. module: what Vitron would call, if stated.
    """

    prompt: str
    response: str
    region: Region | None = None
    met: bool = False
    module: str = ""


def parse(answer: str) -> Answer:
    """Read whatever a language model wrote; never an exception.

    The last pair of tags counts; one that is not closed ends with its line. Without a pair the whole answer counts if
    it is itself a direct request. What then asks for no removal is not met: its prompt is empty.
    """
    spoken = MARKUP.sub("", _spoken(answer))
    text = _unwrapped(spoken)
    visible, tagged = split_tags(text)
    said = tagged["prompt"] or tagged["instruction"]
    reading = read(said[-1] if said else visible)
    module = _module(tagged["module"][-1]) if tagged["module"] else ""
    direct = bool(said) or (reading.kind != "thing" and "?" not in visible)
    met = bool(reading.prompt) and direct and not module.startswith("other: ")
    prompt = reading.prompt if met else ""
    region, note = _region(tagged["region"][-1]) if tagged["region"] else (None, "")
    response = visible or (f"I will {prompt}." if met else text == spoken and _bare(answer) or SILENT)
    return Answer(prompt, f"{response} {note}".strip(), region, met, module.removeprefix("other: "))


def split_tags(text: str) -> tuple[str, dict[str, list[str]]]:
    """A text without its tags, and the contents of the tags by name in their order.

    The words between tags go with them, but for a prompt in the middle of a sentence: "I'll {{prompt}}remove …".
    """
    tagged = defaultdict(list)
    tags = [(m.start(), m.end(), (m[2] or m[4]).lower(), bool(m[1] or m[3])) for m in TAG.finditer(text)]
    visible = text[: tags[0][0]] if tags else text
    for i, (_, start, name, closing) in enumerate(tags):
        stop, _, next_name, next_closes = tags[i + 1] if i + 1 < len(tags) else (len(text), 0, "", False)
        content, rest = text[start:stop], ""
        if closing:
            visible += content
            continue
        if not (next_closes and next_name == name):
            content, newline, rest = content.strip().partition("\n")
            rest = newline + rest
        tagged[name].append(" ".join(content.split()))
        in_sentence = name in ("prompt", "instruction") and not ENDED.search(visible)
        visible += (content if in_sentence else "") + rest
    return _tidy(visible), tagged


def _spoken(answer: str) -> str:
    """The answer without what the model thought before it."""
    return THOUGHT_TAG.split(THOUGHTS.sub("", answer))[-1]


def _unwrapped(text: str) -> str:
    """The same answer in tags if it is written in JSON, else as it is."""
    start, end = text.find("{"), text.rfind("}") + 1
    try:
        data = json.loads(text[start:end]) if 0 <= start < end else None
    except (ValueError, RecursionError):
        return text
    if not isinstance(data, dict):
        return text
    data = {str(key).lower(): value for key, value in data.items()}
    parts = {part: data[key] or "" for part, keys in KEYS.items() for key in keys if key in data}
    lines = [text[:start], str(parts.pop("response", "")), text[end:]]
    lines += [f"<{part}>{value}</{part}>" for part, value in parts.items()]
    return "\n".join(lines) if parts or lines[1] else text


def _module(text: str) -> str:
    name = text.strip(" .:").lower()
    for letter, module in MODULES.items():
        if name == letter or (" " in name and module.removeprefix("other: ").startswith(name)):
            return module
    return name


def _region(text: str) -> tuple[Region | None, str]:
    """The region of corners (left, top, right, bottom), and what the user should know of it."""
    unusable = None, "(The place it named is not a box in fractions of the frame and is not used.)"
    numbers = [float(number) for number in NUMBER.findall(text[:200])]
    if len(numbers) != 4 or not all(-0.05 <= number <= 1.05 for number in numbers):
        return unusable
    (left, right), (top, bottom) = sorted(numbers[::2]), sorted(numbers[1::2])
    try:
        region = Region(check_box((left, top, right - left, bottom - top)))
    except InputError:
        return unusable
    swapped = [left, top, right, bottom] != numbers
    return region, "(It named the corners of the place in the wrong order; they are put right.)" if swapped else ""


def _bare(text: str) -> str:
    """The text without any tag, thoughts and all: what is left to show of an answer that has no other words."""
    for pattern in (TAG, THOUGHT_TAG, MARKUP):
        text = pattern.sub("", text)
    return _tidy(text)


def _tidy(text: str) -> str:
    text = SPEAKER.sub("", text)
    text = re.sub(r"[^\S\n]+", " ", text)
    return re.sub(r" ?\n ?(?:\n ?)+", "\n\n", text).strip()
