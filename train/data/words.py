"""What a mirrored clip is called: "left" becomes "right", and where that does not do, nothing."""

from __future__ import annotations

import re

SIDES = {"left": "right", "right": "left"}
FORMS = ("", "most", "-most", "ward", "wards", "hand", "-hand", "handed", "-handed", "side", "-side")
# "left" is a side after these or before those; elsewhere it can be a verb ("the man who left"), "right" an adverb.
BEFORE = (
    "the", "a", "on", "to", "at", "from", "in", "of", "its", "his", "her", "their", "your", "our", "my", "far", "upper",
    "lower", "top", "bottom", "middle", "center", "centre", "back", "front", "facing", "moving", "going", "heading",
    "turning", "looking", "towards", "toward", "remove", "delete", "erase",
)  # fmt: skip
AFTER = (
    "side", "hand", "most", "corner", "half", "edge", "of", "one", "ones", "border", "part", "end", "lane", "arm",
    "leg", "foot", "eye", "ear", "wing", "shoulder", "third", "quarter",
)  # fmt: skip
NOT_SIDES = (
    "left behind", "left over", "left alone", "right away", "right now", "right behind", "right next", "right in",
    "right above", "right below", "right beside", "right before", "right after",
)  # fmt: skip
# What has another meaning, or looks wrong, in a mirror.
UNTURNABLE = re.compile(
    r"\b(clockwise|counter-?clockwise|anti-?clockwise|text|texts|letter|letters|word|words|number|numbers|numbered|digits?"
    r"|signs?|logos?|writing|written|reads|reading|says|saying|label(?:l?ed|s)?|captions?|subtitles?|watermarks?|title"
    r"|posters?|billboards?|east|west|eastern|western|starboard|port|mirror(?:ed)?)\b|[\"“”«»\d]"
)
SIDE = re.compile(r"\b(left|right)(" + "|".join(sorted(map(re.escape, FORMS), key=len, reverse=True)) + r")\b", re.I)


def mirrored(sentence: str) -> str | None:
    """The sentence for the clip seen in a mirror; None where the clip must not be mirrored.

    None for writing, numbers and quotes, directions of turning and of the compass, words that are not English, and
    where "left" or "right" may be something else than a side.
    """
    lower = sentence.lower()
    if UNTURNABLE.search(lower) or not sentence.isascii() or any(phrase in lower for phrase in NOT_SIDES):
        return None
    words = re.findall(r"[a-z]+", lower)
    for i, word in enumerate(words):
        if word in SIDES:
            before, after = (words[i - 1] if i else ""), (words[i + 1] if i + 1 < len(words) else "")
            if before not in BEFORE and after not in AFTER:
                return None
    return SIDE.sub(lambda match: _like(match[1], SIDES[match[1].lower()]) + match[2], sentence)


def _like(model: str, word: str) -> str:
    return word.upper() if model.isupper() else word.capitalize() if model[0].isupper() else word
