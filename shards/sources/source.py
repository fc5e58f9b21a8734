"""The interface of every data set: a cheap listing of samples, and reading one sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Protocol, overload

import numpy as np

from shards.records import Sample
from shards.taxonomy import Taxonomy


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One sample in the data set's listing, before any of its files is read."""

    key: str
    split: str
    position: int
    """Index in the split's list, from 0."""


class Listing(Sequence[Listed]):
    """The samples of one split, created on access, so that only the keys are in memory."""

    def __init__(self, split: str, keys: Sequence[str]) -> None:
        self._split, self.keys = split, keys

    def __len__(self) -> int:
        return len(self.keys)

    @overload
    def __getitem__(self, index: int) -> Listed: ...
    @overload
    def __getitem__(self, index: slice) -> list[Listed]: ...
    def __getitem__(self, index: int | slice) -> Listed | list[Listed]:
        positions = range(len(self.keys))[index]
        return [self._listed(one) for one in positions] if isinstance(positions, range) else self._listed(positions)

    def _listed(self, position: int) -> Listed:
        return Listed(key=self.keys[position], split=self._split, position=position)


def keys_of(listing: Sequence[Listed]) -> Sequence[str]:
    """The keys of a split's samples, without creating the samples of a `Listing`."""
    return listing.keys if isinstance(listing, Listing) else [listed.key for listed in listing]


class Source(Protocol):
    """A data set. Reading the same listed sample always gives the same record."""

    @property
    def taxonomy(self) -> Taxonomy: ...

    def list_split(self, split: str) -> Sequence[Listed]:
        """The samples of one split, in order; no image is opened.

        Raises ValueError if the list is missing or empty.
        """
        ...

    def read(self, listed: Listed) -> Sample:
        """Read one sample and check that its image decodes. Raises `BadSampleError` with the reason if not usable."""
        ...

    def image_bytes(self, split: str) -> np.ndarray | None:
        """i64[N]: file size of every listed image in bytes, 0 if missing; None if the images are not files."""
        ...

    def signature(self, *, masks: bool = True) -> str:
        """A hash of what would be read (lists, labels, file sizes), independent of the path of the data set.

        With `masks=False`, a hash of images and labels only, for use when masks are read only for evaluation.
        """
        ...


def forget_lists(source: object) -> None:
    """Drop the lists and labels of images that a data set has cached; they are read again when they are needed.

    A list of half a million keys takes 50 MB, also in every worker that a stage with this data set is sent to. What is
    cached is in dictionaries that are fields of the source but no arguments of it.
    """
    for one in fields(source) if is_dataclass(source) and not isinstance(source, type) else ():
        value = getattr(source, one.name)
        if not one.init and isinstance(value, dict):
            value.clear()
        else:
            forget_lists(value)
