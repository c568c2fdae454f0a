"""What CLIP (Radford et al. 2021) says of a clip: temporal consistency (TC) and the CLIP score of a region.

Both as in VIVID (arXiv 2411.15260, section 5.1).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPModel, CLIPProcessor

from ..errors import InputError

URL = "https://huggingface.co/openai/clip-vit-base-patch32"
AT_ONCE = 16  # pictures


class Clip:
    """A CLIP model from a folder that the user has got. Raises `InputError` where there is none."""

    def __init__(self, folder: Path, device: str = "cpu"):
        if not (Path(folder) / "config.json").is_file():
            raise InputError(f"{folder} holds no CLIP model; get the files of {URL} and give their folder")
        try:
            self.model = CLIPModel.from_pretrained(folder, local_files_only=True).eval().to(device)
            self.processor = CLIPProcessor.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(f"the CLIP model in {folder} cannot be read; get the files of {URL}: {error}") from error

    @torch.no_grad()
    def images(self, pictures: list[np.ndarray]) -> Tensor:
        """Features (N, D) of length 1, of pictures (H, W, 3) uint8."""
        parts = []
        for start in range(0, len(pictures), AT_ONCE):
            values = self.processor(
                images=pictures[start : start + AT_ONCE], return_tensors="pt", input_data_format="channels_last"
            ).to(self.model.device)
            parts.append(_vectors(self.model.get_image_features(**values)))
        return F.normalize(torch.cat(parts).double(), dim=1)

    @torch.no_grad()
    def text(self, words: str) -> Tensor:
        """Features (D,) of length 1; words beyond the model's length are not read."""
        values = self.processor(text=[words], return_tensors="pt", truncation=True).to(self.model.device)
        return F.normalize(_vectors(self.model.get_text_features(**values)).double(), dim=1)[0]

    def consistency(self, frames: np.ndarray) -> float | None:
        """TC: the mean cosine of consecutive frames (T, H, W, 3) uint8, times 100; None for a single frame."""
        if len(frames) < 2:
            return None
        found = self.images(list(frames))
        return 100 * float((found[:-1] * found[1:]).sum(dim=1).mean())

    def score(self, frames: np.ndarray, mask: np.ndarray, words: str) -> float | None:
        """CLIP score: the mean cosine of the words and the mask's box in each frame, times 100; None without a mask.

        frames: (T, H, W, 3) uint8; mask: (T, H, W) bool.
        """
        regions = [_region(frame, inside) for frame, inside in zip(frames, mask, strict=True) if inside.any()]
        if not regions:
            return None
        return 100 * float((self.images(regions) @ self.text(words)).mean())


def _vectors(output) -> Tensor:
    """Newer releases of transformers wrap the features."""
    return output if isinstance(output, Tensor) else output.pooler_output


def _region(frame: np.ndarray, mask: np.ndarray) -> np.ndarray:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return frame[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
