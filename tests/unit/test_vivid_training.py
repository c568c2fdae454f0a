"""VIVID's training on small parts: a LoRA from images and videos, with deletions and keyframes, as its config says."""

import json

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_cococo_training import CONFIGS, TINY

from lgvi_core import checkpoints
from lgvi_core.editing import DELETION
from train import cococo, model, objectives
from train import config as configs


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A checkpoint with motion blocks, untrained."""
    path = tmp_path_factory.mktemp("start") / "checkpoint.safetensors"
    config = configs.load(CONFIGS / "fill-base.yaml", [*TINY, "unet.motion_attention=[temporal, text]"])
    parts = model.build(config)
    checkpoints.save(model.checkpoint_of(parts.model, parts.autoencoder, config), path, dtype=torch.float16)
    return path


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Three videos of eight frames with masks; the last two are held out."""
    root = tmp_path_factory.mktemp("videos")
    lines = []
    for number in range(4):
        for part in ("video", "masks"):
            (root / f"{part}{number}").mkdir()
        for t in range(8):
            frame, mask = np.full((32, 32, 3), 90, np.uint8), np.zeros((32, 32), np.uint8)
            mask[10:18, 4 + t : 12 + t] = 255
            frame[mask > 0] = (200, 40, 60 * number)
            cv2.imwrite(str(root / f"video{number}" / f"{t}.png"), frame)
            cv2.imwrite(str(root / f"masks{number}" / f"{t}.png"), mask)
        split = "train" if number < 2 else "test"
        lines.append({"video": f"video{number}", "masks": f"masks{number}", "label": "box", "split": split})
    (root / "instances.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return root


@pytest.fixture
def command(start, videos, tmp_path):
    """The config's command on those videos, at a small size."""
    shape = "size: 2, micro: 1, width: 32, height: 32"
    options = [
        *(f"data.{name}.{setting}" for name in ("images", "videos", "held-out")
          for setting in (f"root={videos}", "cut_threshold=0.0", "deletion=0.5")),
        f"batches=[{{data: images, frames: 1, {shape}}}, {{data: videos, frames: 4, {shape}, sampling: stride}}]",
        "training_size={width: 32, height: 32, frames: 4}",
        "sampling={steps: 1, scheduler: ddim}",
        "lora.rank=2",
        "watch={data: held-out, samples: 1, sample_every: 6, tensorboard: false}",
        "precision=fp32",
        "optimizer.warmup_steps=0",
        "workers=0",
        "steps=6",
    ]  # fmt: skip
    config = ["--config", str(CONFIGS / "vivid.yaml"), "--device", "cpu"]
    return [*config, f"initialise={start}", f"output={tmp_path}", *options]


def test_the_config_trains_a_lora_on_all_that_the_paper_mixes(command, tmp_path, monkeypatch):
    seen = []
    masked = objectives.masked_video

    def watching(batch, given):
        seen.append((batch["sentence"][0], given.shape[1], given.any(0).nonzero().flatten().tolist()))
        return masked(batch, given)

    monkeypatch.setattr(objectives, "masked_video", watching)
    assert cococo.main(command) == 0
    assert {DELETION, "a box"} == {sentence for sentence, _, _ in seen}
    assert {(1, 0), (4, 0), (4, 1)} == {(frames, len(given)) for _, frames, given in seen}
    assert all(given in ([], [0]) for _, _, given in seen)
    learnt = load_file(tmp_path / "lora.safetensors")
    assert all(any(part in name for name in learnt) for part in ("conv_in", "attn2", "attention_blocks"))
    assert any(value.any() for name, value in learnt.items() if "lora_up" in name)


def test_the_check_says_that_no_held_out_clip_is_long_enough(command, capsys, caplog):
    assert cococo.main([*command, "--check"]) == 0
    assert "held-out clips: 1 of data.held-out" in capsys.readouterr().out
    assert cococo.main([*command, "--check", "training_size.frames=9"]) == 2
    assert "'held-out' has no clip of 9 frames to hold out" in caplog.text
