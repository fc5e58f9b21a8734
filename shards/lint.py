"""`wsss shards lint`: reads a whole layer, shard by shard, and says what is wrong with it.

Of every shard: the index, the row and the tar agree in size and hash, and every record in place, digest and metadata;
every record decodes; every image decodes and has the size, mask, saliency map and boxes that fit. Over all shards and
splits: images whose files are the same bytes, and masks that show other classes than their images' labels for a reason
that can be named. Memory holds one tar where it comes from afar, and 24 bytes an image.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np

from shards.images import image_metadata
from shards.layer import ShardError, split_of
from shards.manifest_entry import ManifestEntry, RecordEntry
from shards.mask_check import MaskCheck, likely_causes
from shards.opened import OpenedLayer
from shards.reader import read_tar
from shards.records import Sample
from shards.writer import sample_metadata

_NAMED = 8
"""Samples of one image that are named; of more the number is told."""
Progress = Callable[[int, int], None]
"""Told (shards read, shards in all)."""


class _Contents:
    """The hash of every image, 16 bytes each, and where it lies."""

    def __init__(self) -> None:
        self._digests = bytearray()
        self._shards, self._places = array("L"), array("L")

    def add(self, encoded: bytes, *, shard: int, place: int) -> None:
        self._digests += hashlib.sha256(encoded).digest()[:16]
        self._shards.append(shard)
        self._places.append(place)

    def groups(self) -> Iterator[list[tuple[int, int]]]:
        """(shard, place) of the samples that share an image, in order; groups in the order of their first."""
        digests_N2 = np.frombuffer(bytes(self._digests), dtype=np.uint64).reshape(-1, 2)
        order = np.lexsort(digests_N2.T)  # equal ones stay in their order
        same = (digests_N2[order[1:]] == digests_N2[order[:-1]]).all(1)
        begins = np.flatnonzero(same & ~np.concatenate([[False], same[:-1]]))
        groups = []
        for begin in begins.tolist():
            end = begin + 1
            while end < len(order) and same[end - 1]:
                end += 1
            groups.append(order[begin:end].tolist())
        for group in sorted(groups):
            yield [(self._shards[number], self._places[number]) for number in group]


def lint(
    opened: OpenedLayer, *, progress: Progress | None = None, checks: dict[str, MaskCheck] | None = None
) -> Iterator[str]:
    """One line per fault; nothing where all is sound. A shard's come when it was read, duplicates at the end.

    `checks`: filled with split -> its masks against its labels. A few that differ are no fault (an object may be too
    small for the mask); a cause that can be named is one.
    """
    checks = {} if checks is None else checks
    shards, hashes = opened.layer.shards(), opened.layer.hashes()
    contents = _Contents()
    if not shards:
        yield "the layer has no shards"
    for number, shard in enumerate(shards):
        if progress is not None:
            progress(number, len(shards))
        try:
            row = opened.manifest_entry(shard)
            if hashes.get(shard) != row.sha256:
                yield f"{shard}: its row is of another tar than the index says; run its stage again"
            if row.count == 0:
                yield f"{shard}: holds no record"
            with opened.layer.open_tar(shard) as tar:
                yield from _lint_tar(
                    opened, row, tar, contents, number, checks.setdefault(split_of(shard), MaskCheck())
                )
        except (OSError, ValueError, ShardError) as error:
            yield str(error)
    if progress is not None:
        progress(len(shards), len(shards))
    yield from _duplicates(opened, shards, contents)
    yield from likely_causes(checks, opened.layer.classes())


def _lint_tar(
    opened: OpenedLayer, row: ManifestEntry, tar: BinaryIO, contents: _Contents, number: int, check: MaskCheck
) -> Iterator[str]:
    where = opened.layer.tar_name(row.shard)
    if hashlib.file_digest(tar, "sha256").hexdigest() != row.sha256:  # type: ignore[arg-type]
        yield f"{where}: its bytes are not the ones that were written; delete it and run its stage again"
        return
    tar.seek(0)
    for place, record in enumerate(read_tar(tar, opened.layer, row)):
        if place >= row.count:
            continue  # told once the tar is read
        entry = row.entries[place]
        if record.key != entry.key:
            yield f"{row.shard}: holds {record.key!r} where its row names {entry.key!r}"
        elif isinstance(record, Sample):
            contents.add(record.encoded, shard=number, place=place)
            check.add_sample(record, notes=entry.metadata.get("notes", {}))
            for fault in (*_facts(entry, record), *_image(record)):
                yield f"{row.shard}: {record.key}: {fault}"
    for entry in row.entries:
        tar.seek(entry.offset)
        if hashlib.sha256(tar.read(entry.length)).hexdigest()[: len(entry.digest)] != entry.digest:
            yield f"{row.shard}: {entry.key}: its row has another digest, or another place in the tar"


def _facts(entry: RecordEntry, sample: Sample) -> Iterator[str]:
    """Where the row says something else than the record; what a row does not say is no fault."""
    found: dict[str, Any] = sample_metadata(sample)
    for name, value in entry.metadata.items():
        if name in found and found[name] != value:
            yield f"its row says {name} {str(value)[:60]}, the record {str(found[name])[:60]}"


def _image(sample: Sample) -> Iterator[str]:
    try:
        size = image_metadata(sample.encoded).size
    except ValueError as error:
        yield str(error)
        return
    if size != sample.size:
        yield f"decodes to {size}, its record says {sample.size}"
    if sample.mask is not None and sample.mask.shape != sample.size:
        yield f"its mask is {sample.mask.shape}, its image {sample.size}"
    if sample.saliency is not None and sample.saliency.shape != sample.size:
        yield f"its saliency map is {sample.saliency.shape}, its image {sample.size}"
    for box in sample.boxes or ():
        if not (0 <= box.top < box.bottom <= sample.size[0] and 0 <= box.left < box.right <= sample.size[1]):
            yield f"{box} does not lie in its image of {sample.size}"
    if both := sorted(set(sample.classes) & set(sample.unknown)):
        yield f"class {both[0]} is both present and unknown"


def _duplicates(opened: OpenedLayer, shards: list[str], contents: _Contents) -> Iterator[str]:
    for group in contents.groups():
        splits = list(dict.fromkeys(split_of(shards[number]) for number, _ in group))
        some = [(shards[number], place) for number, place in group[:_NAMED]]
        named = [f"{shard}: {opened.manifest_entry(shard).entries.keys[place]}" for shard, place in some]
        more = f"; and {len(group) - _NAMED} more" if len(group) > _NAMED else ""
        across = " (what is measured on must not be trained on)" if len(splits) > 1 else ""
        yield f"the same image {len(group)} times, in {' and '.join(splits)}{across}: {'; '.join(named)}{more}"
