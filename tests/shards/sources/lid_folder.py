"""A small package of LID's track 1, made of random pictures."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from shards.images import encode_png
from shards.taxonomy import ilsvrc_det_200, palette
from tests.shards.sources.pictures import jpeg, put

VAL, TEST = ["ILSVRC2012_val_00000007", "ILSVRC2012_val_00000003"], ["ILSVRC2012_test_00000001"]
IMAGES = "LID_track1_imageset/LID_track1"
ANNOTATIONS = "LID_track1_annotations"
DOG, PERSON = 58, 124


def mask_of(height: int, width: int) -> np.ndarray:
    """Person, dog, and a strip that is ambiguous."""
    mask = np.zeros((height, width), np.uint8)
    mask[3:11, 5:19], mask[11:13], mask[20:29, 23:31] = PERSON, 255, DOG
    return mask


def palette_png(mask: np.ndarray) -> bytes:
    """An index PNG with VOC's colours, mode P."""
    buffer, image = io.BytesIO(), Image.fromarray(mask)
    image = image.convert("P")
    image.putdata(mask.reshape(-1).tolist())
    image.putpalette(palette().reshape(-1).tolist())
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def make_lid(root: Path, *, lists: str = "", encoding: str = "raw") -> Path:
    """Two images of val, one of test. `lists`: where val.txt and test.txt lie; `encoding`: raw or palette."""
    for split, keys in (("val", VAL), ("test", TEST)):
        for number, key in enumerate(keys):
            put(root / IMAGES / split / f"{key}.JPEG", jpeg(37 + number, 53, seed=number))
        put(root / lists.format(split=split) / f"{split}.txt", "".join(f"{key}\n" for key in keys))
    folder = "track1_val_annotations" + ("_raw" if encoding == "raw" else "")
    for number, key in enumerate(VAL):
        mask = mask_of(37 + number, 53)
        put(root / ANNOTATIONS / folder / f"{key}.png", encode_png(mask) if encoding == "raw" else palette_png(mask))
    names = enumerate(ilsvrc_det_200().names, start=1)
    put(root / ANNOTATIONS / "cat_ref.txt", "".join(f"{number} {name.replace('_', ' ')}\n" for number, name in names))
    return root
