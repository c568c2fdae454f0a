"""Where a clip's objects are: read from masks, JSON and boxes, and followed as long as they are seen."""

import json

import drawn_clips
import numpy as np
import pytest
import small_datasets as datasets
from PIL import Image

from lgvi_core.errors import InputError
from train.data import build_objects, build_segments
from train.data.build_clips import Clip
from train.data.build_filters import Limits, alike, motion
from train.data.build_objects import Object, through
from train.data.records import track


def test_run_length_codes_are_read_as_pycocotools_writes_them():
    mask = np.zeros((9, 7), bool)
    mask[2:5, 1:4] = True
    mask[3, 2] = False
    mask[8, 6] = True
    np.testing.assert_array_equal(build_segments.decode({"size": [9, 7], "counts": ";36NK052h0N"}, (9, 7)), mask)
    whole = drawn_clips.counts(mask)
    np.testing.assert_array_equal(build_segments.decode({"size": [9, 7], "counts": whole}, (9, 7)), mask)
    wide = np.zeros((100, 40), bool)
    wide[:, 10:30] = True
    wide[40, 20] = False
    np.testing.assert_array_equal(build_segments.decode({"size": [100, 40], "counts": "Xo0`P11_MWo0"}, (9, 7)), wide)
    corners = [[1, 2, 4, 2, 4, 6, 1, 6]]
    assert build_segments.decode(corners, (9, 7))[2:7, 1:5].all()
    assert build_segments.decode(corners, (9, 7)).sum() == 20
    with pytest.raises(ValueError, match="make 62 pixels, not 9 x 7"):
        build_segments.decode({"size": [9, 7], "counts": [62]}, (9, 7))


def as_clip(tmp_path, drawn, *files, masks=()):
    datasets.pictures(tmp_path / "frames", drawn.frames)
    return Clip("it", track(tmp_path / "frames"), tuple(files), tuple(masks))


def test_frames_of_one_track_are_one_object_and_labels_come_by_category(tmp_path):
    drawn = drawn_clips.clip(4)
    entries = [
        {"image_id": t, "segmentation": {"size": [64, 64], "counts": drawn_clips.counts(drawn.object_masks[i, t])},
         "category_id": 7, "obj_id": i, "score": 0.5 + 0.1 * t}
        for t in (0, 2) for i in (0, 1)
    ]  # fmt: skip
    path = tmp_path / "it.json"
    path.write_text(json.dumps({"annotations": entries, "categories": [{"id": 7, "name": "dog"}]}))
    first, second = build_objects.of(as_clip(tmp_path, drawn, path), drawn.frames, {"it": {"1": "a cat"}})
    assert (first.name, first.label, second.label, first.score) == ("0", "dog", "a cat", 0.7)
    assert sorted(first.masks) == [0, 2]
    np.testing.assert_array_equal(second.masks[2], drawn.object_masks[1, 2])


def test_boxes_are_outlined_in_the_first_frame_and_tracked(tmp_path):
    drawn = drawn_clips.clip(5)
    truth = drawn.object_masks[0]
    path = tmp_path / "it.json"
    boxes = {f"{t}": [[*drawn_clips.box(truth[t]), "ball", 0.9]] for t in (0, 4)}
    path.write_text(json.dumps(boxes))
    (one,) = build_objects.of(as_clip(tmp_path, drawn, path), drawn.frames, {})
    assert overlap(one.masks[0], truth[0]) > 0.75
    course = through(one, drawn.frames, [0, 8])
    assert (course.start, course.stop, course.end) == (0, 8, "")
    assert min(map(overlap, course.masks, truth)) > 0.7
    one.seen[4] = [(0.0, 0.0, 3.0, 3.0)]  # the detector has it elsewhere
    course = through(one, drawn.frames, [0, 8])
    assert (course.stop, course.end) == (4, "the track is lost")


def test_a_box_that_fills_the_frame_has_no_outline():
    assert not build_objects.outline(drawn_clips.clip(0).frames[0], (0, 0, 64, 64)).any()


def overlap(a, b):
    return (a & b).sum() / (a | b).sum()


def test_a_sample_ends_where_its_object_leaves_is_lost_or_the_scene_is_cut():
    drawn = drawn_clips.clip(6)
    given = {t: mask.copy() for t, mask in enumerate(drawn.object_masks[0])}
    given[6][:] = False
    course = through(Object("it", "", given), drawn.frames, [0, 8])
    assert (course.start, course.stop, course.end) == (0, 6, "the object leaves")
    given[0][:] = False
    course = through(Object("it", "", given), drawn.frames, [0, 8])
    assert (course.start, course.stop) == (1, 6)
    course = through(Object("it", "", {t: given[1] for t in range(8)}), drawn.frames, [0, 5, 8])
    assert (course.start, course.stop, course.end) == (0, 5, "a scene cut")
    gone = drawn.frames.copy()
    gone[4:] = drawn.background[4:]
    course = through(Object("it", "", {0: given[1]}), gone, [0, 8])
    assert course.stop <= 5 and course.end == "the track is lost"


def test_frames_between_two_masks_are_tracked_from_the_nearer_one():
    drawn = drawn_clips.clip(7)
    truth = drawn.object_masks[0]
    course = through(Object("it", "", {0: truth[0], 7: truth[7]}), drawn.frames, [0, 8])
    assert len(course.masks) == 8 and min(map(overlap, course.masks, truth)) > 0.75
    np.testing.assert_array_equal(course.masks[7], truth[7])


@pytest.mark.parametrize("names", [["00000.png", "00002.png"], ["mask_0.png", "mask_2.png"]])
def test_pictures_belong_to_frames_by_their_name_or_number(names, tmp_path):
    drawn = drawn_clips.clip(8)
    (tmp_path / "masks").mkdir()
    for name, t in zip(names, (0, 2)):
        Image.fromarray(drawn.object_masks[0, t]).save(tmp_path / "masks" / name)
    clip = as_clip(tmp_path, drawn, masks=[tmp_path / "masks"])
    (one,) = build_objects.of(clip, drawn.frames, {"it": "thing"})
    assert sorted(one.masks) == [0, 2] and one.label == "thing"
    np.testing.assert_array_equal(one.masks[2], drawn.object_masks[0, 2])
    (tmp_path / "masks" / names[0]).rename(tmp_path / "masks" / "mask.png")
    with pytest.raises(InputError, match="do not say which frames"):
        build_objects.of(clip, drawn.frames, {})


def test_a_mask_of_another_size_and_json_that_is_none_are_named(tmp_path):
    drawn = drawn_clips.clip(9)
    (tmp_path / "dog 3.png").write_bytes(b"")
    Image.fromarray(np.ones((5, 6), bool)).save(tmp_path / "dog 3.png")
    with pytest.raises(InputError, match="mask of 'dog 3' in frame 3 is 6x5, the clip 64x64"):
        build_objects.of(as_clip(tmp_path, drawn, masks=[tmp_path / "dog 3.png"]), drawn.frames, {})
    path = tmp_path / "it.json"
    for text, said in (("{", "cannot be read as JSON"), ('[{"segmentation": {"size": [9]}}]', "expected entries")):
        path.write_text(text)
        with pytest.raises(InputError, match=said):
            build_objects.of(as_clip(tmp_path, drawn, path), drawn.frames, {})


def test_motion_is_that_of_the_object_and_of_what_is_behind_it():
    rng = np.random.default_rng(0)
    texture = np.kron(rng.integers(40, 216, (30, 40, 3)), np.ones((6, 6, 1))).astype(np.uint8)
    thing = np.kron(rng.integers(0, 256, (8, 8, 3)), np.ones((4, 4, 1))).astype(np.uint8)
    frames, masks = np.zeros((5, 96, 128, 3), np.uint8), np.zeros((5, 96, 128), bool)
    for t in range(5):
        frames[t] = texture[20 : 20 + 96, 40 - t : 40 - t + 128]  # one pixel to the right
        frames[t, 30:62, 30 + 4 * t : 62 + 4 * t] = thing
        masks[t, 30:62, 30 + 4 * t : 62 + 4 * t] = True
    found = motion(frames, masks, masks)
    assert {part: round(1.6 * value, 1) for part, value in found.items()} == pytest.approx(
        {"foreground": 4, "background": 1, "relative": 3}, abs=0.3
    )
    assert motion(frames[:1], masks[:1], masks[:1]) is None


def test_of_two_masks_that_are_alike_one_is_left_out():
    mask = np.zeros((20, 20), bool)
    mask[4:14, 4:14] = True
    assert not alike(mask, [np.roll(mask, 3, 0)], Limits())
    assert alike(mask, [np.roll(mask, 3, 0), np.roll(mask, 1, 0)], Limits()) == "the object is there twice"
