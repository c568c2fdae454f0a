"""Several processes: they give what one gives, exchange states with one, and say so when a port is taken."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_training import DEMO, assert_same_step, overrides, tiny

from train import lgvi

ROOT = Path(__file__).parents[2]


@pytest.fixture
def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_two_processes_of_two_passes_give_what_one_gives_and_one_goes_on_from_their_state(tmp_path, port):
    one, two = tmp_path / "one", tmp_path / "two"
    kinds = "batches=[{frames: 2, size: 4, width: 32, height: 32, micro: 1}]"
    lgvi.train(tiny(one, "steps=1", kinds.replace("micro: 1", "micro: 4")), "cpu")
    # accelerate's own launcher wants MPI on a CPU, and starts one process without
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    launcher += ["--master_port", str(port), "-m", "train.lgvi", "--config", str(DEMO), "--device", "cpu"]
    command = [*launcher, *overrides(two, "steps=1", kinds)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 x cpu (MULTI_CPU)" in done.stderr
    assert_same_step(one, two)
    assert lgvi.train(tiny(two, "steps=2", kinds), "cpu") is not None


def test_a_port_in_use_is_a_clear_error(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        world = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1"}
        world |= {"MASTER_PORT": other.getsockname()[1], "ACCELERATE_USE_CPU": "true"}
        environment = os.environ | {name: str(value) for name, value in world.items()}
        command = [sys.executable, "-m", "train.lgvi", "--config", str(DEMO), *overrides(tmp_path)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "is in use" in done.stderr and "--main_process_port" in done.stderr
