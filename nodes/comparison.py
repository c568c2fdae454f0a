"""What a node that changes a video gives: the result as VIDEO, IMAGE and MASK, and before and after for the page."""

from __future__ import annotations

import logging

import comfy.model_management
import numpy as np
import torch
from comfy_api.latest import io

from .frames import Clip
from .preview_video import show_video

logger = logging.getLogger(__name__)


def finished(source: Clip, images: torch.Tensor, mask: np.ndarray, unchanged: bool, messages: list[str]):
    """The node's output for the result's frames and its bool mask; the messages are logged too."""
    for message in messages:
        logger.warning("%s", message)
    before = show_video(source.images.numpy(), source.frame_rate)
    shown = {
        "before": before,
        "after": before if unchanged else show_video(images.numpy(), source.frame_rate),
        "frame_rate": float(source.frame_rate),
        "frames": len(images),
        "message": "\n".join(messages),
    }
    device = comfy.model_management.intermediate_device()
    images, mask = images.to(device), torch.from_numpy(mask).to(device, torch.float32)
    video = source.given if unchanged and source.given is not None else source.video(images)
    return io.NodeOutput(video, images, mask, ui={"lgvi_compare": [shown]})
