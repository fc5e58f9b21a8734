"""The masks of a folder of results as COCO annotations: one mask in run lengths for each picture and class."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from shards.files import write_bytes
from shards.images import decode_label_png
from shards.label_type import BACKGROUND, ignore_of
from shards.sources.coco_masks import box_of_mask, compressed_counts
from shards.taxonomy import Taxonomy
from wsss.use.folder_results import rows_with_masks

COCO = "coco.json"


def write_coco(out: Path, *, taxonomy: Taxonomy) -> None:
    """Write coco.json from the masks in OUT. Category ids are class ids; background and undecided pixels are in no
    annotation."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, row in enumerate(rows_with_masks(out), start=1):
        mask_HW = decode_label_png((out / row["mask"]).read_bytes())
        height, width = mask_HW.shape
        images.append({"id": number, "file_name": row["image"], "height": height, "width": width})
        for class_id in np.unique(mask_HW).tolist():
            if class_id not in (BACKGROUND, ignore_of(mask_HW)):
                found = _annotation(mask_HW == class_id)
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": number, "category_id": class_id, "iscrowd": 0, **found}
                )
    categories = [{"id": number, "name": name} for number, name in enumerate(taxonomy.names, start=1)]
    whole = {"images": images, "annotations": annotations, "categories": categories}
    write_bytes(out / COCO, json.dumps(whole, sort_keys=True).encode(), what="the COCO annotations")


def _annotation(pixels_HW: np.ndarray) -> dict[str, Any]:
    """Run lengths, area and box [x, y, width, height] of a class's pixels, of which there is at least one."""
    box = box_of_mask(pixels_HW)
    assert box is not None
    top, left, bottom, right = box
    return {
        "segmentation": compressed_counts(pixels_HW),
        "area": int(pixels_HW.sum()),
        "bbox": [left, top, right - left, bottom - top],
    }
