"""Class lists in the order of their ids in masks (0 = background, 1..C = foreground), and the colour palette."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np

from shards.label_type import BYTE, MAX_CLASSES, WIDE

_MOST_NAMED = 20
"""Classes that an error lists."""


@dataclass(frozen=True)
class Taxonomy:
    """The foreground classes of a data set; class id = index in `names` + 1."""

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.names) <= MAX_CLASSES:
            raise ValueError(f"a class list must have 1 to {MAX_CLASSES} names, this one has {len(self.names)}")
        if len(set(self.names)) != len(self.names):
            twice = sorted({name for name in self.names if self.names.count(name) > 1})
            raise ValueError(f"class names must be unique; repeated: {', '.join(twice)}")

    def __len__(self) -> int:
        return len(self.names)

    def id_of(self, name: str) -> int:
        """Class id of a name. Raises ValueError with the most similar names."""
        if name not in self.names:
            folded = {known.casefold(): known for known in reversed(self.names)}
            if near := [folded[one] for one in difflib.get_close_matches(name.casefold(), folded, n=3)]:
                raise ValueError(f"unknown class {name!r}; did you mean {', '.join(near)}? ({len(self)} classes)")
            shown = self.names[:_MOST_NAMED]
            more = f" and {len(self) - len(shown)} more" if len(self) > len(shown) else ""
            raise ValueError(f"unknown class {name!r}; there are {', '.join(shown)}{more}")
        return self.names.index(name) + 1

    def name_of(self, class_id: int) -> str:
        """Name of a class id, `background` for 0."""
        return "background" if class_id == 0 else self.names[class_id - 1]

    def subset(self, names: Sequence[str]) -> Taxonomy:
        """A subset of the classes, renumbered in the given order; all of them if `names` is empty."""
        for name in names:
            self.id_of(name)
        return Taxonomy(tuple(names) or self.names)


VOC_20 = Taxonomy(
    (
        "aeroplane",
        "bicycle",
        "bird",
        "boat",
        "bottle",
        "bus",
        "car",
        "cat",
        "chair",
        "cow",
        "diningtable",
        "dog",
        "horse",
        "motorbike",
        "person",
        "pottedplant",
        "sheep",
        "sofa",
        "train",
        "tvmonitor",
    )
)
"""PASCAL VOC in the order of its mask indices."""


@cache
def _det_rows() -> list[dict[str, str]]:
    text = resources.files("shards").joinpath("ilsvrc_det.tsv").read_text()
    return list(csv.DictReader(text.splitlines(), delimiter="\t"))


@cache
def ilsvrc_det_200() -> Taxonomy:
    """ILSVRC DET in the order of its class ids, which LID uses too: person = 124."""
    return Taxonomy(tuple(row["name"] for row in _det_rows()))


@cache
def ilsvrc_det_synsets() -> dict[str, int]:
    """WordNet id -> class id of ILSVRC DET."""
    return {row["wnid"]: int(row["id"]) for row in _det_rows()}


@cache
def palette(dtype: np.dtype = BYTE.dtype) -> np.ndarray:
    """u8[256, 3]: the colour of each class id by VOC's bit-interleaved scheme; 255 is off-white.

    For the `dtype` uint16, u8[65536, 3] by the same scheme, all different; 65,535 is off-white.
    """
    ids = np.arange(int(np.iinfo(dtype).max) + 1)
    colours = np.zeros((len(ids), 3), dtype=np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (((ids >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return colours


def colours_of(mask_HW: np.ndarray) -> np.ndarray:
    """u8[H, W, 3]: a label map, u8 or u16[H, W], in colours."""
    return palette(mask_HW.dtype)[mask_HW]


def colour_of(class_id: int) -> tuple[int, int, int]:
    """The colour of a class id in pictures: red, green, blue."""
    red, green, blue = (int(channel) for channel in palette(WIDE.dtype)[class_id])
    return red, green, blue
