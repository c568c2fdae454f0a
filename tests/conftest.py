"""What several test folders share."""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("OMP_NUM_THREADS", "1")  # models this small are slower on several threads
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
from safetensors import safe_open

ROOT = Path(__file__).parent.parent
SHARED = Path(os.environ.get("LGVI_SHARED", ROOT.parent / "shared"))


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
