"""LID's track 1 in its layout on disk, drawn: every kind of training image, and a few images of val and test."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from shards.images import encode_png
from shards.taxonomy import ilsvrc_det_200
from tests.shards.sources.ilsvrc_folder import SYNSETS, ObjectBox, write_lists, xml
from tests.shards.sources.pictures import put

SIZES = ((375, 500), (500, 375))
CLASSES = {name: ilsvrc_det_200().id_of(name) for name in ("ant", "dog", "train", "person")}
_IMAGES, _ANNOTATIONS = "LID_track1_imageset/LID_track1", "LID_track1_annotations"
_2013, _2014 = "ILSVRC2013_train", "ILSVRC2014_train_0000/ILSVRC2014_train_0000000"
TRAIN: dict[str, tuple[str, ...]] = {
    **{f"{_2013}/{SYNSETS[CLASSES[name]]}/{SYNSETS[CLASSES[name]]}_1": (name,) for name in ("ant", "dog")},
    f"{_2014}1": ("train", "person"),
    f"{_2014}2": ("person",),
    f"{_2013}_extra0/{_2013}_00000001": (),
}
"""Key -> classes. The last image is a negative, without XML: it was checked for one class."""
VAL = {"ILSVRC2012_val_00000007": ("dog", "person")}
TEST = ("ILSVRC2015_test_00000011", "ILSVRC2015_test_00000005")


def draw_lid(folder: Path) -> dict[str, str]:
    """Write both trees, and return the environment variables that the recipes read."""
    root, package = folder / "det", folder / "lid"
    for number, (key, names) in enumerate(TRAIN.items()):
        image, mask = picture(number, names)
        put(root / "ILSVRC" / "Data" / "DET" / "train" / f"{key}.JPEG", encode_png(image))
        annotation = root / "ILSVRC" / "Annotations" / "DET" / "train" / f"{key}.xml"
        annotation.parent.mkdir(parents=True, exist_ok=True)
        if names:
            height, width = mask.shape
            put(annotation, xml([box_of(mask, CLASSES[name]) for name in names], height=height, width=width))
    write_lists(root, {class_id: _list_of(name) for name, class_id in CLASSES.items()})
    for number, (key, names) in enumerate(VAL.items()):
        image, mask = picture(20 + number, names)
        put(package / _IMAGES / "val" / f"{key}.JPEG", encode_png(image))
        put(package / _ANNOTATIONS / "track1_val_annotations_raw" / f"{key}.png", encode_png(mask))
    for number, key in enumerate(TEST):
        put(package / _IMAGES / "test" / f"{key}.JPEG", encode_png(picture(30 + number, ("dog",))[0]))
    for split, keys in (("val", VAL), ("test", TEST)):
        put(package / f"{split}.txt", "".join(f"{key}\n" for key in keys))
    names = enumerate(ilsvrc_det_200().names, start=1)
    put(package / _ANNOTATIONS / "cat_ref.txt", "".join(f"{number} {name}\n" for number, name in names))
    return {"ILSVRC_ROOT": str(root), "LID_PACKAGE": str(package)}


def _list_of(name: str) -> list[str]:
    """A line for every image that was checked for a class: all of 2014, and in 2013 the images of its own folder."""
    own = [key for key in TRAIN if key.startswith(_2014) or (name in TRAIN[key])]
    negative = [key for key in TRAIN if "extra" in key and name == "ant"]
    return [f"{key} {1 if name in TRAIN[key] else -1}" for key in own + negative]


def picture(number: int, names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """An image of noise with a patch of colour for every class, and its mask."""
    height, width = SIZES[number % 2]
    generator = np.random.default_rng(number)
    image = generator.integers(60, 120, (height, width, 3), dtype=np.uint8)
    mask = np.zeros((height, width), np.uint8)
    for place, name in enumerate(names):
        left = width // 8 + place * width // 2
        inside = (slice(height // 4, 3 * height // 4), slice(left, left + width // 4))
        image[inside] = generator.integers(130, 250, 3)
        mask[inside] = CLASSES[name]
    return image, mask


def box_of(mask: np.ndarray, class_id: int) -> ObjectBox:
    rows, columns = np.nonzero(mask == class_id)
    return class_id, int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())
