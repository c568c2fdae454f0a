"""Pick Frames and Keyframe Propagate."""

from dataclasses import replace

import numpy as np
import torch
from check_fill import PROMPT, hole
from small import checkpoint_file, clip_of, counting, loaded, ours, raises
from videos import as_video, custom, noise, progress_hook, reach

INPUTS = {
    "prompt": PROMPT,
    "seed": 3,
    "preset": {"preset": "checkpoint's own"},
    "sampler": "ddim (LGVI)",
    "scheduler": "checkpoint's own",
    "windows_are": "chain",
    "window": 6,
    "overlap": 2,
    "frame_rate": 24.0,
    "dilation": 0.0,
    "feather": 0.0,
    "keep_untouched": True,
    "one_mask": "for all frames",
    "outside_mask": "keep the video's",
    "cross_cuts": True,
    "match_colours": True,
}
DRIFT = "a window's colours were off"


def propagate(parts, video, mask, keyframes, indices="0", **inputs):
    """What Keyframe Propagate gives: (VIDEO, frames, mask), its message but for the drift of random weights."""
    node = ours("nodes.keyframe_propagate").KeyframePropagate
    given = {"clip": parts.clip, **INPUTS, **inputs}
    out = node.execute(parts.model, parts.vae, video, mask, keyframes, indices, **given)
    return out.result, but_for_drift(out.ui["lgvi_compare"][0]["message"].split("\n"))


def but_for_drift(messages):
    return "\n".join(message for message in messages if DRIFT not in message)


def pick(video, indices, mask=None):
    return ours("nodes.pick_frames").PickFrames.execute(video, indices, mask).result


def edited(frames, mask, *indices):
    """Those frames with the masked part turned into its negative."""
    return torch.where(mask[list(indices)][..., None] > 0.5, 1 - frames[list(indices)], frames[list(indices)])


def moving_square(frames=8, size=48):
    """A bright square that moves to the right over noise, and its masks."""
    clip, mask = noise(1, size, size, seed=4).expand(frames, -1, -1, -1).clone() * 0.3, torch.zeros(frames, size, size)
    for i in range(frames):
        mask[i, 14:30, 6 + 2 * i : 22 + 2 * i] = 1
    clip[mask > 0] = torch.tensor([0.9, 0.8, 0.1])
    return clip, mask


def check_frames_are_picked_with_their_masks_from_either_end():
    frames, mask = noise(9), hole(9)
    for video in (frames, as_video(frames)):
        images, picked, indices = pick(video, " 2, -1 0", mask)
        assert torch.equal(images, frames[[2, 8, 0]]) and torch.equal(picked, mask[[2, 8, 0]]) and indices == "2, 8, 0"
    assert torch.equal(pick(frames, "4", mask[1])[1], mask[1:2]) and not pick(frames, "0")[1].any()
    raises("there is no frame 9: the video has 9 frames, 0 to 8", pick, frames, "0, 9")
    raises("frame 8 is named twice", pick, frames, "8, -1")
    for text in ("", "first", "1.5", ","):
        raises("expected whole numbers", pick, frames, text)


def check_keyframes_come_back_as_given_and_the_rest_of_the_video_too():
    parts, frames, mask = loaded("fill"), noise(13), hole(13)
    video, keys = as_video(frames), edited(frames, mask, 0, 7, 12)
    (out, result, found), message = propagate(parts, video, mask, keys, "0, 7, -1")
    inside = mask > 0.5
    for index, key in zip((0, 7, 12), keys):
        assert torch.equal(result[index][inside[index]], key[inside[index]])
    assert torch.equal(result[~inside], frames[~inside]) and torch.equal(found, mask) and message == ""
    assert (result[inside] != frames[inside]).any(dim=-1).float().mean() > 0.99
    assert torch.equal(out.get_components().audio["waveform"], video.get_components().audio["waveform"])
    (_, grown, _), _ = propagate(parts, video, mask, keys, "0, 7, -1", dilation=2.0, feather=1.0)
    for index, key in zip((0, 7, 12), keys):
        assert torch.equal(grown[index][inside[index]], key[inside[index]])
    assert torch.equal(grown[~reach(mask, 2)], frames[~reach(mask, 2)])


def check_every_frame_follows_its_keyframes_forwards_and_backwards():
    parts, frames, mask = loaded("fill"), noise(13), hole(13)
    for windows_are in ("chain", "blend"):
        one, other = (
            propagate(parts, frames, mask, key, "6", window=13, windows_are=windows_are)[0][1]
            for key in (edited(frames, mask, 6), torch.zeros(1, 16, 16, 3))
        )
        assert all(not torch.equal(a[m > 0.5], b[m > 0.5]) for a, b, m in zip(one, other, mask))
    one, other = (
        propagate(parts, frames, mask, key, "6", window=4, overlap=1)[0][1]
        for key in (edited(frames, mask, 6), torch.zeros(1, 16, 16, 3))
    )
    assert all(not torch.equal(a, b) for a, b in zip(one, other))  # the chain reaches both ends
    one, other = (
        propagate(parts, frames, mask, key, "6", window=4, overlap=1, windows_are="blend")[0][1]
        for key in (edited(frames, mask, 6), torch.zeros(1, 16, 16, 3))
    )
    assert torch.equal(one[0], other[0]) and torch.equal(one[12], other[12])  # and without it does not


def check_progress_counts_the_steps_of_all_windows_and_an_interrupt_stops_between_them():
    parts, frames, mask, seen = loaded("fill"), noise(13, seed=5), hole(13), []
    preset, management = custom(2), ours("nodes.host_editing").comfy.model_management
    with progress_hook(lambda value, total, *_, **__: seen.append((value, total))), counting(parts.model) as calls:
        propagate(parts, frames, mask, edited(frames, mask, 6), "6", preset=preset)
    values = [value for value, _ in seen]  # the host passes over some where steps are quick
    assert values == sorted(set(values)) and values[-1] == len(calls), seen
    assert {total for _, total in seen} == {len(calls)}, seen

    def stop(value, *_, **__):
        if value == 1:
            management.interrupt_current_processing()

    with progress_hook(stop), counting(parts.model) as calls:
        try:
            propagate(parts, frames, mask, edited(frames, mask, 7), "7", preset=preset)
            raise AssertionError("an interrupt did not stop the node")
        except management.InterruptProcessingException:
            assert len(calls) == 2  # the step that was under way ends


def check_the_edge_is_changed_without_a_run_and_keyframes_and_masks_are_not():
    parts, frames, mask = loaded("fill"), noise(7), hole(7)
    propagate(parts, frames, mask, edited(frames, mask, 0))
    with counting(parts.model) as calls:
        propagate(parts, frames.clone(), mask.clone(), edited(frames, mask, 0), dilation=2.0, keep_untouched=False)
        assert not calls
        for change in (
            {"mask": mask.flip(2)},
            {"keyframes": edited(frames, mask, 1)},
            {"indices": "1"},
            {"prompt": "red"},
        ):
            given = {"mask": mask, "keyframes": edited(frames, mask, 0), "indices": "0"} | change
            propagate(parts, frames, **given)
            assert calls, change
            calls.clear()


def check_masks_that_vanish_and_come_back_are_taken():
    parts, frames, mask = loaded("fill"), noise(13), hole(13)
    mask[4:9] = 0
    (_, result, found), _ = propagate(parts, frames, mask, edited(frames, mask, 0), window=4, overlap=1)
    assert torch.equal(result[4:9], frames[4:9]) and torch.equal(found, mask)
    assert all((result[i] != frames[i])[mask[i] > 0.5].any() for i in (0, 1, 2, 3, 9, 10, 11, 12))


def check_nothing_is_sampled_where_all_is_known_or_nothing_is_to_be_changed():
    parts, frames, mask = loaded("fill"), noise(3), hole(3)
    with counting(parts.model) as calls:
        (_, result, _), _ = propagate(parts, frames, mask, edited(frames, mask, 0, 1, 2), "0, 1, 2")
        assert torch.equal(result, edited(frames, mask, 0, 1, 2))
        (_, result, _), _ = propagate(parts, frames[:1], mask[:1], edited(frames, mask, 0))
        assert torch.equal(result[mask[:1] > 0.5], edited(frames, mask, 0)[mask[:1] > 0.5])
        video = as_video(frames)
        (out, _, _), message = propagate(parts, video, torch.zeros(3, 16, 16), frames[:1])
        assert out is video and message.endswith("the mask is empty: the video comes back unchanged")
    assert not calls


def check_a_keyframe_of_another_size_is_resized_and_that_is_said():
    parts, frames, mask = loaded("fill"), clip_of(5), hole(5)
    large = torch.nn.functional.interpolate(edited(frames, mask, 0).movedim(-1, 1), scale_factor=2).movedim(1, -1)
    (_, result, _), message = propagate(parts, frames, mask, large)
    assert "the keyframes are 32x32: they are resized to the video's 16x16" in message
    torch.testing.assert_close(result[0][mask[0] > 0.5], edited(frames, mask, 0)[0][mask[0] > 0.5], atol=0.2, rtol=0)


def check_one_mask_is_for_all_frames_or_tracked_from_the_keyframe():
    parts, (frames, mask) = loaded("fill"), moving_square()
    (_, _, found), message = propagate(parts, frames, mask[:1], edited(frames, mask, 0))
    assert torch.equal(found, mask[:1].expand(8, -1, -1)) and "used for all 8 frames" in message
    one_mask = {"one_mask": "tracked from the first keyframe"}
    (_, result, found), message = propagate(parts, frames, mask[3:4], edited(frames, mask, 3), "3", **one_mask)
    both = ((found > 0.5) & (mask > 0.5)).sum((1, 2)) / ((found > 0.5) | (mask > 0.5)).sum((1, 2))
    assert both.min() > 0.7 and torch.equal(found[3], mask[3])
    assert message == "the mask is that of frame 3, and tracked through the others"
    assert torch.equal(result[found < 0.5], frames[found < 0.5])


def check_an_edit_does_not_cross_a_cut_unless_it_is_told_to():
    parts, (frames, mask) = loaded("fill"), moving_square()
    frames, mask = torch.cat([frames, 1 - frames.flip(1)]), torch.cat([mask, mask.flip(1)])
    keys = edited(frames, mask, 0), torch.zeros(1, 48, 48, 3)

    def other_keyframe_changes(**inputs):
        """Whether it does, before the cut and behind it; the message and the frames behind it."""
        results = [propagate(parts, frames, mask, key, **inputs) for key in keys]
        (one, message), (other, _) = ((out[1], message) for out, message in results)
        return not torch.equal(one[1:8], other[1:8]), not torch.equal(one[8:], other[8:]), message, one[8:]

    before, behind, message, filled = other_keyframe_changes(cross_cuts=False)
    assert before and not behind and not torch.equal(filled, frames[8:])
    assert "the clip is cut at frame 8: the edit does not cross that" in message
    assert "frames 8 to 15 have no keyframe and are filled by the prompt alone" in message
    before, behind, message, left = other_keyframe_changes(cross_cuts=False, prompt=" ")
    assert before and not behind and torch.equal(left, frames[8:]) and "left as they are" in message
    before, behind, message, _ = other_keyframe_changes(cross_cuts=True)
    assert before and behind and message == ""


def check_a_drift_of_colour_is_put_right_and_said():
    parts, frames, mask = loaded("fill"), noise(13), hole(13)
    node, results = ours("nodes.keyframe_propagate").KeyframePropagate, []
    for match_colours, what in ((True, "put right"), (False, "left as they are")):
        given = {"clip": parts.clip, **INPUTS, "match_colours": match_colours}
        out = node.execute(parts.model, parts.vae, frames, mask, edited(frames, mask, 0), "0", **given)
        (message,) = out.ui["lgvi_compare"][0]["message"].split("\n")
        assert DRIFT in message and what in message
        results.append(out.result[1])
    assert not torch.equal(*results)


def check_what_a_keyframe_changes_outside_of_the_mask_is_dropped_or_taken_over():
    parts, frames, mask = loaded("fill"), noise(13), hole(13)
    key, outside = 1 - frames[:1], mask < 0.5
    (_, result, _), message = propagate(parts, frames, mask, key)
    assert torch.equal(result[outside], frames[outside])
    assert "differs from the video outside of the mask in" in message and "dropped for the video's own" in message
    (_, result, _), message = propagate(parts, frames, mask, key, outside_mask="take over the keyframes'")
    torch.testing.assert_close(result[0], key[0], atol=1e-5, rtol=0)
    changed = [(result[i] - frames[i])[outside[i]].abs().mean() for i in range(13)]
    assert all(a > b for a, b in zip(changed[:9], changed[1:10])) and not any(changed[9:])
    assert "taken over, fading within 8 frames" in message


def check_the_node_gives_what_the_command_line_does():
    parts, frames, mask = loaded("fill"), (noise(13, 20, 24) * 255).round() / 255, hole(13, 20, 24)
    keys = edited(frames, mask, 3, 12)
    for windows_are in ("chain", "blend"):
        (_, result, _), message = propagate(parts, frames, mask, keys, "3, -1", windows_are=windows_are)
        expected = ours("lgvi_core.propagation").propagate(
            frames, PROMPT, mask=mask, keyframes={3: keys[0], -1: keys[1]}, chain=windows_are == "chain",
            checkpoint=checkpoint_file("fill"), device="cpu", cross_cuts=True, seed=3, window=6, overlap=2, dilate=0,
            feather=0,
        )  # fmt: skip
        assert np.abs(result.numpy() - expected.frames).max() < 2e-2
        assert message == but_for_drift(expected.messages), (message, expected.messages)


def check_what_cannot_be_propagated_is_refused_before_any_work():
    parts, frames, mask = loaded("fill"), noise(5), hole(5)
    key = edited(frames, mask, 0)
    with counting(parts.model) as calls:
        raises("there is no frame 5: the video has 5 frames", propagate, parts, frames, mask, key, "5")
        raises("frame 4 is named twice", propagate, parts, frames, mask, edited(frames, mask, 4, 4), "4, -1")
        raises("the indices name 2 frames", propagate, parts, frames, mask, key, "0, 1")
        raises("values that are no numbers", propagate, parts, frames, mask, key * float("nan"))
        raises("mask has 3 frames but the video has 5", propagate, parts, frames, mask[:3], key)
        raises("a chain needs at least 1 frame", propagate, parts, frames, mask, key, overlap=0)
        raises("needs a CLIP", propagate, replace(parts, clip=None), frames, mask, key)
        raises("keyframes need one that fills a mask", propagate, loaded("epsilon"), frames, mask, key)
    assert not calls
