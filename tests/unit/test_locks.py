"""An output that two processes want: one has it, the other is told who, and a process that died holds nothing."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lgvi_core.errors import InputError
from lgvi_core.locks import alone

ROOT = Path(__file__).parents[2]
HOLD = """
import sys
from lgvi_core.locks import alone
with alone("out.mp4"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that has the lock of out.mp4 until it is killed or its input ends."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", HOLD], cwd=tmp_path, env=environment, **pipes) as process:
        assert process.stdout.readline().strip() == b"held"
        yield process
        process.kill()


def test_who_comes_second_is_told_who_was_first(tmp_path, holder):
    said = f"out.mp4 is being made by process {holder.pid} on {socket.gethostname()}: wait for it"
    with pytest.raises(InputError, match=said), alone(tmp_path / "out.mp4"):
        pass
    with alone(tmp_path / "other.mp4"), alone(tmp_path / "out.mp4", main=False):
        pass
    holder.communicate()
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_was_killed_holds_nothing(tmp_path, holder):
    holder.kill()
    holder.wait()
    with alone(tmp_path / "out.mp4"):
        assert sorted(path.name for path in tmp_path.iterdir()) == [".out.mp4.holder", ".out.mp4.lock"]
    assert list(tmp_path.iterdir()) == []


def test_a_lock_is_let_go_of_after_an_error_and_makes_the_folders_it_lies_in(tmp_path):
    for _ in range(2):
        with pytest.raises(KeyError), alone(tmp_path / "new" / "out.mp4"):
            raise KeyError
    assert list((tmp_path / "new").iterdir()) == []


def test_a_place_where_no_lock_can_be_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="lock could not be written"), alone(tmp_path / "file" / "out.mp4"):
        pass
