"""The manifest entry of a shard: the contents of its tar, in columns, so that half a million samples load fast."""

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
    """Position of one record in its tar, and its metadata, which can be read without opening the tar."""

    key: str
    offset: int
    length: int
    """Bytes from the first member's header to the end of the last member, padding included."""
    digest: str
    """First half of the SHA-256 of these bytes, in hexadecimal digits."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """For samples: classes, unknown (classes as `shards.ranges`), size, position, has_mask; mask_values (the distinct
    values, as `shards.ranges`) if there is a mask; boxes (their number) if they are known; notes (`Sample.notes`) if
    there are any. For pseudo labels made from several label maps: disputed (`PseudoLabel.disputed`) and size; and
    agreement (`PseudoLabel.agreement`) if it was measured. A missing name means that the value is not known, so adding
    a name does not change the format."""


class RecordEntries(Sequence[RecordEntry]):
    """The entries of a shard, stored in columns; a `RecordEntry` is created on access."""

    def __init__(self, columns: Mapping[str, list[Any]], metadata: Mapping[str, list[Any]]) -> None:
        self.keys, self._offsets, self.lengths, self._digests = (columns[name] for name in _COLUMNS)
        self._metadata = metadata
        lengths = {len(column) for column in (*(columns[name] for name in _COLUMNS), *metadata.values())}
        if len(lengths) > 1:
            raise ValueError(f"its columns have different lengths: {sorted(lengths)}")

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
        """One metadata value of every entry, None if it is not known."""
        return self._metadata.get(name) or [None] * len(self)

    def columns(self) -> dict[str, Any]:
        """The columns as stored in JSON."""
        columns = zip(_COLUMNS, (self.keys, self._offsets, self.lengths, self._digests), strict=True)
        return {**dict(columns), "facts": dict(self._metadata)}

    def __len__(self) -> int:
        return len(self.keys)

    @overload
    def __getitem__(self, index: int) -> RecordEntry: ...

    @overload
    def __getitem__(self, index: slice) -> list[RecordEntry]: ...

    def __getitem__(self, index: int | slice) -> RecordEntry | list[RecordEntry]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        metadata = {name: column[index] for name, column in self._metadata.items() if column[index] is not None}
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
    """The manifest entry of one shard."""

    shard: str
    num_bytes: int
    sha256: str
    entries: RecordEntries
    missing: tuple[Missing, ...]
    made_on: str = ""
    """Device, instruction set and number of threads that computed the records, if these can change their last bits.
    Empty means not known, so entries written without it remain valid."""

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
        """Raises ValueError, TypeError or KeyError if the bytes are not a manifest entry of this format."""
        raw = from_json(data)  # takes two thirds of the time of the json module
        if raw["format"] != FORMAT:
            raise ValueError(f"it has format {raw['format']}, this program reads format {FORMAT}")
        return cls(
            shard=raw["shard"],
            num_bytes=raw["num_bytes"],
            sha256=raw["sha256"],
            entries=RecordEntries(raw, raw["facts"]),
            missing=tuple(Missing(**one) for one in raw["missing"]),
            made_on=raw.get("made_on", ""),
        )
