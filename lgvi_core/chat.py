"""A conversation about one video, each turn acting on what the turns before it left."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from .conversation import Turn
from .errors import InputError
from .inpaint import DEMO, Settings
from .locks import alone
from .requested import Outcome, act, first_frame, untouched
from .standalone import load
from .through import Places, open_writer
from .understanding import Reader, Understanding
from .video import Frame, VideoSource, open_video

KEPT = re.compile(r"(\d+)(?:-sheet)?(?:\.\w+)?")  # a turn's output or sheet
UNTOUCHED = "nothing is removed yet: the video is as it was"


@dataclass(frozen=True)
class State:
    """The video at a point of the conversation, and what was said up to there."""

    video: VideoSource
    turns: tuple[Turn, ...] = ()


@dataclass(frozen=True)
class Said:
    """One turn. output, sheet: files that this turn wrote and that stay; None where nothing was removed."""

    outcome: Outcome | None
    understood: Understanding
    output: Path | None = None
    sheet: Path | None = None


class Chat:
    """A conversation, as a context that holds the frames between its turns and deletes them at its end.

        with Chat("in.mp4", "out.mp4", open_reader()) as chat:
            said = chat.say("I only want the red circle to stay")
            chat.undo()

    video: a path that `open_video` takes. output: a path that `VideoWriter` takes: after every turn the video as it is
    then. Every turn that removes something also leaves its own video and a contact sheet in the folder `kept`, beside
    the output. Between turns frames are held without loss, so that compression does not add up. checkpoint, device,
    dtype and options: as in `inpaint.inpaint`. Raises `InputError` for all that a person can mend.
    """

    def __init__(
        self,
        video: str | os.PathLike,
        output: str | os.PathLike,
        reader: Reader,
        *,
        checkpoint=DEMO,
        device: str | None = None,
        dtype: str | None = None,
        **options,
    ):
        self.source, self.output, self.reader = open_video(video), Path(output), reader
        Places(output, None, None).check(self.source, video)
        Settings(**{name: value for name, value in options.items() if name != "callback"})  # checks them
        self.kept = self.output.with_name(f"{self.output.stem}-turns")
        if self.kept.exists() and not self.kept.is_dir():
            raise InputError(f"{self.kept} is a file, and turns are kept in a folder of that name: give another output")
        self.checkpoint = load(checkpoint, device, dtype, fills=False, words=False)
        self.options = options
        self.states = [State(self.source)]
        self._frames = self._held = None
        self._is_written = False

    def __enter__(self) -> Chat:
        place = Path(os.path.realpath(self.output))
        with contextlib.ExitStack() as held:
            held.enter_context(alone(place))
            self._frames = tempfile.TemporaryDirectory(prefix=f".{place.stem}-", dir=place.parent)
            held.callback(self._frames.cleanup)
            self._held = held.pop_all()
        return self

    def __exit__(self, *_) -> None:
        self._held.close()
        if self.kept.is_dir() and not any(self.kept.iterdir()):
            self.kept.rmdir()

    @property
    def turns(self) -> tuple[Turn, ...]:
        """What was said so far."""
        return self.states[-1].turns

    def say(self, request: str, told: Callable[[Understanding], None] = lambda understood: None) -> Said:
        """One turn: what the request means is done, or answered and nothing is changed.

        told: called with what was understood before long work starts. What is raised leaves all as it was.
        """
        if not request.strip():
            raise InputError("the request is empty: say what you want")
        now = self.states[-1]
        understood = self.reader(first_frame(now.video), request, now.turns)
        told(understood)
        outcome = None
        if understood.met:
            number, work = self._next(), Path(self._frames.name) / str(len(self.states))
            sheet = self.kept / f"{number}-sheet.png"
            shutil.rmtree(work, ignore_errors=True)
            frames = replace(now.video, has_audio=False, sample_aspect_ratio=Fraction(1))
            outcome = act(frames, understood, work, checkpoint=self.checkpoint, sheet=sheet, **self.options)
            understood = outcome.understood
            if outcome.result.unchanged:
                sheet.unlink()
        turns = now.turns + understood.turns(request)
        if not understood.met:
            if not self._is_written:
                self._put(now)
            self.states[-1] = replace(now, turns=turns)
            return Said(outcome, understood)
        state = State(self._of_frames(work), turns)
        output = self.kept / f"{number}{self.output.suffix}"
        _write(state.video, output)
        self._put(state)
        self.states.append(state)
        return Said(outcome, understood, output, sheet)

    def undo(self) -> bool:
        """Goes back to before the last turn that removed something, in the video and in what was said; False if none.

        What that turn left in `kept` stays.
        """
        if len(self.states) == 1:
            return False
        self._put(self.states[-2])
        self.states.pop()
        return True

    def _put(self, state: State) -> None:
        if state.video is self.source:
            untouched(self.source, Places(self.output, None, None), UNTOUCHED)
        else:
            _write(state.video, self.output)
        self._is_written = True

    def _next(self) -> int:
        """The number of the next kept turn, after those of earlier conversations."""
        names = [KEPT.fullmatch(path.name) for path in self.kept.iterdir()] if self.kept.is_dir() else []
        return 1 + max((int(name[1]) for name in names if name), default=0)

    def _of_frames(self, folder: Path) -> VideoSource:
        """Pictures in the place of the source's, each at its time."""
        pictures = open_video(folder)
        times = self._times

        def read(source: VideoSource) -> Iterator[Frame]:
            return (Frame(picture.image, time) for picture, time in zip(pictures, times, strict=True))

        return replace(self.source, frame_count=len(times), read=read)

    @functools.cached_property
    def _times(self) -> list:
        return [frame.time for frame in self.source]


def _write(video: VideoSource, path: Path) -> None:
    with contextlib.ExitStack() as stack:
        writer = open_writer(stack, path, video, video.path if video.has_audio else None)
        for frame in video:
            writer.write(frame.image, frame.time)
