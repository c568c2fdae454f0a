"""Runs the checks beside this file in a process that imports ComfyUI; test_native_model.py starts it.

    python run.py COMFYUI PACK WORK [check ...]

writes WORK/results.json: for each check null, or the traceback of its failure. ComfyUI and the pack both have a module
called `nodes`, so this is a process of its own, and the pack is loaded as ComfyUI loads it.
"""

import asyncio
import importlib
import json
import os
import sys
import time
import traceback
from pathlib import Path

import small
import torch


def start(comfyui: Path, pack: Path, work: Path) -> None:
    """Imports ComfyUI for the CPU and loads the pack, under another name than the project's."""
    base = work / "base"
    folder = base / "custom_nodes" / "any-other-name"
    folder.parent.mkdir(parents=True)
    folder.symlink_to(pack)
    sys.path.insert(0, str(comfyui))
    sys.argv = ["main.py", "--cpu", "--base-directory", str(base)]
    import comfy.options

    comfy.options.enable_args_parsing()
    import nodes

    assert Path(nodes.__file__) == comfyui / "nodes.py"
    known, before = set(sys.modules), time.process_time()
    assert asyncio.run(nodes.load_custom_node(str(folder)))
    small.HOST.import_seconds, small.HOST.imported = time.process_time() - before, set(sys.modules) - known
    small.HOST.comfyui, small.HOST.work, small.HOST.pack = comfyui, work, sys.modules[str(folder)]


def main(wanted: list[str]) -> dict[str, str | None]:
    results = {}
    modules = [importlib.import_module(file.stem) for file in sorted(Path(__file__).parent.glob("check_*.py"))]
    checks = {name: value for module in modules for name, value in vars(module).items() if name.startswith("check_")}
    for name in wanted or checks:
        before = time.perf_counter()
        try:
            with torch.inference_mode():  # as ComfyUI runs nodes
                checks[name]()
            results[name] = None
        except Exception:  # every failure is for the test to show
            results[name] = traceback.format_exc()
        outcome = "ok" if results[name] is None else "FAIL"
        sys.stderr.write(f"{time.perf_counter() - before:6.1f} s  {outcome:4}  {name}\n")
    return results


if __name__ == "__main__":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    folders, checks = [Path(argument).resolve() for argument in sys.argv[1:4]], sys.argv[4:]
    start(*folders)
    (folders[2] / "results.json").write_text(json.dumps(main(checks)))
