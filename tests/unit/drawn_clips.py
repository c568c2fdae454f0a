"""A folder of drawn clips with where their objects are, in all ways that build-vivid reads."""

import json

import numpy as np
import small_datasets as datasets
from PIL import Image

from train.data.synthetic import draw

FRAMES, SIDE = 8, 64


def clip(i, frames=FRAMES, side=SIDE, **options):
    return draw(21, i, frames, side, side, **options)


def counts(mask):
    """The run lengths of a mask (H, W), column by column."""
    line = np.concatenate([[False], mask.T.ravel(), [True]])
    changes = np.flatnonzero(np.diff(line.astype(np.int8)))
    return np.diff(np.concatenate([[0], changes, [mask.size]])).tolist()


def box(mask):
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return [int(v) for v in (columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0])]


def words(drawn, i=0):
    return f"{drawn.objects[i].color} {drawn.objects[i].shape}"


def folder(root):
    """Four clips: numbered masks of all frames, a picture, a video with RLE, a mask of one frame; what is drawn."""
    numbered, picture, coded, tracked = clip(0), clip(1, frames=1), clip(2), clip(3)
    datasets.pictures(root / "numbered" / "frames", numbered.frames)
    datasets.annotations(root / "numbered" / "masks", numbered)
    labels = {f"{i + 1}": words(numbered, i) for i in range(len(numbered.objects))}
    Image.fromarray(picture.frames[0]).save(root / "picture.png")
    (root / "picture" / "masks").mkdir(parents=True)
    for i, mask in enumerate(picture.object_masks[:, 0]):
        Image.fromarray(mask).save(root / "picture" / "masks" / f"{words(picture, i)} {i}.png")
    datasets.video(root / "more" / "coded.mp4", coded.frames)
    codes = [{"size": [SIDE, SIDE], "counts": counts(mask)} for mask in coded.object_masks[0]]
    (root / "more" / "coded.json").write_text(json.dumps([{"segmentations": codes, "category": words(coded)}]))
    datasets.pictures(root / "tracked", tracked.frames)
    (root / "tracked" / "masks").mkdir()
    Image.fromarray(tracked.object_masks[0, 3]).save(root / "tracked" / "masks" / "00003.png")
    labels = {"numbered": labels, "tracked": words(tracked)}
    (root / "labels.json").write_text(json.dumps(labels))
    return {"numbered": numbered, "picture": picture, "more/coded": coded, "tracked": tracked}
