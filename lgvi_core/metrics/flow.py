"""Optical flow between the frames of a clip: OpenCV's DIS, which needs no weights, or RAFT from a weights file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from ..errors import InputError

# (from (H, W, 3) uint8, to (H, W, 3) uint8) -> (H, W, 2) float32, how far each pixel of the first moves right and down
Flow = Callable[[np.ndarray, np.ndarray], np.ndarray]

RAFT_URL = "https://download.pytorch.org/models/raft_large_C_T_SKHT_V2-ff5fadd5.pth"
RAFT_SMALLEST = 128  # pixels a side that its pyramid takes; smaller frames are padded
DIS_SMALLEST = 12


def dis_flow(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Flow by dense inverse search (Kroeger et al. 2016) in OpenCV's medium setting, on grey frames.

    Raises `InputError` for frames too small for it.
    """
    if min(first.shape[:2]) < DIS_SMALLEST:
        raise InputError(
            f"frames are {first.shape[1]}x{first.shape[0]}; optical flow needs {DIS_SMALLEST} pixels a side"
        )
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (first, second)]
    return cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(*grey, None)


def raft_flow(weights: Path, device: str = "cpu") -> Flow:
    """RAFT (Teed and Deng 2020) as torchvision's `raft_large`, with weights from a file that the user has got.

    Raises `InputError` where the file is absent or of another network.
    """
    from torchvision.models.optical_flow import raft_large

    if not Path(weights).is_file():
        raise InputError(f"RAFT weights {weights} do not exist; download {RAFT_URL} and give the file's path")
    network = raft_large()
    try:
        network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    except Exception as error:  # what torch raises for another file has many types
        raise InputError(f"{weights} does not hold the weights of raft_large; download {RAFT_URL}") from error
    network.eval().to(device)

    @torch.no_grad()
    def flow(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        height, width = first.shape[:2]
        right, below = (max(RAFT_SMALLEST, -(-side // 8) * 8) - side for side in (width, height))
        pixels = torch.from_numpy(np.stack([first, second])).to(device).permute(0, 3, 1, 2) / 127.5 - 1
        pixels = F.pad(pixels, (0, right, 0, below), mode="replicate")
        return network(pixels[:1], pixels[1:])[-1][0, :, :height, :width].permute(1, 2, 0).cpu().numpy()

    return flow
