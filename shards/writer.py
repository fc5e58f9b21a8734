"""Writing one shard: a tar and its row, each under a temporary name first; the same records give the same bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, BinaryIO, cast

import webdataset as wds

from shards.codec import encode, member_name
from shards.files import replacing, write_bytes
from shards.layer import Entry, Layer, ShardRow
from shards.records import RECORD_KINDS, Missing, Record, Sample


class _HashingFile:
    """Passes bytes on and keeps their SHA-256 and count, so that the tar is not read again."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.num_bytes = 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.num_bytes += len(data)
        return self._file.write(data)


def _facts(record: Record) -> dict[str, Any]:
    if not isinstance(record, Sample):
        return {}
    facts: dict[str, Any] = {
        "classes": list(record.classes),
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
                entries.append(Entry(key=record.key, offset=start, length=length, facts=_facts(record)))
    row = ShardRow(
        shard=shard,
        num_bytes=hashing.num_bytes,
        sha256=hashing.digest.hexdigest(),
        entries=tuple(entries),
        missing=tuple(missing),
    )
    write_bytes(layer.row_path(shard), row.to_bytes())
    return row
