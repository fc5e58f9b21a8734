"""A layer: one column of the data set. A folder of tars, aligned shard by shard with `samples`.

    <layer>/train-000017.tar     records, in the order of the samples
    <layer>/train-000017.json    its row: what is inside, what is missing and why; written after the tar
    <layer>/index.json           written last: the layer is complete

A shard is finished when its row stands beside a tar of the size that the row names.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from shards.codec import to_json
from shards.files import write_bytes
from shards.records import Missing

INDEX = "index.json"


class ShardError(RuntimeError):
    """A shard on disk is missing or not what its row says."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Where one record lies inside its tar, and what can be known of it without opening it."""

    key: str
    offset: int
    length: int
    """Bytes from the first member's header to the end of the last member, padding included."""
    facts: dict[str, Any] = field(default_factory=dict)
    """For samples: classes, size, position, has_mask."""


@dataclass(frozen=True, kw_only=True)
class ShardRow:
    """The manifest row of one shard."""

    shard: str
    num_bytes: int
    sha256: str
    entries: tuple[Entry, ...]
    missing: tuple[Missing, ...]

    @property
    def count(self) -> int:
        """Number of records in the shard."""
        return len(self.entries)

    def to_bytes(self) -> bytes:
        return to_json(asdict(self))

    @classmethod
    def from_bytes(cls, data: bytes) -> ShardRow:
        raw = json.loads(data)
        entries = tuple(Entry(**entry) for entry in raw.pop("entries"))
        missing = tuple(Missing(**entry) for entry in raw.pop("missing"))
        return cls(**raw, entries=entries, missing=missing)


def shard_name(split: str, number: int) -> str:
    """`train`, 17 -> `train-000017`."""
    return f"{split}-{number:06d}"


def split_of(shard: str) -> str:
    """`train-000017` -> `train`."""
    return shard.rpartition("-")[0]


@dataclass(frozen=True)
class Layer:
    """A layer's folder on disk, with the kind of record it holds."""

    path: Path
    kind: str

    def tar_path(self, shard: str) -> Path:
        return self.path / f"{shard}.tar"

    def row_path(self, shard: str) -> Path:
        return self.path / f"{shard}.json"

    def row(self, shard: str) -> ShardRow:
        """The row of a finished shard. Raises `ShardError` where the shard is unfinished or was cut short."""
        try:
            row = ShardRow.from_bytes(self.row_path(shard).read_bytes())
        except FileNotFoundError:
            raise ShardError(f"{self.tar_path(shard)} is not finished: it has no row; run its stage again") from None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ShardError(f"{self.row_path(shard)} is not readable ({error}); run its stage again") from error
        found = self.tar_path(shard).stat().st_size if self.tar_path(shard).exists() else 0
        if found != row.num_bytes:
            raise ShardError(
                f"{self.tar_path(shard)} is cut short: {found} bytes, {row.num_bytes} expected; run its stage again"
            )
        return row

    def is_finished(self, shard: str) -> bool:
        """True where the shard's tar and row are both there and agree in size."""
        try:
            self.row(shard)
        except ShardError:
            return False
        return True

    def shards(self) -> list[str]:
        """The shards of a complete layer, in order. Raises `ShardError` where the layer is not complete."""
        return list(self._index()["shards"])

    def _index(self) -> dict[str, Any]:
        """The index of a complete layer. Raises `ShardError` where it is missing or damaged."""
        try:
            index = json.loads((self.path / INDEX).read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            raise ShardError(
                f"the layer {self.path} is not complete: {INDEX} is missing; run its stage again"
            ) from None
        except ValueError as error:
            raise ShardError(f"{self.path / INDEX} is not readable ({error}); run its stage again") from None
        forms = {"record": str, "shards": list, "counts": dict, "sha256": dict, "missing": dict}
        if not isinstance(index, dict) or not all(isinstance(index.get(name), form) for name, form in forms.items()):
            raise ShardError(f"{self.path / INDEX} is not an index; run its stage again")
        return index

    def is_complete(self, expected: list[str]) -> bool:
        """True where the index is written for exactly these shards and each of them is finished."""
        try:
            if self.shards() != expected:
                return False
        except ShardError:
            return False
        return all(self.is_finished(shard) for shard in expected)

    def rows(self, split: str | None = None) -> Iterator[ShardRow]:
        """Rows of a complete layer in shard order, of one split or of all."""
        for shard in self.shards():
            if split is None or split_of(shard) == split:
                yield self.row(shard)

    def complete(self, shards: list[str]) -> None:
        """Write the index: counts and hashes of every shard, and the reasons of what is missing."""
        rows = [self.row(shard) for shard in shards]
        index: dict[str, Any] = {
            "record": self.kind,
            "shards": shards,
            "counts": {row.shard: row.count for row in rows},
            "sha256": {row.shard: row.sha256 for row in rows},
            "missing": _reasons(rows, left_out=False),
        }
        if left_out := _reasons(rows, left_out=True):
            index["left_out"] = left_out
        write_bytes(self.path / INDEX, to_json(index))

    def counts(self) -> dict[str, int]:
        """Number of records per split, and `missing` over all splits, of a complete layer."""
        index = self._index()
        totals: dict[str, int] = {}
        for shard, count in index["counts"].items():
            totals[split_of(shard)] = totals.get(split_of(shard), 0) + count
        return totals | {"missing": sum(len(reasons) for reasons in index["missing"].values())}

    def left_out(self) -> dict[str, dict[str, str]]:
        """Samples of a complete layer that settings left out: split -> key -> reason; splits without any are absent."""
        found: dict[str, dict[str, str]] = {}
        for shard, reasons in self._index().get("left_out", {}).items():
            found.setdefault(split_of(shard), {}).update(reasons)
        return found

    def missing(self) -> Iterator[Missing]:
        """Every sample that a complete layer lacks, with the reason; those that were left out are not among them."""
        for reasons in self._index()["missing"].values():
            yield from (Missing(key=key, reason=reason) for key, reason in reasons.items())


def _reasons(rows: list[ShardRow], *, left_out: bool) -> dict[str, dict[str, str]]:
    """Shard -> key -> reason, of what is missing or of what was left out."""
    told = {row.shard: {e.key: e.reason for e in row.missing if e.left_out == left_out} for row in rows}
    return {shard: reasons for shard, reasons in told.items() if reasons}
