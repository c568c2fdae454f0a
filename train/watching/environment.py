"""What a run's figures depend on beside its config."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import torch

PACKAGES = ("lgvi", "torch", "diffusers", "transformers", "accelerate")


def environment(device: torch.device, processes: int) -> dict[str, str]:
    """Device, processes, processor, versions and, where the code lies in a git checkout, its commit."""
    found = {"device": f"{processor()}, {torch.get_num_threads()} threads", "processes": str(processes)}
    if device.type == "cuda":
        found["device"] = f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"
    found["system"] = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    found |= {name: version for name in PACKAGES if (version := _version(name))}
    if commit := _commit():
        found["commit"] = commit
    return found


def processor() -> str:
    """The processor's name, as far as the system tells."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the checkout that this file is part of, with a word where files differ from it."""
    folder = Path(__file__).parent
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty=, changed", "--abbrev=12", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, env={**os.environ, "LC_ALL": "C"})
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None
