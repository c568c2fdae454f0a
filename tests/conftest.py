"""What several test folders share."""

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("OMP_NUM_THREADS", "1")  # models this small are slower on several threads
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import get_comfyui
import pytest
from safetensors import safe_open

ROOT = Path(__file__).parent.parent
SHARED = Path(os.environ.get("LGVI_SHARED", ROOT.parent / "shared"))
ON_THE_HOST = [ROOT / "tests" / name for name in ("host", "browser", "cli")]


@pytest.fixture(scope="session")
def shared():
    """The folder of golden vectors and real clips, beside the checkout or where LGVI_SHARED says."""
    if not SHARED.is_dir():
        pytest.skip(f"no folder {SHARED}: set LGVI_SHARED to where the golden vectors and clips are")
    return SHARED


@pytest.fixture(scope="session")
def golden(shared):
    """Reads golden vectors: `tensors(file)` gives (tensors, metadata), `weights(shapes)` a state dict."""
    sys.path.insert(0, str(shared / "golden"))
    from golden_weights import state_dict_for

    def tensors(name):
        with safe_open(shared / "golden" / name, "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()

    def config(name, key):
        return json.loads(tensors(name)[1][key])

    return SimpleNamespace(folder=shared / "golden", tensors=tensors, weights=state_dict_for, config=config)


@pytest.fixture(scope="session")
def comfyui():
    """The folder of the real ComfyUI."""
    folder = get_comfyui.folder()
    if not folder.is_dir():
        pytest.skip(f"no ComfyUI at {folder}: `make test` puts it there")
    if find_spec("comfyui_frontend_package") is None:
        pytest.skip("ComfyUI's requirements are not installed: `make test` installs them")
    return folder


@pytest.fixture(scope="session")
def server(comfyui, tmp_path_factory):
    """The real ComfyUI server with this project as a node pack: see `host_server.Server`."""
    from host_server import running

    with running(comfyui, tmp_path_factory.mktemp("comfyui")) as server:
        yield server


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """With LGVI_REQUIRE_HOST set, a test of the host, the page or comfy-cli that skips has failed; GPU tests may."""
    report = yield
    required = os.environ.get("LGVI_REQUIRE_HOST") and any(folder in item.path.parents for folder in ON_THE_HOST)
    if required and report.skipped and not hasattr(report, "wasxfail") and not item.get_closest_marker("gpu"):
        report.outcome = "failed"
        report.longrepr = f"skipped, though LGVI_REQUIRE_HOST is set: {report.longrepr[2]}"
    return report
