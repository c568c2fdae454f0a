"""An edit that spreads from keyframes: which windows in which order, and what each of them is given.

A keyframe is a frame that is edited already. To a model that fills, its mask is zero and its video is the edited frame
(VIVID, arXiv 2411.15260, section 4.3). A clip longer than a window is chained: frames that windows before have made are
keyframes of the next one, forwards, backwards, and from two sides where keyframes lie on both.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .conditioning import WorkSize, holes_at_work_size, to_pixels
from .editing import Model, Windows, crop, sample
from .errors import InputError
from .sampling.windows import fade_in, sliding

RING = 16  # the surroundings of a mask are this part of the frame's shorter side wide
DRIFT = 4  # of 255: a drift of colour that is worth saying
CONTRAST = 0.1  # standard deviation in [0, 1] below which contrast says little about drift


@dataclass(frozen=True)
class Step:
    """One window, frames `start` to `stop` - 1: it makes those in `new`, the others guide it."""

    start: int
    stop: int
    new: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """The windows of a clip in their order. chained: what is made guides the next; else overlaps are blended."""

    steps: tuple[Step, ...]
    chained: bool

    def count(self, frames: int | None = None) -> int:
        """How many windows there are; as of `editing.Windows`."""
        return len(self.steps)


class Known(Protocol):
    """The pictures made so far: (h, w, 3) in [0, 1] on the CPU, at the working size."""

    def __getitem__(self, frame: int) -> Tensor:
        """The latest picture of a frame."""

    def keep(self, step: int, frames: Sequence[int], pictures: Tensor) -> None:
        """Keeps what window `step` made of its new frames, (T, h, w, 3)."""


class InMemory(dict):
    """`Known` without files."""

    def keep(self, step: int, frames: Sequence[int], pictures: Tensor) -> None:
        self.update(zip(frames, pictures))


def scenes_of(frames: int, cuts: Iterable[int] = ()) -> list[range]:
    """The parts of a clip between its cuts, which are the first frames of all scenes but the first."""
    return [range(start, stop) for start, stop in itertools.pairwise([0, *cuts, frames])]


def bare_scenes(scenes: list[range], keyframes: Iterable[int], asked: np.ndarray) -> list[range]:
    """The scenes that have something to change, bool (T,) by frame, and no keyframe to go by."""
    keyframes = list(keyframes)
    return [
        scene
        for scene in scenes
        if asked[scene.start : scene.stop].any() and not any(frame in scene for frame in keyframes)
    ]


def said_of_scenes(scenes: list[range], bare: list[range], by_words: bool) -> list[str]:
    """What a person should know of a clip's scenes; bare: those without a keyframe, where others have one."""
    if len(scenes) == 1:
        return []
    places = ", ".join(str(scene.start) for scene in scenes[1:])
    said = f"the clip is cut at frame {places}: the edit does not cross that (cross-cuts lets it)"
    if bare:
        spans = ", ".join(f"{scene.start} to {scene[-1]}" for scene in bare)
        what = "filled by the prompt alone" if by_words else "left as they are: give a keyframe there, or a prompt"
        said += f"; frames {spans} have no keyframe and are {what}"
    return [said]


def said_of_drift(drift: float, match: bool) -> list[str]:
    """What a person should know of the largest drift of colour, of 1, that `spread` met."""
    if 255 * drift < DRIFT:
        return []
    what = "put right" if match else "left as they are"
    return [f"around the mask a window's colours were off by up to {255 * drift:.0f} of 255: {what}"]


def plan(scenes: Iterable[range], keyframes: Iterable[int], windows: Windows, chained: bool = True) -> Plan:
    """The windows that fill all frames of the scenes but the keyframes; none reaches from one scene into another.

    windows.overlap: how many known frames guide a chained window, where there are so many, or how many two windows
    share to be blended. Raises `InputError` for a chain without overlap.
    """
    if chained and not windows.overlap:
        raise InputError(
            f"window is {windows.window} and overlap {windows.overlap}; a chain needs at least 1 frame of the window "
            "before: give a window of 2 or more and an overlap, or blend"
        )
    given = set(keyframes)
    steps = []
    for scene in scenes:
        steps += _Chain(scene, given, windows).steps if chained else _overlapping(scene, given, windows)
    return Plan(tuple(steps), chained)


def _overlapping(scene: range, given: set[int], windows: Windows) -> list[Step]:
    parts = (frames for _, frames in sliding(scene, windows.window, windows.overlap))
    return [Step(part[0], part[-1] + 1, tuple(frame for frame in part if frame not in given)) for part in parts]


class _Chain:
    """The windows of one scene. First those that begin at keyframes; then between them, from both sides until they
    meet; then on to the scene's end, and back to its beginning."""

    def __init__(self, scene: range, given: set[int], windows: Windows):
        self.scene, self.window = scene, windows.window
        self.carried = max(1, min(windows.overlap, (windows.window - 1) // 2))
        self.known = given & set(scene)
        self.steps: list[Step] = []
        groups = self._groups()
        self._begin(groups)
        for before, after in itertools.pairwise(groups):
            self._between(before[-1], after[0])
        self._forwards(windows.overlap)
        self._backwards(windows.overlap)

    def _groups(self) -> list[list[int]]:
        """Keyframes that fit into one window together."""
        groups: list[list[int]] = []
        for frame in sorted(self.known):
            if groups and frame - groups[-1][0] < self.window:
                groups[-1].append(frame)
            else:
                groups.append([frame])
        return groups

    def _begin(self, groups: list[list[int]]) -> None:
        """A window from the first keyframe of each group on, at most half of the way to the next group."""
        firsts = [group[0] for group in groups] or [self.scene.start]
        ends = [(group[-1] + 1 + after[0]) // 2 for group, after in itertools.pairwise(groups)] + [self.scene.stop]
        for start, end in zip(firsts, ends):
            stop = min(start + self.window, end)
            if start == firsts[0]:
                start = max(self.scene.start, stop - self.window)
            self._add(start, stop)

    def _between(self, left: int, right: int) -> None:
        while unknown := [frame for frame in range(left, right) if frame not in self.known]:
            first, stop = unknown[0], unknown[-1] + 1
            room = self.window - min(self.carried, self._run(first - 1, -1)) - min(self.carried, self._run(stop, 1))
            if len(unknown) <= room:
                self._fill(first, stop)
                return
            half = (len(unknown) + 1) // 2
            made = min(half, self.window - self.carried)
            self._fill(first, first + made)
            self._fill(max(first + made, stop - made), stop)

    def _forwards(self, carried: int) -> None:
        first = max(self.known) + 1
        while first < self.scene.stop:
            stop = min(self.scene.stop, first + self.window - min(carried, self._run(first - 1, -1)))
            self._fill(first, stop)
            first = stop

    def _backwards(self, carried: int) -> None:
        stop = min(self.known)
        while stop > self.scene.start:
            first = max(self.scene.start, stop - self.window + min(carried, self._run(stop, 1)))
            self._fill(first, stop)
            stop = first

    def _fill(self, first: int, stop: int) -> None:
        """A window for unknown frames, as long as a window may be by known frames at both sides."""
        room = self.window - (stop - first)
        before, after = self._run(first - 1, -1), self._run(stop, 1)
        before = min(before, room - min(after, room // 2))
        self._add(first - before, stop + min(after, room - before))

    def _run(self, frame: int, way: int) -> int:
        """How many known frames lie in a row, from `frame` on."""
        count = 0
        while count < self.window and frame + way * count in self.known:
            count += 1
        return count

    def _add(self, start: int, stop: int) -> None:
        new = tuple(frame for frame in range(start, stop) if frame not in self.known)
        if new:
            self.steps.append(Step(start, stop, new))
            self.known.update(new)


@torch.no_grad()
def spread(
    plan: Plan,
    images: Sequence[np.ndarray],
    holes: Sequence[np.ndarray],
    keyframes: Mapping[int, np.ndarray],
    known: Known,
    model: Model,
    working: WorkSize,
    seed: int,
    done: int = 0,
    match: bool = True,
) -> Iterator[Tensor]:
    """Runs the windows of a plan in order; `known` keeps what they make. Yields each one's drift of colour, (3,).

    images: (H, W, 3), uint8 or float in [0, 1]; holes: (H, W) bool, 1 = fill; read by their numbers, a window at a
    time. keyframes: edited frames like the images. done: how many windows `known` has already. match: put the drift
    right, see `match_colours`. A window with nothing to fill is not sampled. In place of `editing.edit`.
    """
    for number, step in enumerate(plan.steps[done:], done):
        frames = range(step.start, step.stop)
        source = to_pixels([images[frame] for frame in frames], working, model.device)
        hole = holes_at_work_size([holes[frame] for frame in frames], working, model.device)
        pixels, open_hole = source.clone(), hole.clone()
        for place, frame in enumerate(frames):
            if frame not in step.new:
                edited = _seen(keyframes, known, frame, working, model.device)
                pixels[place], open_hole[place] = torch.where(hole[place] > 0, edited, source[place]), 0
        drift = torch.zeros(3)
        if open_hole.any():
            latents = sample(number, step.start, pixels, model, seed, hole=open_hole)[1]
            made = crop(model.decode(latents), working)
            before = crop((source.permute(0, 2, 3, 1) + 1) / 2, working).to(made)
            place = crop(hole.movedim(1, -1), working)[..., 0] > 0
            matched, drift = match_colours(made, before, place, pixels.shape[-1] // latents.shape[-1])
            made = (matched if match else made).cpu()
        else:
            made = crop((pixels.permute(0, 2, 3, 1) + 1) / 2, working).cpu()
        made = made[[frame - step.start for frame in step.new]]
        if not plan.chained and number and frames.start < plan.steps[number - 1].stop:
            made = _blended(made, step, plan.steps[number - 1], known)
        known.keep(number, step.new, made)
        yield drift.cpu()


def match_colours(made: Tensor, source: Tensor, hole: Tensor, margin: int = 0) -> tuple[Tensor, Tensor]:
    """A window's pictures with the source's colours, and how far they were off: (T, H, W, 3) and (3,).

    made, source: (T, H, W, 3) in [0, 1]; hole: (T, H, W) bool. The surroundings of the hole, which the model had before
    it, tell: each channel gets their mean and, as far as they have any contrast, their standard deviation. What is
    within `margin` pixels of the hole is left out: latents there show the fill too. Where there are no surroundings
    nothing changes.
    """
    reach = margin + max(2, min(hole.shape[1:]) // RING)
    ring = _grown(hole, reach) & ~_grown(hole, margin)
    if not ring.any():
        return made, torch.zeros(3)
    ours, theirs = made[ring], source[ring]
    ours_vary, theirs_vary = (part.var(dim=0, correction=0) + CONTRAST**2 for part in (ours, theirs))
    matched = (made - ours.mean(dim=0)) * (theirs_vary / ours_vary).sqrt() + theirs.mean(dim=0)
    return matched.clamp(0, 1), ours.mean(dim=0) - theirs.mean(dim=0)


def _grown(hole: Tensor, pixels: int) -> Tensor:
    return F.max_pool2d(hole[:, None].float(), 2 * pixels + 1, stride=1, padding=pixels)[:, 0] > 0


def _seen(keyframes, known: Known, frame: int, working: WorkSize, device) -> Tensor:
    """A frame that is edited already, as pixels (3, h, w)."""
    edited = keyframes[frame] if frame in keyframes else known[frame].numpy()
    return to_pixels([edited], working, device)[0]


def _blended(made: Tensor, step: Step, before: Step, known: Known) -> Tensor:
    """What two windows share, over from the one before to this one."""
    ramp = fade_in(before.stop - step.start)
    made = made.clone()
    for place, frame in enumerate(step.new):
        if frame < before.stop:
            made[place] = torch.lerp(known[frame], made[place], ramp[frame - step.start])
    return made
