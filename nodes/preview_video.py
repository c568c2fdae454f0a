"""Small videos and pictures in the host's temp folder, for the page to show in a node."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable
from fractions import Fraction

import av
import folder_paths
import numpy as np
from av.video.reformatter import Colorspace, Interpolation
from PIL import Image

from ..lgvi_core.conditioning import to_bytes

LONG_SIDE = 768  # pixels
BT601 = 6  # FFmpeg's number, for matrix and primaries
# Every frame a key frame: seeking to any of them is instant.
CODEC_OPTIONS = {"g": "1", "crf": "20", "preset": "veryfast", "tune": "fastdecode"}


def show_video(frames: Iterable[np.ndarray], frame_rate: Fraction) -> dict:
    """Writes frames (H, W, 3), uint8 or float in [0, 1], as H.264 mp4; the file as the page asks for it.

    At most `LONG_SIDE` pixels on the long side, sides even, every frame a key frame, no sound.
    """
    file, path = _new_file(".mp4")
    stream = None
    with av.open(path, "w", options={"movflags": "+faststart"}) as container:
        for image in frames:
            if stream is None:
                stream = container.add_stream("h264", rate=frame_rate, options=CODEC_OPTIONS)
                stream.width, stream.height = _shown_size(*image.shape[1::-1], even=True)
                stream.pix_fmt = "yuv420p"
                context = stream.codec_context
                context.colorspace = context.color_primaries = context.color_trc = BT601
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(to_bytes(image)), format="rgb24")
            frame = frame.reformat(
                stream.width,
                stream.height,
                "yuv420p",
                dst_colorspace=Colorspace.ITU601,
                interpolation=Interpolation.AREA,
            )
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file


def show_picture(image: np.ndarray) -> dict:
    """Writes a frame as PNG, at most `LONG_SIDE` pixels on the long side; the file as the page asks for it."""
    file, path = _new_file(".png")
    picture = Image.fromarray(to_bytes(image))
    picture.resize(_shown_size(*picture.size), Image.BILINEAR).save(path, compress_level=1)
    return file


def _new_file(ending: str) -> tuple[dict, str]:
    folder = folder_paths.get_temp_directory()
    os.makedirs(folder, exist_ok=True)
    name = f"lgvi_{uuid.uuid4().hex}{ending}"  # never the same name again: browsers keep what they have seen
    return {"filename": name, "subfolder": "", "type": "temp"}, os.path.join(folder, name)


def _shown_size(width: int, height: int, even: bool = False) -> tuple[int, int]:
    scale = min(1.0, LONG_SIDE / max(width, height))
    unit = 2 if even else 1
    return tuple(max(unit, round(side * scale / unit) * unit) for side in (width, height))
