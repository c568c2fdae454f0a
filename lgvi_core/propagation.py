"""An edited frame, or several, carried through the rest of a video (VIVID, arXiv 2411.15260, section 4.3)."""

from __future__ import annotations

from .errors import InputError
from .inpaint import Pathlike, fill
from .keyframe_pictures import Given
from .through import Result


def propagate(
    video,
    prompt: str = "",
    output: Pathlike | None = None,
    *,
    mask=None,
    keyframes: Given,
    chain: bool = True,
    track: bool = True,
    **options,
) -> Result:
    """Carry edited frames through the rest of a video, within a mask, by a checkpoint of the CoCoCo family.

    keyframes: pictures or their paths by the frames that they are for, from the end where negative; made by
    `frame_editing.edit_frame` or anywhere else. One of another size is resized. They come back as they are within the
    mask, to the bit where the output is not compressed. keyframe_outside: what a keyframe has elsewhere is dropped for
    the video's own ("keep"), or taken over and faded out over the frames near it ("blend"). mask: what is to change,
    for each frame, or for one, from which it is tracked (`mask_frame`, by default that of the first keyframe). chain:
    each window goes on from the last frames of the one before, forwards and backwards from the keyframes; else
    overlapping windows are blended, and a keyframe counts in those that it lies in. An edit does not cross scene cuts,
    unless `cross_cuts`: a scene without a keyframe is filled by the prompt alone, and without a prompt stays as it is.

    options, and the rest: as in `inpaint.fill`. Raises `InputError` for all that a person can mend, before long work.
    """
    keyframes = list(keyframes.items() if hasattr(keyframes, "items") else keyframes)
    if not keyframes:
        raise InputError("no keyframe is given: give at least one edited frame, or use fill")
    return fill(video, prompt, output, mask=mask, keyframes=keyframes, chain=chain, track=track, **options)
