"""Captions of objects come from a chat server of the user's, from a server that this file runs."""

import base64
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import drawn_clips
import numpy as np
import pytest
from PIL import Image

from lgvi_core.errors import InputError
from train.data import build_captions
from train.data.build_captions import Chat, cut_out, from_label, parse

ANSWER = '1. red ball\n2) "a red ball that rolls"\n\n- The red ball rolls over the ground.\nThat is all.'


@pytest.fixture
def server():
    asked, answers = [], []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.reply(200, {"data": [{"id": "seer"}, {"id": "other"}]} if self.path == "/v1/models" else {})

        def do_POST(self):
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.reply(*(answers.pop(0) if answers else (200, {"choices": [{"message": {"content": ANSWER}}]})))

        def reply(self, status, content):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}/v1", asked, answers
        running.shutdown()
        thread.join()


def test_the_server_sees_the_object_alone_and_gives_three_captions(server):
    url, asked, _ = server
    drawn = drawn_clips.clip(0)
    masks = drawn.object_masks[0]
    assert Chat(url)(drawn.frames, masks, "ball") == [
        "red ball", "a red ball that rolls", "The red ball rolls over the ground."
    ]  # fmt: skip
    (question,) = asked
    assert question["model"] == "seer" and question["temperature"] == 0
    text, *pictures = question["messages"][0]["content"]
    assert "labelled 'ball'" in text["text"] and "what it does" in text["text"] and len(pictures) == 3
    head, _, code = pictures[0]["image_url"]["url"].partition(",")
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(code))))
    assert head == "data:image/jpeg;base64"
    assert abs(shown[0, 0].astype(int) - build_captions.GREY).max() < 12  # a corner is not the object
    Chat(url, "other")(drawn.frames[:1], masks[:1], "")
    text, *pictures = asked[-1]["messages"][0]["content"]
    assert asked[-1]["model"] == "other" and len(pictures) == 1
    assert "labelled" not in text["text"] and "photo" in text["text"] and "what it does" not in text["text"]


def test_what_the_server_does_wrong_is_told_and_what_passes_is_tried_again(server, monkeypatch):
    url, asked, answers = server
    monkeypatch.setattr(build_captions, "WAIT", 0)
    drawn = drawn_clips.clip(0)
    ask = Chat(url)
    answers += [(503, {"error": "loading"})]
    assert len(ask(drawn.frames, drawn.object_masks[0], "")) == 3 and len(asked) == 2
    answers += [(400, {"error": "this model sees no pictures"})]
    with pytest.raises(InputError, match="400: .*sees no pictures.*run the command again"):
        ask(drawn.frames, drawn.object_masks[0], "")
    assert len(asked) == 3
    answers += [(200, {"error": "none"})]
    with pytest.raises(InputError, match="does not answer as OpenAI's protocol does"):
        ask(drawn.frames, drawn.object_masks[0], "")
    with pytest.raises(InputError, match="has no model 'third'; it has: seer, other"):
        Chat(url, "third")
    with pytest.raises(InputError, match="does not list models"):
        Chat(url + "/more")


@pytest.mark.parametrize(
    ("text", "captions"),
    [
        ("", []),
        ("I'm sorry, I cannot help with that.", []),
        ("<think>It is\na dog</think>\nLine 1: **a dog**\nLine 2: a brown dog\n", ["a dog", "a brown dog"]),
        ("a dog\na dog\n3 dogs on 2 legs", ["a dog", "3 dogs on 2 legs"]),
    ],
)
def test_answers_are_read_line_by_line(text, captions):
    assert parse(text) == captions


def test_labels_are_captions_with_an_article():
    assert from_label(None, None, "old car") == ["an old car"] and from_label(None, None, "") == []


def test_pictures_of_an_object_are_of_frames_that_show_it():
    frames, masks = np.full((9, 40, 60, 3), 200, np.uint8), np.zeros((9, 40, 60), bool)
    masks[4:6, 10:20, 30:50] = True
    pictures = cut_out(frames, masks)
    assert [picture.shape for picture in pictures] == [(13, 25, 3)] * 2 or len(pictures) == 2
    assert all((picture == 200).any() and (picture == build_captions.GREY).any() for picture in pictures)
