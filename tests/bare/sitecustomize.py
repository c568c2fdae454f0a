"""With this folder on PYTHONPATH, Python is as on a node user's machine: ComfyUI's requirements and nothing of ours.

The tests install lgvi with its extras beside ComfyUI; a node that imported any of it would work here and nowhere else.
"""

import sys
from importlib.abc import MetaPathFinder

ABSENT = {"cv2", "diffusers", "lgvi_core", "matplotlib", "skimage", "train"}


class Absent(MetaPathFinder):
    """Finds that a module is not installed."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


sys.meta_path.insert(0, Absent())
