"""What a chat model is told when it annotates: the three roles of the LGVI paper (arXiv 2401.10226, appendix A.2).

It describes a frame, invents what a person says who wants something gone from it, and answers as the assistant.
"""

from __future__ import annotations

from collections.abc import Sequence

from lgvi_core.answer import CLOSE, MARKS, OPEN

DESCRIBE = """\
The picture is one frame of a video. Describe it to somebody who cannot see it, in three to eight plain sentences.

Name every person, animal and thing that stands out: what it is, its colour and size, what it does, and where it is \
(left, right, top, bottom, in the middle, before or behind something). Say how those of one kind differ. Write only \
what you see: no list, no heading, no guess."""

SPEECH = """\
- is one to three sentences, in English, as people type them in a chat;
- stands between <request> and </request>, without quotation marks; write nothing else."""
IMPLICIT = """\
You play a person who has a video, and who talks to an assistant that removes things from videos. You are told what \
the video shows, and which part of it has to go. Write what this person says.

What they say
- tells a wish, a use or a reason, and gives no order: what alone should stay, what bothers them, what the video is \
for, how it should look;
- means just this, and leaves no doubt: whoever looks at the video and hears it takes away nothing less and nothing \
more;
- asks for nothing to be added, moved or changed;"""
EXAMPLES = """\
Examples:
The video: A red and a white rowing boat lie side by side on a lake. The red one is closer.
Has to go: the red boat
<request>I would like to frame this for my aunt. Hers was the white boat; can it be about that one alone?</request>
The video: A bride and a groom stand under a tree. On the grass behind them lies a plastic bag.
Has to go: the plastic bag on the grass
<request>This is the best take of the two of them, if only somebody had cleaned up the lawn before.</request>
The video: A woman rides a bicycle along a beach. On the right, cut by the frame, a man with a backpack walks by.
Has to go: the man with a backpack on the right
<request>She was meant to have the whole beach to herself. Nobody else should be there.</request>"""
MISTAKEN = """\
You play a person who has a video, and who talks to an assistant that removes things from videos. You are told what \
the video shows. Think of one thing that could be in such a video but is not in it, nor anything like it. Write what a \
person says who takes it to be there and wants it gone.

What they say
- means this one thing, by an order or by a wish or a reason;
- asks for nothing to be added, moved or changed;"""


def shown(description: str) -> str:
    """What the picture shows, to a model that sees it too."""
    return f"The video, of which the picture is a frame: {description}"


def known(things: Sequence[str]) -> str:
    """What is known of a video, to a model that does not see it."""
    return f"You cannot see the video. It is known to show: {'; '.join(things)}. There may be more in it."


def implicit(scene: str, thing: str, before: Sequence[str]) -> str:
    """How a request is invented that means one thing; `before` are requests that were."""
    rules = f'{IMPLICIT}\n- does not have the words "{thing}" in an order to remove them;\n{SPEECH}'
    return "\n\n".join([rules, EXAMPLES, *_before(before), f"{scene}\nHas to go: {thing}"])


def mistaken(scene: str, before: Sequence[str]) -> str:
    """How a request is invented that means what is not there; `before` are requests that were."""
    return "\n\n".join([f"{MISTAKEN}\n{SPEECH}", *_before(before), scene])


def _before(requests: Sequence[str]) -> list[str]:
    listed = "\n".join(f"- {request}" for request in requests)
    return [f"This was said already. Say something else, in another way:\n{listed}"] if requests else []


def answer(scene: str, caption: str, request: str) -> str:
    """How a request is answered that means a removal."""
    return f"""\
You are the assistant in a program that removes things from videos. A person said:

{request}

It is settled what they mean; the last line of your answer says it. Before it, write one or two short sentences to the \
person: what goes, with what is known of its looks and its place, so that they see that they were understood.

End with this line as it stands, and write nothing after it:
{OPEN} {caption} {CLOSE}

{scene}"""


def refusal(scene: str, request: str) -> str:
    """How a request is answered that means what is not there."""
    return f"""\
You are the assistant in a program that removes things from videos. A person said:

{request}

What they mean is not in the video. Tell them so in one or two short sentences, and what there is instead. End with \
this mark as it stands, and write nothing after it:
{MARKS["absent"]}

{scene}"""
