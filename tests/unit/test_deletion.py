"""Samples of deletion: masks of other clips over the background, on their own path or carried by it."""

import json

import cv2
import numpy as np
import pytest
from PIL import Image

from lgvi_core.editing import DELETION
from lgvi_core.errors import InputError
from train.data import instances
from train.data.deletion import carried, pasted
from train.data.mixing import loader
from train.data.sources import SETTINGS, FileSource, open_source

HEIGHT, WIDTH, FRAMES = 48, 72, 6


def rng(seed=0):
    return np.random.default_rng(seed)


def texture(height, width, seed=0):
    """Something that flow can follow."""
    return cv2.GaussianBlur(rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8), (0, 0), 2.5)


def disc(height, width, x, y, radius):
    rows, columns = np.mgrid[:height, :width]
    return np.hypot(columns - x, rows - y) < radius


def moving_disc(step=2.0, radius=6):
    return np.stack([disc(HEIGHT, WIDTH, 14 + step * t, 20, radius) for t in range(FRAMES)])


def centre(mask):
    return np.argwhere(mask).mean(0)[::-1]


def test_pasted_masks_keep_their_form_and_path_and_touch_nothing():
    shape, taken = moving_disc(), np.zeros((FRAMES, HEIGHT, WIDTH), bool)
    taken[:, 10:38, 20:40] = True
    places = set()
    for seed in range(20):
        mask = pasted(rng(seed), shape, taken)
        assert not (mask & taken).any() and mask[0].sum() == shape[0].sum()
        whole = mask.any(0)
        if not (whole[[0, -1]].any() or whole[:, [0, -1]].any()):
            assert np.allclose(np.diff([centre(frame)[0] for frame in mask]), 2.0)
        places.add(tuple(centre(mask[0])))
    assert len(places) > 10


def test_masks_shrink_where_there_is_little_room_and_are_given_up_where_there_is_none():
    taken = np.ones((1, HEIGHT, WIDTH), bool)
    shape = disc(HEIGHT, WIDTH, 30, 20, 12)[None]
    assert pasted(rng(), shape, taken) is None
    taken[:, 10:24, 30:44] = False
    small = pasted(rng(), shape, taken)
    assert small.any() and not (small & taken).any() and small.sum() < 0.5 * shape.sum()


def test_large_frames_are_searched_coarsely_but_never_overlap():
    taken = disc(500, 700, 350, 250, 180)[None]
    for seed in range(5):
        mask = pasted(rng(seed), disc(500, 700, 100, 100, 60)[None], taken)
        assert mask.any() and not (mask & taken).any()


@pytest.mark.parametrize("step", [(0, 0), (2, 1), (-3, 0)])
def test_the_background_carries_a_mask_along(step):
    wide = texture(HEIGHT + 60, WIDTH + 60)
    frames = [wide[30 - step[1] * t :, 30 - step[0] * t :][:HEIGHT, :WIDTH] for t in range(FRAMES)]
    mask = disc(HEIGHT, WIDTH, 36, 24, 7)
    moved = carried(frames, mask, np.zeros((FRAMES, HEIGHT, WIDTH), bool))
    assert np.array_equal(moved[0], mask)
    assert np.allclose(centre(moved[-1]) - centre(mask), (FRAMES - 1) * np.array(step), atol=1.0)
    assert abs(int(moved[-1].sum()) - int(mask.sum())) < 0.15 * mask.sum()


def test_what_passes_before_the_background_hides_the_mask_and_does_not_take_it_along():
    background = texture(HEIGHT, WIDTH)
    mask, taken = disc(HEIGHT, WIDTH, 40, 24, 8), np.zeros((FRAMES, HEIGHT, WIDTH), bool)
    frames = [background.copy() for _ in range(FRAMES)]
    for t, frame in enumerate(frames):
        taken[t, 18:30, 10 + 5 * t : 22 + 5 * t] = True
        frame[taken[t]] = texture(12, 12, 7).reshape(-1, 3)
    moved = carried(frames, mask, taken)
    assert not (moved & taken).any() and (mask & taken[-1]).any()
    assert (moved[-1] ^ (mask & ~taken[-1])).sum() < 0.05 * mask.sum()


def test_frames_without_any_motion_to_see_leave_the_mask_where_it_is():
    frames = np.full((3, HEIGHT, WIDTH, 3), 90, np.uint8)
    mask = disc(HEIGHT, WIDTH, 40, 24, 8)
    assert (carried(frames, mask, np.zeros((3, HEIGHT, WIDTH), bool)) == mask).all()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Three videos: two with masks of a moving disc, one of another size, and one with a detector's boxes."""
    root = tmp_path_factory.mktemp("clips")
    lines = []
    for number, (height, width) in enumerate([(HEIGHT, WIDTH), (2 * HEIGHT, 2 * WIDTH), (HEIGHT, WIDTH)]):
        scale, background = height / HEIGHT, texture(height, width, number)
        for part in ("video", "masks"):
            (root / f"{part}{number}").mkdir()
        for t in range(12):
            mask = disc(height, width, (14 + 2 * t) * scale, 20 * scale, 6 * scale)
            frame = background.copy()
            frame[mask] = (220, 30, 30)
            Image.fromarray(frame).save(root / f"video{number}" / f"{t:02d}.png")
            Image.fromarray(255 * mask.astype(np.uint8)).save(root / f"masks{number}" / f"{t:02d}.png")
        lines.append({"video": f"video{number}", "masks": f"masks{number}", "label": "red disc"})
    boxes = {t: [[8 + 2 * t, 14, 12, 12, "red disc", 0.9], [60, 40, 8, 6, "late", 0.8 * (t > 3)]] for t in range(12)}
    (root / "boxes.json").write_text(json.dumps(boxes))
    lines[2] = {"video": "video2", "detections": "boxes.json"}
    (root / "instances.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return root


def source(root, **settings):
    settings = {"root": str(root), **SETTINGS, **instances.SETTINGS, "cut_threshold": 0.0, **settings}
    return FileSource("own", list(instances.records(root, settings)), settings)


def objects(root, i, indices):
    number = "012"[i]
    files = [root / f"masks{number}" / f"{t:02d}.png" for t in indices]
    return np.stack([np.asarray(Image.open(file)) > 127 for file in files])


@pytest.mark.parametrize("share, count", [(0.0, 0), (0.25, 1), (0.75, 9)])
def test_a_share_of_the_samples_asks_for_nothing(dataset, share, count):
    own = source(dataset, deletion=share)
    captions = [own.entry(i).captions for i in range(len(own))]
    assert captions.count((DELETION,)) == count and len(captions) == 3 + count
    clips = {own.entry(i).name.split("/")[0] for i in range(3, len(own))}
    assert len(clips) == min(3, count)


def test_deletions_show_the_clip_itself_and_never_mask_an_object(dataset):
    own = source(dataset, deletion=0.9)
    moved = []
    for i in range(3, len(own)):
        entry, indices = own.entry(i), [1, 3, 5]
        sample = own.load(i, indices, entry.height, entry.width)
        assert np.array_equal(sample.frames, sample.clean) and sample.mask[0].any()
        assert not (sample.mask & objects(dataset, int(entry.name[5]), indices)).any()
        if "video2" in entry.name:
            assert not sample.mask[2, 40:46, 60:68].any()  # what a detector finds later is an object too
        assert np.array_equal(sample.mask, own.load(i, indices, entry.height, entry.width).mask)
        if sample.mask[2].any():
            moved.append(abs(centre(sample.mask[2]) - centre(sample.mask[0])).max() > 3 * entry.width / WIDTH)
    assert {True, False} == set(moved)  # on their own path, and carried by a background that stands still


def test_single_frames_and_clips_longer_than_the_others_get_masks_too(dataset):
    own = source(dataset, deletion=0.5)
    assert own.load(3, [7], HEIGHT, WIDTH).mask.any()
    assert own.load(4, list(range(12)), HEIGHT, WIDTH).mask[0].any()


def test_images_are_clips_of_one_frame(dataset, tmp_path):
    lines = []
    for number in (0, 1):
        for part in ("video", "masks"):
            (tmp_path / f"{part}{number}.png").symlink_to(dataset / f"{part}{number}" / "00.png")
        lines.append(json.dumps({"video": f"video{number}.png", "masks": f"masks{number}.png", "label": "red disc"}))
    (tmp_path / "instances.jsonl").write_text("\n".join(lines))
    own = source(tmp_path, deletion=0.5)
    assert [own.entry(i).frames for i in range(4)] == [1] * 4
    samples = [own.load(i, [0], HEIGHT, WIDTH) for i in range(4)]
    assert all(sample.mask.any() for sample in samples)
    assert not any((sample.mask & objects(dataset, 0, [0])).any() for sample in samples[2:])


def test_weights_choose_the_shapes_of_masks(dataset):
    boxed = source(dataset, shapes={"box": 1.0}).load(0, [0, 4], HEIGHT, WIDTH).mask
    assert all(frame.sum() == np.prod(np.ptp(np.argwhere(frame), axis=0) + 1) for frame in boxed)
    exact = source(dataset, shapes={"exact": 1.0}).load(0, [0, 4], HEIGHT, WIDTH).mask
    assert np.array_equal(exact, objects(dataset, 0, [0, 4]))


@pytest.mark.parametrize(
    "settings, complaint",
    [
        ({"shapes": {"round": 1}}, "shapes is .*box_expand"),
        ({"shapes": {}}, "weights, not all 0"),
        ({"deletion": 1.0}, "deletion is 1.0.*below 1"),
        ({"deletion": -0.1}, "deletion is -0.1"),
    ],
)
def test_settings_that_cannot_be_are_named(dataset, settings, complaint):
    with pytest.raises(InputError, match=complaint):
        source(dataset, **settings)


def test_one_video_alone_has_no_masks_to_paste(dataset):
    lines = (dataset / "instances.jsonl").read_text().splitlines()
    (dataset / "one").mkdir(exist_ok=True)
    for name in ("video0", "masks0"):
        (dataset / "one" / name).symlink_to(dataset / name)
    (dataset / "one" / "instances.jsonl").write_text(lines[0])
    with pytest.raises(InputError, match="fewer than two"):
        source(dataset / "one", deletion=0.25)


def test_a_clip_without_background_is_named(dataset):
    own = source(dataset, deletion=0.25)
    record = own.records[-1]
    full = np.ones((2, *record.mask.size[1:]), bool)

    class Everywhere:
        def covered(self, indices):
            return full

    object.__setattr__(record.mask, "own", (Everywhere(),))
    with pytest.raises(InputError, match=f"{record.name}.*no mask of 20 objects"):
        record.mask.masks([0, 1], None)


def test_training_sees_three_things_for_each_deletion(dataset, tmp_path):
    from train import config as configs

    config = configs.build(
        configs.TrainConfig,
        {
            "output": str(tmp_path), "steps": 12, "workers": 0,
            "data": {"own": {"kind": "instances", "root": str(dataset), "cut_threshold": 0.0, "deletion": 0.25}},
            "batches": [{"frames": 2, "size": 1, "width": 32, "height": 32, "data": "own", "share": 1}],
            "watch": {"data": "own"},
        },
    )  # fmt: skip
    said = [batch["sentence"][0] for batch in loader(config, 0)]
    assert said.count(DELETION) == 3 and len(said) == 12
    assert len(open_source("own", config.data["own"])) == 4
