"""Draws the small data sets that the golden cases read, in integer arithmetic: the same bytes on every machine.

Run as `python drawn_data.py FOLDER`; it imports nothing of the package under test.
"""

from __future__ import annotations

import csv
import json
import struct
import sys
import zlib
from pathlib import Path

import numpy as np

VOC_IDS = {"cat": 8, "dog": 12, "sofa": 18}
VOC_IMAGES = {
    "train_1": ["cat"],
    "train_2": ["cat", "dog"],
    "train_3": ["cat", "sofa"],
    "train_4": ["dog", "cat"],
    "val_1": ["cat", "dog"],
    "val_2": ["sofa"],
    "val_3": ["dog", "sofa"],
}
ILSVRC_IDS = {"ant": 3, "dog": 58, "person": 124}
ILSVRC_WNIDS = {"ant": "n02219486", "dog": "n02084071", "person": "n00007846"}
NUM_ILSVRC_CLASSES = 200
NUM_IMAGENET_S_CLASSES = 260
IGNORED = 255


def draw_everything(folder: Path) -> None:
    """All data sets, each in a folder of its own: voc, ilsvrc, lid, coco, folder, unknown, imagenet_s."""
    draw_voc(folder / "voc")
    draw_ilsvrc(folder / "ilsvrc" / "ILSVRC")
    draw_lid(folder / "lid")
    draw_coco(folder / "coco")
    draw_folder(folder / "folder")
    draw_unknown(folder / "unknown")
    draw_imagenet_s(folder / "imagenet_s")


def png(pixels: np.ndarray) -> bytes:
    """A PNG of u8[H, W] or u8[H, W, 3], not compressed: the same bytes with every version of zlib."""
    height, width = pixels.shape[:2]
    colour_type = 2 if pixels.ndim == 3 else 0
    rows = b"".join(b"\0" + np.ascontiguousarray(row).tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows, 0)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def picture(number: int, ids: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """An image u8[H, W, 3] and its mask u8[H, W]: textured discs and rectangles on a patchwork, a seam of 255 below."""
    height, width = 60 + number % 3 * 5, 64 + number % 2 * 7
    noise = np.random.RandomState(number).randint(-9, 10, (height, width, 3))
    rows, columns = np.mgrid[0:height, 0:width]
    ground = (rows // 9 * 31 + columns // 11 * 47 + number * 13) % 70 + 90
    image = np.stack([ground, (ground * 3) % 80 + 80, (ground * 7) % 60 + 70], axis=2)
    mask = np.zeros((height, width), np.uint8)
    for place, class_id in enumerate(ids):
        row, column = height // 2 + (place * 9 - 4), width * (2 * place + 1) // (2 * len(ids))
        away = (rows - row) ** 2 + (columns - column) ** 2
        box = (abs(rows - row) < 15) & (abs(columns - column) < 12)
        body = away < 196 if class_id % 3 else box
        stripes = (rows + (class_id % 5) * columns) // (2 + class_id % 4) % 2
        texture = away // 12 % 2 if class_id % 4 == 2 else stripes
        colour = np.array([class_id * 29 % 200, class_id * 53 % 200, class_id * 97 % 200])
        image[body] = (colour + 55 * texture[..., None])[body]
        mask[body] = class_id
    mask[height - 4 :, : width // 2] = IGNORED
    return np.clip(image + noise, 0, 255).astype(np.uint8), mask


def put(path: Path, content: bytes | str) -> None:
    """Write a file, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def draw_voc(root: Path) -> None:
    """VOC's layout with saliency maps: four images of train, three of val."""
    for number, (key, names) in enumerate(VOC_IMAGES.items()):
        image, mask = picture(number, [VOC_IDS[name] for name in names])
        saliency = np.where(mask == 0, 8 + number, 190).astype(np.uint8)
        put(root / "JPEGImages" / f"{key}.jpg", png(image))
        put(root / "SegmentationClassAug" / f"{key}.png", png(mask))
        put(root / "Saliency" / f"{key}.png", png(saliency))
        if number % 2:
            put(root / "SegmentationPartly" / f"{key}.png", png(mask))
        boxes = {name: _box(mask == VOC_IDS[name]) for name in names}
        objects = "".join(_voc_object(name, box) for name, box in boxes.items())
        put(root / "Annotations" / f"{key}.xml", f"<annotation>{objects}</annotation>")
    for split in ("train", "val"):
        put(root / "lists" / f"{split}.txt", "".join(f"{key}\n" for key in VOC_IMAGES if key.startswith(split)))


def _box(inside: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of what is inside; right and bottom are its last column and row."""
    rows, columns = np.nonzero(inside)
    return int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())


def _voc_object(name: str, box: tuple[int, int, int, int]) -> str:
    # Counted from 1, and drawn with a margin as by an annotator: boxes around masks are others.
    left, top, right, bottom = box[0] - 1, box[1] - 2, box[2] + 3, box[3] + 5
    ends = f"<xmin>{left}</xmin><ymin>{top}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax>"
    return f"<object><name>{name}</name><difficult>0</difficult><bndbox>{ends}</bndbox></object>"


def draw_ilsvrc(root: Path) -> None:
    """ILSVRC DET's layout: three images of train, two of val. Of the last class nobody looked at the second image."""
    first = f"ILSVRC2013_train/{ILSVRC_WNIDS['ant']}/{ILSVRC_WNIDS['ant']}"
    train = {f"{first}_1": ["ant"], f"{first}_2": ["ant", "dog"], "ILSVRC2014_train_0000/ILSVRC2014_1": ["person"]}
    val = {"ILSVRC2012_val_00000001": ["dog"], "ILSVRC2013_val_00000002": ["ant", "person"]}
    for split, images in (("train", train), ("val", val)):
        for number, (key, names) in enumerate(images.items()):
            image, mask = picture(10 + number, [ILSVRC_IDS[name] for name in names])
            put(root / "Data" / "DET" / split / f"{key}.JPEG", png(image))
            objects = "".join(_voc_object(ILSVRC_WNIDS[name], _box(mask == ILSVRC_IDS[name])) for name in names)
            size = f"<size><width>{image.shape[1]}</width><height>{image.shape[0]}</height></size>"
            database = "<source><database>ILSVRC_2013</database></source>"
            put(
                root / "Annotations" / "DET" / split / f"{key}.xml",
                f"<annotation>{database}{objects}{size}</annotation>",
            )
    put(root / "ImageSets" / "DET" / "val.txt", "".join(f"{key} {n}\n" for n, key in enumerate(val, start=1)))
    names_of = {class_id: name for name, class_id in ILSVRC_IDS.items()}
    for class_id in range(1, NUM_ILSVRC_CLASSES + 1):
        name = names_of.get(class_id)
        presence = {key: 1 if name in names else -1 for key, names in train.items()}
        if name == "person":
            presence.pop(f"{first}_2")
        put(root / "ImageSets" / "DET" / f"train_{class_id}.txt", "".join(f"{k} {v}\n" for k, v in presence.items()))


def draw_lid(root: Path) -> None:
    """The package of LID's track 1: two images of val with masks, one of test."""
    images, annotations = root / "LID_track1_imageset" / "LID_track1", root / "LID_track1_annotations"
    val = {"ILSVRC2012_val_00000003": ["ant"], "ILSVRC2012_val_00000007": ["dog", "person"]}
    for number, (key, names) in enumerate(val.items()):
        image, mask = picture(20 + number, [ILSVRC_IDS[name] for name in names])
        put(images / "val" / f"{key}.JPEG", png(image))
        put(annotations / "track1_val_annotations_raw" / f"{key}.png", png(mask))
    put(images / "test" / "ILSVRC2012_test_00000001.JPEG", png(picture(22, [3])[0]))
    put(root / "val.txt", "".join(f"{key}\n" for key in val))
    put(root / "test.txt", "ILSVRC2012_test_00000001\n")


def draw_coco(root: Path) -> None:
    """COCO's layout: three images of val with instances and panoptic annotations."""
    categories = [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}, {"id": 90, "name": "grass"}]
    shown = {4: [1], 5: [], 9: [18, 1]}
    instances: list[dict[str, object]] = []
    panoptic: list[dict[str, object]] = []
    images = []
    for number, (image_id, ids) in enumerate(shown.items()):
        image, mask = picture(30 + number, ids)
        height, width = mask.shape
        name = f"{image_id:06d}"
        images.append({"id": image_id, "file_name": f"{name}.jpg", "height": height, "width": width})
        put(root / "val2017" / f"{name}.jpg", png(image))
        segment_map = np.zeros((height, width, 3), np.uint8)
        ground = {"bbox": [0, 0, width, height // 4], "iscrowd": 0, "area": 1.0}
        segments: list[dict[str, object]] = [{"id": 200, "category_id": 90} | ground]
        segment_map[: height // 4, :, 0] = 200
        for category in ids:
            left, top, right, bottom = _box(mask == category)
            corners = [[left, top, right, top, right, bottom, left, bottom]]
            facts = {"bbox": [left, top, right - left, bottom - top], "iscrowd": 0, "area": 1.0}
            entry = {"id": len(instances) + 1, "image_id": image_id, "category_id": category, "segmentation": corners}
            instances.append(entry | facts)
            segment_map[mask == category] = (category, 1, 0)
            segments.append({"id": category + 256, "category_id": category} | facts)
        put(root / "annotations" / "panoptic_val2017" / f"{name}.png", png(segment_map))
        panoptic.append({"image_id": image_id, "file_name": f"{name}.png", "segments_info": segments})
    for form, of_form in (("instances", instances), ("panoptic", panoptic)):
        entry_all = {"info": {"year": 2017}, "images": images, "annotations": of_form, "categories": categories}
        put(root / "annotations" / f"{form}_val2017.json", json.dumps(entry_all))


def draw_folder(root: Path) -> None:
    """A folder of images with a table of labels, a class list and masks."""
    classes = ["bird", "cat", "dog"]
    shown = {"a/1.jpg": ["cat", "dog"], "a/2.png": ["dog"], "b/3.jpg": ["bird"], "b/4.jpg": ["cat"]}
    for number, (name, labels) in enumerate(shown.items()):
        image, mask = picture(40 + number, [classes.index(label) + 1 for label in labels])
        put(root / name, png(image))
        put(root / "masks" / f"{name.rpartition('.')[0]}.png", png(mask))
    put(root / "classes.txt", "".join(f"{name}\n" for name in classes))
    with (root / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "labels", "unknown", "split"])
        for number, (name, labels) in enumerate(shown.items()):
            rows.writerow([name, "|".join(labels), "bird" if number == 1 else "", "val" if number == 3 else "train"])


def draw_unknown(root: Path) -> None:
    """A folder of images of which some classes are unknown: all of them, or all but the label."""
    classes = ["cat", "dog", "sofa"]
    images = [
        ("1.png", ["cat", "dog"], "", "train"),
        ("2.png", ["dog"], "*", "train"),
        ("3.png", [], "*", "train"),
        ("4.png", ["sofa"], "", "train"),
        ("5.png", ["cat"], "", "val"),
        ("6.png", [], "*", "val"),
    ]
    put(root / "classes.txt", "".join(f"{name}\n" for name in classes))
    rows = ["image,labels,unknown,split"]
    for number, (name, labels, unknown, split) in enumerate(images):
        drawn = labels or ["cat"]
        image, mask = picture(60 + number, [classes.index(label) + 1 for label in drawn])
        put(root / name, png(image))
        put(root / "masks" / name, png(mask))
        rows.append(f"{name},{'|'.join(labels)},{unknown},{split}")
    put(root / "labels.csv", "".join(f"{row}\n" for row in rows))


def draw_imagenet_s(root: Path) -> None:
    """ImageNet-S's layout, 260 classes, so masks of 16 bits: two images of train and two of val, one without mask."""
    for number in range(1, NUM_IMAGENET_S_CLASSES + 1):
        (root / "validation" / f"n{number:08d}").mkdir(parents=True)
    shown = [("train", 255, "a"), ("train", 258, "b"), ("validation", 255, "c"), ("validation", 3, "d")]
    for number, (folder, class_id, name) in enumerate(shown):
        image, mask = picture(70 + number, [4, 9])
        ids = np.select([mask == 4, mask == 9, mask == IGNORED], [class_id, 256, 1000], 0)
        key = f"n{class_id:08d}/{name}"
        put(root / folder / f"{key}.JPEG", png(image))
        if name != "b":
            masks = "train-semi-segmentation" if folder == "train" else "validation-segmentation"
            colours = np.stack([ids % 256, ids // 256, 0 * ids], axis=2).astype(np.uint8)
            put(root / masks / f"{key}.png", png(colours))


if __name__ == "__main__":
    draw_everything(Path(sys.argv[1]))
