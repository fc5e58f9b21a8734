"""Writes one shard: a tar and its manifest entry, each atomically; the same records give the same bytes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from shards.codec import encode, member_name
from shards.files import replacing, write_bytes
from shards.layer import Layer
from shards.manifest_entry import ManifestEntry, RecordEntries, RecordEntry
from shards.mask_check import mask_values
from shards.ranges import to_ranges
from shards.records import RECORD_KINDS, Missing, Record, Sample
from shards.tar_stream import TarStream
from shards.work_notes import note

DIGEST_DIGITS = 32


def sample_metadata(record: Sample) -> dict[str, Any]:
    """The metadata of a sample in the manifest entry, available without opening the tar."""
    metadata: dict[str, Any] = {
        "classes": list(record.classes),
        "unknown": to_ranges(record.unknown),
        "size": list(record.size),
        "position": record.position,
        "has_mask": record.mask is not None,
    }
    if record.mask is not None:
        metadata["mask_values"] = mask_values(record.mask)
    if record.boxes is not None:
        metadata["boxes"] = len(record.boxes)
    if record.notes:
        metadata["notes"] = dict(record.notes)
    return metadata


def write_shard(layer: Layer, shard: str, records: Iterable[Record | Missing], *, made_on: str = "") -> ManifestEntry:
    """Write `records` as one finished shard of `layer` and return its manifest entry.

    `made_on`: the hardware that computed them (see `ManifestEntry`). No file is left behind if `records` raises.
    Raises ValueError for a repeated key or a record of another kind.
    """
    expected = RECORD_KINDS[layer.kind]
    entries: list[RecordEntry] = []
    missing: list[Missing] = []
    seen: set[str] = set()
    with replacing(layer.tar_path(shard), what=f"shard {shard}") as file:
        tar = TarStream(file)
        for record in records:
            if record.key in seen:
                raise ValueError(f"key {record.key!r} appears twice in {shard}; keys must be unique")
            seen.add(record.key)
            if isinstance(record, Missing):
                missing.append(record)
                continue
            if not isinstance(record, expected):
                raise ValueError(f"{layer.path} holds {expected.__name__} records, got {type(record).__name__}")
            start = tar.num_bytes
            note(sample=record.key)
            length, digest = tar.add(member_name(record.key), encode(record))
            note(sample="")  # a later failure concerns the next record, which its worker notes
            digest, metadata = digest[:DIGEST_DIGITS], sample_metadata(record) if isinstance(record, Sample) else {}
            entries.append(RecordEntry(key=record.key, offset=start, length=length, digest=digest, metadata=metadata))
        sha256 = tar.finish()
    manifest = ManifestEntry(
        shard=shard,
        num_bytes=tar.num_bytes,
        sha256=sha256,
        entries=RecordEntries.of(entries),
        missing=tuple(missing),
        made_on=made_on,
    )
    write_bytes(layer.manifest_path(shard), manifest.to_bytes(), what=f"the manifest entry of shard {shard}")
    return manifest
