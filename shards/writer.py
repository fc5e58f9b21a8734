"""Writing one shard: a tar and its row, each under a temporary name first; the same records give the same bytes."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, BinaryIO, cast

import webdataset as wds

from shards.codec import encode, member_name
from shards.files import replacing, write_bytes
from shards.layer import Layer
from shards.ranges import to_ranges
from shards.records import RECORD_KINDS, Missing, Record, Sample
from shards.shard_row import Entries, Entry, ShardRow

DIGEST_DIGITS = 32


class _HashingFile:
    """Passes bytes on and keeps the SHA-256 of all and of every record, so that the tar is not read again."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.num_bytes = 0
        self._ends: deque[int] = deque()
        self._of_record = hashlib.sha256()
        self.digests: list[str] = []

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        rest = memoryview(data)
        while self._ends and self.num_bytes + len(rest) >= self._ends[0]:
            rest = self._finish_record(rest, self._ends.popleft())
        self._of_record.update(rest)
        self.num_bytes += len(rest)
        return self._file.write(data)

    def record_ends(self, end: int) -> None:
        """The record under way ends at byte `end`; tarfile may hold back its last bytes for a while."""
        if end == self.num_bytes:
            self._finish_record(memoryview(b""), end)
        else:
            self._ends.append(end)

    def _finish_record(self, data: memoryview, end: int) -> memoryview:
        """Take the last bytes of a record from `data`; what is left belongs to the next."""
        mine = end - self.num_bytes
        self._of_record.update(data[:mine])
        self.digests.append(self._of_record.hexdigest()[:DIGEST_DIGITS])
        self._of_record = hashlib.sha256()
        self.num_bytes = end
        return data[mine:]


def sample_facts(record: Sample) -> dict[str, Any]:
    """What a row says of a sample, so that nobody opens the tar for it."""
    facts: dict[str, Any] = {
        "classes": list(record.classes),
        "unknown": to_ranges(record.unknown),
        "size": list(record.size),
        "position": record.position,
        "has_mask": record.mask is not None,
    }
    return facts if record.boxes is None else facts | {"boxes": len(record.boxes)}


def write_shard(layer: Layer, shard: str, records: Iterable[Record | Missing]) -> ShardRow:
    """Write `records` as one finished shard of `layer` and return its row.

    Nothing is left behind where `records` raises. Raises ValueError on a repeated key or a record of another kind.
    """
    expected = RECORD_KINDS[layer.kind]
    entries: list[Entry] = []
    missing: list[Missing] = []
    seen: set[str] = set()
    with replacing(layer.tar_path(shard)) as file:
        hashing = _HashingFile(file)
        with wds.TarWriter(cast(Any, hashing), encoder=False, mtime=0, user="wsss", group="wsss") as writer:
            for record in records:
                if record.key in seen:
                    raise ValueError(f"key {record.key!r} appears twice in {shard}; keys must be unique")
                seen.add(record.key)
                if isinstance(record, Missing):
                    missing.append(record)
                    continue
                if not isinstance(record, expected):
                    raise ValueError(f"{layer.path} holds {expected.__name__} records, got {type(record).__name__}")
                start = writer.tarstream.offset
                writer.write({"__key__": member_name(record.key), **dict(sorted(encode(record).items()))})
                length = writer.tarstream.offset - start
                hashing.record_ends(start + length)
                facts = sample_facts(record) if isinstance(record, Sample) else {}
                entries.append(Entry(key=record.key, offset=start, length=length, digest="", facts=facts))
    row = ShardRow(
        shard=shard,
        num_bytes=hashing.num_bytes,
        sha256=hashing.digest.hexdigest(),
        entries=Entries.of(replace(e, digest=d) for e, d in zip(entries, hashing.digests, strict=True)),
        missing=tuple(missing),
    )
    write_bytes(layer.row_path(shard), row.to_bytes())
    return row
