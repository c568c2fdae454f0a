"""Watching a run: what is written of it, that watching changes nothing, and that a resumed run has no double parts."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from small_datasets import triplets
from PIL import Image

from lgvi_core.errors import InputError
from train import config as configs
from train import held_out, lgvi, model, report
from train.data import mixing
from train.watch import Bins, Watcher
from train.watching import journal, pictures, trackers

DEMO = Path(lgvi.__file__).parent / "configs" / "demo.yaml"
TINY = [
    "unet.block_out_channels=[16, 16, 16, 16]",
    "unet.norm_num_groups=4",
    "unet.mask_channels=8",
    "unet.attention_head_dim=2",
    "text_encoder.hidden_size=16",
    "text_encoder.intermediate_size=16",
    "text_encoder.num_hidden_layers=1",
    "text_encoder.num_attention_heads=2",
    "text_encoder.projection_dim=16",
    "tokenizer_sentences=50",
    "tokenizer_merges=20",
    "recognition.blocks=[]",
    "training_size={}",
    "batches=[{frames: 2, size: 3, width: 32, height: 32}]",
    "workers=0",
    "precision=fp32",
    "steps=6",
    "watch.log_every=2",
    "watch.sample_every=2",
    "watch.samples=5",
    "watch.tensorboard=false",
]


def tiny(folder, *more):
    return configs.load(DEMO, [*TINY, f"output={folder}", *more])


@pytest.fixture(scope="module")
def parts():
    return model.build(tiny("unused"))


def take(watcher, step, total=1.0, samples=3, broken=()):
    """A step whose first part of the schedule is at loss 1 and whose last is at 3."""
    timesteps, losses = torch.tensor([0, 999, 999]), torch.tensor([1.0, 2.0, 4.0])
    watcher.step(step, {"total": total, "diffusion": 0.5}, {"matrices": 1e-3}, timesteps, losses, samples, list(broken))


def records(folder, key):
    return [record for record in journal.read(folder / "log.jsonl") if key in record]


def test_lines_hold_the_means_since_the_line_before(tmp_path):
    watcher = Watcher(tiny(tmp_path), tmp_path, 0)
    for step in range(6):
        take(watcher, step, total=float(step))
    watcher.close(True)
    lines = records(tmp_path, "total")
    assert [(line["step"], line["total"]) for line in lines] == [(0, 0), (2, 1.5), (4, 3.5), (5, 5)]
    assert lines[-1]["samples"] == 18 and lines[-1]["rates"] == {"matrices": 0.001}
    assert lines[-1]["bins"] == [1, *[None] * 8, 3]
    assert records(tmp_path, "finished")[-1]["finished"] is True
    assert json.loads((tmp_path / "config.json").read_text())["steps"] == 6
    assert Image.open(tmp_path / "log.png").size[0] == 1200


def test_a_run_that_goes_on_drops_what_it_does_again(tmp_path):
    watcher = Watcher(tiny(tmp_path), tmp_path, 0)
    for step in range(5):
        take(watcher, step)
    watcher.message("seen before")
    watcher.close(False)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 5, "tot')  # killed while it wrote
    watcher = Watcher(tiny(tmp_path), tmp_path, 3)
    for step in range(3, 6):
        take(watcher, step)
    watcher.close(True)
    assert [line["step"] for line in records(tmp_path, "total")] == [0, 2, 4, 5]
    assert [line["samples"] for line in records(tmp_path, "total")] == [3, 9, 15, 18]
    assert [line["step"] for line in records(tmp_path, "environment")] == [0, 3]
    assert len(records(tmp_path, "finished")) == 1 and not records(tmp_path, "message")


def test_a_new_run_in_an_old_folder_starts_its_journal_anew(tmp_path):
    (tmp_path / "log.jsonl").write_text("no JSON\n")
    Watcher(tiny(tmp_path), tmp_path, 0).close(False)
    assert journal.read(tmp_path / "log.jsonl")[0]["step"] == 0


def test_a_damaged_journal_is_named(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 0}\nno JSON\n{"step": 1}\n')
    with pytest.raises(InputError, match=r"line 2 of the journal .*log\.jsonl"):
        journal.read(tmp_path / "log.jsonl")


def test_not_a_number_becomes_null(tmp_path):
    written = journal.Journal(tmp_path / "log.jsonl", 0)
    written.write({"step": 0, "values": [float("nan"), float("inf"), 1.23456789], "text": "ü"})
    written.close()
    assert journal.read(tmp_path / "log.jsonl") == [{"step": 0, "values": [None, None, 1.23457], "text": "ü"}]


def test_samples_that_cannot_be_read_are_named_once_and_counted(tmp_path, caplog):
    watcher = Watcher(tiny(tmp_path), tmp_path, 0)
    with caplog.at_level(logging.WARNING):
        for step in range(3):
            take(watcher, step, broken=[("rovi:7", "truncated")])
    watcher.close(False)
    assert sum("rovi:7" in message for message in caplog.messages) == 1
    assert report.broken(journal.read(tmp_path / "log.jsonl")) == {
        "times": 3,
        "different": 1,
        "rows": [{"name": "rovi:7", "reason": "truncated", "times": 3}],
    }


def test_only_the_main_process_writes(tmp_path, parts):
    watcher = Watcher(tiny(tmp_path / "run"), tmp_path / "run", 0, main=False)
    watcher.first_batch({})
    take(watcher, 0)
    watcher.message("hello")
    assert not watcher.due(2)
    watcher.close(True)
    assert not (tmp_path / "run").exists()


def test_bins_keep_a_running_mean():
    bins = Bins(100, [])
    bins.add(torch.tensor([0, 9, 10, 99]), torch.tensor([1.0, 3.0, 5.0, 7.0]))
    assert bins.means() == [2, 5, *[None] * 7, 7]
    bins.add(torch.tensor([5]), torch.tensor([12.0]))
    assert bins.means() == pytest.approx([3, 5, *[None] * 7, 7])
    assert Bins(100, [{"bins": bins.means()}]).means() == pytest.approx([3, 5, *[None] * 7, 7])


def test_the_first_batch_is_drawn_as_the_model_sees_it(tmp_path):
    config = tiny(tmp_path)
    batch = next(iter(mixing.loader(config, 0)))
    watcher = Watcher(config, tmp_path, 0)
    watcher.first_batch(batch)
    watcher.close(False)
    drawn = np.asarray(Image.open(tmp_path / "first-batch.png"))
    seen = np.repeat(np.repeat(batch["frames"][0, 0].numpy(), 2, 0), 2, 1)
    top, left = pictures.LINE * 2, pictures.GAP
    np.testing.assert_array_equal(drawn[top : top + 64, left : left + 64], seen)
    assert (drawn == pictures.MASK_COLOUR).all(-1).any()
    before = (tmp_path / "first-batch.png").read_bytes()
    watcher = Watcher(config, tmp_path, 1)
    watcher.first_batch({name: value.flip(0) if torch.is_tensor(value) else value for name, value in batch.items()})
    watcher.close(False)
    assert (tmp_path / "first-batch.png").read_bytes() == before


def test_watching_changes_neither_the_model_nor_random_numbers(tmp_path, parts):
    parts.model.train()
    parts.model.unet.mid_block.eval()
    modes = [module.training for module in parts.model.modules()]
    weights = {name: value.clone() for name, value in parts.model.state_dict().items()}
    torch.manual_seed(5)
    np.random.seed(5)
    expected = torch.rand(1), np.random.rand()
    torch.manual_seed(5)
    np.random.seed(5)
    clips = held_out.HeldOut(tiny(tmp_path))
    first, rows = clips.run(parts.model, parts.autoencoder)
    assert (torch.rand(1), np.random.rand()) == expected
    assert [module.training for module in parts.model.modules()] == modes
    assert all(torch.equal(value, weights[name]) for name, value in parts.model.state_dict().items())
    assert held_out.HeldOut(tiny(tmp_path)).run(parts.model, parts.autoencoder)[0] == first
    assert {"loss", "diffusion", "mask", "correct", "damaged", "mask_iou", "psnr_inside", "psnr_frame"} <= set(first)
    assert len(rows) == 5 and rows[0].pictures[0].shape == (32, 32, 3)


def test_a_better_model_has_a_lower_held_out_loss(tmp_path, parts):
    config = tiny(tmp_path)
    other = model.build(config).model
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(3)
    losses = [held_out.HeldOut(config).run(m, parts.autoencoder)[0]["loss"] for m in (parts.model, other)]
    assert losses[0] < losses[1]


def test_held_out_clips_are_measured_against_their_truth(tmp_path):
    clips = list(held_out.HeldOut(tiny(tmp_path, "watch.samples=40"))._clips())
    perfect = held_out.means([held_out.measure(clip, clip.clean, clip.mask) for clip in clips])
    assert perfect["correct"] == perfect["mask_iou"] == perfect["empty_where_nothing_matches"] == 1
    assert perfect["damaged"] == 0 and "psnr_inside" not in perfect  # infinite everywhere
    nothing = held_out.means([held_out.measure(clip, clip.frames, clip.mask & False) for clip in clips])
    assert nothing["correct"] == 0 and nothing["mask_iou"] == 0 and nothing["psnr_inside"] < 20
    everything = held_out.means([held_out.measure(clip, clip.drawn.background, clip.mask | True) for clip in clips])
    assert everything["damaged"] > 0.9 and everything["correct"] < 0.1  # all objects were meant in some


def test_held_out_clips_come_from_any_source(tmp_path, parts, caplog):
    root = triplets(tmp_path / "data", clips=4, frames=3)
    data = f"data={{synthetic: {{kind: synthetic}}, mine: {{kind: triplets, root: {root}}}}}"
    config = tiny(tmp_path / "run", data, "watch.data=mine", "watch.samples=3")
    clips = held_out.HeldOut(config)
    with pytest.raises(InputError, match="no clip of 4 frames"):
        held_out.HeldOut(tiny(tmp_path, data, "watch.data=mine", "training_size={frames: 4}"))
    (root / "0" / "frames" / "00001.png").write_bytes(b"no picture")
    (root / "0" / "frames" / "00000.png").write_bytes(b"no picture")
    with caplog.at_level(logging.WARNING):
        found, rows = clips.run(parts.model, parts.autoencoder)
    assert "clip0 cannot be read and is left out" in caplog.text
    assert len(rows) == 2 and {"removed", "mask_iou"} <= set(found) and "correct" not in found


def test_timesteps_are_spread_as_training_draws_them():
    drawn = held_out.spread_timesteps(20, 1000, 0.5, seed=1)
    assert sorted(drawn) == [50, 150, 250, 350, 450, 550, 650, 750, 850, 950, *[999] * 10]
    assert drawn == held_out.spread_timesteps(20, 1000, 0.5, seed=1) != sorted(drawn)


def test_a_run_ends_in_a_report_that_needs_nothing_else(tmp_path, parts):
    config = tiny(tmp_path)
    watcher = Watcher(config, tmp_path, 0)
    watcher.message("U-Net: <new>")
    watcher.first_batch(next(iter(mixing.loader(config, 0))))
    for step in range(6):
        take(watcher, step, broken=[("rovi:7", "truncated")] if step == 3 else [])
        if watcher.due(step + 1):
            loss = watcher.hold_out(step + 1, parts.model, None, parts.autoencoder)
    watcher.close(True)
    page = (tmp_path / "report.html").read_text()
    held = records(tmp_path, "held_out")
    assert [record["step"] for record in held] == [2, 4, 6]
    assert held[-1]["held_out"]["loss"] == pytest.approx(loss, 1e-4)
    assert (tmp_path / held[-1]["picture"]).is_file()
    assert page.count('src="data:image/webp;base64,') == 4 and 'src="http' not in page and ' href="' not in page
    for text in ("finished", "6 of 6 steps", "U-Net: &lt;new&gt;", "rovi:7", "frames: 2", "torch", "held-out loss"):
        assert text in page
    assert page.count("<svg") == 7  # losses, held-out loss, shares, PSNR, rates, speed, timesteps


def test_the_report_of_a_killed_run_is_made_by_its_command(tmp_path):
    watcher = Watcher(tiny(tmp_path), tmp_path, 0)
    take(watcher, 0)
    assert report.main([str(tmp_path)]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "running, or killed" in page and "1 of 6 steps" in page
    watcher.close(False)
    assert "stopped, to be resumed" in (tmp_path / "report.html").read_text()


def test_a_folder_without_a_run_has_no_report(tmp_path, caplog):
    assert report.main([str(tmp_path)]) == 2
    assert "there is no log.jsonl" in caplog.text


def test_tensorboard_has_curves_and_pictures_once(tmp_path, parts):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = tiny(tmp_path, "watch.tensorboard=true", "watch.samples=2")
    for start, stop in ((0, 4), (2, 6)):
        watcher = Watcher(config, tmp_path, start)
        for step in range(start, stop):
            take(watcher, step)
        watcher.hold_out(stop, parts.model, None, parts.autoencoder)
        watcher.close(stop == 6)
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert {"loss/total", "rate/matrices", "timesteps/9", "held_out/loss"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("loss/total")] == [0, 2, 4, 5]
    assert [image.step for image in events.Images("samples")] == [6]


def test_a_tracker_that_is_not_installed_is_named_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="wandb is not installed: run `pip install wandb`"):
        Watcher(tiny(tmp_path / "run", "watch.wandb=lgvi"), tmp_path / "run", 0)
    assert not (tmp_path / "run").exists()
