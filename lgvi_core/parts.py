"""What a run that takes long keeps on disk: frames that memory need not hold, and windows that are done."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .errors import InputError
from .locks import alone

ABOUT = "about.json"


class Spill:
    """Arrays of one shape and type in a file without a name, which goes when nobody reads it any more."""

    def __init__(self, folder: Path | None = None):
        self.file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (`array` closes it)
        self.count, self.like = 0, None

    def add(self, array: np.ndarray) -> None:
        """The next array. Raises `InputError` where the disk is full."""
        with clear_disk_errors("temporary frames"):
            self.file.write(np.ascontiguousarray(array))
        self.count, self.like = self.count + 1, array

    def array(self) -> np.ndarray:
        """All that was added, (count, ...), read from the disk where it is looked at; it can be written to."""
        with clear_disk_errors("temporary frames"), self.file:
            self.file.flush()
            return np.memmap(self.file, self.like.dtype, "r+", shape=(self.count, *self.like.shape))


class Parts:
    """`keyframes.Known` in a folder, a file for each window, so that a run can go on where it stopped.

    Pictures are kept in float16, for a run that was interrupted and one that was not alike.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.places: dict[int, tuple[int, int]] = {}  # of each frame: the window, and where in it
        self.done = 0

    def begin(self, about: dict, windows: Sequence[Sequence[int]]) -> None:
        """Takes up what is done of the run that `about` describes: `done` of `windows`, the frames that each makes.

        Raises `InputError` where the folder belongs to a run with other settings, and says which.
        """
        file = self.folder / ABOUT
        if not self._file(0).exists():
            temporary = file.with_suffix(f".{os.getpid()}")
            with clear_disk_errors(self.folder):
                temporary.write_text(json.dumps(about))
                os.replace(temporary, file)
            return
        before = json.loads(file.read_text())
        changed = [name for name in about | before if about.get(name) != before.get(name)]
        if changed:
            raise InputError(
                f"{self.folder} holds windows of an earlier run that was not finished, with another "
                f"{', '.join(changed)}: give the same again to go on, or delete that folder to begin anew"
            )
        while self.done < len(windows) and self._file(self.done).exists():
            self._place(self.done, windows[self.done])

    def keep(self, step: int, frames: Sequence[int], pictures: Tensor) -> None:
        """Writes what window `step` made of its frames, (T, h, w, 3) in [0, 1]."""
        temporary = self.folder / f"{os.getpid()}.npy"
        with clear_disk_errors(self.folder):
            np.save(temporary, pictures.half().numpy())
            os.replace(temporary, self._file(step))
        self._place(step, frames)

    def __getitem__(self, frame: int) -> Tensor:
        step, place = self.places[frame]
        return torch.from_numpy(np.load(self._file(step), mmap_mode="r")[place].astype(np.float32))

    def _place(self, step: int, frames: Sequence[int]) -> None:
        self.places.update((frame, (step, place)) for place, frame in enumerate(frames))
        self.done = step + 1

    def _file(self, step: int) -> Path:
        return self.folder / f"window-{step:05d}.npy"


@contextlib.contextmanager
def parts_beside(output: str | os.PathLike | None) -> Iterator[Parts]:
    """The parts of a run that writes `output`: in OUTPUT.parts, or in a temporary folder where nothing is written.

    When the block ends well the folder goes; when not, it stays if a window is done. Raises `InputError` where the
    place is taken, also by another process that works there now, or cannot be written to.
    """
    if output is None:
        with tempfile.TemporaryDirectory() as folder:
            yield Parts(Path(folder))
        return
    place = Path(os.path.realpath(output))
    folder = place.with_name(f"{place.name}.parts")
    with alone(output):
        if folder.exists() and not (folder / ABOUT).is_file() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"{folder} is needed for windows that are done, but is something else: move it away")
        with clear_disk_errors(folder):
            folder.mkdir(exist_ok=True)
        try:
            yield Parts(folder)
        except BaseException:
            if not any(folder.glob("window-*.npy")):
                shutil.rmtree(folder)
            raise
        shutil.rmtree(folder)


@contextlib.contextmanager
def clear_disk_errors(what) -> Iterator[None]:
    """Turns an `OSError` into an `InputError` that says what could not be written."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{what} could not be written ({error.strerror or error}): make room") from error
