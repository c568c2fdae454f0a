"""Regions to fill from boxes and masks, detectors' files, scene cuts, and the dataset made of them."""

import json

import numpy as np
import pytest
from PIL import Image
from skimage.draw import disk
from skimage.morphology import convex_hull_image

from lgvi_core.errors import InputError
from lgvi_core.mask_shapes import SHAPES, reshape
from train.data import __main__ as data_commands
from train.data import detections, instances, regions, scene_cuts
from train.data.scene_cuts import FILE, cuts
from train.data.sources import SETTINGS, FileSource, detect, open_source

BLACK, WHITE = np.zeros((32, 48, 3), np.uint8), np.full((32, 48, 3), 200, np.uint8)


@pytest.fixture
def mask():
    mask = np.zeros((3, 40, 60), bool)
    mask[0, 5:20, 10:14] = mask[0, 16:20, 10:30] = True  # an L
    mask[1][disk((20, 30), 7)] = True
    return mask


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_covers_the_mask_and_leaves_empty_frames_empty(mask, shape):
    shaped = reshape(mask, shape, 2.5)
    assert (shaped >= mask).all() and not shaped[2].any()
    assert np.array_equal(shaped, mask) == (shape == "exact")


def test_hull_is_the_convex_hull_of_the_pixels(mask):
    rng = np.random.default_rng(0)
    speckled = mask.copy()
    speckled[2][rng.integers(0, 40, 12), rng.integers(0, 60, 12)] = True
    for ours, frame in zip(reshape(speckled, "hull"), speckled):
        theirs = convex_hull_image(frame, offset_coordinates=False)
        assert (ours != theirs).sum() <= 3  # pixels on the hull's very edge
    line = np.zeros((1, 5, 9), bool)
    line[0, 2, [1, 6]] = True
    assert np.array_equal(np.flatnonzero(reshape(line, "hull")[0, 2]), [1, 2, 3, 4, 5, 6])


def test_box_is_the_rectangle_around_the_mask(mask):
    boxed = reshape(mask, "box")
    assert boxed[0].sum() == 15 * 20 and boxed[0, 5:20, 10:30].all()


def test_wrong_shapes_and_masks_are_named(mask):
    with pytest.raises(InputError, match="round.*hull_expand"):
        reshape(mask, "round")
    with pytest.raises(InputError, match="bool"):
        reshape(mask.astype(np.float32), "box")


def test_random_shapes_cover_their_boxes_and_keep_their_form_on_the_way():
    boxes = np.array([[10, 8, 12, 20], [20, 12, 12, 20], [np.nan] * 4])
    areas = set()
    for seed in range(40):
        shape = regions.random_shape(np.random.default_rng(seed), boxes, 64, 96)
        for frame, (x, y, wide, high) in zip(shape[:2], boxes[:2].astype(int)):
            assert frame[y : y + high, x : x + wide].all()
        assert np.array_equal(shape[0, :50, :70], shape[1, 4:54, 10:80])
        assert not shape[2].any() and shape[0].mean() < 0.3
        areas.add(int(shape[0].sum()))
    assert len(areas) > 30


def test_masks_get_random_shapes_too(mask):
    shaped = regions.shaped(np.random.default_rng(1), mask, "random", 3.0)
    assert (shaped >= reshape(mask, "box")).all() and not shaped[2].any()


PLAIN = {"0": [[4, 5, 10, 8, "dog", 0.9], [30, 5, 6, 6, "cat", 0.1]], "1": [[6, 5, 10, 8, "dog", 0.8]]}
COCO = [
    {"image_id": 0, "bbox": [4, 5, 10, 8], "category": "dog", "score": 0.9},
    {"image_id": 0, "bbox": [30, 5, 6, 6], "category": "cat", "score": 0.1},
    {"image_id": 1, "bbox": [6, 5, 10, 8], "category": "dog", "score": 0.8},
]
NUMBERED = {
    "images": [{"id": 70}, {"id": 90}], "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}],
    "annotations": [
        {"image_id": {0: 70, 1: 90}[e["image_id"]], "bbox": e["bbox"], "score": e["score"],
         "category_id": 1 if e["category"] == "dog" else 2}
        for e in COCO
    ],
}  # fmt: skip


@pytest.mark.parametrize("data", [PLAIN, COCO, NUMBERED])
def test_detections_are_read_in_every_layout(data, tmp_path):
    path = tmp_path / "found.json"
    path.write_text(json.dumps(data))
    found = detections.read(path)
    assert [(d.frame, d.box, d.label, d.score) for d in found] == [
        (0, (4, 5, 10, 8), "dog", 0.9), (0, (30, 5, 6, 6), "cat", 0.1), (1, (6, 5, 10, 8), "dog", 0.8),
    ]  # fmt: skip
    (dog,) = detections.follow(found, 2)  # the cat's score is below the threshold
    assert dog.label == "dog" and dog.boxes.tolist() == [[4, 5, 10, 8], [6, 5, 10, 8]]


@pytest.mark.parametrize(
    "text", ["{", '{"0": [[1, 2, 3]]}', '[{"image_id": 0, "bbox": [1, 2, 0, 4], "category": "dog"}]', "7", '[{"x": 1}]']
)
def test_detections_that_cannot_be_read_are_named(text, tmp_path):
    path = tmp_path / "found.json"
    path.write_text(text)
    with pytest.raises(InputError, match="found.json"):
        detections.read(path)


def test_objects_are_followed_by_label_and_overlap_and_gaps_are_bridged():
    def dog(t, x):
        return detections.Detection(t, (x, 5, 10, 10), "dog", 0.9)

    cat = detections.Detection(1, (2, 5, 10, 10), "cat", 0.9)
    found = [dog(0, 0), dog(0, 40), dog(1, 42), cat, dog(2, 4), dog(2, 44), dog(3, 6)]
    left, right = detections.follow(found, 4)
    assert left.boxes[:, 0].tolist() == [0, 2, 4, 6] and left.found == 3
    assert right.boxes[:, 0].tolist() == [40, 42, 44, 44] and right.found == 3
    assert detections.follow([dog(0, 0), dog(1, 1)], 6) == []  # gone for most of the clip


def test_captions_get_the_article_that_fits():
    assert [regions.caption(label) for label in ("dog", "old car", "a brown dog", "the sky")] == [
        "a dog", "an old car", "a brown dog", "the sky",
    ]  # fmt: skip


def test_scene_cuts_are_found_and_steady_clips_have_none():
    assert cuts([BLACK] * 5 + [WHITE] * 5, 20.0) == [5]
    fading = [np.full((32, 48, 3), 10 * t, np.uint8) for t in range(10)]
    assert cuts(fading, 20.0) == cuts([WHITE] * 8, 20.0) == []


def written(folder, name, frames):
    (folder / name).mkdir()
    for t, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / name / f"{t:03d}.png")


@pytest.fixture
def dataset(tmp_path):
    frames = [BLACK.copy() for _ in range(4)]
    for t, frame in enumerate(frames):
        frame[8:16, 10 + t : 20 + t] = 255
    written(tmp_path, "still", frames)
    written(tmp_path, "cut", [BLACK] * 2 + [WHITE] * 2)
    written(tmp_path, "masks", [255 * (frame[..., 0] > 0).astype(np.uint8) for frame in frames])
    boxes = {t: [[10 + t, 8, 10, 8, "orange box", 0.7]] for t in range(4)}
    (tmp_path / "still.json").write_text(json.dumps(boxes))
    lines = [
        {"video": "still", "detections": "still.json", "caption": "an orange box that moves"},
        {"video": "still", "masks": "masks", "label": "white thing"},
        {"video": "cut", "detections": "still.json"},
    ]
    (tmp_path / "instances.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path


def source(root, **settings):
    settings = {"root": str(root), **SETTINGS, **instances.SETTINGS, **settings}
    return FileSource("own", list(instances.records(root, settings)), settings)


def test_a_dataset_covers_its_objects_and_names_them(dataset):
    own = source(dataset)
    assert [own.entry(i).captions for i in range(len(own))] == [("an orange box",), ("a white thing",)]
    assert json.loads((dataset / FILE).read_text())["cut"]["cuts"] == [2]
    for i in range(2):
        sample = own.load(i, [0, 1, 3], 32, 48)
        assert np.array_equal(sample.frames, sample.clean)
        assert sample.mask[sample.frames[..., 0] > 0].all() and sample.mask.mean() < 0.6
        assert np.array_equal(sample.mask, own.load(i, [0, 1, 3], 32, 48).mask)


def test_the_layout_is_recognised_and_checked(dataset):
    assert detect(dataset) == "instances"
    assert len(open_source("own", {"kind": "instances", "root": str(dataset)})) == 2
    assert data_commands.main(["check", str(dataset)]) == 0


def test_random_regions_take_the_clips_caption(dataset):
    own = source(dataset, regions="random", cut_threshold=0.0)
    captions = [own.entry(i).captions[0] for i in range(3)]
    assert captions == ["an orange box that moves", "a white thing", "an orange box"]
    assert own.load(0, [0, 1], 32, 48).mask.any((1, 2)).all()


def test_videos_that_are_absent_can_be_skipped(dataset):
    lines = (dataset / "instances.jsonl").read_text()
    (dataset / "instances.jsonl").write_text(lines + '\n{"video": "gone", "detections": "still.json"}')
    with pytest.raises(InputError, match="gone"):
        source(dataset)
    own = source(dataset, skip_broken=True)
    assert len(own) == 2 and own.broken[0][0] == "gone"


def test_videos_and_detections_that_cannot_be_read_are_named_and_can_be_skipped(dataset, caplog):
    (dataset / "damaged.mp4").write_bytes(b"not a video" * 20)
    (dataset / "damaged.json").write_text("{")
    lines = [(dataset / "instances.jsonl").read_text()]
    for video, found in (("damaged.mp4", "still.json"), ("still", "damaged.json"), ("still", "gone.json")):
        lines.append(json.dumps({"video": video, "detections": found}))
    (dataset / "instances.jsonl").write_text("\n".join(lines))
    with pytest.raises(InputError, match="3 of 5 samples cannot be used, such as damaged.mp4: .*skip_broken"):
        source(dataset)
    own = source(dataset, skip_broken=True)
    assert [own.entry(i).captions for i in range(len(own))] == [("an orange box",), ("a white thing",)]
    reasons = [reason for _, reason in own.broken]
    assert len(reasons) == 3 and all(map(str.__contains__, reasons, ("damaged.mp4", "damaged.json", "gone.json")))
    assert "3 of 5 samples cannot be used and are left out" in caplog.text
    assert data_commands.main(["check", str(dataset)]) == 1


def test_a_search_for_cuts_that_is_interrupted_keeps_what_it_found(dataset, monkeypatch):
    def interrupted(frames, threshold):
        if (found := cuts(frames, threshold)) == [2]:
            return found
        raise KeyboardInterrupt

    monkeypatch.setattr(scene_cuts, "cuts", interrupted)
    with pytest.raises(KeyboardInterrupt):
        scene_cuts.cut_videos(dataset, ["cut", "still"], 20.0)
    assert list(json.loads((dataset / FILE).read_text())) == ["cut"]


def test_what_is_left_out_for_its_cuts_is_said_with_what_decides(dataset, caplog):
    source(dataset)
    assert "1 videos with a scene cut are left out: cut (1 cuts)" in caplog.text and "cut_threshold, 20" in caplog.text


def test_lines_that_are_wrong_are_named(dataset):
    (dataset / "instances.jsonl").write_text('{"video": "still"}')
    with pytest.raises(InputError, match="line 1.*detections or masks"):
        source(dataset)
    (dataset / "instances.jsonl").write_text('{"video": "still", "masks": "masks"}')
    with pytest.raises(InputError, match="label"):
        source(dataset)
    with pytest.raises(InputError, match="instance, random"):
        source(dataset, regions="all")
