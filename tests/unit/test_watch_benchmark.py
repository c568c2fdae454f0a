"""The benchmark of training: what it times adds up, and its tables are Markdown."""

import logging
import time
from pathlib import Path

import pytest
import torch

from benchmarks import train as benchmark
from train import config as configs
from train.config import Batches
from train.data.sources import open_source

DEMO = Path(configs.__file__).parent / "configs" / "demo.yaml"


def test_what_is_timed_inside_a_stage_is_no_part_of_it():
    watch = benchmark.Stopwatch(torch.device("cpu"))
    now = iter([0.0, 1.0, 3.0, 7.0])  # forward begins, encode begins and ends, forward ends
    watch._now = lambda: next(now)
    with watch.stage("forward"), watch.stage("encode"):
        pass
    assert dict(watch.steps[-1]) == {"encode": 2.0, "forward": 5.0}


def test_stages_of_a_step_add_up_to_its_time():
    config = configs.load(
        DEMO,
        [
            "unet.block_out_channels=[16, 16, 16, 16]",
            "unet.norm_num_groups=4",
            "unet.mask_channels=8",
            "unet.attention_head_dim=2",
            "tokenizer_sentences=50",
            "tokenizer_merges=20",
            "recognition.blocks=[]",
            "precision=fp32",
            "batches=[{frames: 1, size: 4, micro: 2, width: 32, height: 32}]",
        ],
    )
    began = time.perf_counter()
    found = benchmark.measure(config, "cpu", steps=3)
    assert set(found["stages"]) == set(benchmark.STAGES) and found["samples"] == 4 and found["resident"] > 0
    assert all(seconds > 0 for seconds in found["stages"].values())
    assert 3 * sum(found["stages"].values()) < 2 * (time.perf_counter() - began)
    row = {"batch": benchmark.described(Batches(8, 4))} | benchmark.cost(found)
    lines = benchmark.table("Batch sizes", [row, row | benchmark.cost(None)]).splitlines()
    assert lines[2] == "| batch | s / step | samples / s | peak MiB |"
    assert lines[4].startswith("| 4 x 8 frames, 64x64 | ") and "out of memory" in lines[5]


def test_a_place_that_cannot_be_written_is_named_before_anything_is_measured(tmp_path, capsys):
    assert benchmark.main(["--output", str(tmp_path / "none" / "x.md")]) == 2
    assert "there is no folder" in capsys.readouterr().err


def test_clips_for_the_cache_are_written_as_triplets(tmp_path):
    root = benchmark.written(tmp_path, Batches(2, 3, width=32, height=32))
    source = open_source("disk", {"kind": "triplets", "root": str(root)})
    assert len(source) == 3 and source.entry(0).frames == 2
    assert source.load(1, [0, 1], 32, 32).mask.any()


@pytest.fixture(autouse=True)
def logging_as_before():
    """`measure` runs in a process of its own and silences that."""
    before = logging.root.manager.disable
    yield
    logging.disable(before)
