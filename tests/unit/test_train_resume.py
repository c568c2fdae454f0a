"""A run that is killed, stopped or short of disk goes on as if nothing had been; another run's state is refused."""

import importlib
import json
import multiprocessing
import os
import signal
from functools import reduce

import pytest
import torch
from tiny_training import DEMO, overrides, tiny

from lgvi_core.errors import InputError
from train import lgvi, state
from train.objectives import Objective

SAVE_EACH_STEP = ["saving.steps=1", "saving.keep_last=2"]


def killed_at(owner, name, call, command):
    """Train in a process that kills itself by SIGKILL as it calls function `name` of `owner` for the `call`th time."""
    left = [call]
    *parts, name = name.split(".")
    owner = reduce(getattr, parts, importlib.import_module(owner))
    function = getattr(owner, name)

    def counted(*arguments, **options):
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)

    def train():
        setattr(owner, name, counted)
        lgvi.main(command)

    process = multiprocessing.get_context("fork").Process(target=train)  # a fresh one would import torch again
    process.start()
    process.join(240)
    assert process.exitcode == -signal.SIGKILL


def content(folder):
    """Every tensor of the newest state, and the checkpoint's bytes."""
    newest = max(folder.glob("states/step-*"))
    files = {}
    for path in sorted(newest.iterdir()):
        if path.name in ("optimizer.bin", "ema_0.pt"):
            value = torch.load(path, weights_only=True)
            files[path.name] = value["state"] if path.name == "optimizer.bin" else value
        elif path.name == "model.safetensors":
            files[path.name] = path.read_bytes()
    assert len(files) == 3
    return newest.name, files, (folder / "checkpoint.safetensors").read_bytes()


def assert_same(one, other):
    assert one[0] == other[0] and one[2] == other[2]
    assert one[1]["model.safetensors"] == other[1]["model.safetensors"]
    for name in ("optimizer.bin", "ema_0.pt"):
        torch.testing.assert_close(one[1][name], other[1][name], rtol=0, atol=0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    lgvi.train(tiny(folder, *SAVE_EACH_STEP), "cpu")
    return content(folder)


@pytest.mark.parametrize(
    "module, function, call",
    [
        ("train.objectives", "Objective.__call__", 4),  # between two passes of a step
        ("torch", "save", 5),  # within the second state: its optimizer is written, its random numbers are not
        ("train.state", "os.replace", 2),  # before the second state has its name
        ("shutil", "rmtree", 1),  # as the oldest of three states is removed
    ],
)
def test_a_run_killed_at_any_moment_goes_on_bit_for_bit(tmp_path, whole, module, function, call):
    command = ["--config", str(DEMO), "--device", "cpu", *overrides(tmp_path, *SAVE_EACH_STEP)]
    killed_at(module, function, call, command)
    states = state_names(tmp_path)
    assert "checkpoint.safetensors" not in os.listdir(tmp_path) and "step-000004" not in states
    assert all((tmp_path / "states" / name / "state.json").is_file() for name in states)
    assert lgvi.main(command) == 0
    assert_same(content(tmp_path), whole)
    assert not list((tmp_path / "states").glob(".*"))


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_run_asked_to_stop_ends_its_step_saves_and_goes_on(tmp_path, whole, monkeypatch, kind):
    call = Objective.__call__

    def interrupted(self, model, batch, seed, step):
        if step == 2 and not batch["last"]:
            os.kill(os.getpid(), kind)
        return call(self, model, batch, seed, step)

    command = ["--config", str(DEMO), "--device", "cpu", *overrides(tmp_path, "saving.minutes=null")]
    monkeypatch.setattr(Objective, "__call__", interrupted)
    assert lgvi.main(command) == 130
    monkeypatch.undo()
    assert state_names(tmp_path) == ["step-000003"]
    assert lgvi.main(command) == 0
    assert_same(content(tmp_path), whole)


def test_time_up_saves_and_the_same_command_goes_on(tmp_path, whole):
    assert lgvi.train(tiny(tmp_path, "max_minutes=0.0"), "cpu") is None
    assert state_names(tmp_path) == ["step-000001"]
    assert lgvi.train(tiny(tmp_path), "cpu") is not None
    assert_same(content(tmp_path), whole)


def test_dropout_inside_the_model_is_the_same_after_a_resume(tmp_path):
    more = ["text_encoder.attention_dropout=0.5", "steps=2"]
    lgvi.train(tiny(tmp_path / "whole", *more), "cpu")
    lgvi.train(tiny(tmp_path / "parts", *more, "max_minutes=0.0"), "cpu")
    lgvi.train(tiny(tmp_path / "parts", *more), "cpu")
    assert_same(content(tmp_path / "parts"), content(tmp_path / "whole"))


def test_eight_bit_adam_goes_on_bit_for_bit(tmp_path):
    pytest.importorskip("bitsandbytes")
    more = ["optimizer.kind=adamw8bit", "steps=2"]
    lgvi.train(tiny(tmp_path / "whole", *more), "cpu")
    lgvi.train(tiny(tmp_path / "parts", *more, "max_minutes=0.0"), "cpu")
    lgvi.train(tiny(tmp_path / "parts", *more), "cpu")
    whole = content(tmp_path / "whole")
    assert_same(content(tmp_path / "parts"), whole)
    assert torch.uint8 in {value.dtype for value in tensors(whole[1]["optimizer.bin"])}


def tensors(state):
    for value in state.values():
        yield from tensors(value) if isinstance(value, dict) else [value] if torch.is_tensor(value) else ()


@pytest.mark.parametrize("writer", ["torch.save", "train.state.flush"])
def test_a_full_disk_leaves_the_state_before_it(tmp_path, monkeypatch, writer):
    lgvi.train(tiny(tmp_path, "max_minutes=0.0"), "cpu")

    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer, full_disk)
    complaint = "step-000002.tmp cannot be written: .*No space left.*goes on from .*step-000001"
    with pytest.raises(InputError, match=complaint):
        lgvi.train(tiny(tmp_path, "max_minutes=0.0"), "cpu")
    monkeypatch.undo()
    assert state_names(tmp_path) == ["step-000001"] and not list((tmp_path / "states").glob(".*"))
    assert lgvi.train(tiny(tmp_path), "cpu") is not None


def test_the_last_states_and_the_best_stay(tmp_path, monkeypatch):
    found = iter([3.0, 1.0, 2.0, 4.0])
    monkeypatch.setattr("train.watch.Watcher.due", lambda self, step: True)
    monkeypatch.setattr("train.watch.Watcher.hold_out", lambda self, *_: next(found))
    more = ["saving={steps: 1, keep_last: 1, keep_best: true}", "watch.sample_every=1"]
    lgvi.train(tiny(tmp_path, *more), "cpu")
    assert state_names(tmp_path) == ["step-000002", "step-000004"]
    facts = json.loads((tmp_path / "states" / "step-000004" / "state.json").read_text())
    assert facts["best"] == {"step": 2, "loss": 1.0}
    assert (tmp_path / "best.safetensors").read_bytes() != (tmp_path / "checkpoint.safetensors").read_bytes()


@pytest.mark.parametrize(
    "override, complaint",
    [
        ("unet.block_out_channels=[8, 8, 8, 16]", r"unet.block_out_channels.3 was 8, is 16"),
        ("seed=7", "seed was 1, is 7"),
        ("optimizer.betas=[0.8, 0.9]", "optimizer.betas.0 was 0.9, is 0.8"),
        ("batches=[{frames: 1, size: 4, width: 32, height: 32}]", "batches.1.frames was 2, is None"),
    ],
)
def test_a_state_of_another_config_is_refused_by_its_keys(one_step, override, complaint):
    with pytest.raises(InputError, match=complaint):
        lgvi.train(tiny(one_step, override), "cpu")


@pytest.fixture(scope="module")
def one_step(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one-step")
    lgvi.train(tiny(folder, "max_minutes=0.0"), "cpu")
    return folder


def test_what_changes_no_result_may_change_and_rates_with_a_warning(one_step, caplog):
    facts = json.loads((one_step / "states" / "step-000001" / "state.json").read_text())
    now = state.plain(tiny("elsewhere", "watch.log_every=9", "saving.keep_last=3", "workers=1"))
    assert state.differences(facts["config"], now) == {}
    lgvi.train(tiny(one_step, "optimizer.learning_rate=2.0e-3", "steps=3", "max_minutes=0.0"), "cpu")
    assert "optimizer.learning_rate was 0.001, is 0.002" in caplog.text and "steps was 4, is 3" in caplog.text


def test_a_damaged_state_is_named(tmp_path):
    lgvi.train(tiny(tmp_path, "max_minutes=0.0"), "cpu")
    file = tmp_path / "states" / "step-000001" / "optimizer.bin"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(InputError, match="step-000001 cannot be read"):
        lgvi.train(tiny(tmp_path), "cpu")


def state_names(folder):
    return sorted(path.name for path in folder.glob("states/step-*"))
