"""`wsss shards lint`: reads a whole layer, shard by shard, and reports faults.

Checks of every shard: index, manifest entry and tar agree in size and hash; every record has the offset, digest and
metadata of the manifest entry; every record decodes; every image decodes, and its size, mask, saliency map and boxes
are consistent. Checks over all shards and splits: images with identical file contents, and masks that disagree with
their images' labels in a way that has a likely cause. Memory use: one tar if it is remote, and 24 bytes per image.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np

from shards.images import image_metadata
from shards.label_type import label_type, type_of
from shards.layer import AGAIN, ShardError, split_of
from shards.manifest_entry import ManifestEntry, RecordEntry
from shards.mask_check import MaskCheck, likely_causes
from shards.opened import OpenedLayer
from shards.reader import read_tar
from shards.records import Sample, label_map_of
from shards.writer import sample_metadata

_NAMED = 8
"""Keys listed for one duplicated image; the rest is given as a number."""
Progress = Callable[[int, int], None]
"""Called with (shards read, total number of shards)."""


class _Contents:
    """The hash of every image, 16 bytes each, with its shard and its index in the shard."""

    def __init__(self) -> None:
        self._digests = bytearray()
        self._shards, self._indices = array("L"), array("L")

    def add(self, encoded: bytes, *, shard: int, index: int) -> None:
        self._digests += hashlib.sha256(encoded).digest()[:16]
        self._shards.append(shard)
        self._indices.append(index)

    def groups(self) -> Iterator[list[tuple[int, int]]]:
        """(shard, index) of the samples that share an image, in order; groups ordered by their first sample."""
        digests_N2 = np.frombuffer(bytes(self._digests), dtype=np.uint64).reshape(-1, 2)
        order = np.lexsort(digests_N2.T)  # a stable sort
        same = (digests_N2[order[1:]] == digests_N2[order[:-1]]).all(1)
        begins = np.flatnonzero(same & ~np.concatenate([[False], same[:-1]]))
        groups = []
        for begin in begins.tolist():
            end = begin + 1
            while end < len(order) and same[end - 1]:
                end += 1
            groups.append(order[begin:end].tolist())
        for group in sorted(groups):
            yield [(self._shards[number], self._indices[number]) for number in group]


def lint(
    opened: OpenedLayer, *, progress: Progress | None = None, checks: dict[str, MaskCheck] | None = None
) -> Iterator[str]:
    """One line per fault. The faults of a shard are yielded once it has been read, duplicates at the end.

    `checks`: filled with split -> comparison of its masks with its labels. A few mismatches are not a fault (an object
    may be too small for the mask), but a mismatch with a likely cause is one.
    """
    checks = {} if checks is None else checks
    names = opened.layer.classes()

    def bare_check() -> MaskCheck:
        return MaskCheck.of_classes(len(names or ()))

    shards, hashes, counts = opened.layer.shards(), opened.layer.hashes(), opened.layer.counts_of_shards()
    contents = _Contents()
    if not shards:
        yield "the layer has no shards"
    for number, shard in enumerate(shards):
        if progress is not None:
            progress(number, len(shards))
        try:
            manifest = opened.manifest_entry(shard)
            if hashes.get(shard) != manifest.sha256:
                yield f"{shard}: its manifest entry and the index give different hashes of the tar; {AGAIN}"
            if (listed := counts.get(shard)) != manifest.count:
                yield f"{shard}: its manifest entry lists {manifest.count} records, the index {listed}; {AGAIN}"
            if manifest.count == 0:
                yield f"{shard}: contains no records"
            with opened.layer.open_tar(shard) as tar:
                yield from _lint_tar(
                    opened, manifest, tar, contents, number, checks.setdefault(split_of(shard), bare_check())
                )
        except (OSError, ValueError, ShardError) as error:
            yield str(error)
    if progress is not None:
        progress(len(shards), len(shards))
    yield from _duplicates(opened, shards, contents)
    yield from likely_causes(checks, names)


def _lint_tar(
    opened: OpenedLayer, manifest: ManifestEntry, tar: BinaryIO, contents: _Contents, number: int, check: MaskCheck
) -> Iterator[str]:
    where = opened.layer.tar_name(manifest.shard)
    if hashlib.file_digest(tar, "sha256").hexdigest() != manifest.sha256:  # type: ignore[arg-type]
        yield f"{where}: its content differs from what was written; delete it and {AGAIN}"
        return
    tar.seek(0)
    names, wanted = opened.layer.classes(), None
    for index, record in enumerate(read_tar(tar, opened.layer, manifest)):
        if index >= manifest.count:
            continue  # `read_tar` raises at the end of the tar
        entry = manifest.entries[index]
        if record.key != entry.key:
            yield f"{manifest.shard}: contains {record.key!r}, but its manifest entry lists {entry.key!r} at that index"
        elif isinstance(record, Sample):
            contents.add(record.encoded, shard=number, index=index)
            check.add_sample(record, notes=entry.metadata.get("notes", {}))
            for fault in (*_metadata_faults(entry, record), *_image_faults(record)):
                yield f"{manifest.shard}: {record.key}: {fault}"
        if (label := label_map_of(record)) is not None:
            wanted = wanted or (label_type(len(names)) if names else type_of(label))
            if label.dtype != wanted.dtype:
                yield (
                    f"{manifest.shard}: {record.key}: its label map has {type_of(label).bits} bits, but those of this "
                    f"layer have {wanted.bits}"
                )
    for entry in manifest.entries:
        tar.seek(entry.offset)
        if hashlib.sha256(tar.read(entry.length)).hexdigest()[: len(entry.digest)] != entry.digest:
            yield f"{manifest.shard}: {entry.key}: its digest or offset in the manifest entry does not match the tar"


def _metadata_faults(entry: RecordEntry, sample: Sample) -> Iterator[str]:
    """Metadata of the manifest entry that differ from the record; missing metadata are not a fault."""
    found: dict[str, Any] = sample_metadata(sample)
    for name, value in entry.metadata.items():
        if name in found and found[name] != value:
            yield f"{name} is {str(value)[:60]} in the manifest entry, but {str(found[name])[:60]} in the record"


def _image_faults(sample: Sample) -> Iterator[str]:
    try:
        size = image_metadata(sample.encoded).size
    except ValueError as error:
        yield str(error)
        return
    if size != sample.size:
        yield f"decodes to {size}, but its record says {sample.size}"
    if sample.mask is not None and sample.mask.shape != sample.size:
        yield f"its mask is {sample.mask.shape}, its image {sample.size}"
    if sample.saliency is not None and sample.saliency.shape != sample.size:
        yield f"its saliency map is {sample.saliency.shape}, its image {sample.size}"
    for box in sample.boxes or ():
        if not (0 <= box.top < box.bottom <= sample.size[0] and 0 <= box.left < box.right <= sample.size[1]):
            yield f"{box} is not inside its image of {sample.size}"
    if both := sorted(set(sample.classes) & set(sample.unknown)):
        yield f"class {both[0]} is both present and unknown"


def _duplicates(opened: OpenedLayer, shards: list[str], contents: _Contents) -> Iterator[str]:
    for group in contents.groups():
        splits = list(dict.fromkeys(split_of(shards[number]) for number, _ in group))
        some = [(shards[number], index) for number, index in group[:_NAMED]]
        named = [f"{shard}: {opened.manifest_entry(shard).entries.keys[index]}" for shard, index in some]
        more = f"; and {len(group) - _NAMED} more" if len(group) > _NAMED else ""
        across = " (an image used for evaluation must not be used for training)" if len(splits) > 1 else ""
        yield f"the same image {len(group)} times, in {' and '.join(splits)}{across}: {'; '.join(named)}{more}"
