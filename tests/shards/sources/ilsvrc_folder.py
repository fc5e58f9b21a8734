"""A small ILSVRC DET tree in the layout of its archive, with its quirks, made of random pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from shards.taxonomy import ilsvrc_det_200, ilsvrc_det_synsets
from tests.shards.sources.pictures import jpeg, put

SYNSETS = {class_id: wnid for wnid, class_id in ilsvrc_det_synsets().items()}
ANT, BEAR, DOG, PERSON = 3, 20, 58, 124
BREED = "n02085620"
"""A synset below *dog* that is none of the 200."""
EXTRA = "ILSVRC2013_train_extra0/ILSVRC2013_train_00000001"
ANTS = f"ILSVRC2013_train/{SYNSETS[ANT]}/{SYNSETS[ANT]}_"
BREEDS = f"ILSVRC2013_train/{BREED}/{BREED}_"
FULL = "ILSVRC2014_train_0000/ILSVRC2014_train_0000000"
TRAIN = [f"{ANTS}1", f"{ANTS}22", f"{ANTS}3", f"{BREEDS}7", EXTRA, f"{FULL}1", f"{FULL}2"]

ObjectBox = tuple[int, int, int, int, int]
"""Class, xmin, ymin, xmax, ymax, as the XML has them."""
OBJECTS: dict[str, list[ObjectBox]] = {
    f"{ANTS}1": [(ANT, 0, 0, 52, 36), (ANT, 3, 5, 8, 9)],
    f"{ANTS}3": [(BEAR, 3, 5, 8, 9)],  # the queried synset was looked for and is not there
    f"{BREEDS}7": [(DOG, 3, 5, 8, 9)],
    f"{FULL}1": [(ANT, 3, 5, 8, 9), (PERSON, 10, 11, 12, 40)],  # one reaches below the image
}
LISTS: dict[int, list[str]] = {
    ANT: [f"{ANTS}1 1", f"{ANTS}22 0", f"{EXTRA} -1", f"{FULL}1 1", f"{FULL}2 -1", "ILSVRC2013_train/gone/gone_1 1"],
    DOG: [f"{BREEDS}7 1", f"{ANTS}1 -1", f"{FULL}1 -1", f"{FULL}2 -1"],
    PERSON: [f"{EXTRA} -1", f"{FULL}1 1", f"{FULL}2 -1"],
}


def xml(objects: list[ObjectBox], *, height: int = 37, width: int = 53, database: str = "ILSVRC_2013") -> str:
    """An annotation whose children stand in an order of ILSVRC's VID files, not in VOC's."""
    elements = "".join(
        f"<object><bndbox><xmax>{x2}</xmax><xmin>{x1}</xmin><ymax>{y2}</ymax><ymin>{y1}</ymin></bndbox>"
        f"<name>{SYNSETS[c]}</name><subcategory>{BREED}</subcategory></object>"
        for c, x1, y1, x2, y2 in objects
    )
    size = f"<size><width>{width}</width><height>{height}</height></size>"
    return f"<annotation><source><database>{database}</database></source>{elements}{size}</annotation>"


def write_lists(folder: Path, lists: Mapping[int, list[str]]) -> None:
    """train_1.txt to train_200.txt. `folder`: the one that holds ILSVRC."""
    for class_id in range(1, len(ilsvrc_det_200()) + 1):
        lines = lists.get(class_id, [f"{FULL}1 -1", f"{FULL}2 -1"])
        put(folder / "ILSVRC" / "ImageSets" / "DET" / f"train_{class_id}.txt", "".join(f"{line}\n" for line in lines))


def make_ilsvrc(folder: Path) -> Path:
    """Seven images of train, two of val (one without an object), one of test; gives the folder that holds ILSVRC.

    The lists of the classes are not among them: see `write_lists`.
    """
    root = folder / "ILSVRC"
    for number, key in enumerate(TRAIN):
        put(root / "Data" / "DET" / "train" / f"{key}.JPEG", jpeg(37, 53, seed=number))
        (root / "Annotations" / "DET" / "train" / key).parent.mkdir(parents=True, exist_ok=True)
    (root / "Annotations" / "DET" / "train" / "ILSVRC2013_train_extra0").rmdir()
    for key, objects in OBJECTS.items():
        put(root / "Annotations" / "DET" / "train" / f"{key}.xml", xml(objects))
    put(root / "Annotations" / "DET" / "train" / f"{ANTS}22.xml", xml([]))
    for number, key in enumerate(("ILSVRC2012_val_00000001", "ILSVRC2013_val_00000002")):
        put(root / "Data" / "DET" / "val" / f"{key}.JPEG", jpeg(37, 53, seed=10 + number))
    put(root / "Annotations" / "DET" / "val" / "ILSVRC2012_val_00000001.xml", xml([(BEAR, 3, 5, 8, 9)]))
    put(root / "ImageSets" / "DET" / "val.txt", "ILSVRC2013_val_00000002 1\nILSVRC2012_val_00000001 2\n")
    put(root / "Data" / "DET" / "test" / "ILSVRC2015_test_00000001.JPEG", jpeg(37, 53, seed=20))
    return folder
