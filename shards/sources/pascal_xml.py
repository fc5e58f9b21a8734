"""PASCAL's XML annotations, as VOC and ILSVRC have them. Read by tag: the order of an element's children differs."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

from shards.boxes import inside
from shards.orientation import stored_size, upright_box
from shards.records import BadSampleError, Box
from shards.sources.disk import StoredImage, read_file, words


@dataclass(frozen=True)
class Annotation:
    """The objects of one image, by the names that the data set gives them."""

    name: str
    """Path below the data set's root."""
    root: ElementTree.Element

    @property
    def objects(self) -> list[tuple[str, ElementTree.Element]]:
        return [(found.findtext("name", "").strip(), found) for found in self.root.findall("object")]

    @property
    def size(self) -> tuple[int, int] | None:
        """(H, W) of the pixels that the boxes count, or None where the file does not say: 0 x 0 says nothing either."""
        told = _texts(self.root.find("size"))
        height, width = (
            int(side) if side.isdecimal() else 0 for side in (told.get("height", ""), told.get("width", ""))
        )
        return (height, width) if height and width else None

    def boxes(self, class_ids: dict[str, int], *, first: int, image: StoredImage) -> tuple[Box, ...]:
        """Frames of the objects with those names, of the image as shown upright.

        `first`: the number of the first pixel. Both corners belong to the object. Boxes that leave the image are cut.
        Raises `BadSampleError` for a box outside the image, and where the file is of an image of another size.
        """
        drawn_on, stored = self.size, stored_size(image.size, orientation=image.orientation)
        if drawn_on is not None and drawn_on not in (stored, image.size):
            height, width = drawn_on
            raise BadSampleError(
                f"the boxes in {self.name} are of an image of {width}x{height}, this one is {stored[1]}x{stored[0]}"
            )
        boxes = [_box(found, class_ids[name], first=first) for name, found in self.objects if name in class_ids]
        if drawn_on in (None, stored):
            boxes = [upright_box(box, orientation=image.orientation, size=image.size) for box in boxes]
        return inside(boxes, size=image.size)


def read_annotation(root: Path, name: str) -> Annotation | None:
    """The annotation `name` below `root`, None where there is no such file.

    Raises `BadSampleError` where the file cannot be read.
    """
    try:
        return Annotation(name, ElementTree.fromstring(read_file(root, name)))
    except FileNotFoundError:
        return None
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise BadSampleError(f"cannot read the labels in {name}: {words(error)}") from error


def _box(found: ElementTree.Element, class_id: int, *, first: int) -> Box:
    told = _texts(found.find("bndbox"))
    try:  # some coordinates have fractions
        top, left, bottom, right = (round(float(told[name])) for name in ("ymin", "xmin", "ymax", "xmax"))
    except (KeyError, ValueError, OverflowError):
        raise BadSampleError(f"the box of an object {found.findtext('name')!r} is not four numbers") from None
    return Box(class_id, top - first, left - first, bottom - first + 1, right - first + 1)


def _texts(element: ElementTree.Element | None) -> dict[str, str]:
    """Tag -> text of an element's children."""
    return {} if element is None else {child.tag: (child.text or "").strip() for child in element}
