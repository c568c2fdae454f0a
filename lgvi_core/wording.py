"""Reads direct requests in plain English by tables: what is to go, what alone is to stay, or why it is neither.

A sentence is cleaned, freed of politeness at both ends, and compared with `PATTERNS`, the first of which to fit gives
its kind. Nothing is inferred: what no pattern says is unclear.
"""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

MOST_WORDS, MOST_CHARACTERS = 100, 1000
PROMPTS = {"remove": "remove {}", "keep": "remove everything but {}", "thing": "remove {}"}


class Reading(NamedTuple):
    """What a text asks for.

    kind: "remove" (`what` is to go), "keep" (all but `what`), "thing" (`what` is named and no more), "about" (the same
    as a question), "this" (`what`, with every "this" or "it" written as "the object"), or else why it is none of them:
    "empty", "long", "language", "unclear", "several", "mixed", "negated", "which", "medium", "only", "keep this",
    "question", "add", "change", "restore".
    """

    kind: str
    what: str = ""

    @property
    def prompt(self) -> str:
        """What the U-Net is told, "remove …"; empty for the kinds that say nothing to remove."""
        return PROMPTS.get(self.kind, "").format(self.what)


def _words(*alternatives: str) -> str:
    return "(?:" + "|".join(alternatives) + ")"


MEDIUM = r"(?:video|clip|picture|image|photo|scene|shot|footage|film|movie|recording|view)"
SOUND = r"(?:sound|audio|music|noise|voices?)"
VERB = _words(
    "remov(?:e|ing)", "delet(?:e|ing)", "eras(?:e|ing)", "eliminat(?:e|ing)", "get(?:ting)? rid of", "hid(?:e|ing)",
    "clear(?:ing)?(?: away| off| out)?", "drop(?:ping)?", "los(?:e|ing)", "omit(?:ting)?", "exclud(?:e|ing)",
    "do(?:ing)? away with", "dispos(?:e|ing) of", "discard(?:ing)?", "scrub(?:bing)?(?: out| off)?", "banish(?:ing)?",
    "(?:tak|wip|leav)(?:e|ing) (?:out|away|off)", "(?:cut|edit|paint|rub|crop|pull|throw)(?:t?ing)? (?:out|away|off)",
)  # fmt: skip
PARTED = r"(?:tak(?:e|ing)|wip(?:e|ing)|leav(?:e|ing)|(?:clear|cut|edit|paint|rub|crop|pull|throw|get)(?:t?ing)?)"
CHANGE = _words(
    "replac(?:e|ing)", "swap", "exchange", "substitute", "chang(?:e|ing)", "turn", "convert", "transform",
    "mak(?:e|ing)", "re-?colou?r", "colou?r", "move", "resize", "rotate", "blur", "brighten", "darken", "sharpen",
    "improv(?:e|ing)", "enhance", "crop", "zoom", "scale", "slow", "speed", "stabili[sz]e", "reverse", "trim", "shrink",
    "enlarge", "fix",
)  # fmt: skip
ADD = _words("add(?:ing)?", "insert", "put(?:ting)?", "plac(?:e|ing)", "includ(?:e|ing)", "draw", "create", "generate")
I_WANT = r"(?:i|we)(?: (?:only|just|really))?(?: (?:want|need|wish|prefer)|(?: would|'d) (?:like|love|prefer))"
I_ONLY_WANT = r"(?:i|we)(?: (?:only|just) (?:want|need)|(?: would|'d) (?:only|just) (?:like|love))"
SEE = r"(?: to (?:see|keep|have|leave|show))?"
NOT = r"(?:do not|don't|dont|never)"
ONLY = r"(?:only|just|solely|(?:nothing|nobody|no one) (?:else )?(?:but|except))"
MUST = r"(?:should|must|shall|can|may|needs? to|ha(?:s|ve) to|(?:is|are) to)"
GONE = r"(?:removed|deleted|erased|gone|eliminated|hidden|(?:taken|cut|edited) (?:out|away)|out|away|invisible)"
GO = rf"(?:go(?: away)?|disappear|vanish|leave|be {GONE})"
STAY = r"(?:stay|remain|be(?: (?:left|kept|visible|seen|shown|there|here|in it))?)"
ALL = r"(?:everything|everyone|everybody|all(?: (?:of )?the)?(?: other)?(?: objects| things| shapes)?)"
BUT = r"(?:but|except(?: for)?|other than|apart from|aside from|besides|save for)"
WHAT = "(?P<what>.+?)"
NAMED = r"(?P<what>(?:the|all|both|every|each|everything|everyone|everybody|this|that|these|those|it|them)\b.*)"

PATTERNS = [(kind, re.compile(pattern, re.IGNORECASE)) for kind, pattern in (
    ("negated", rf"{NOT} (?:\w+ )?(?:{VERB}|touch) .+"),
    ("negated", rf"(?:i|we) {NOT} want (?:you )?to (?:{VERB}|touch) .+"),
    ("keep", rf"(?:{I_WANT}(?: to see)? )?{ALL} (?:{MUST} {GO}|to {GO}|(?:to be )?{GONE}) {BUT} {WHAT}"),
    ("remove", rf"{I_WANT}(?: to (?:see|have|get))? (?!to |you ){WHAT} (?:to {GO}|(?:to be )?{GONE})"),
    ("remove", rf"(?:keep|leave|see|show(?: me)?|{I_WANT}{SEE}) {ALL} {BUT} {WHAT}"),
    ("keep", rf"{I_ONLY_WANT}{SEE} (?!to |you ){WHAT}(?: to {STAY})?"),
    ("keep", rf"{I_WANT}{SEE} {ONLY} (?!to ){WHAT}(?: to {STAY})?"),
    ("keep", rf"(?:keep|keeping|leave|leaving|see|have|show)(?: me| us)? {ONLY} {WHAT}"),
    ("keep", rf"(?:only|just) (?:keep|leave|see|show)(?: me| us)? {WHAT}"),
    ("keep", rf"{ONLY} {WHAT} {MUST} {STAY}"),
    ("keep", rf"(?:.{{0,60}} )?(?:{MEDIUM}|it) (?:of|with|showing) {ONLY} {WHAT}"),
    ("keep", rf"(?:(?:keep|leave|see|show|{I_WANT}{SEE}) )?(?!{VERB} ){WHAT} and nothing else"),
    ("keep", rf"(?:keep|leave|see|show|{I_WANT}{SEE}) {WHAT} (?:only|alone|on (?:its|his|her|their) own)"),
    ("keep", rf"(?:i|we) {NOT} (?:want|need){SEE} any(?:thing|one|body)(?: else)? {BUT} {WHAT}"),
    ("keep", rf"nothing (?:else )?{BUT} {WHAT}"),
    ("remove", rf"{PARTED} (?!out |away |off ){WHAT} (?:out|away|off)"),
    ("remove", rf"{VERB}:? {WHAT}"),
    ("remove", rf"make (?:it so|sure)(?: that)? {WHAT} (?:is|are) {GONE}"),
    ("remove", rf"(?:make|making|let|have) {WHAT} (?:{GO}|{GONE})"),
    ("remove", rf"(?:i|we) {NOT} (?:want|need|wish){SEE} (?!to |you ){WHAT}(?: to {STAY}| (?:there|here))?"),
    ("remove", rf"(?:i|we)(?:'d| would) (?:rather|prefer to) not (?:see|have) {WHAT}"),
    ("remove", rf"{WHAT} {MUST} (?:all |both )?{GO}"),
    ("remove", rf"(?:can|could|may) (?!you |we |i ){WHAT} {GO}"),
    ("remove", rf"{WHAT} (?:should(?:n't| not)|must(?:n't| not)|can(?:'t|not)) {STAY}"),
    ("remove", rf"no more {WHAT}"),
    ("remove", rf"(?:(?:.{{0,60}} )?(?:{MEDIUM}|it|same) )?without {WHAT}"),
    ("remove", rf"(?:{I_WANT}{SEE}|see|show(?: me)?|.+ (?:better|nicer)) (?:.+? )?without {WHAT}"),
    ("only", r"(?:only|just) .+"),
    ("negated", rf"(?:keep|leave|{I_WANT} to keep) .+|.+ {MUST} {STAY}"),
    ("restore", r"(?:undo|restore|revert|(?:bring|put|get) .+ back|(?:bring|put) back)\b.*"),
    ("add", rf"(?:{ADD}|{I_WANT} (?:a|an|another|more|some))\b.*"),
    ("change", rf"{CHANGE}\b.*"),
    ("question", r"(?:(?:what|how)(?! about)|who|whom|where|when|why|which|whose|is|are|was|were|does|do|did|has)\b.*"),
    ("thing", NAMED),
)]  # fmt: skip

BEFORE = _words(
    "please", "pls", "plz", "kindly", "hi(?: there)?", "hello", "hey(?: there)?", "ok", "okay", "so", "well", "now",
    "then", "next", "and", "also", "plus", "great", "good", "nice", "cool", "perfect", "awesome", "wonderful",
    "excellent", "brilliant", "super", "amazing", "lovely", "fine", "right", "yes", "yeah", "yep", "sure", "all ?right",
    "all good", "(?:good|great|nice) (?:job|work|one)", "well done", "thx", "just", "simply",
    "(?:thanks|thank you)(?: a lot| (?:so|very) much)?",
    "completely", "totally", "entirely", "maybe", "perhaps", "first", "finally", "only",
    "(?:could|can|would|will|do) (?:you|u|we)(?: mind)?", "(?:is it|would it be) possible(?: for you)? to",
    "do you think you (?:could|can)", f"{I_WANT}(?: you)? to", "let's", "let us",
    "(?:i was|i'm|i am) wondering if you (?:could|can)", "if (?:you (?:can|could)|possible|it(?:'s| is) possible)",
    "it would be (?:great|nice|good|lovely|perfect) if you (?:could|can|would)", "help me(?: to)?", "try to",
    "go ahead and", "you (?:should|must|have to|need to|can|could|may)", f"(?:in|from) (?:this|the|my|our) {MEDIUM}",
    "(?:what|how) about",
)  # fmt: skip
AFTER = _words(
    "please", "pls", "plz", "(?:thanks|thank you)(?: a lot| (?:so|very) much| in advance)?", "thx", "cheers", "for me",
    "if (?:you (?:can|could)|possible|it(?:'s| is) possible|you don't mind|that(?:'s| is) ok(?:ay)?)", "right now",
    "now", "asap", "immediately", "any ?more", "any longer", "too", "as well", "also", "at all", "completely",
    "entirely", "totally", "altogether", "(?:would|will|could|can) you", "ok", "okay",
    "would be (?:great|nice|good|lovely|perfect)",
    f"(?:in|from|within|off) (?:this|the|my|our|that) {MEDIUM}", "from (?:view|sight)",
    f"throughout(?: the {MEDIUM})?", "(?:in|from) (?:all|every) frames?",
)  # fmt: skip
STARTS = re.compile(rf"{BEFORE}(?:[\s,:]+|$)", re.IGNORECASE)
ENDS = re.compile(rf"[\s,]+{AFTER}$", re.IGNORECASE)

REWRITES = [(re.compile(pattern, re.IGNORECASE), new) for pattern, new in (  # in what is to go or to stay
    (rf"(?:,| and| then)+ (?:also |please )?{VERB} ", " and "),
    (r"^((?:all|every|everything|everyone)\b.*?),? but (?:not|keep|leave) ", r"\1 but "),
    (r"(?:,| but| and| while)+ (?:please |do |do not |don't )?(?:keep|keeping|leave|leaving|retain|preserv\w+|fill\w*"
     r"|inpaint\w*|not|without)\b.*$", ""),
    (r"(?:,| -)? (?:because|since|so that|in order to)\b.*$", ""),
    (r", ?(?:it|he|she|they|that)(?:'s| is| are| was| looks| ruins)\b.*$", ""),
    (r",? (?:and|but) nothing else$", ""),
    (r",? (?:and )?then ", " and "),
    (r"^(?:only|just) ", ""),
    (r"\b(?:other than|apart from|aside from|besides|save for|except for)\b", "except"),
    (r"^any(thing|one|body)\b", r"every\1"),
    (r"^any\b", "all"),
    (r"^(?:the|a|an|all|any|every|both|everything|everyone|this|that|these|those|my|his|her|their)\b",
     lambda found: found[0].lower()),
)]  # fmt: skip
REFUSALS = [(kind, re.compile(pattern, re.IGNORECASE)) for kind, pattern in (  # in what is to go or to stay
    ("mixed", rf"(?:,| and| then| but)+ (?:also |please )?(?:{ADD}|{CHANGE})\b"),
    ("mixed", r"\binstead\b"),
    ("unclear", r"^(?:no|not|none|nothing|nobody|never|if|when|you|i|we|there)\b"),
    ("question", r"^(?:what|who|which|whose|where|how)\b"),
    ("which", r"\bor\b| / |^one \w+$|^(?:(?:any )?one of|some(?:thing|body|one)?|a (?:few|couple)|either|half|most)\b"),
    ("medium", rf"^(?:(?:the|this|my|that|whole|entire) )*(?:{MEDIUM}|background|(?:background )?{SOUND})$"),
    ("medium", r"\b(?:first|last|next|\d+)\b.*\b(?:seconds?|minutes?|frames?)$"),
    ("language", r"^(?:el|la|los|las|le|les|il|lo|gli|der|die|das|den|een|het|un|una|une|um|uma|o|os|as)\b"),
)]  # fmt: skip
CLAUSE = re.compile(r"\b(?:that|who|which|where|what)\b", re.IGNORECASE)
FINITE = re.compile(
    r"\b(?:is|are|was|were|am|isn't|aren't|has|have|had|does|did|would|should|could|cannot|can't|won't|looks?|seems?"
    r"|(?:that|it|this|there|he|she|what|who)'s)\b",
    re.IGNORECASE,
)
MARKED = r"(?:marked|circled|selected|painted|highlighted|drawn|drew)"
STATEMENT = re.compile(
    r"\b(?:needs?|bothers?|annoys?|ruins?|spoils?|distracts?|blocks|makes?|wants?|keeps?|gets?|goes|comes|me|us|you|i)\b",
    re.IGNORECASE,
)  # what a thing named and no more does not have
THIS = re.compile(
    r"(?:(?:this|that)(?: (?:one|thing|object|here|there))?|it|him|her|here"
    r"|(?P<many>(?:these|those)(?: (?:ones|things|objects))?|them)"
    rf"|(?:the (?:thing|one|part) )?(?:what|that|which)? ?(?:i|i've|i have) (?:just )?{MARKED}"
    rf"|the {MARKED} (?:object|thing|one|part|area|region))",
    re.IGNORECASE,
)
ASIDE = re.compile(r"\b(?:no|not|don't|except|but|unless|wait|actually|instead|rather|sorry|only)\b", re.IGNORECASE)


def read(text: str) -> Reading:
    """What a request in plain English asks for; never an exception."""
    text = clean(text)
    if not any(char.isalpha() for char in text):
        return Reading("empty")
    if len(text) > MOST_CHARACTERS or len(text.split()) > MOST_WORDS:
        return Reading("long")
    if sum(char.isalpha() and char < "\u0250" for char in text) < sum(map(str.isalpha, text)) / 2:
        return Reading("language")
    sentences = re.findall(r"(?:[^.!?;]|[.](?=\S)|(?<=\b[SMD][trs])[.])+\??", text)
    found = [reading for reading in map(_sentence, sentences) if reading.kind != "empty"]
    if len(found) > 1 and all(reading.kind == "remove" for reading in found):
        return Reading("remove", " and ".join(reading.what for reading in found))
    if len(found) > 1:
        found = [r for r in found if r.kind != "unclear" or ASIDE.search(r.what)]
        if len(found) != 1:
            return Reading("several" if found else "unclear")
    return found[0] if found else Reading("empty")


def clean(text: str) -> str:
    """The text in plain characters on one line: no emoji, brackets or quotation marks, one kind of apostrophe."""
    text = unicodedata.normalize("NFKC", text).translate(dict.fromkeys(map(ord, "‘’ʼ`´"), "'"))
    text = re.sub(r"\s*\n\s*(?=[A-Z])", ". ", text.strip()).replace("&", " and ")
    text = re.sub(r"\s[-–—]+\s|[–—]", ", ", text)
    text = "".join(char if char.isalnum() or char in "'-,.!?;:+%/" else " " for char in text)
    text = re.sub(r"(?<!\w)'|'(?!\w)|:(?=\s)", " ", text)
    return re.sub(r"\s*([,.!?;])[.]*", r"\1", " ".join(text.split()))


def _sentence(text: str) -> Reading:
    asked = text.endswith("?")
    text = re.sub(rf" out of (?:here|there|(?:this|the|my|our|that) {MEDIUM})$", " out", text.strip(" ,:?-"))
    while (shorter := ENDS.sub("", f" {text}").strip(" ,")) != text:
        text = shorter
    candidates = [text]
    while match := STARTS.match(candidates[-1]):
        candidates.append(candidates[-1][match.end() :])
    if not candidates[-1]:
        return Reading("empty")
    for kind, pattern in PATTERNS:
        for candidate in candidates:
            if match := pattern.fullmatch(candidate):
                return _checked(kind, match.groupdict().get("what"), asked or "about " in text[: -len(candidate)])
    return Reading("unclear", text)


def _checked(kind: str, what: str | None, asked: bool) -> Reading:
    """The reading of a pattern that fits, unless what it is about is nothing that can be removed."""
    if what is None:
        return Reading(kind)
    for pattern, new in REWRITES:
        what = pattern.sub(new, what).strip(" ,")
    parts = re.split(r"(,? and |, )", what)
    if any(THIS.fullmatch(part) for part in parts):
        return Reading("keep this" if kind == "keep" else "this", "".join(map(_named, parts)))
    for refusal, pattern in REFUSALS:
        if pattern.search(what):
            return Reading(refusal, what)
    if not what or FINITE.search(CLAUSE.split(what)[0]) or kind == "thing" and STATEMENT.search(what):
        return Reading("unclear", what)
    return Reading("about" if kind == "thing" and asked else kind, what)


def _named(part: str) -> str:
    found = THIS.fullmatch(part)
    return part if found is None else "the objects" if found["many"] else "the object"
