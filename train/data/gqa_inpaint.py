"""GQA-Inpaint: single images with one object removed, and the scene graphs of GQA that say what stands where.

    images/<id>.jpg                      the images
    images_inpainted/<id>/<object>.jpg   the image without that object
    masks/<id>/<object>.jpg              white is removed
    <split>_scenes.json
        <id>.objects.<object>.name         "chair"
        <id>.objects.<object>.attributes   ["red", "wooden"] (optional)
        <id>.objects.<object>.relations    [{"name": "to the left of", "object": "<object>"}] (optional)

The requests are made from the scene graph, and only those that single the object out among the objects of its image:
"remove the chair" where there is one chair, "remove the red chair", "remove the chair to the left of the table".
Objects that nothing singles out are not part of the dataset; how many are is logged.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

from lgvi_core.errors import InputError

from .records import Record, inside

log = logging.getLogger(__name__)

MARK = "folders images, images_inpainted and masks"
WHERE = "get GQA-Inpaint as its authors (Inst-Inpaint, arXiv 2304.03246) describe and give its folder"
SETTINGS: dict = {}


def matches(root: Path) -> bool:
    return all((root / name).is_dir() for name in ("images", "images_inpainted", "masks"))


def records(root: Path, settings: dict) -> Iterator[Record]:
    """One record for each object that has an inpainted image and a request that singles it out."""
    path = root / f"{settings['split']}_scenes.json"
    if not path.is_file():
        raise InputError(f"{path} does not exist; the setting `split` says which scenes are read")
    try:
        scenes = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is no JSON: {error}") from None
    vague = 0
    for image, scene in scenes.items():
        folder = root / "images_inpainted" / image
        if not isinstance(scene, dict) or not isinstance(scene.get("objects"), dict):
            raise InputError(f"{path}: {image} has no `objects`; expected <id>.objects.<object>.name")
        if not folder.is_dir():
            continue
        for number in sorted({file.stem for file in folder.iterdir()} & scene["objects"].keys()):
            captions = requests(scene["objects"], number)
            if not captions:
                vague += 1
                continue
            parts = inside(root / "images", image), inside(root / "masks" / image, number), inside(folder, number)
            yield Record(f"{image}/{number}", *parts, captions)
    if vague:
        log.info("%s: nothing singles out %d objects; they are not used", path, vague)


def requests(objects: dict[str, dict], number: str) -> tuple[str, ...]:
    """The requests that mean object `number` alone: by its name, an attribute, or how it stands to another."""
    meant = objects[number]
    rivals = [o for key, o in objects.items() if key != number and o.get("name") == meant.get("name")]
    name = meant.get("name", "")
    if not name:
        return ()
    if not rivals:
        phrases = [name]
    else:
        phrases = []
        for attribute in meant.get("attributes", ()):
            if not any(attribute in rival.get("attributes", ()) for rival in rivals):
                phrases.append(f"{attribute} {name}")
    for relation in meant.get("relations", ()):
        other = objects.get(str(relation.get("object")), {}).get("name")
        said = (relation.get("name"), other)
        if other and said not in {said for rival in rivals for said in _relations(rival, objects)}:
            phrases.append(f"{name} {said[0]} the {other}")
    return tuple(dict.fromkeys(f"remove the {phrase}" for phrase in phrases))


def _relations(rival: dict, objects: dict) -> list[tuple]:
    pairs = rival.get("relations", ())
    return [(r.get("name"), objects.get(str(r.get("object")), {}).get("name")) for r in pairs]
