"""Requests to removal prompts: direct ones by rules, a model's answers whatever they look like, and earlier turns."""

import itertools
import json
import random

import pytest

from lgvi_core.answer import CUT_OFF, KEYS, MARKS, NOT_A_REMOVAL, SILENT
from lgvi_core.conversation import REASONS, Answer, Turn, instruction, parse, read_turns, rules, write_turns
from lgvi_core.errors import InputError
from lgvi_core.region import Region
from lgvi_core.wording import PATTERNS, REFUSALS, read

DIRECT = {
    "please delete the dog on the left, thanks": "remove the dog on the left",
    "I don't want the red car": "remove the red car",
    "can you take out the man in the middle?": "remove the man in the middle",
    "get rid of the dog and the cat": "remove the dog and the cat",
    "the small white square should go": "remove the small white square",
    "erase all circles": "remove all circles",
    "Erase the triangle.": "remove the triangle",
    "REMOVE THE DOG!!!": "remove the DOG",
    "The red circle should be gone.": "remove the red circle",
    "🙏 please remove the (brown) dog 😀": "remove the brown dog",
    "**Remove the “dog”**": "remove the dog",
    "remove: the dog": "remove the dog",
    "Take the man out of the video": "remove the man",
    "could you get the ugly car out of the shot": "remove the ugly car",
    "I'd like the dog removed": "remove the dog",
    "I only want to remove the dog": "remove the dog",
    "I just want the dog gone": "remove the dog",
    "I want you to take the man out": "remove the man",
    "I want the man in the middle to disappear": "remove the man in the middle",
    "make the dog disappear": "remove the dog",
    "would you mind removing the dog?": "remove the dog",
    "how about removing the dog": "remove the dog",
    "I don’t want to see the dog anymore": "remove the dog",
    "I don't want any dogs": "remove all dogs",
    "I don't want anyone in the picture": "remove everyone",
    "no more dogs": "remove dogs",
    "the dog can't stay": "remove the dog",
    "could the lamp be removed?": "remove the lamp",
    "the dog and the cat should both go": "remove the dog and the cat",
    "clear the ball off": "remove the ball",
    "make sure the dog is gone": "remove the dog",
    "I'd rather not see the trash can": "remove the trash can",
    "it would look better without the trash can": "remove the trash can",
    "show me the scene without the dog": "remove the dog",
    "I would like to see the beach without people": "remove people",
    "remove the can on the table": "remove the can on the table",
    "remove the dog that is running": "remove the dog that is running",
    "remove the dog, it is ugly": "remove the dog",
    "remove the dog because it is ugly": "remove the dog",
    "remove the dog, but keep the cat": "remove the dog",
    "remove the dog and nothing else": "remove the dog",
    "remove the dog and delete the cat": "remove the dog and the cat",
    "Remove the dog. Also remove the cat.": "remove the dog and the cat",
    "Remove the dog\nRemove the cat": "remove the dog and the cat",
    "I love this video. Please remove the dog. Thanks!": "remove the dog",
    "remove the St. Bernard dog": "remove the St. Bernard dog",
    "get rid of the man's hat": "remove the man's hat",
    "remove the + sign": "remove the + sign",
    "remove the box in every frame": "remove the box",
    "in the video, remove the dog": "remove the dog",
    "the red circle": "remove the red circle",
    "all circles, please": "remove all circles",
    "delete everything": "remove everything",
}
KEEPING = {
    "I want only the pelican": "remove everything but the pelican",
    "I only want the blue one to stay": "remove everything but the blue one",
    "only the blue one should stay": "remove everything but the blue one",
    "keep only the pelican, please": "remove everything but the pelican",
    "I want a picture of only the white one": "remove everything but the white one",
    "I don't want anything but the dog": "remove everything but the dog",
    "nothing but the dog should stay": "remove everything but the dog",
    "keep the dog and nothing else": "remove everything but the dog",
    "keep the red circle only": "remove everything but the red circle",
    "everything should go except the dog": "remove everything but the dog",
    "I want everything gone but the dog": "remove everything but the dog",
    "everything but the dog": "remove everything but the dog",
    "erase all objects except the red circle": "remove all objects except the red circle",
    "everything except for the dog should go": "remove everything except the dog",
    "I want everything but the dog removed": "remove everything but the dog",
    "remove all circles but not the red one": "remove all circles but the red one",
    "keep everything but the dog": "remove the dog",  # the other way round
    "I want everything but the dog": "remove the dog",
}
UNMET = {
    "": "empty", "   \n": "empty", "🙂🙂": "empty", "hello": "empty", "Thanks a lot!": "empty", "?!": "empty",
    "make it nicer": "change", "make the dog blue": "change", "replace the dog with a cat": "change",
    "add a boat": "add", "I want a boat": "add", "could you put a hat on him": "add",
    "what is in the picture?": "question", "is there a dog?": "question", "which dog should be removed?": "question",
    "how about the dog?": "about", "the dog?": "about",
    "quita el perro": "unclear", "entferne den Hund": "unclear", "remove o cachorro": "language",
    "移除狗": "language", "убери собаку": "language", "कुत्ते को हटाओ": "language",
    "this video needs less clutter": "unclear", "the dog bothers me": "unclear", "should the dog go?": "unclear",
    "remove": "unclear", "this is great": "unclear", "There is no dog that can be removed": "unclear",
    "No dog should be removed": "unclear", "remove the dog or the cat": "which", "remove one of the dogs": "which",
    "remove the man / the woman": "which",
    "remove some of them": "which", "don't remove the dog": "negated", "the dog should stay": "negated",
    "I want to keep the dog": "negated", "only the dog": "only", "remove the dog and put a cat there": "mixed",
    "Remove the dog. No wait, the cat.": "several", "remove the video": "medium", "remove the music": "medium",
    "delete the first 3 seconds": "medium", "undo": "restore", "bring the dog back": "restore",
    "remove it": "this", "remove this and the dog": "this", "delete what I marked": "this",
    "keep only this": "keep this", "and the other one": "other",
    "remove the others": "other", "word " * 5000: "long", "x" * 100_000: "long",
}  # fmt: skip


def talk(*requests, marked=False):
    """The prompts that requests lead to, one after the other in one conversation."""
    turns, prompts = [], []
    for request in requests:
        answer = rules(request, turns, marked)
        turns += [Turn("user", request), Turn("assistant", answer.response, answer.prompt)]
        prompts.append(answer.prompt)
    return prompts


def check(answer):
    """What holds of every answer."""
    assert isinstance(answer, Answer)
    assert isinstance(answer.prompt, str) and isinstance(answer.module, str)
    assert isinstance(answer.response, str) and answer.response.strip()
    assert answer.region is None or isinstance(answer.region, Region)
    assert answer.met is bool(answer.prompt)
    assert not answer.met or answer.prompt.startswith("remove ")
    assert "\n" not in answer.prompt and not set(answer.prompt) & set("(){}<>[]")


# Rules: direct requests


@pytest.mark.parametrize("request_, prompt", [*DIRECT.items(), *KEEPING.items()])
def test_direct_requests_become_prompts(request_, prompt):
    answer = rules(request_)
    check(answer)
    assert answer == Answer(prompt, f"I will {prompt}.", kind="remove")


@pytest.mark.parametrize("request_, kind", UNMET.items())
def test_what_is_no_direct_request_is_answered_in_words(request_, kind):
    answer = rules(request_)
    check(answer)
    assert answer == Answer("", REASONS[kind], kind="not a removal" if kind in NOT_A_REMOVAL else "ask")


def test_every_sentence_of_the_demo_domain_is_read_with_its_own_noun_phrase():
    words = pytest.importorskip("train.data.synthetic_words")
    nouns = ["the small red circle on the left", "the leftmost disc", "the round one at the top", "the plus sign",
             "the diamond-shaped object", "the purple cross and the big square"]  # fmt: skip
    counted = ["all triangles", "every white thing", "both boxes", "all the objects", "everything but the lower one",
               "everything except the tiny rhombus", "all objects but the blue pluses"]  # fmt: skip
    for templates, phrases in ((words.REQUESTS, nouns), (words.COUNTING_REQUESTS, counted)):
        for template, verb, noun in itertools.product(templates, words.VERBS, phrases):
            text = template.format(verb=verb, noun=noun)
            for spelled in (text, text[0].upper() + text[1:] + ".", f"(({text})) 🙂"):
                assert rules(spelled).prompt == f"remove {noun}", spelled


def test_punctuation_case_and_politeness_do_not_change_the_prompt():
    generator = random.Random(0)
    before = ["", "please ", "Hi! ", "ok, ", "Great, now ", "Could you please ", "I would like you to ", "🙂 "]
    after = ["", ".", "!", "?", " please", ", thanks!", " for me 🙏", " (if possible)", " now...", " in the video"]
    for _ in range(200):
        text = generator.choice(before) + "delete the dog on the left" + generator.choice(after)
        assert rules(text).prompt == "remove the dog on the left", text


def test_there_are_words_for_everything_that_can_stand_in_the_way():
    kinds = {kind for kind, _ in (*PATTERNS, *REFUSALS)} - {"remove", "keep", "thing"}
    assert kinds <= REASONS.keys()


def test_a_marked_region_tells_what_this_is():
    for request, prompt in {
        "remove this": "remove the object",
        "it should go": "remove the object",
        "delete what I marked, please": "remove the object",
        "get rid of these": "remove the objects",
        "remove this and the dog": "remove the object and the dog",
        "and the other one": "remove the object",
        "remove the dog": "remove the dog",
    }.items():
        answer = rules(request, marked=True)
        assert answer == Answer(prompt, f"I will {prompt} in the marked region.", kind="remove")
    assert not rules("keep only this", marked=True).met
    assert not rules("make it nicer", marked=True).met


# Rules: earlier turns


@pytest.mark.parametrize("requests, last", [
    (["remove the dog on the left", "and the other one"], "remove the dog on the right"),
    (["remove the upper circle", "the other circle as well"], "remove the lower circle"),
    (["remove the small red square", "now the other square"], "remove the large red square"),
    (["remove the small square on the left", "great, and the other one?"], "remove the small square on the right"),
    (["remove the red circle", "and the other one"], "remove the circle"),
    (["remove the red circle", "remove the blue square", "now the other circle"], "remove the circle"),
    (["remove the red circle", "great, and the dog too"], "remove the dog"),
    (["remove the red circle", "and the blue one"], "remove the blue circle"),
    (["remove the dog", "what about the white one?"], "remove the white dog"),
    (["keep only the dog", "and the cat too"], "remove everything but the dog and the cat"),
    (["keep only the dog", "and delete the cat"], "remove the cat"),
])  # fmt: skip
def test_earlier_turns_fill_in_what_a_request_leaves_out(requests, last):
    *_, prompt = talk(*requests)
    assert prompt == last


@pytest.mark.parametrize("requests, reason", [
    (["and the other one"], "other"),
    (["make it nicer", "and the other one"], "other"),
    (["remove the dog and the cat", "and the other one"], "other"),
    (["erase all circles", "and the other one"], "other"),
    (["remove the dog in the middle", "and the other one"], "other"),
    (["remove the red circle", "now the other square"], "other"),
    (["remove the red circle", "now the others"], "other"),
    (["remove the dog on the left", "remove the dog on the right", "and the other one"], "other"),
    (["keep only the dog", "the cat"], "stay or go"),
    (["remove the dog", "remove it"], "this"),
])  # fmt: skip
def test_what_earlier_turns_do_not_settle_is_asked(requests, reason):
    turns = []
    for request in requests:
        answer = rules(request, turns)
        turns += [Turn("user", request), Turn("assistant", answer.response, answer.prompt)]
    assert answer == Answer("", REASONS[reason])


@pytest.mark.parametrize("first, other", [
    ("remove the red dog on the left", "remove the red dog"), ("remove the upper circle", "remove the circle"),
    ("remove the small square on the left", "remove the small square"),
    ("remove the small red square", "remove the large red square"),
])  # fmt: skip
def test_the_other_of_two_is_named_without_its_place_where_the_first_is_gone(first, other):
    done = [Turn("user", first), Turn("assistant", "I will.", first)]
    assert rules("great, and the other one?", done, gone=True).prompt == other


def test_the_answer_to_a_question_that_was_asked_back_is_understood():
    which = [Turn("user", "remove the dog"), Turn("assistant", "There are two dogs. Which one?")]
    assert rules("the left one", which).prompt == "remove the left dog"
    assert rules("The one on the left, please.", which).prompt == "remove the dog on the left"
    offer = [Turn("user", "the bus is too big"), Turn("assistant", "I cannot shrink it. Shall I remove the bus?")]
    assert rules("Yes, please!", offer).prompt == "remove the bus"
    assert not rules("yes", which).met and not rules("yes").met


# What a model answers


@pytest.mark.parametrize("written, prompt, response", [
    ("Sure! I will.\n{{prompt}}remove the dog{{/prompt}}", "remove the dog", "Sure! I will."),
    ("Sure! I will. {{prompt}}Remove the dog.{{/prompt}}", "remove the dog", "Sure! I will."),
    ("Sure, I'll {{prompt}}remove the dog{{/prompt}}.", "remove the dog", "Sure, I'll remove the dog."),
    ("Gone. <PROMPT>erase the dog</PROMPT>", "remove the dog", "Gone."),
    ("Gone. <prompt> erase the\n dog </Prompt>", "remove the dog", "Gone."),
    ("Gone. {{ PROMPT }}the dog on the left{{ /PROMPT }}", "remove the dog on the left", "Gone."),
    ("Gone. {prompt}remove the dog{/prompt}", "remove the dog", "Gone."),
    ("Gone. [PROMPT]remove the dog[/PROMPT]", "remove the dog", "Gone."),
    ("Gone. {{prompt}}remove the dog", "remove the dog", "Gone."),
    ("{{prompt}}remove the dog\nAnything else?", "remove the dog", "Anything else?"),
    ("Gone. {{prompt}}remove the dog<prompt>", "", "Gone."),
    ("First {{prompt}}remove a cat{{/prompt}}, no: {{prompt}}remove the dog{{/prompt}}.", "remove the dog",
     "First remove a cat, no: remove the dog."),
    ("{{prompt}}remove the dog{{/prompt}}", "remove the dog", "I will remove the dog."),
    ("{{prompt}}I only want the pelican{{/prompt}}", "remove everything but the pelican",
     "I will remove everything but the pelican."),
    ("<think>{{prompt}}remove it{{/prompt}}?</think>\nFine. {{prompt}}remove the dog{{/prompt}}", "remove the dog",
     "Fine."),
    ("a dog, hm</think>Which of the two dogs?", "", "Which of the two dogs?"),
    ("<think>There is a dog and", "", "There is a dog and"),
    ('{"prompt": "remove the dog", "response": "Gladly."}', "remove the dog", "Gladly."),
    ('```json\n{"Answer": "Gladly.", "instruction": "Remove the dog"}\n```', "remove the dog", "Gladly."),
    ('{"response": "There is no dog.", "prompt": ""}', "", "There is no dog."),
    ('{"response": "There is no dog.", "prompt": null}', "", "There is no dog."),
    ('{"response": "Gone. {{prompt}}remove the dog{{/prompt}}"}', "remove the dog", "Gone."),
    ("```\nGone.\n<PROMPT>remove the dog</PROMPT>\n```", "remove the dog", "Gone."),
    ("<|im_start|>assistant\nGone. <PROMPT>remove the dog</PROMPT><|im_end|>", "remove the dog", "Gone."),
    ("Assistant: Gone.\n<PROMPT>remove the dog</PROMPT></s>", "remove the dog", "Gone."),
    ("Remove the dog.", "remove the dog", "Remove the dog."),  # the whole answer, where no tag was written
    ("Sure! Remove the brown dog.", "remove the brown dog", "Sure! Remove the brown dog."),
    ("Which of the two dogs should I remove?", "", "Which of the two dogs should I remove?"),
    ("Could the dog on the left be removed?", "", "Could the dog on the left be removed?"),
    ("There is no dog in the picture.", "", "There is no dog in the picture."),
    ("I cannot remove the dog, there is none.", "", "I cannot remove the dog, there is none."),
    ("The dog on the left.", "", "The dog on the left."),
    ("I can only remove. {{prompt}}replace the dog with a cat{{/prompt}}", "", "I can only remove."),
    ("Which? {{prompt}}remove the dog or the cat{{/prompt}}", "", "Which?"),
    ("No. {{prompt}}none{{/prompt}}", "", "No."),
    ("No. {{prompt}}{{/prompt}}", "", "No."),
    ("{{prompt}}{{/prompt}}", "", SILENT),
    ("", "", SILENT),
    (" \n", "", SILENT),
])  # fmt: skip
def test_a_models_answer_is_read(written, prompt, response):
    answer = parse(written)
    check(answer)
    assert (answer.prompt, answer.response) == (prompt, response)


@pytest.mark.parametrize("written, kind, response", [
    ("There are two. Which one? {{ask}}", "ask", "There are two. Which one?"),
    ("A park, and nobody in it. {{absent}}", "absent", "A park, and nobody in it."),
    ("Shall I remove it? <other>", "not a removal", "Shall I remove it?"),
    ("{{ABSENT}}", "absent", SILENT),
    ("I am not sure. {{prompt}}remove the dog{{/prompt}} {{ask}}", "ask", "I am not sure."),  # the mark counts
    ('{"response": "None there. {{absent}}", "prompt": ""}', "absent", "None there."),
    ("Which of the two dogs should I remove?", "ask", "Which of the two dogs should I remove?"),
    ("There is no dog in the picture.", "absent", "There is no dog in the picture."),
    ("I can't see a dog here.", "absent", "I can't see a dog here."),
    ("I can only remove things. Shall I remove the bus?", "not a removal",
     "I can only remove things. Shall I remove the bus?"),
    ("Fine. {{prompt}}replace the dog with a cat{{/prompt}}", "not a removal", "Fine."),
    ("A cat. <module>A</module><instruction>remove the dog</instruction>", "not a removal", "A cat."),
    ("Hm.", "ask", "Hm."),
])  # fmt: skip
def test_why_nothing_is_removed_is_told_by_a_mark_or_by_the_words(written, kind, response):
    answer = parse(written)
    check(answer)
    assert (answer.kind, answer.response) == (kind, response)


@pytest.mark.parametrize("prompt, named", [
    ("a brown dog on the left", "remove a brown dog on the left"), ("brown dog", "remove brown dog"),
    ("quita el perro", ""), ("the dog is brown", ""), ("none", ""),
])  # fmt: skip
def test_a_thing_named_between_tags_is_to_go(prompt, named):
    assert parse(f"Sure. {{{{prompt}}}}{prompt}{{{{/prompt}}}}").prompt == named


def test_a_datasets_caption_between_tags_counts_though_it_is_a_sentence():
    caption = "remove a white duck is standing in the grass"
    assert parse(f"It goes. {{{{prompt}}}} {caption} {{{{/prompt}}}}").prompt == caption
    assert not parse("Nothing goes. {{prompt}} remove nothing {{/prompt}}").met


def test_an_answer_that_was_cut_off_counts_only_with_a_closed_prompt():
    closed = "Sure. {{prompt}}remove the dog{{/prompt}} And then I"
    assert parse(closed, ended=False).prompt == "remove the dog"
    for cut in ("Sure. {{prompt}}remove the do", "Remove the dog.", "Sure, I", closed + " {{prompt}}remove"):
        answer = parse(cut, ended=False)
        check(answer)
        assert answer.kind == "ask" and answer.response.endswith(CUT_OFF)


def test_a_model_is_told_the_marks_that_are_read():
    for kind, mark in MARKS.items():
        assert mark in instruction("remove the dog") and parse(f"No. {mark}").kind == kind


def test_vitrons_tags_are_read():
    answer = parse(
        "The dog goes.\n<Module>E</Module> <Instruction>Remove: the dog at 10:30</Instruction>"
        "<Region>(0.1, 0.2, 0.5, 0.9)</Region>"
    )
    check(answer)
    assert answer.prompt == "remove the dog at 10:30" and answer.response == "The dog goes."
    assert answer.module == "video segmentation and tracking"
    assert answer.region.box == pytest.approx((0.1, 0.2, 0.4, 0.7))


@pytest.mark.parametrize("module, name, met", [
    ("B", "image segmentation", True), ("video editing", "video editing", True),
    (" e. ", "video segmentation and tracking", True), ("Video Segmentation", "video segmentation and tracking", True),
    ("Something else", "something else", True),
    ("A", "image generation", False), ("Video Generation", "video generation", False), ("g", "image to video", False),
])  # fmt: skip
def test_modules_are_named_and_those_that_remove_nothing_are_not_met(module, name, met):
    answer = parse(f"<module>{module}</module><instruction>remove the dog</instruction>")
    check(answer)
    assert (answer.module, answer.met) == (name, met)


@pytest.mark.parametrize("written, box, note", [
    ("(0.1, 0.2, 0.5, 0.9)", (0.1, 0.2, 0.4, 0.7), ""),
    ("[.1 .2 .5 .9]", (0.1, 0.2, 0.4, 0.7), ""),
    ("-0.02, 0.2, 1.04, 0.9", (0, 0.2, 1, 0.7), ""),
    ("0.5, 0.9, 0.1, 0.2", (0.1, 0.2, 0.4, 0.7), "wrong order"),
    ("10, 20, 300, 400", None, "not used"),
    ("0.1, 0.2, 0.5", None, "not used"),
    ("0.1, 0.2, 0.1, 0.9", None, "not used"),
    ("on the left", None, "not used"),
    ("9" * 10_000, None, "not used"),
])  # fmt: skip
def test_a_stated_region_is_checked_and_what_was_wrong_is_said(written, box, note):
    answer = parse(f"Gone. <PROMPT>remove the dog</PROMPT><Region>{written}</Region>")
    check(answer)
    assert (answer.region and answer.region.box) == (box and pytest.approx(box))
    assert note in answer.response and answer.response.startswith("Gone.")
    assert ("(" in answer.response) == bool(note)


PIECES = [
    "{{prompt}}", "{{/prompt}}", "<PROMPT>", "</PROMPT>", "<module>", "</Module>", "<Instruction>", "</instruction>",
    "<Region>", "</Region>", "{{", "}}", "{", "}", "[", "]", "<", ">", "</", "<think>", "</think>", "```json", "```",
    "\n", '"', ":", "(0.1, 0.2, 0.3, 0.4)", "A", "f", "remove the dog", "the", "dog", "and", "or", "everything but",
    "one", "other", "I don't want", "please", "?", ".", ",", "'", "🐕", "狗", "\x00", "\u202e", "\ud800", "1e999", "-",
    "null", '{"prompt":', '"response": "', "yes", "User:", "Assistant:", "\t", "\u2028", "İ", "ǅ", "٣", "½", "not",
    "without", "should go", "it",
]  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
def test_garbage_never_breaks_reading(seed):
    generator = random.Random(seed)
    for _ in range(250):
        pieces = generator.choices(PIECES, k=generator.randint(0, 30))
        text = generator.choice(["", " "]).join(pieces)
        answer = parse(text)
        check(answer)
        said = [Turn("user", text), Turn("assistant", answer.response, answer.prompt)]
        check(rules(text, said, marked=generator.random() < 0.5))
        check(rules(text))


def test_random_characters_never_break_reading():
    generator = random.Random(9)
    for _ in range(100):
        text = "".join(chr(generator.randrange(1, 0x3000)) for _ in range(generator.randint(1, 80)))
        check(parse(text))
        check(rules(text))


@pytest.mark.parametrize("unit", [
    "{{", "<think>", "<think", "{{prompt}}", "{", "[", "<|", "</", "</think>", "\n ", " ", "a ", "please ", "0.", "'",
    "```", "I want ", "everything but ", "better without ", "remove the dog ", "x", "(", "and the other one, ",
])  # fmt: skip
def test_very_long_answers_are_read_in_time_that_grows_with_their_length(unit):
    for text in (unit * 20_000, "{{prompt}}" + unit * 20_000, unit * 2_000 + "<region>" + unit * 2_000):
        check(parse(text))
        check(rules(text))


# Turns as text


TURNS = (
    Turn("user", "please remove the dog on the left"),
    Turn("assistant", "I will remove the dog on the left.", "remove the dog on the left"),
    Turn("user", "and now?\nAssistant: not a turn\nUser: neither"),
    Turn("assistant", "Which of them?\n\nThere are two."),
    Turn("user", ""),
)


def test_turns_written_are_read_back():
    assert read_turns(write_turns(TURNS)) == TURNS
    assert read_turns(write_turns(read_turns(write_turns(TURNS)))) == TURNS


def test_a_conversation_carried_as_text_is_continued():
    history = ""
    for request, prompt in [
        ("delete the circle on the left", "remove the circle on the left"),
        ("make it nicer", ""),
        ("and the other circle", "remove the circle on the right"),
    ]:
        turns = read_turns(history)
        answer = rules(request, turns)
        assert answer.prompt == prompt
        history = write_turns([*turns, Turn("user", request), Turn("assistant", answer.response, answer.prompt)])


def test_turns_are_read_from_lines_and_from_json():
    expected = (Turn("user", "remove the dog"), Turn("assistant", "Gone.", "remove the dog"))
    answer = "Gone. {{prompt}}remove the dog{{/prompt}}"
    assert read_turns(f"\nUSER:remove the dog\nassistant : {answer}\n") == expected
    for role, text, user, assistant in [
        ("role", "text", "user", "assistant"), ("role", "content", "User", "assistant"),
        ("from", "value", "human", "gpt"),
    ]:  # fmt: skip
        turns = [{role: "system", text: "…"}, {role: user, text: "remove the dog"}, {role: assistant, text: answer}]
        assert read_turns(json.dumps(turns)) == expected
    assert read_turns("") == read_turns(" \n") == read_turns("[]") == ()


@pytest.mark.parametrize("text, message", [
    ("remove the dog", "which nobody says"),
    ("hi\nUser: remove the dog", "which nobody says"),
    ('[{"role": "user"', "not the JSON"),
    ("[" * 100_000, "not the JSON"),
    ("[1, 2]", "something else than turns"),
    ('[{"role": "narrator", "text": "once"}]', "turn 1 is by 'narrator'"),
    ('[{"role": "user", "text": "a"}, {"role": "user", "text": 3}]', "turn 2 is by 'user' and says 3"),
    ('[{"text": "a"}]', "turn 1 is by None"),
])  # fmt: skip
def test_a_history_that_is_none_is_named(text, message):
    with pytest.raises(InputError, match=message):
        read_turns(text)


# What a model is told


def test_the_instruction_holds_all_that_the_answer_depends_on():
    text = instruction("and the {other} one {{prompt}}", TURNS, box=(0.1, 0.2, 0.3, 0.4), frames=3)
    assert text.endswith("User: and the {other} one {{prompt}}\nAssistant:")
    assert write_turns(TURNS) in text
    assert "not to be asked for again: remove the dog on the left." in text
    assert "from 10% to 40% of its width and from 20% to 60% of its height" in text
    assert "3 frames of the video" in text
    assert "{{prompt}}remove the lamp post{{/prompt}}" in text and "{seen}" not in text


def test_the_instruction_says_nothing_of_what_there_is_not():
    text = instruction("remove the dog", frames=0)
    assert "cannot see" in text and "first frame" not in text
    assert "conversation so far" not in text and "Done already" not in text and "marked" not in text
    assert "first frame of the video" in instruction("remove the dog")


def test_the_examples_in_the_instruction_are_read_as_they_are_meant():
    examples = instruction("").partition("Examples:")[2]
    turns = read_turns(examples.strip())
    assert [turn.prompt for turn in turns if turn.role == "assistant"][:-1] == [
        "remove the lamp post", "remove the gull at the top", "", "", "",
    ]  # fmt: skip
    for turn in turns:
        assert not turn.prompt or read(turn.prompt).prompt == turn.prompt


def test_every_part_of_an_answer_has_a_name_in_json():
    for part, names in KEYS.items():
        for name in names:
            answer = parse(json.dumps({name: "remove the dog" if part != "region" else [0, 0, 0.5, 0.5]}))
            assert (answer.region is not None) == (part == "region")
            assert answer.response and "{" not in answer.response
