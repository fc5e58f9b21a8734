"""A small data set in the layout of ImageNet-S, drawn in code: one rectangle per image, in the colour of its class."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from shards.id_colours import IGNORED, id_colours
from shards.images import encode_jpeg, encode_png
from tests.shards.sources.pictures import put

SHOWN = (3, 254, 255, 256, 300)
"""Class ids that images show: among them those where a byte ends."""
OTHER = 7
"""A class that some masks show beside the labelled one."""


def wnid(class_id: int) -> str:
    return f"n{2 * class_id:08d}"


def name_of(split: str, class_id: int, number: int) -> str:
    return f"{wnid(class_id)}_{number}" if split == "train" else f"ILSVRC2012_val_{split}{class_id}_{number}"


def ids_of(class_id: int, number: int, size: tuple[int, int] = (41, 53)) -> np.ndarray:
    """u16[H, W]: the ids of a mask as ImageNet-S stores them; rows at the bottom are ignored."""
    ids = np.zeros(size, np.uint16)
    ids[5 : 29 + number, 7:37] = class_id
    ids[10:14, 41:47] = OTHER if number % 2 else 0
    ids[-3:] = IGNORED
    return ids


def picture(ids: np.ndarray, class_id: int, seed: int) -> bytes:
    random = np.random.default_rng(seed)
    colour = np.array([37 * class_id % 200 + 40, 91 * class_id % 200 + 40, 53 * class_id % 200 + 40])
    image = random.normal(80, 12, (*ids.shape, 3))
    image[ids == class_id] = colour + random.normal(0, 12, (int((ids == class_id).sum()), 3))
    return encode_jpeg(np.clip(image, 0, 255).astype(np.uint8), quality=90)


def make_imagenet_s(
    root: Path,
    *,
    num_classes: int = 300,
    shown: tuple[int, ...] = SHOWN,
    train: int = 3,
    val: int = 2,
    test: int = 1,
    every_class: bool = False,
) -> Path:
    """`train`, `val`, `test`: images per class shown. The first training image of a class has a mask.

    `every_class`: the classes that are not shown have one small training image each, without a mask.
    """
    folders = {"train": ("train", train), "val": ("validation", val), "test": ("test", test)}
    masks = {"train": "train-semi-segmentation", "val": "validation-segmentation"}
    for split, (folder, count) in folders.items():
        for class_id in range(1, num_classes + 1):
            (root / folder / wnid(class_id)).mkdir(parents=True)
        if every_class and split == "train":
            for class_id in set(range(1, num_classes + 1)) - set(shown):
                path = root / folder / wnid(class_id) / f"{name_of(split, class_id, 0)}.JPEG"
                put(path, picture(ids_of(class_id, 0, (31, 43)), class_id, class_id))
        for class_id in shown:
            for number in range(count):
                name, ids = name_of(split, class_id, number), ids_of(class_id, number)
                put(
                    root / folder / wnid(class_id) / f"{name}.JPEG",
                    picture(ids, class_id, 31 * class_id + number + 7919 * len(split)),
                )
                if split == "val" or (split == "train" and number == 0):
                    put(root / masks[split] / wnid(class_id) / f"{name}.png", encode_png(id_colours(ids)))
    return root
