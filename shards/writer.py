"""Writes one shard: a tar and its manifest entry, each atomically; the same records give the same bytes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from shards.codec import encode, member_name
from shards.files import replacing, write_bytes
from shards.label_type import type_of
from shards.layer import Layer
from shards.manifest_entry import ManifestEntry, RecordEntries, RecordEntry
from shards.mask_check import mask_values
from shards.overlap import Waiting, handed_on
from shards.ranges import to_ranges
from shards.records import RECORD_KINDS, Missing, PseudoLabel, Record, Sample, label_map_of
from shards.tar_stream import TarStream
from shards.work_notes import note

DIGEST_DIGITS = 32


class _Content:
    """What a shard under construction contains so far."""

    def __init__(self, layer: Layer, shard: str, tar: TarStream) -> None:
        self._layer, self._shard, self.tar = layer, shard, tar
        self.entries: list[RecordEntry] = []
        self.missing: list[Missing] = []
        self._seen: set[str] = set()
        self._bits: dict[int, str] = {}

    def add(self, record: Record | Missing) -> None:
        """Encode and write the next record."""
        if record.key in self._seen:
            raise ValueError(f"key {record.key!r} appears twice in {self._shard}; keys must be unique")
        self._seen.add(record.key)
        if isinstance(record, Missing):
            self.missing.append(record)
            return
        if not isinstance(record, expected := RECORD_KINDS[self._layer.kind]):
            raise ValueError(f"{self._layer.path} holds {expected.__name__} records, got {type(record).__name__}")
        self._require_one_type(record)
        start = self.tar.num_bytes
        note(sample=record.key)
        length, digest = self.tar.add(member_name(record.key), encode(record))
        note(sample="")  # a later failure concerns the next record, which its worker notes
        digest, metadata = digest[:DIGEST_DIGITS], _metadata(record)
        self.entries.append(RecordEntry(key=record.key, offset=start, length=length, digest=digest, metadata=metadata))

    def _require_one_type(self, record: Record) -> None:
        """Raise ValueError if the label maps of the shard have 8 and 16 bits."""
        if (label := label_map_of(record)) is None:
            return
        self._bits.setdefault(type_of(label).bits, record.key)
        if len(self._bits) > 1:
            raise ValueError(
                f"{self._shard}: the label map of {self._bits[8]!r} has 8 bits and that of {self._bits[16]!r} has 16; "
                "all label maps of a layer have the same type, which follows from the number of classes"
            )


def _metadata(record: Record) -> dict[str, Any]:
    if isinstance(record, Sample):
        return sample_metadata(record)
    if isinstance(record, PseudoLabel) and record.disputed is not None:
        measured = {} if record.agreement is None else {"agreement": record.agreement}
        return {"disputed": record.disputed, "size": list(record.mask.shape)} | measured
    return {}


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


def write_shard(
    layer: Layer,
    shard: str,
    records: Iterable[Record | Missing],
    *,
    made_on: str = "",
    behind: int = 0,
    waiting: Waiting | None = None,
) -> ManifestEntry:
    """Write `records` as one finished shard of `layer` and return its manifest entry.

    `made_on`: the hardware that computed them (see `ManifestEntry`). `behind`: up to so many records are encoded and
    written by a thread while later ones are made; `waiting` counts how long that was waited for. The bytes are the
    same. No file is left behind if `records` raises.
    Raises ValueError for a repeated key, a record of another kind, and label maps of 8 and of 16 bits in one shard.
    """
    with replacing(layer.tar_path(shard), what=f"shard {shard}") as file:
        content = _Content(layer, shard, TarStream(file))
        if behind:
            with handed_on(content.add, ahead=behind, waiting=waiting or Waiting()) as hand_on:
                for record in records:
                    hand_on(record)
        else:
            for record in records:
                content.add(record)
        sha256 = content.tar.finish()
    manifest = ManifestEntry(
        shard=shard,
        num_bytes=content.tar.num_bytes,
        sha256=sha256,
        entries=RecordEntries.of(content.entries),
        missing=tuple(content.missing),
        made_on=made_on,
    )
    write_bytes(layer.manifest_path(shard), manifest.to_bytes(), what=f"the manifest entry of shard {shard}")
    return manifest
