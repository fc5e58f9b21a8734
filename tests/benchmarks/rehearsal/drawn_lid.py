"""LID's track 1 drawn at any share of its size, in its layout on disk; at full size 456,567 training images.

    python -m tests.benchmarks.rehearsal.drawn_lid FOLDER [--share 0.01]

Training images follow ILSVRC DET's parts (107,248 negatives without XML, 60,658 images checked for all classes, the
rest checked for the class of their folder) and its class histogram (`train_images` of shards/ilsvrc_det.tsv: 375,595
pairs of image and class). 4,690 images of val have masks in both encodings; the 10,000 of test have none. The same
share always gives the same files.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from PIL import Image

from shards.images import encode_jpeg, encode_png
from shards.taxonomy import ilsvrc_det_200, ilsvrc_det_synsets, palette
from tests.benchmarks.rehearsal.pictures import Object, Picture, draw

NUM_TRAIN, NUM_EXTRA, NUM_2014, NUM_VAL, NUM_TEST = 456_567, 107_248, 60_658, 4_690, 10_000
_NUM_CLASSES = len(ilsvrc_det_200())
_PERSON = 124
_WNIDS = {class_id: wnid for wnid, class_id in ilsvrc_det_synsets().items()}
_QUALITY = 85
_TRAIN, _VAL, _TEST = 1, 2, 3
_IMAGES, _ANNOTATIONS = "LID_track1_imageset/LID_track1", "LID_track1_annotations"


@dataclass(frozen=True)
class Numbers:
    """Images of a drawn LID."""

    extra: int
    """Training images without an annotation."""
    of_2014: int
    of_synsets: int
    val: int
    test: int

    @classmethod
    def of_share(cls, share: float) -> Numbers:
        extra, of_2014, rest, val, test = (
            max(round(number * share), 1)
            for number in (NUM_EXTRA, NUM_2014, NUM_TRAIN - NUM_EXTRA - NUM_2014, NUM_VAL, NUM_TEST)
        )
        return cls(extra, of_2014, max(rest, 2 * _NUM_CLASSES), val, test)

    @property
    def annotated(self) -> int:
        return self.of_2014 + self.of_synsets

    @property
    def train(self) -> int:
        return self.extra + self.annotated


@dataclass(frozen=True)
class DrawnLid:
    """A drawn data set on disk."""

    numbers: Numbers
    root: Path
    """ILSVRC DET."""
    package: Path
    """LID's package."""

    @property
    def environment(self) -> dict[str, str]:
        """The variables that lid.toml reads."""
        return {"ILSVRC_ROOT": str(self.root), "LID_PACKAGE": str(self.package)}


def draw_lid(folder: Path, share: float) -> DrawnLid:
    """The data set in a folder: an existing one of this share is used, an unfinished one is drawn again."""
    numbers = Numbers.of_share(share)
    drawn = DrawnLid(numbers, folder / "det", folder / "lid")
    finished = folder / "drawn.json"
    if finished.exists():
        if (found := json.loads(finished.read_text())) != {"train": numbers.train, "val": numbers.val}:
            raise ValueError(f"{folder} holds another drawn data set ({found}); name another folder")
        return drawn
    for place in (drawn.root, drawn.package):
        shutil.rmtree(place, ignore_errors=True)
    _draw_train(drawn.root / "ILSVRC", numbers)
    _draw_package(drawn.package, numbers)
    finished.write_text(json.dumps({"train": numbers.train, "val": numbers.val}))
    return drawn


def classes_of_train(numbers: Numbers) -> list[list[int]]:
    """Classes of every annotated training image, following the class histogram; each class has one image at least."""
    with resources.files("shards").joinpath("ilsvrc_det.tsv").open() as file:
        histogram = np.array([int(row["train_images"]) for row in csv.DictReader(file, delimiter="\t")])
    share = numbers.annotated / (NUM_TRAIN - NUM_EXTRA)
    counts = np.maximum(np.floor(histogram * share + 0.5).astype(int), 1)
    random = np.random.default_rng([_TRAIN, numbers.train])
    pairs = random.permutation(np.repeat(np.arange(1, _NUM_CLASSES + 1), counts))
    # A frequent class is added or left out where rounding left too few or too many pairs.
    pairs = np.concatenate([pairs, np.full(max(numbers.annotated - len(pairs), 0), _PERSON)])
    found = [[int(class_id)] for class_id in pairs[: numbers.annotated]]
    for number, class_id in enumerate(pairs[numbers.annotated :].tolist()):
        place = number
        while class_id in found[place]:
            place = (place + len(pairs) - numbers.annotated) % len(found)
        found[place].append(class_id)
    return found


def _keys(numbers: Numbers, classes: Sequence[Sequence[int]]) -> list[str]:
    """Keys of all training images: the annotated ones in the order of `classes`, then the negatives."""
    count = dict.fromkeys(_WNIDS, 0)
    keys = []
    for number, present in enumerate(classes):
        if number < numbers.of_2014:
            part = f"ILSVRC2014_train_{number * 7 // numbers.of_2014:04d}"
            keys.append(f"{part}/ILSVRC2014_train_{number:08d}")
            continue
        count[present[0]] += 1
        wnid = _WNIDS[present[0]]
        keys.append(f"ILSVRC2013_train/{wnid}/{wnid}_{count[present[0]]}")
    for number in range(numbers.extra):
        keys.append(f"ILSVRC2013_train_extra{number * 11 // numbers.extra}/ILSVRC2013_train_{number:08d}")
    return keys


def _draw_train(base: Path, numbers: Numbers) -> None:
    classes = classes_of_train(numbers)
    keys = _keys(numbers, classes)
    images, annotations = f"{base}/Data/DET/train", f"{base}/Annotations/DET/train"
    made: set[str] = set()
    for number, key in enumerate(keys):
        below = key.rpartition("/")[0]
        if below not in made:
            made.add(below)
            for place in (images, annotations):
                os.makedirs(f"{place}/{below}", exist_ok=True)
        # A negative shows something too, of a class that it was not checked for.
        present = classes[number] if number < len(classes) else [number % _NUM_CLASSES + 1]
        picture = draw(np.random.default_rng([_TRAIN, number]), present)
        _write(f"{images}/{key}.JPEG", encode_jpeg(picture.image, quality=_QUALITY))
        if number < len(classes):
            _write(f"{annotations}/{key}.xml", _xml(key, picture))
    _write_lists(base / "ImageSets" / "DET", numbers, classes, keys)


def _write_lists(folder: Path, numbers: Numbers, classes: Sequence[Sequence[int]], keys: Sequence[str]) -> None:
    """train_1.txt to train_200.txt: all of 2014, the images of a class's own folder, eight classes of a negative."""
    folder.mkdir(parents=True)
    own: dict[int, list[str]] = {class_id: [] for class_id in _WNIDS}
    for number in range(numbers.of_2014, numbers.annotated):
        own[classes[number][0]].append(f"{keys[number]} 1\n")
    for number in range(numbers.extra):
        for step in range(8):
            absent = (number * 13 + step * 25) % _NUM_CLASSES + 1
            if absent != (number + numbers.annotated) % _NUM_CLASSES + 1:
                own[absent].append(f"{keys[numbers.annotated + number]} -1\n")
    shown: dict[int, list[int]] = {class_id: [] for class_id in _WNIDS}
    for number in range(numbers.of_2014):
        for class_id in classes[number]:
            shown[class_id].append(number)
    absent_lines = [f"{key} -1\n" for key in keys[: numbers.of_2014]]
    for class_id, lines in own.items():
        full = list(absent_lines)
        for number in shown[class_id]:
            full[number] = f"{keys[number]} 1\n"
        (folder / f"train_{class_id}.txt").write_text("".join(lines + full))


def _draw_package(package: Path, numbers: Numbers) -> None:
    raw, coloured = (package / _ANNOTATIONS / f"track1_val_annotations{end}" for end in ("_raw", ""))
    for place in (raw, coloured, package / _IMAGES / "val", package / _IMAGES / "test"):
        place.mkdir(parents=True)
    for name, picture in _pictures(_VAL, "ILSVRC2012_val", numbers.val):
        _write(f"{package}/{_IMAGES}/val/{name}.JPEG", encode_jpeg(picture.image, quality=_QUALITY))
        _write(f"{raw}/{name}.png", encode_png(picture.mask))
        image = Image.fromarray(picture.mask, mode="P")
        image.putpalette(palette().tobytes())
        image.save(coloured / f"{name}.png")
    for name, picture in _pictures(_TEST, "ILSVRC2015_test", numbers.test):
        _write(f"{package}/{_IMAGES}/test/{name}.JPEG", encode_jpeg(picture.image, quality=_QUALITY))
    for split, stem, number in (("val", "ILSVRC2012_val", numbers.val), ("test", "ILSVRC2015_test", numbers.test)):
        (package / f"{split}.txt").write_text("".join(f"{stem}_{place:08d}\n" for place in range(1, number + 1)))
    names = enumerate(ilsvrc_det_200().names, start=1)
    (package / _ANNOTATIONS / "cat_ref.txt").write_text("".join(f"{number} {name}\n" for number, name in names))


def _pictures(split: int, stem: str, num_images: int) -> Iterator[tuple[str, Picture]]:
    """Name and picture of every image: all classes in turn, every third with a second one, every fourth a person."""
    for number in range(num_images):
        present = [number % _NUM_CLASSES + 1]
        present += [(number * 7 + 3) % _NUM_CLASSES + 1] * (number % 3 == 0) + [_PERSON] * (number % 4 == 0)
        present = list(dict.fromkeys(present))
        yield f"{stem}_{number + 1:08d}", draw(np.random.default_rng([split, number]), present)


def _xml(key: str, picture: Picture) -> bytes:
    """An annotation as ILSVRC's are written."""
    folder, _, name = key.rpartition("/")
    height, width = picture.mask.shape
    return (
        f"<annotation>\n\t<folder>{folder.rpartition('/')[2]}</folder>\n\t<filename>{name}</filename>\n"
        "\t<source>\n\t\t<database>ILSVRC_2014</database>\n\t</source>\n"
        f"\t<size>\n\t\t<width>{width}</width>\n\t\t<height>{height}</height>\n\t</size>\n"
        f"{''.join(map(_object, picture.objects))}</annotation>\n"
    ).encode()


def _object(shown: Object) -> str:
    corners = zip(("xmin", "ymin", "xmax", "ymax"), shown.box, strict=True)
    sides = "".join(f"\t\t\t<{name}>{value}</{name}>\n" for name, value in corners)
    return f"\t<object>\n\t\t<name>{_WNIDS[shown.class_id]}</name>\n\t\t<bndbox>\n{sides}\t\t</bndbox>\n\t</object>\n"


def _write(path: str, content: bytes) -> None:
    with open(path, "wb", buffering=0) as file:
        file.write(content)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--share", type=float, default=1.0, help="of LID's images")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    drawn = draw_lid(options.folder, options.share)
    print("\n".join(f"export {name}={value}" for name, value in drawn.environment.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
