"""Local captions of an object: by a vision-language model on a server of one's own, or from the object's label.

The server speaks OpenAI's chat protocol, as those of llama.cpp, vLLM, Ollama and LM Studio do. It gets up to three
pictures of the object, all else erased, and is asked for captions of three lengths (VIVID-10M, arXiv 2411.15260,
section 3.1). Nothing is sent anywhere else.
"""

from __future__ import annotations

import base64
import json
import re
import time
import urllib.error
import urllib.request
from typing import Protocol

import cv2
import numpy as np

from lgvi_core.errors import InputError

from .regions import boxes_of, caption

SHOWN = 3  # pictures of an object
MARGIN = 0.1  # of the object's box, around it
LARGEST = 512  # pixels of the longer side of a picture
GREY = 127
TRIES = 3
WAIT = 2.0  # seconds before the second try, twice as long before the next
PATIENCE = 300.0  # seconds for an answer
PROMPT = (
    "These pictures show one object cut out of a {kind}; everything else was painted grey. {hint}Describe the object "
    "itself: what it is, its colours, its parts{motion}. Do not mention the grey, the pictures or the {kind}. Answer "
    "in exactly three lines and nothing else. Line 1: a noun phrase of at most 5 words. Line 2: a phrase of about 12 "
    "words. Line 3: one sentence of about 25 words."
)
REFUSALS = ("i'm sorry", "i am sorry", "i cannot", "i can't", "as an ai", "unable to")


class Captioner(Protocol):
    def __call__(self, frames: np.ndarray, masks: np.ndarray, label: str) -> list[str]:
        """Captions of the object that masks (T, H, W) show in frames (T, H, W, 3); none where there is nothing to say.

        label: what it is known as, "" where that is not known.
        """


def from_label(frames: np.ndarray, masks: np.ndarray, label: str) -> list[str]:
    """The label with an article, as the only caption."""
    return [caption(label)] if label else []


class Chat:
    """Captions by the model `model` of the server at `url`, by default the first that it has.

    Raises `InputError` where the server does not answer, has no such model, or fails three times.
    """

    def __init__(self, url: str, model: str = ""):
        self.url = url.rstrip("/")
        if not self.url.startswith(("http://", "https://")):
            raise InputError(f"--captions is {url!r}; give the server's address, as http://localhost:8080/v1")
        # a proxy is for the world outside, the server is not
        self.open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
        answer = self._ask("/models", None)
        try:
            known = [str(one["id"]) for one in answer["data"]]
        except (KeyError, TypeError):
            raise InputError(f"{self.url}/models does not list models as OpenAI's protocol does: {answer}") from None
        if not known or (model and model not in known):
            raise InputError(f"{self.url} has no model {model!r}; it has: {', '.join(known) or 'none'}")
        self.model = model or known[0]

    def __call__(self, frames: np.ndarray, masks: np.ndarray, label: str) -> list[str]:
        video = len(frames) > 1
        prompt = PROMPT.format(
            kind="video" if video else "photo",
            motion=" and, if it moves, what it does" if video else "",
            hint=f"It was labelled {label!r}, which may be wrong. " if label else "",
        )
        pictures = [{"type": "image_url", "image_url": {"url": _url(picture)}} for picture in cut_out(frames, masks)]
        message = {"role": "user", "content": [{"type": "text", "text": prompt}, *pictures]}
        answer = self._ask(
            "/chat/completions",
            {"model": self.model, "messages": [message], "temperature": 0, "seed": 0, "max_tokens": 300},
        )
        try:
            return parse(answer["choices"][0]["message"]["content"] or "")
        except (KeyError, IndexError, TypeError):
            raise InputError(f"{self.url} does not answer as OpenAI's protocol does: {str(answer)[:200]}") from None

    def _ask(self, path: str, content: dict | None):
        data = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        for attempt in range(TRIES):
            try:
                with self.open(request, timeout=PATIENCE) as reply:
                    return json.load(reply)
            except urllib.error.HTTPError as error:
                said = error.read(300).decode(errors="replace").strip()
                problem = f"answers {error.code}: {said}"
                if error.code < 500 and error.code != 429:
                    break  # the same question gets the same answer
            except (OSError, ValueError) as error:
                problem = f"does not answer: {error}"
            if content is None:
                break  # it is asked at the start, by someone who waits
            if attempt < TRIES - 1:
                time.sleep(WAIT * 2**attempt)
        raise InputError(
            f"the caption server {self.url}{path} {problem}; start it (for example llama-server, vllm serve or ollama "
            "serve with a model that sees pictures), then run the command again: it goes on where it stopped"
        )


def parse(text: str) -> list[str]:
    """The captions of an answer: its lines, without numbers, bullets and quotes; none of what refuses."""
    text = re.sub(r"<think>.*?</think>", "", text, flags=re.S)
    found = []
    for line in text.splitlines():
        line = re.sub(r"^\s*(?:(?:line\s*)?\d+\s*[.):]|[-*•])\s*", "", line, flags=re.I).strip(" \t\"'*`")
        if line and not any(line.lower().startswith(refusal) for refusal in REFUSALS):
            found.append(line)
    return list(dict.fromkeys(found))[:3]


def cut_out(frames: np.ndarray, masks: np.ndarray) -> list[np.ndarray]:
    """Up to three pictures (H, W, 3) uint8 of an object on grey, at its beginning, middle and end."""
    shown = np.flatnonzero(masks.any(axis=(1, 2)))
    places = shown[np.unique(np.linspace(0, len(shown) - 1, min(SHOWN, len(shown))).round().astype(int))]
    pictures = []
    for t, (x, y, wide, high) in zip(places, boxes_of(masks[places])):
        rows, columns = (
            slice(max(0, int(low - MARGIN * size)), int(low + size + MARGIN * size) + 1)
            for low, size in ((y, high), (x, wide))
        )
        picture = np.where(masks[t, rows, columns, None], frames[t, rows, columns], np.uint8(GREY))
        scale = LARGEST / max(picture.shape[:2])
        pictures.append(cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
                        if scale < 1 else picture)  # fmt: skip
    return pictures


def _url(picture: np.ndarray) -> str:
    _, code = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
    return "data:image/jpeg;base64," + base64.b64encode(code.tobytes()).decode()
