"""PASCAL's XML annotations, used by VOC and ILSVRC. Read by tag, since the order of an element's children varies."""

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
    """The objects of one image, with the data set's own names."""

    name: str
    """Path relative to the data set's root."""
    root: ElementTree.Element

    @property
    def objects(self) -> list[tuple[str, ElementTree.Element]]:
        return [(found.findtext("name", "").strip(), found) for found in self.root.findall("object")]

    @property
    def size(self) -> tuple[int, int] | None:
        """(H, W) of the pixel grid of the boxes, or None if the file gives no size or 0 x 0."""
        texts = _texts(self.root.find("size"))
        height, width = (
            int(side) if side.isdecimal() else 0 for side in (texts.get("height", ""), texts.get("width", ""))
        )
        return (height, width) if height and width else None

    def boxes(self, class_ids: dict[str, int], *, first: int, image: StoredImage) -> tuple[Box, ...]:
        """Boxes of the objects named in `class_ids`, in the upright image.

        `first`: the coordinate of the first pixel, 0 or 1. Both corners belong to the object. Boxes are clipped to the
        image. Raises `BadSampleError` for a box outside the image, and if the file gives another image size.
        """
        drawn_on, stored = self.size, stored_size(image.size, orientation=image.orientation)
        if drawn_on is not None and drawn_on not in (stored, image.size):
            height, width = drawn_on
            raise BadSampleError(
                f"the boxes in {self.name} are for an image of {width}x{height}, but the image is "
                f"{stored[1]}x{stored[0]}"
            )
        boxes = [_box(found, class_ids[name], first=first) for name, found in self.objects if name in class_ids]
        if drawn_on in (None, stored):
            boxes = [upright_box(box, orientation=image.orientation, size=image.size) for box in boxes]
        return inside(boxes, size=image.size)


def read_annotation(root: Path, name: str) -> Annotation | None:
    """Read the annotation `name` below `root`; None if the file does not exist.

    Raises `BadSampleError` if the file cannot be read.
    """
    try:
        return Annotation(name, ElementTree.fromstring(read_file(root, name)))
    except FileNotFoundError:
        return None
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise BadSampleError(f"cannot read the labels in {name}: {words(error)}") from error


def _box(found: ElementTree.Element, class_id: int, *, first: int) -> Box:
    texts = _texts(found.find("bndbox"))
    try:  # some coordinates have fractions
        top, left, bottom, right = (round(float(texts[name])) for name in ("ymin", "xmin", "ymax", "xmax"))
    except (KeyError, ValueError, OverflowError):
        raise BadSampleError(f"the box of an object {found.findtext('name')!r} is not four numbers") from None
    return Box(class_id, top - first, left - first, bottom - first + 1, right - first + 1)


def _texts(element: ElementTree.Element | None) -> dict[str, str]:
    """Tag -> text of an element's children."""
    return {} if element is None else {child.tag: (child.text or "").strip() for child in element}
