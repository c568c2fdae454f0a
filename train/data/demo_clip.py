"""Make the demo's clip: `python -m train.data.demo_clip OUT.mp4`. Three drawn objects, two alike, and a melody."""

from __future__ import annotations

import sys
import tempfile
import wave
from pathlib import Path

import numpy as np

from lgvi_core.video import VideoWriter

from .synthetic import Clip, draw

SEED, FRAMES, SIDE, RATE = 7, 72, 256, 24
REQUEST = "remove the red circle on the left"
SAMPLE_RATE = 44100


def find_clip() -> Clip:
    """The first held-out clip of three objects, two of them red circles, that `REQUEST` singles one out in."""
    for index in range(100_000):
        small = draw(SEED, index, 1, 64, 64, held_out=True, kind="position")
        colors = sorted(drawn.color for drawn in small.objects if drawn.shape == "circle")
        if len(small.objects) != 3 or colors != ["red", "red"] or sum(d.color == "red" for d in small.objects) != 2:
            continue
        clip = draw(SEED, index, FRAMES, SIDE, SIDE, held_out=True, kind="position")
        target = clip.objects[clip.targets[0]]
        speed = max(abs(v) for v in target.velocity)
        if "left" in clip.sentence and target.color == "red" and target.size == "large" and speed > 0.5:
            return clip
    raise RuntimeError(f"no clip that fits {REQUEST!r} among the first 100,000 of seed {SEED}")


def melody(seconds: float) -> np.ndarray:
    """A few notes of a pentatonic scale, int16 mono."""
    notes = [261.63, 293.66, 329.63, 392.00, 440.00, 392.00, 329.63, 293.66]
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    beat = time % 0.375
    pitch = np.array(notes)[(time / 0.375).astype(int) % len(notes)]
    sound = np.sin(2 * np.pi * pitch * time) * np.minimum(beat / 0.02, 1) * np.exp(-4 * beat)
    return (sound * 9000).astype(np.int16)


def main(path: str) -> None:
    clip = find_clip()
    with tempfile.TemporaryDirectory() as folder:
        sound = Path(folder) / "melody.wav"
        with wave.open(str(sound), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(SAMPLE_RATE)
            file.writeframes(melody(FRAMES / RATE).tobytes())
        with VideoWriter(path, SIDE, SIDE, RATE, audio_from=sound) as writer:
            for frame in clip.frames:
                writer.write(frame)


if __name__ == "__main__":
    main(sys.argv[1])
