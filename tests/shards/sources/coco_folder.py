"""A small data set in COCO's layout, made of random pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from shards.images import encode_png
from shards.records import Sample
from shards.sources.coco import CocoSource
from tests.shards.sources.pictures import jpeg, put

CATEGORIES = [(18, "dog"), (1, "person"), (90, "toothbrush")]
"""Not in their order, and with gaps."""
HEIGHT, WIDTH = 23, 31


def square(left: float, top: float, right: float, bottom: float) -> list[float]:
    return [left, top, right, top, right, bottom, left, bottom]


def counts_of(mask: np.ndarray) -> list[int]:
    """Run lengths, column by column, beginning with zeros: by their definition."""
    counts, current = [0], False
    for pixel in mask.T.reshape(-1).tolist():
        if pixel != current:
            counts.append(0)
            current = pixel
        counts[-1] += 1
    return counts


def annotation(number: int, image: int, category: int, segmentation: Any, **more: Any) -> dict[str, Any]:
    box = {"bbox": [3.2, 4.0, 5.0, 6.5], "iscrowd": 0, "area": 1.0}
    reported = {"id": number, "image_id": image, "category_id": category, "segmentation": segmentation}
    return reported | box | more


def crowd() -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[2:20, 12:29] = True
    return mask


def instances() -> list[dict[str, Any]]:
    """Image 9: a dog of two parts before a person, before a crowd; image 4: a toothbrush; image 5: nothing."""
    counts = {"size": [HEIGHT, WIDTH], "counts": counts_of(crowd())}
    return [
        annotation(1, 9, 18, [square(5, 4, 9, 8), square(20, 10, 22, 12)]),
        annotation(2, 4, 90, [square(0, 0, 3, 3)], bbox=[0, 0, 31, 23]),
        annotation(3, 9, 1, [square(4, 3, 14, 15)], bbox=[30.5, 2, 7, 0]),
        annotation(4, 9, 1, counts, iscrowd=1),
    ]


def expected_mask() -> np.ndarray:
    """Image 9; classes count the categories by their ids: person 1, dog 2, toothbrush 3."""
    mask = np.where(crowd(), np.uint8(255), np.uint8(0))
    mask[3:15, 4:14] = 1
    mask[4:8, 5:9] = mask[10:12, 20:22] = 2
    return mask


def document(annotations: list[dict[str, Any]] | None, **more: Any) -> dict[str, Any]:
    names = {9: "000009.jpg", 4: "000004.jpg", 5: "000005.jpg"}
    images = [{"id": n, "file_name": name, "height": HEIGHT, "width": WIDTH} for n, name in names.items()]
    reported = {} if annotations is None else {"annotations": annotations}
    categories = [{"id": n, "name": name} for n, name in CATEGORIES]
    return {"info": {"year": 2017}, "images": images, **reported, "categories": categories, **more}


def panoptic() -> tuple[list[dict[str, Any]], np.ndarray]:
    """The annotation of image 9 and its segments: two people, one of them a crowd, a dog, and pixels of none."""
    ids = np.zeros((HEIGHT, WIDTH), np.int64)
    ids[2:9], ids[9:14], ids[14:20] = 7, 256 * 3 + 1, 65536 * 2 + 5
    parts = [(7, 1, 0), (256 * 3 + 1, 18, 0), (65536 * 2 + 5, 1, 1)]
    segments = [
        {"id": number, "category_id": category, "iscrowd": is_crowd, "bbox": [0, 2, 31, 7], "area": 1}
        for number, category, is_crowd in parts
    ]
    return [{"image_id": 9, "file_name": "000009.png", "segments_info": segments}], ids


def colours(ids: np.ndarray) -> np.ndarray:
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=2).astype(np.uint8)


def make_coco(root: Path) -> Path:
    """Instances and panoptic annotations of val, a list of images of test."""
    for number, name in enumerate(("000009", "000004", "000005")):
        put(root / "val2017" / f"{name}.jpg", jpeg(HEIGHT, WIDTH, seed=number))
    put(root / "test2017" / "000001.jpg", jpeg(HEIGHT, WIDTH, seed=9))
    annotations, ids = panoptic()
    test = [{"id": 1, "file_name": "000001.jpg", "height": HEIGHT, "width": WIDTH}]
    put(root / "annotations" / "instances_val2017.json", json.dumps(document(instances())))
    put(root / "annotations" / "panoptic_val2017.json", json.dumps(document(annotations)))
    put(root / "annotations" / "panoptic_val2017" / "000009.png", encode_png(colours(ids)))
    put(root / "annotations" / "image_info_test2017.json", json.dumps(document(None, images=test)))
    return root


def source(root: Path, form: str = "instances", **changes: Any) -> CocoSource:
    settings: dict[str, Any] = {
        "root": root,
        "annotations": {"val": root / "annotations" / f"{form}_val2017.json"},
        "images": {"val": "val2017", "test": "test2017"},
        "form": form,
        "masked_splits": ("val",),
    }
    return CocoSource(**(settings | changes))


def rewrite(root: Path, annotations: list[dict[str, Any]], form: str = "instances", **more: Any) -> None:
    put(root / "annotations" / f"{form}_val2017.json", json.dumps(document(annotations, **more)))


def read(data: CocoSource, number: int = 0) -> Sample:
    return data.read(data.list_split(next(iter(data.annotations)))[number])


def two_splits(root: Path, categories: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> dict[str, Any]:
    """Val as it is, and a split train of two other images with categories of its own."""
    images = [{"id": n, "file_name": f"t{n}.jpg", "height": HEIGHT, "width": WIDTH} for n in (1, 2)]
    for n in (1, 2):
        put(root / "train2017" / f"t{n}.jpg", jpeg(HEIGHT, WIDTH, seed=10 + n))
    made = document(annotations, images=images, categories=categories)
    train = put(root / "annotations" / "instances_train2017.json", json.dumps(made))
    return {
        "annotations": {"val": root / "annotations" / "instances_val2017.json", "train": train},
        "images": {"val": "val2017", "train": "train2017"},
        "masked_splits": ("val", "train"),
    }


def of_split(data: CocoSource, split: str) -> list[Sample]:
    return [data.read(listed) for listed in data.list_split(split)]
