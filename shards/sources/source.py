"""What every data set on disk offers: a cheap listing, and the reading of one sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from shards.records import Sample
from shards.taxonomy import Taxonomy


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One sample as the data set lists it, before anything of it is read."""

    key: str
    split: str
    position: int
    """Place in the split's list, from 0."""


class Source(Protocol):
    """A data set. Reading the same listed sample always gives the same record."""

    @property
    def taxonomy(self) -> Taxonomy: ...

    def list_split(self, split: str) -> list[Listed]:
        """The samples of one split, in their order. Raises ValueError where the list is missing or empty."""
        ...

    def read(self, listed: Listed) -> Sample:
        """One sample, its image checked to decode. Raises `BadSampleError` with the reason where it cannot be used."""
        ...

    def signature(self) -> str:
        """A hash of what would be read (lists, labels, file sizes), independent of where the data set lies."""
        ...
