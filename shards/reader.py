"""Reading layers: a whole shard sequentially through webdataset, one record by its offset, and joins of layers."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator, Mapping
from typing import BinaryIO, Literal

from shards.codec import decode, key_of
from shards.file_system_errors import reading
from shards.layer import AGAIN, INDEX, Layer, ShardError
from shards.manifest_entry import ManifestEntry, RecordEntry
from shards.records import Missing, Record
from shards.set_aside import why_set_aside
from shards.work_notes import note


def read_shard(layer: Layer, shard: str) -> Iterator[Record]:
    """The records of one finished shard, in order. Raises `ShardError` naming the file if it is damaged."""
    manifest = layer.manifest_entry(shard)
    with reading(layer.tar_name(shard)):
        tar = layer.open_tar(shard)
    with tar as stream:
        yield from read_tar(stream, layer, manifest)


def read_tar(stream: BinaryIO, layer: Layer, manifest: ManifestEntry) -> Iterator[Record]:
    """Like `read_shard`, for an open tar."""
    import webdataset as wds  # imports torch, which workers that build shards do not need

    path = layer.tar_name(manifest.shard)
    count = 0
    try:
        files = wds.tariterators.tar_file_expander(iter([{"url": path, "stream": stream}]))
        for sample in wds.tariterators.group_by_keys(files, lcase=False):
            key = key_of(sample["__key__"])
            members = {name: data for name, data in sample.items() if not name.startswith("__")}
            if why_set_aside(key) is None:
                note(sample=key)
                yield decode(layer.kind, key, members)
            count += 1
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise ShardError(f"{path} is damaged after {count} records: {error}; delete it and {AGAIN}") from error
    if count != manifest.count:
        raise ShardError(
            f"{path} holds {count} records, but its manifest entry lists {manifest.count}; delete it and {AGAIN}"
        )


def read_entry(layer: Layer, shard: str, entry: RecordEntry) -> Record:
    """Read one record by its offset and check its digest; the rest of the shard is not read.

    Raises: ShardError naming the file and the key.
    """
    members = read_members(layer, shard, entry)
    try:
        return decode(layer.kind, entry.key, members)
    except ValueError as error:
        raise _damaged_at(layer, shard, entry, error) from error


def read_members(layer: Layer, shard: str, entry: RecordEntry) -> dict[str, bytes]:
    """The members of one record, extension -> bytes, not decoded; like `read_entry`."""
    path = layer.tar_name(shard)
    members: dict[str, bytes] = {}
    try:
        with reading(path):
            data = layer.read_span(shard, offset=entry.offset, length=entry.length)
        if hashlib.sha256(data).hexdigest()[: len(entry.digest)] != entry.digest:
            raise ValueError("its content differs from what was written")
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            for info in tar:
                content = tar.extractfile(info)
                assert content is not None, "a shard contains only regular files"
                members[info.name.partition(".")[2]] = content.read()
        return members
    except (tarfile.TarError, OSError, ValueError) as error:
        raise _damaged_at(layer, shard, entry, error) from error


def _damaged_at(layer: Layer, shard: str, entry: RecordEntry, error: Exception) -> ShardError:
    path = layer.tar_name(shard)
    if isinstance(error, FileNotFoundError) or isinstance(error.__cause__, FileNotFoundError):
        return ShardError(f"{path} is missing; {AGAIN}")
    return ShardError(f"{path} is damaged at {entry.key!r}: {error}; delete it and {AGAIN}")


Joined = Mapping[str, Record]


def join_shard(
    layers: Mapping[str, Layer], shard: str, *, how: Literal["inner", "strict"]
) -> Iterator[Joined | Missing]:
    """Join records of the same key from several layers, in the order of the first layer.

    If a key of the first layer is missing from another, `inner` yields a `Missing` with that layer's reason (marked
    `left_out` if every layer that lacks the key left it out); `strict` raises ValueError. A key that only a later layer
    has is an error in both.
    """
    (first, *others) = layers
    streams = {name: _Lookahead(read_shard(layers[name], shard)) for name in others}
    missing = {name: {entry.key: entry for entry in layers[name].manifest_entry(shard).missing} for name in layers}
    yield from missing[first].values()
    for record in read_shard(layers[first], shard):
        found = {name: stream.take(record.key) for name, stream in streams.items()}
        note(sample=record.key)  # the streams have read ahead
        absent = [name for name, other in found.items() if other is None]
        if not absent:
            yield {first: record, **{name: other for name, other in found.items() if other is not None}}
            continue
        known = {name: missing[name].get(record.key) for name in absent}
        reason = "; ".join(f"{name}: {entry.reason if entry else 'not in the layer'}" for name, entry in known.items())
        if how == "strict":
            raise ValueError(f"{shard}: {record.key!r} is missing ({reason}); this join allows no missing record")
        left_out = all(entry is not None and entry.left_out for entry in known.values())
        yield Missing(key=record.key, reason=reason, left_out=left_out)
    for name, stream in streams.items():
        if (extra := stream.peek()) is not None:
            raise ValueError(
                f"{shard}: layer {name!r} contains {extra.key!r}, but layer {first!r} does not: it was made when this "
                f"record was there. See {layers[first].path / INDEX} for why it is missing now (a bad mask, say); "
                f"correct that, or remove {layers[name].path} so that it is made again"
            )


class _Lookahead:
    """A stream of records; the next one is consumed only if it has the requested key."""

    def __init__(self, records: Iterator[Record]) -> None:
        self._records = records
        self._next: Record | None = next(records, None)

    def peek(self) -> Record | None:
        return self._next

    def take(self, key: str) -> Record | None:
        if self._next is None or self._next.key != key:
            return None
        taken, self._next = self._next, next(self._records, None)
        return taken
