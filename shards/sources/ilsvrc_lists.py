"""Reads ImageSets/DET/train_<c>.txt of ILSVRC DET: which training images were checked for class c, with the result.

The 200 files have about 13 million lines. Nearly all are for images of the 2014 part, which were checked for every
class anyway. Only lines of the 2013 part are kept, as one row of numbers each.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shards.taxonomy import ilsvrc_det_200

# Begins with a literal, which makes the search fast.
_OF_2013 = re.compile(rb"ILSVRC2013(\S+)[ \t]+(-1|0|1)[ \t]*(?![^\r\n])")
_LINE = re.compile(rb"ILSVRC201[34]\S+[ \t]+(-1|0|1)\s*")


@dataclass(frozen=True)
class CheckedClasses:
    """Rows of (image, class), sorted by image."""

    images: np.ndarray
    """i32[n], indices in the list of training images, ascending."""
    classes: np.ndarray
    """i16[n]: the class id if the class is in the image, its negative if it is not."""

    def of_image(self, position: int) -> tuple[set[int], set[int]]:
        """Ids of the classes that are present in the image at `position`, and of those that are absent."""
        # With another dtype, numpy would convert the whole column for every image.
        first, last = np.searchsorted(self.images, np.array((position, position + 1), self.images.dtype))
        found = self.classes[first:last].tolist()
        present = {c for c in found if c > 0}
        return present, {-c for c in found if c < 0} - present


def class_lists(folder: Path) -> list[Path]:
    """The lists of all classes in order, [] if there are none. Raises ValueError if only some exist."""
    paths = [folder / f"train_{class_id}.txt" for class_id in range(1, len(ilsvrc_det_200()) + 1)]
    absent = [path for path in paths if not path.is_file()]
    if 0 < len(absent) < len(paths):
        raise ValueError(
            f"{absent[0]} is missing, but the lists of {len(paths) - len(absent)} other classes exist: unpack "
            "ImageSets again, or remove all train_<c>.txt"
        )
    return paths if not absent else []


def read_class_lists(folder: Path, keys: Sequence[str]) -> CheckedClasses:
    """The entries of the lists for the images `keys`; none if there are no lists.

    Raises ValueError, naming file and line, for a line that is not an image with -1, 0 or 1.
    """
    indices = {_name(key.encode()): index for index, key in enumerate(keys) if key.startswith("ILSVRC2013")}
    images, classes = array("i"), array("h")
    for class_id, path in enumerate(class_lists(folder), start=1):
        text = path.read_bytes()
        found = _OF_2013.findall(text)
        if len(found) + _count_2014(text) != _count_lines(text):
            _refuse_bad_lines(path, text)
        for name, label in found:
            if (index := indices.get(_name(name))) is not None:
                images.append(index)
                classes.append(-class_id if label == b"-1" else class_id)
    image_rows, class_rows = np.frombuffer(images, np.intc), np.frombuffer(classes, np.short)
    order = np.argsort(image_rows, kind="stable")
    return CheckedClasses(image_rows[order], class_rows[order])


def _name(image: bytes) -> bytes:
    """An image of the 2013 part without its prefix: the readme writes ILSVRC2013_DET_..., the folders have no _DET."""
    return image.removeprefix(b"ILSVRC2013").removeprefix(b"_DET")


def _count_2014(text: bytes) -> int:
    return text.count(b"\nILSVRC2014") + text.startswith(b"ILSVRC2014")


def _count_lines(text: bytes) -> int:
    return text.count(b"\n") + (bool(text) and not text.endswith(b"\n"))


def _refuse_bad_lines(path: Path, text: bytes) -> None:
    """Check line by line, which is slow: only for a file in which the fast search did not match every line."""
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not _LINE.fullmatch(line):
            raise ValueError(
                f"{path}, line {number}: {line[:80].decode('utf-8', 'replace')!r}; write an image of ILSVRC's train "
                "folder and -1, 0 or 1"
            )
