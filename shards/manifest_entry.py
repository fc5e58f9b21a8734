"""The row of a shard: what its tar holds and where, in columns, so that half a million samples load in a second."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

from pydantic_core import from_json

from shards.codec import to_json
from shards.records import Missing

FORMAT = 2
_COLUMNS = ("keys", "offsets", "lengths", "digests")


@dataclass(frozen=True, kw_only=True)
class RecordEntry:
    """Where one record lies inside its tar, and what can be known of it without opening it."""

    key: str
    offset: int
    length: int
    """Bytes from the first member's header to the end of the last member, padding included."""
    digest: str
    """First half of the SHA-256 of these bytes, in hexadecimal digits."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """For samples: classes, unknown (classes as `shards.ranges`), size, position, has_mask; mask_values (the distinct
    values, as `shards.ranges`) where there is a mask; boxes, their number, where they are known; notes (`Sample.notes`)
    where there are any. A reader takes a fact that it does not find as not known: one more fact is no other format."""


class RecordEntries(Sequence[RecordEntry]):
    """The entries of a shard, held in columns; an `RecordEntry` is made where one is asked for."""

    def __init__(self, columns: Mapping[str, list[Any]], metadata: Mapping[str, list[Any]]) -> None:
        self.keys, self._offsets, self.lengths, self._digests = (columns[name] for name in _COLUMNS)
        self._facts = metadata
        lengths = {len(column) for column in (*(columns[name] for name in _COLUMNS), *metadata.values())}
        if len(lengths) > 1:
            raise ValueError(f"its columns are of different lengths: {sorted(lengths)}")

    @classmethod
    def of(cls, entries: Iterable[RecordEntry]) -> RecordEntries:
        """The same entries in columns."""
        entries = list(entries)
        names = sorted({name for entry in entries for name in entry.metadata})
        columns: dict[str, list[Any]] = {
            "keys": [entry.key for entry in entries],
            "offsets": [entry.offset for entry in entries],
            "lengths": [entry.length for entry in entries],
            "digests": [entry.digest for entry in entries],
        }
        return cls(columns, {name: [entry.metadata.get(name) for entry in entries] for name in names})

    def metadata(self, name: str) -> list[Any]:
        """One fact of every entry, None where it is not known."""
        return self._facts.get(name) or [None] * len(self)

    def columns(self) -> dict[str, Any]:
        """What JSON holds."""
        columns = zip(_COLUMNS, (self.keys, self._offsets, self.lengths, self._digests), strict=True)
        return {**dict(columns), "facts": dict(self._facts)}

    def __len__(self) -> int:
        return len(self.keys)

    @overload
    def __getitem__(self, index: int) -> RecordEntry: ...

    @overload
    def __getitem__(self, index: slice) -> list[RecordEntry]: ...

    def __getitem__(self, index: int | slice) -> RecordEntry | list[RecordEntry]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        metadata = {name: column[index] for name, column in self._facts.items() if column[index] is not None}
        return RecordEntry(
            key=self.keys[index],
            offset=self._offsets[index],
            length=self.lengths[index],
            digest=self._digests[index],
            metadata=metadata,
        )

    def __iter__(self) -> Iterator[RecordEntry]:
        return (self[number] for number in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RecordEntries) and self.columns() == other.columns()

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, kw_only=True)
class ManifestEntry:
    """The manifest row of one shard."""

    shard: str
    num_bytes: int
    sha256: str
    entries: RecordEntries
    missing: tuple[Missing, ...]
    made_on: str = ""
    """Device, instruction set and number of threads that computed the records, where these can change their last bits.
    A reader takes its absence as not known, so it is no other format."""

    @property
    def count(self) -> int:
        """Number of records in the shard."""
        return len(self.entries)

    def to_bytes(self) -> bytes:
        head = {"format": FORMAT, "shard": self.shard, "num_bytes": self.num_bytes, "sha256": self.sha256}
        made_on = {"made_on": self.made_on} if self.made_on else {}
        missing = [vars(one) for one in self.missing]
        return to_json({**head, **made_on, **self.entries.columns(), "missing": missing})

    @classmethod
    def from_bytes(cls, data: bytes) -> ManifestEntry:
        """Raises ValueError, TypeError or KeyError where the bytes are not a row of this format."""
        raw = from_json(data)  # rows of a large set are read in two thirds of the time that json takes
        if raw["format"] != FORMAT:
            raise ValueError(f"it is of format {raw['format']}, this program reads format {FORMAT}")
        return cls(
            shard=raw["shard"],
            num_bytes=raw["num_bytes"],
            sha256=raw["sha256"],
            entries=RecordEntries(raw, raw["facts"]),
            missing=tuple(Missing(**one) for one in raw["missing"]),
            made_on=raw.get("made_on", ""),
        )
