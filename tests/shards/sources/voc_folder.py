"""A folder in VOC's layout, made of random pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from shards.images import encode_png
from tests.shards.sources.pictures import jpeg

LABELS = {"2007_1": ["cat", "person"], "2007_2": ["dog"], "2007_3": ["cat", "sofa"], "2007_4": []}


def make_voc(root: Path) -> Path:
    """Four pictures; train: 1, 2, 3; val: 4. Masks hold cat = 8, dog = 12, sofa = 18 and 255."""
    for folder in ("JPEGImages", "SegmentationClassAug", "Annotations", "lists"):
        (root / folder).mkdir(parents=True)
    for number, (key, names) in enumerate(LABELS.items()):
        height, width = 37 + number, 53
        (root / "JPEGImages" / f"{key}.jpg").write_bytes(jpeg(height, width, seed=number))
        mask = np.zeros((height, width), np.uint8)
        mask[3:11, 5:19], mask[11:13], mask[20:29, 23:31] = (8, 255, 18) if number != 1 else (12, 255, 12)
        (root / "SegmentationClassAug" / f"{key}.png").write_bytes(encode_png(mask))
        box = "<bndbox><xmax>19</xmax><xmin>5.6</xmin><ymin>4</ymin><ymax>900</ymax></bndbox>"
        objects = "".join(f"<object><name>{name}</name><difficult>1</difficult>{box}</object>" for name in names)
        (root / "Annotations" / f"{key}.xml").write_text(f"<annotation>{objects}</annotation>")
    (root / "labels.json").write_text(json.dumps(LABELS))
    (root / "lists" / "train.txt").write_text("2007_1\n2007_2\n2007_3\n")
    (root / "lists" / "val.txt").write_text("2007_4\n")
    return root
