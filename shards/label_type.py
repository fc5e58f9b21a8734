"""The type of label maps, and their value of ignored pixels: both follow from the number of classes.

| classes | type | ignored | PNG |
|---|---|---|---|
| 1 to 254 | uint8 | 255 | 8 bits |
| 255 to 65,534 | uint16 | 65,535 | 16 bits |

Every label map of a data set has this type: masks, seeds, pseudo labels and predictions. So the ignored value of a map
is the largest value of its type, and a map of the other type belongs to another data set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BACKGROUND = 0


@dataclass(frozen=True)
class LabelType:
    """The type of the label maps of a data set."""

    dtype: np.dtype
    """uint8 or uint16."""

    @property
    def ignore(self) -> int:
        """The value of ignored and undecided pixels: the largest one of the type."""
        return int(np.iinfo(self.dtype).max)

    @property
    def bits(self) -> int:
        """Bits per pixel: 8 or 16."""
        return 8 * self.dtype.itemsize

    def require(self, label_HW: np.ndarray, *, name: str, num_classes: int) -> np.ndarray:
        """The map itself. Raises ValueError, with its `name`, if it is of another type."""
        if label_HW.dtype != self.dtype:
            raise ValueError(
                f"{name} has {8 * label_HW.dtype.itemsize} bits ({label_HW.dtype}), but label maps of {num_classes} "
                f"classes have {self.bits} ({self.dtype}, {self.ignore} is ignored); build its layer again"
            )
        return label_HW


BYTE = LabelType(np.dtype(np.uint8))
WIDE = LabelType(np.dtype(np.uint16))
MAX_CLASSES = WIDE.ignore - 1


def label_type(num_classes: int) -> LabelType:
    """The type for this number of foreground classes. Raises ValueError for a number that no type can hold."""
    if not 0 <= num_classes <= MAX_CLASSES:
        raise ValueError(f"{num_classes} classes: allowed are at most {MAX_CLASSES}, since label maps have 16 bits")
    return BYTE if num_classes < BYTE.ignore else WIDE


def ignore_of(label_HW: np.ndarray) -> int:
    """The value of ignored pixels in a label map. Raises ValueError if it is neither uint8 nor uint16."""
    return type_of(label_HW).ignore


def type_of(label_HW: np.ndarray) -> LabelType:
    """The type of a label map. Raises ValueError if it is neither uint8 nor uint16."""
    for one in (BYTE, WIDE):
        if label_HW.dtype == one.dtype:
            return one
    raise ValueError(
        f"a label map has the type {label_HW.dtype}; allowed are uint8 (up to {BYTE.ignore - 1} classes) and uint16 "
        f"(up to {MAX_CLASSES})"
    )


def class_ids(ids: Sequence[int]) -> np.ndarray:
    """Class ids as records hold them: i16[K], or i32[K] if one is above 32,767."""
    fits = max(ids, default=0) <= np.iinfo(np.int16).max
    return np.array(ids, dtype=np.int16 if fits else np.int32)
