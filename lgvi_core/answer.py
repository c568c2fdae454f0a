"""What a language model answered: the removal prompt, the words to the user, a region, whether the request is met.

A model puts the prompt between `{{prompt}}` and `{{/prompt}}` (LGVI-I's way; its paper writes <PROMPT>), or answers
with <Module>, <Instruction> and <Region> (Vitron's). In place of a prompt, one of `MARKS` says why there is none.
Models forget, repeat and decorate tags, so everything is read.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import dataclass

from .errors import InputError
from .region import Region, check_box
from .wording import VERB, Reading, read

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
MARKS = {"ask": "{{ask}}", "absent": "{{absent}}", "not a removal": "{{other}}"}  # in an answer, by `Answer.kind`
NOT_A_REMOVAL = ("add", "change", "medium", "mixed", "question", "restore")  # kinds of a `Reading`
SILENT = "The model gave no answer in words."
CUT_OFF = "(The answer was cut off before its end; ask again, in fewer words.)"
TAG = re.compile(
    r"\{{1,3}\s{0,9}(/?)\s{0,9}(prompt)\s{0,9}\}{1,3}|[<\[]\s{0,9}(/?)\s{0,9}(prompt|module|instruction|region)\s{0,9}[>\]]",
    re.IGNORECASE,
)
MARK = re.compile(r"(?:\{{1,3}|[<\[])\s{0,9}(ask|absent|other)\s{0,9}(?:\}{1,3}|[>\]])", re.IGNORECASE)
ONLY_REMOVES = re.compile(
    r"\bonly (?:able to |capable of )?remov(?:e|ing)\b|\b(?:cannot|can't|can not|unable to) "
    r"(?:add|replace|change|insert|put|alter|recolou?r|move|resize|bring)\b|\bnot a removal\b",
    re.IGNORECASE,
)
SEES_NONE = re.compile(
    r"\bthere (?:is|are|was|were) (?:no|not|none)\b|\bthere (?:isn't|aren't)\b|\b(?:i|we) (?:can )?see no\b"
    r"|\b(?:do not|don't|cannot|can't|can not|could not|couldn't) (?:see|find|spot) (?:a|an|any|the|that|such|it)\b"
    r"|\b(?:is|are) (?:not|nowhere) (?:visible |present |shown )?(?:in|on) (?:the|this) "
    r"(?:picture|video|frame|image|scene)\b",
    re.IGNORECASE,
)
FOREIGN = re.compile(r"\b(?:el|la|los|las|le|les|der|das|den|een|het|une|uma|os|gli)\b", re.IGNORECASE)
THOUGHTS = re.compile(r"<(think|thinking|thought|reasoning)\b[^<>]*>(?:.*?</\1\s*>|.*)", re.IGNORECASE | re.DOTALL)
THOUGHT_TAG = re.compile(r"</?(?:think|thinking|thought|reasoning)\s{0,9}>", re.IGNORECASE)
MARKUP = re.compile(
    r"```(?:(?:json|xml|html|text|plaintext|markdown|md)(?![a-z]))?|<\|[^<>|\s]{1,40}\|>(?:assistant\n)?"
    r"|</?s>|<(?:eos|bos|pad|unk|end_of_turn|start_of_turn|turn\|)>",
    re.IGNORECASE,
)
SPEAKER = re.compile(r"^\s*(?:assistant|response|answer)\s*:", re.IGNORECASE)
ENDED = re.compile(r"(?:^|[\n.!?…)\]\"'”])\s*$")
ORDER = re.compile(rf"\s*{VERB}\b", re.IGNORECASE)
A_THING = re.compile(r"(?:an?|the) \w", re.IGNORECASE)
NUMBER = re.compile(r"-?\d*\.?\d+")


@dataclass(frozen=True)
class Answer:
    """What becomes of a request.

    prompt: what to remove, in words for the U-Net; empty unless `met`. response: what the user reads, never empty.
    region: where, if stated. kind: "remove", or why nothing is removed: "ask" (it is not clear what), "absent" (it is
    not in the picture), "not a removal". module: what Vitron would call, if stated.
    """

    prompt: str
    response: str
    region: Region | None = None
    kind: str = "ask"
    module: str = ""

    @property
    def met(self) -> bool:
        """Whether there is something to remove."""
        return self.kind == "remove"


def parse(answer: str, ended: bool = True) -> Answer:
    """Read whatever a language model wrote; never an exception.

    The last pair of tags counts; one that is not closed ends with its line. Without a pair the whole answer counts if
    it is itself a direct request. What then asks for no removal, or has one of `MARKS`, is not met: its prompt is
    empty. ended: False where the model was cut off, so that only a prompt that is closed counts.
    """
    words = MARKUP.sub("", spoken(answer))
    text = _unwrapped(words)
    visible, tagged = split_tags(text)
    said = tagged["prompt"] or tagged["instruction"]
    reading = _named(said[-1]) if said else read(visible)
    module = _module(tagged["module"][-1]) if tagged["module"] else ""
    direct = bool(said) or (reading.kind != "thing" and "?" not in visible)
    whole = ended or _is_closed(text)
    if reading.prompt and direct and whole and not module.startswith("other: ") and not MARK.search(text):
        kind, prompt = "remove", reading.prompt
    else:
        kind, prompt = _why_not(text, visible, reading.kind, module), ""
    region, note = _region(tagged["region"][-1]) if tagged["region"] else (None, "")
    response = visible or (f"I will {prompt}." if prompt else text == words and _bare(answer) or SILENT)
    notes = [response, note, "" if whole else CUT_OFF]
    return Answer(prompt, " ".join(filter(None, notes)), region, kind, module.removeprefix("other: "))


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


def _named(prompt: str) -> Reading:
    """The reading of what stands between prompt tags: "a brown dog", or "remove a dog is running", as captions are."""
    reading = read(prompt)
    if reading.kind != "unclear" or FOREIGN.search(prompt):
        return reading
    if not ORDER.match(prompt):
        return read(f"remove {prompt}")
    return Reading("remove", reading.what) if A_THING.match(reading.what) else reading


def _why_not(text: str, visible: str, reading: str, module: str) -> str:
    """The kind of an answer that removes nothing: by its mark, else by its words."""
    marks = [mark.lower() for mark in MARK.findall(text)]
    if marks:
        return next(kind for kind, mark in MARKS.items() if marks[-1] in mark)
    if module.startswith("other: ") or reading in NOT_A_REMOVAL and "?" not in visible or ONLY_REMOVES.search(visible):
        return "not a removal"
    return "absent" if SEES_NONE.search(visible) else "ask"


def _is_closed(text: str) -> bool:
    tags = [bool(tag[1] or tag[3]) for tag in TAG.finditer(text)]
    return bool(tags) and tags[-1]


def spoken(answer: str) -> str:
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
    text = SPEAKER.sub("", MARK.sub("", text))
    text = re.sub(r"[^\S\n]+", " ", text)
    return re.sub(r" ?\n ?(?:\n ?)+", "\n\n", text).strip()
