"""What every data set on disk offers: a cheap listing, and the reading of one sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, overload

import numpy as np

from shards.records import Sample
from shards.taxonomy import Taxonomy


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One sample as the data set lists it, before anything of it is read."""

    key: str
    split: str
    position: int
    """Place in the split's list, from 0."""


class Listing(Sequence[Listed]):
    """The samples of one split, each made when asked for: half a million of them weigh as much as their keys."""

    def __init__(self, split: str, keys: Sequence[str]) -> None:
        self._split, self.keys = split, keys

    def __len__(self) -> int:
        return len(self.keys)

    @overload
    def __getitem__(self, place: int) -> Listed: ...
    @overload
    def __getitem__(self, place: slice) -> list[Listed]: ...
    def __getitem__(self, place: int | slice) -> Listed | list[Listed]:
        places = range(len(self.keys))[place]
        return [self._listed(one) for one in places] if isinstance(places, range) else self._listed(places)

    def _listed(self, position: int) -> Listed:
        return Listed(key=self.keys[position], split=self._split, position=position)


class Source(Protocol):
    """A data set. Reading the same listed sample always gives the same record."""

    @property
    def taxonomy(self) -> Taxonomy: ...

    def list_split(self, split: str) -> Sequence[Listed]:
        """The samples of one split, in their order; no image is opened for it.

        Raises ValueError where the list is missing or empty.
        """
        ...

    def read(self, listed: Listed) -> Sample:
        """One sample, its image checked to decode. Raises `BadSampleError` with the reason where it cannot be used."""
        ...

    def image_bytes(self, split: str) -> np.ndarray | None:
        """i64[N]: size of every listed image's file in bytes, 0 where there is none; None where images are no files."""
        ...

    def signature(self, *, masks: bool = True) -> str:
        """A hash of what would be read (lists, labels, file sizes), independent of where the data set lies.

        Without `masks`: of images and labels alone, where masks serve for nothing but measuring.
        """
        ...
