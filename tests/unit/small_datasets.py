"""Small datasets of every layout, written from clips that the code draws itself."""

import json

import numpy as np
from PIL import Image

from lgvi_core.video import VideoWriter
from train.data.synthetic import draw

CLIPS, FRAMES, SIDE = 4, 5, 48


def clip(i: int, frames: int = FRAMES, height: int = SIDE, width: int = SIDE):
    """A drawn clip with something to remove; its request says which side only by words that can be turned."""
    return draw(11, i, frames, height, width, kind="attributes", scale=min(height, width) / 64)


def pictures(folder, frames, ending="png"):
    folder.mkdir(parents=True, exist_ok=True)
    for t, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{t:05d}.{ending}")


def triplets(root, clips=CLIPS, rows=None, **options):
    """captions.jsonl and folders of pictures; `rows` change or add fields of a row by its index."""
    lines = []
    for i in range(clips):
        drawn = clip(i, **options)
        for part in ("frames", "clean", "mask"):
            pictures(root / f"{i}" / part, getattr(drawn, part))
        row = {"name": f"clip{i}", "video": f"{i}/frames", "mask": f"{i}/mask", "clean": f"{i}/clean"}
        lines.append(json.dumps(row | {"caption": drawn.sentence} | (rows or {}).get(i, {})))
    (root / "captions.jsonl").write_text("\n".join(lines))
    return root


def video(path, frames):
    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(path, frames.shape[2], frames.shape[1], 24) as writer:
        for frame in frames:
            writer.write(frame)


def annotations(folder, drawn, first=0):
    """Palette pictures; pixel value = 1 + the object's place in the clip."""
    folder.mkdir(parents=True, exist_ok=True)
    for t in range(first, len(drawn.frames)):
        numbers = np.zeros(drawn.mask.shape[1:], np.uint8)
        for i, mask in enumerate(drawn.object_masks[:, t]):
            numbers[mask] = i + 1
        picture = Image.fromarray(numbers, "P")
        picture.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 0, 0, 128, 128, 128, 0])
        picture.save(folder / f"{t:05d}.png")


def rovi(root, clips=CLIPS):
    """The folders of ROVI; returns, for each clip, the video, the object's number and the expression."""
    found = []
    for i in range(clips):
        drawn, name = clip(i), f"video{i}"
        number = drawn.targets[0] + 1
        pictures(root / "JPEGImages" / name, drawn.frames, "jpg")
        annotations(root / "Annotations" / name, drawn)
        pictures(root / "InpaintImages" / name / f"{number}", drawn.clean)
        found.append((name, number, f"the thing number {i}"))
    return found


def refer_youtube_vos(root, clips=CLIPS):
    """Refer-YouTube-VOS with inpainted results; a frame that the JSON does not name; an object without a result."""
    videos = {}
    for i, (name, number, words) in enumerate(rovi(root / "train", clips)):
        expressions = {"0": {"exp": words, "obj_id": f"{number}"}, "1": {"exp": f"also {words}", "obj_id": f"{number}"}}
        if i == 0:
            expressions["2"] = {"exp": "what nobody has inpainted", "obj_id": "9"}
        videos[name] = {"frames": [f"{t:05d}" for t in range(FRAMES - 1)], "expressions": expressions}
    folder = root / "meta_expressions" / "train"
    folder.mkdir(parents=True)
    (folder / "meta_expressions.json").write_text(json.dumps({"videos": videos}))
    return root


def gqa_inpaint(root):
    """Two images; in the second, two chairs that an attribute and a relation tell apart."""
    scenes = {
        "100": {"objects": {"7": {"name": "chair"}, "8": {"name": "table"}}},
        "200": {
            "objects": {
                "1": {"name": "chair", "attributes": ["red"], "relations": [{"name": "behind", "object": "3"}]},
                "2": {"name": "chair", "attributes": ["blue"]},
                "3": {"name": "table"},
                "4": {"name": "cup"},
                "5": {"name": "cup"},
            }
        },
    }
    for image, numbers in (("100", "7"), ("200", "14")):
        for i, number in enumerate(numbers):
            drawn = clip(i, frames=1)
            pictures(root / "images", drawn.frames, "jpg")
            (root / "images" / "00000.jpg").rename(root / "images" / f"{image}.jpg")
            for folder, part in (("images_inpainted", drawn.clean), ("masks", drawn.mask.astype(np.uint8) * 255)):
                pictures(root / folder / image, part, "jpg")
                (root / folder / image / "00000.jpg").rename(root / folder / image / f"{number}.jpg")
    (root / "train_scenes.json").write_text(json.dumps(scenes))
    return root
