"""A reader of requests is judged by what is true of drawn conversations, and LGVI by what comes of its words."""

import json

import pytest
import torch
from tiny_training import tiny

from lgvi_core import checkpoints
from lgvi_core.checkpoints import request_file
from lgvi_core.models import RequestEncoder
from train import evaluate
from train.data.synthetic_talk import draw_talk
from train.evaluation import talk
from train.model import build, checkpoint_of
from train.talk_objective import tokens_of

CLIPS, FRAMES, PIXELS = 8, 2, 32


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A tiny LGVI-I, untrained: its files, and its parts."""
    from test_talk_training import TALK

    folder = tmp_path_factory.mktemp("talk")
    config = tiny(folder, *TALK)
    made = build(config)
    checkpoints.save(checkpoint_of(made.model.eval(), made.autoencoder, config), folder / "lgvi.safetensors")
    request_file.save(made.model.request_encoder, folder / "requests.safetensors", made.model.unet)
    return folder, made


def knowing(encoder: RequestEncoder, clips: int):
    """`encoder.answer` that says what is true of each clip in turn."""
    clips = iter([draw_talk(talk.SEED, i, FRAMES, PIXELS, PIXELS, held_out=True) for i in range(clips)])

    def answer(*_, **__):
        _, said, _ = tokens_of(encoder, next(clips).dialogue)
        return encoder.reply(said, torch.randn(1, len(said), encoder.head[0].in_features))

    return answer


def command(reads, removes):
    files = reads / "requests.safetensors", removes / "lgvi.safetensors"
    return ["talk", "--checkpoint", str(files[0]), "--removal", str(files[1])]


def test_who_says_what_is_true_is_right_in_everything_and_leaves_alone_what_is_to_stay(parts, monkeypatch):
    folder, made = parts
    encoder = made.model.request_encoder
    monkeypatch.setattr(encoder, "answer", knowing(encoder, CLIPS))
    report = talk.evaluate(encoder, checkpoints.load(folder / "lgvi.safetensors"), CLIPS, FRAMES, PIXELS)
    kinds = report["understood"]["kind"]
    assert sum(found["clips"] for found in kinds.values()) == CLIPS and len(kinds) > 1
    assert all(found["right"] == 1 for part in report["understood"].values() for found in part.values())
    assert set(report["rows"]) == {talk.RAW, talk.WORDS, talk.STATES, talk.TRUTH}
    for way in (talk.WORDS, talk.STATES):
        assert report["rows"][way]["untouched"] == 1
    assert report["rows"][talk.WORDS]["correct"] == report["rows"][talk.TRUTH]["correct"]
    assert "understood" in talk.table(report) and talk.STATES in talk.table(report)


def test_the_command_writes_its_report(parts, tmp_path, capsys):
    folder, _ = parts
    where = ["--clips", "2", "--frames", "1", "--pixels", "32", "--output", str(tmp_path / "it.json")]
    assert evaluate.main([*command(folder, folder), *where, "--understanding"]) == 0
    report = json.loads((tmp_path / "it.json").read_text())
    assert report["clips"] == 2 and sum(map(sum, (kinds.values() for kinds in report["answered"].values()))) == 2
    assert "|request|clips|understood|" in capsys.readouterr().out


def test_a_reader_of_another_unet_is_judged_by_its_words(parts, tmp_path, capsys, caplog):
    folder, made = parts
    request_file.save(made.model.request_encoder, tmp_path / "requests.safetensors")
    where = ["--clips", "1", "--frames", "1", "--pixels", "32", "--output", str(tmp_path / "it.json")]
    assert evaluate.main([*command(tmp_path, folder), *where]) == 0
    assert "was not trained to steer" in caplog.text and talk.STATES not in capsys.readouterr().out
