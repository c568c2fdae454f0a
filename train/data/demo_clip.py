"""Make the demo's clip: `python -m train.data.demo_clip OUT.mp4`. Three drawn objects, two alike, and a melody."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import av
import numpy as np

from lgvi_core.video import VideoWriter

from .synthetic import Clip, draw

SEED, INDEX = 7, 16624  # two red circles, and the words single out the left one
FRAMES, SIDE, RATE = 72, 256, 24
SAMPLE_RATE = 44100


def demo_clip(side: int = SIDE) -> Clip:
    """The demo's clip and its truth: "remove the red circle on the left"."""
    return draw(SEED, INDEX, FRAMES, side, side, held_out=True, kind="position")


def melody(seconds: float) -> np.ndarray:
    """A few notes of a pentatonic scale, int16 mono."""
    notes = [261.63, 293.66, 329.63, 392.00, 440.00, 392.00, 329.63, 293.66]
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    beat = time % 0.375
    pitch = np.array(notes)[(time / 0.375).astype(int) % len(notes)]
    sound = np.sin(2 * np.pi * pitch * time) * np.minimum(beat / 0.02, 1) * np.exp(-4 * beat)
    return (sound * 9000).astype(np.int16)


def main(path: str) -> None:
    clip = demo_clip()
    with tempfile.TemporaryDirectory() as folder:
        sound = Path(folder) / "melody.m4a"
        with av.open(sound, "w", options={"fflags": "+bitexact"}) as file:
            stream = file.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
            frame = av.AudioFrame.from_ndarray(melody(FRAMES / RATE)[None], format="s16", layout="mono")
            frame.sample_rate = SAMPLE_RATE
            file.mux(stream.encode(frame))
            file.mux(stream.encode(None))
        with VideoWriter(path, SIDE, SIDE, RATE, audio_from=sound) as writer:
            for frame in clip.frames:
                writer.write(frame)


if __name__ == "__main__":
    main(sys.argv[1])
