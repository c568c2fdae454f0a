"""LGVI is a MODEL, CLIP and VAE of the real ComfyUI: core's nodes work on it and the numbers are lgvi_core's.

The checks are in native/, where run.py runs them once, in a process of its own: ComfyUI and the pack both have a module
called `nodes`.
"""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).with_name("native")
ROOT = Path(__file__).parents[2]
LIMIT = 1800  # seconds for all checks together
CHECKS = [
    statement.name
    for file in sorted(FOLDER.glob("check_*.py"))
    for statement in ast.parse(file.read_text("utf-8")).body
    if isinstance(statement, ast.FunctionDef) and statement.name.startswith("check_")
]


@pytest.fixture(scope="module")
def results(request, comfyui, tmp_path_factory):
    """What each of the checks that pytest wants came to: None, or the traceback of its failure."""
    work = tmp_path_factory.mktemp("native")
    wanted = [item.callspec.params["check"] for item in request.session.items if item.path == Path(__file__)]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    run = subprocess.run(
        [sys.executable, str(FOLDER / "run.py"), str(comfyui), str(ROOT), str(work), *wanted],
        cwd=work,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    if run.returncode:
        pytest.fail(f"the process of the checks ended with {run.returncode}:\n{run.stderr[-4000:]}")
    return json.loads((work / "results.json").read_text())


@pytest.mark.parametrize("check", CHECKS)
def test_on_the_real_host(check, results):
    assert results[check] is None, f"\n{results[check]}"
