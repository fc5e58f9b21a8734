"""A tree of ILSVRC DET's training images in its layout and its proportions, of any size, made in a minute or two.

A few hundred small pictures are drawn and encoded; every file is one of them with a comment of its own, so that no two
are alike. At full size: 456,567 images, 349,319 annotations, 200 lists with 12 million lines.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from shards.taxonomy import ilsvrc_det_200, ilsvrc_det_synsets

FULL_SIZE, NUM_EXTRA, NUM_2014 = 456_567, 107_248, 60_658
"""Images of ILSVRC DET's train; those of its parts `extra`, which have no annotations, and of 2014."""
NUM_PICTURES, SIDES = 300, (64, 86)
PERSON = 124
_WNIDS = {class_id: wnid for wnid, class_id in ilsvrc_det_synsets().items()}
_NUM_CLASSES = len(ilsvrc_det_200())


def det_tree(folder: Path, num_images: int) -> Path:
    """The root of a tree of `num_images` images in `folder`; one that is there already is taken as it is."""
    root, reported = folder / "ILSVRC", folder / "tree.json"
    if reported.exists():
        if json.loads(reported.read_text()) != num_images:
            raise ValueError(
                f"{folder} holds a tree of {reported.read_text()} images, not {num_images}; name another folder"
            )
        return root
    images, annotations = f"{root}/Data/DET/train", f"{root}/Annotations/DET/train"
    pictures = [_picture(number) for number in range(NUM_PICTURES)]
    made: set[str] = set()
    for number, (key, classes) in enumerate(_labels(num_images)):
        below = key.rpartition("/")[0]
        if below not in made:
            made.add(below)
            for place in (images, annotations):
                os.makedirs(f"{place}/{below}", exist_ok=True)
        _write(f"{images}/{key}.JPEG", _with_comment(pictures[number % NUM_PICTURES], key))
        if classes is not None:
            _write(f"{annotations}/{key}.xml", _xml(key, classes))
    _write_lists(root / "ImageSets" / "DET", num_images)
    reported.write_text(json.dumps(num_images))
    return root


def _labels(num_images: int) -> Iterator[tuple[str, list[int] | None]]:
    """Key and classes of every image, folder by folder; None where it has no annotation."""
    num_extra, num_2014 = (num_images * part // FULL_SIZE for part in (NUM_EXTRA, NUM_2014))
    for number in range(num_extra):
        yield f"ILSVRC2013_train_extra{number * 11 // num_extra}/ILSVRC2013_train_{number:08d}", None
    for number in range(num_2014):
        yield _key_of_2014(number, num_2014), _classes_of_2014(number)
    # A few classes are frequent, most are rare.
    share = 1 / np.arange(10, 10 + _NUM_CLASSES)
    ends = np.floor(np.cumsum(share / share.sum()) * (num_images - num_extra - num_2014) + 0.5).astype(int)
    start = 0
    for place, end in enumerate(ends.tolist()):
        queried = place * 77 % _NUM_CLASSES + 1
        for number in range(start, end):
            others = {PERSON} if number % 4 == 0 else {number % _NUM_CLASSES + 1} if number % 7 == 0 else set()
            yield f"ILSVRC2013_train/{_WNIDS[queried]}/{_WNIDS[queried]}_{number}", [queried, *others]
        start = end


def _key_of_2014(number: int, num_2014: int) -> str:
    return f"ILSVRC2014_train_{number * 7 // num_2014:04d}/ILSVRC2014_train_{number:08d}"


def _classes_of_2014(number: int) -> list[int]:
    return sorted({number % _NUM_CLASSES + 1, number // 3 % _NUM_CLASSES + 1, *([PERSON] if number % 3 == 0 else [])})


def _write_lists(folder: Path, num_images: int) -> None:
    """train_1.txt to train_200.txt: all of 2014, the queried class of every folder, eight classes of an extra image."""
    folder.mkdir(parents=True, exist_ok=True)
    lines: dict[int, list[bytes]] = {class_id: [] for class_id in _WNIDS}
    of_2014: list[str] = []
    shown: dict[int, set[int]] = {class_id: set() for class_id in _WNIDS}
    for number, (key, classes) in enumerate(_labels(num_images)):
        if classes is None:
            for step in range(8):
                class_id = (number * 13 + step * 25) % _NUM_CLASSES + 1
                lines[class_id].append(f"{key} -1\n".encode())
        elif key.startswith("ILSVRC2014"):
            for class_id in classes:
                shown[class_id].add(len(of_2014))
            of_2014.append(key)
        else:
            lines[classes[0]].append(f"{key} 1\n".encode())
    absent = [f"{key} -1\n".encode() for key in of_2014]
    for class_id, own in lines.items():
        full = list(absent)
        for place in shown[class_id]:
            full[place] = absent[place][:-3] + b"1\n"
        (folder / f"train_{class_id}.txt").write_bytes(b"".join(own + full))


def _picture(number: int) -> bytes:
    """A JPEG of about 3 KB: coarse fields of colour with noise."""
    random = np.random.default_rng(number)
    coarse = random.integers(0, 256, (8, 10, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize(SIDES[::-1], Image.Resampling.BICUBIC), dtype=np.float64)
    pixels = np.clip(smooth + random.normal(0, 14, smooth.shape), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=85)
    return buffer.getvalue()


def _with_comment(jpeg: bytes, text: str) -> bytes:
    """The same picture with a comment segment behind its first marker."""
    return jpeg[:2] + b"\xff\xfe" + (len(text) + 2).to_bytes(2, "big") + text.encode() + jpeg[2:]


def _xml(key: str, classes: list[int]) -> bytes:
    """An annotation as ILSVRC's are written."""
    folder, _, name = key.rpartition("/")
    height, width = SIDES
    objects = "".join(
        f"\t<object>\n\t\t<name>{_WNIDS[class_id]}</name>\n\t\t<bndbox>\n\t\t\t<xmin>{2 + place}</xmin>\n"
        f"\t\t\t<xmax>{width - 9}</xmax>\n\t\t\t<ymin>{3 + place}</ymin>\n\t\t\t<ymax>{height - 7}</ymax>\n"
        "\t\t</bndbox>\n\t</object>\n"
        for place, class_id in enumerate(classes)
    )
    return (
        f"<annotation>\n\t<folder>{folder.rpartition('/')[2]}</folder>\n\t<filename>{name}</filename>\n"
        "\t<source>\n\t\t<database>ILSVRC_2014</database>\n\t</source>\n"
        f"\t<size>\n\t\t<width>{width}</width>\n\t\t<height>{height}</height>\n\t</size>\n{objects}</annotation>\n"
    ).encode()


def _write(path: str, content: bytes) -> None:
    with open(path, "wb", buffering=0) as file:
        file.write(content)
