"""VOC 2012 in small, drawn in code: its 20 classes, the lists that shipped recipes name, masks, boxes and saliency."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from shards.taxonomy import VOC_20
from tests.golden.drawn_data import png, put

_HEIGHT, _WIDTH = 96, 128
_COLUMNS = 5


def draw_voc(root: Path, *, masked: int, others: int) -> None:
    """`masked` training images are in train.txt and have masks, `others` only in train_aug.txt; val.txt has two images.

    The 20 classes are dealt among the training images. Every image has boxes and a saliency map.
    """
    train = [f"masked_{n}" for n in range(masked)] + [f"other_{n}" for n in range(others)]
    shown = {key: list(range(1 + n, 21, len(train))) for n, key in enumerate(train)} | {"val_0": [8, 12], "val_1": [15]}
    for number, (key, classes) in enumerate(shown.items()):
        _draw_image(root, key, number, classes, has_mask=not key.startswith("other"))
    lists = {"train_aug": train, "train": train[:masked], "val": ["val_0", "val_1"]}
    for name, keys in lists.items():
        put(root / "ImageSets" / "Segmentation" / f"{name}.txt", "".join(f"{key}\n" for key in keys))


def _draw_image(root: Path, key: str, number: int, classes: list[int], *, has_mask: bool) -> None:
    random = np.random.RandomState(number)
    image = random.randint(90, 130, (_HEIGHT, _WIDTH, 3)).astype(np.uint8)
    mask = np.zeros((_HEIGHT, _WIDTH), np.uint8)
    objects = []
    rows = -(-len(classes) // _COLUMNS)
    height, width = _HEIGHT // rows, _WIDTH // min(_COLUMNS, len(classes))
    for place, class_id in enumerate(classes):
        top, left = place // _COLUMNS * height + 2, place % _COLUMNS * width + 2
        bottom, right = top + height - 4, left + width - 4
        image[top:bottom, left:right] = np.array([class_id * 29 % 256, class_id * 53 % 256, class_id * 97 % 256])
        mask[top:bottom, left:right] = class_id
        corners = f"<xmin>{left + 1}</xmin><ymin>{top + 1}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax>"
        name = VOC_20.name_of(class_id)
        objects.append(f"<object><name>{name}</name><difficult>0</difficult><bndbox>{corners}</bndbox></object>")
    put(root / "JPEGImages" / f"{key}.jpg", png(image))
    put(root / "Saliency" / f"{key}.png", png(np.where(mask == 0, 5, 200).astype(np.uint8)))
    put(root / "Annotations" / f"{key}.xml", f"<annotation>{''.join(objects)}</annotation>")
    if has_mask:
        put(root / "SegmentationClass" / f"{key}.png", png(mask))
