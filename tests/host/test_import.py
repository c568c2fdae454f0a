"""Importing the pack, in a process where ComfyUI is loaded already, as it is when custom nodes come."""

import json
import subprocess
import sys

import pytest
from host_server import ENVIRONMENT, ROOT

LOAD = """
import asyncio, json, sys, time
sys.path.insert(0, ".")
sys.argv = ["main.py", "--cpu"]
import comfy.options
comfy.options.enable_args_parsing()
import nodes
from comfy_api.latest import ComfyExtension
before, start = set(sys.modules), time.process_time()
loaded = asyncio.run(nodes.load_custom_node(sys.argv_pack))
print(json.dumps({"loaded": loaded, "seconds": time.process_time() - start, "new": sorted(set(sys.modules) - before)}))
"""
LIMIT = 2.0  # seconds of the processor, beyond what ComfyUI takes
LATER = {"accelerate", "av", "diffusers", "cv2", "matplotlib", "skimage", "tokenizers", "transformers"}


@pytest.fixture(scope="module")
def pack_import(comfyui, tmp_path_factory):
    """What importing the pack did; packages that ComfyUI does not install cannot be imported there."""
    pack = tmp_path_factory.mktemp("packs") / "some-pack"
    pack.symlink_to(ROOT)
    script = LOAD.replace("sys.argv_pack", repr(str(pack)))
    run = subprocess.run([sys.executable, "-c", script], cwd=comfyui, env=ENVIRONMENT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout.splitlines()[-1])
    assert report["loaded"], run.stderr
    return report


def test_the_pack_needs_nothing_that_comfyui_does_not_install(pack_import):
    assert any(name.endswith("some-pack.nodes") for name in pack_import["new"])


def test_import_takes_less_than_two_seconds(pack_import):
    assert pack_import["seconds"] < LIMIT


def test_import_leaves_heavy_packages_for_when_they_are_used(pack_import):
    assert not {name.partition(".")[0] for name in pack_import["new"]} & LATER
