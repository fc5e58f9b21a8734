"""Selects a subset of a data set's classes and renumbers them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from shards.label_type import BACKGROUND, LabelType, label_type
from shards.records import BadSampleError
from shards.taxonomy import Taxonomy

_MOST_SETS = 4096


@dataclass(frozen=True, kw_only=True)
class ChosenClasses:
    """A subset of `every`, renumbered from 1 in the order of `names`; all classes if `names` is empty.

    "Full ids" are class ids in `every`, "ids" are class ids in the subset.
    """

    every: Taxonomy
    names: tuple[str, ...] = ()
    other_classes_as: int = BACKGROUND
    """Value of mask pixels of classes outside the subset: 0, or any other number for ignored."""

    @cached_property
    def stored(self) -> LabelType:
        """The type of masks of full ids, as in the data set's files."""
        return label_type(len(self.every))

    @cached_property
    def kept(self) -> LabelType:
        """The type of masks of ids, as in samples."""
        return label_type(len(self.taxonomy))

    @cached_property
    def taxonomy(self) -> Taxonomy:
        """The selected classes. Raises ValueError for a name that the data set does not have."""
        try:
            return self.every.subset(self.names)
        except ValueError as error:
            raise ValueError(f"class_names: {error}") from None

    @cached_property
    def _ids(self) -> dict[int, int]:
        return {self.every.id_of(name): class_id for class_id, name in enumerate(self.taxonomy.names, start=1)}

    @cached_property
    def _known(self) -> dict[frozenset[int], tuple[int, ...]]:
        return {}

    @cached_property
    def all_ids(self) -> tuple[int, ...]:
        return tuple(range(1, len(self.taxonomy) + 1))

    def id_of(self, full_id: int) -> int | None:
        """The id for a full id; None for a class that is not selected."""
        return self._ids.get(full_id)

    def ids(self, full_ids: Iterable[int]) -> tuple[int, ...]:
        """Ids of the selected classes among `full_ids`, ascending, without duplicates."""
        asked = frozenset(full_ids)
        # Cached: many images have the same set, such as the unchecked classes of all images in a folder.
        if (found := self._known.get(asked)) is None:
            found = tuple(sorted({self._ids[full_id] for full_id in asked if full_id in self._ids}))
            if len(self._known) < _MOST_SETS:
                self._known[asked] = found
        return found

    @cached_property
    def _table(self) -> np.ndarray:
        """i32[256] or i32[65536]: mask value -> id, -1 for a value without a meaning."""
        table = np.full(self.stored.ignore + 1, -1, dtype=np.int32)
        table[BACKGROUND], table[self.stored.ignore] = BACKGROUND, self.kept.ignore
        table[1 : len(self.every) + 1] = self.kept.ignore if self.other_classes_as else BACKGROUND
        for full_id, class_id in self._ids.items():
            table[full_id] = class_id
        return table

    def mask(self, values_HW: np.ndarray, *, name: object) -> np.ndarray:
        """Convert a mask of the type `stored`, of full ids and ignored pixels, to one of ids, of the type `kept`.

        Raises `BadSampleError` for any other value, and for a mask of another type. `name`: the mask's name in the
        error message.
        """
        if values_HW.dtype != self.stored.dtype:
            raise BadSampleError(
                f"the mask {name} has {8 * values_HW.dtype.itemsize} bits, but the masks of {len(self.every)} classes "
                f"have {self.stored.bits}: save all of them as grey PNGs of {self.stored.bits} bits, ignored pixels as "
                f"{self.stored.ignore}"
            )
        mask_HW = self._table[values_HW]
        if (bad := mask_HW < 0).any():
            raise BadSampleError(
                f"the mask {name} holds the value {values_HW[bad].min()}, which is not a class id; allowed are "
                f"0..{len(self.every)} and {self.stored.ignore}; save the class id of every pixel"
            )
        return mask_HW.astype(self.kept.dtype)
