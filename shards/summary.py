"""`wsss shards info`: summarizes a layer from its index and manifest entries; no tar is opened."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from shards.layer import split_of
from shards.manifest_entry import ManifestEntry, RecordEntries
from shards.mask_check import MaskCheck, likely_causes, mismatch_lines
from shards.opened import OpenedLayer
from shards.ranges import spans_of
from shards.records import Sample
from shards.wording import counted


@dataclass
class LayerSummary:
    """Counts of a layer; for samples also labels and sizes."""

    name: str
    kind: str
    names: tuple[str, ...] | None
    """Names of the classes, if the index has them."""
    splits: dict[str, Counter[str]] = field(default_factory=dict)
    """Split -> shards, records, num_bytes, missing, left_out, masks."""
    present: Counter[int] = field(default_factory=Counter)
    """Class -> samples that show it."""
    present_in: dict[str, Counter[int]] = field(default_factory=dict)
    """Split -> class -> samples that show it."""
    unknown: Counter[int] = field(default_factory=Counter)
    """Class -> samples that were not checked for it."""
    unknown_is_kept: bool = True
    """False for old manifest entries that do not list unknown classes."""
    checks: dict[str, MaskCheck] = field(default_factory=dict)
    """Split -> comparison of its masks with its labels."""
    sides: array[int] = field(default_factory=lambda: array("L"))
    """Longer side of every sample's image in pixels."""
    weights: array[int] = field(default_factory=lambda: array("Q"))
    """Bytes of every record in its tar."""
    made_on: Counter[str] = field(default_factory=Counter)
    """Hardware that computed the records (`ManifestEntry.made_on`) -> shards."""

    @property
    def num_records(self) -> int:
        return sum(counter["records"] for counter in self.splits.values())

    def classes(self) -> list[int]:
        """All class ids, up to the number of names or the highest id found, whichever is larger."""
        highest = max((*self.present, *self.unknown), default=0)
        return list(range(1, max(highest, len(self.names or ())) + 1))

    def name_of(self, class_id: int) -> str:
        """The name of a class, or its id as text if it has no name."""
        return self.names[class_id - 1] if self.names and class_id <= len(self.names) else str(class_id)

    def images_of_classes(self) -> dict[str, dict[str, int]]:
        """Split -> name of a class -> samples that show it."""
        return {
            split: {self.name_of(class_id): counts[class_id] for class_id in self.classes()}
            for split, counts in self.present_in.items()
        }

    def absent(self, class_id: int) -> int:
        """Number of samples in which a class is known to be absent."""
        return self.num_records - self.present[class_id] - self.unknown[class_id]

    def add(self, manifest: ManifestEntry) -> None:
        """Count one shard."""
        counter = self.splits.setdefault(split_of(manifest.shard), Counter())
        left_out = sum(one.left_out for one in manifest.missing)
        counter.update(shards=1, records=manifest.count, num_bytes=manifest.num_bytes, left_out=left_out)
        counter.update(missing=len(manifest.missing) - left_out)
        self.weights.extend(manifest.entries.lengths)
        if manifest.made_on:
            self.made_on[manifest.made_on] += 1
        if self.kind == Sample.kind:
            counter.update(masks=sum(map(bool, manifest.entries.metadata("has_mask"))))
            self._add_labels(manifest.entries, self.present_in.setdefault(split_of(manifest.shard), Counter()))
            self._add_masks(
                self.checks.setdefault(split_of(manifest.shard), MaskCheck.of_classes(len(self.names or ()))),
                manifest.entries,
            )
            self.sides.extend(max(size) for size in manifest.entries.metadata("size") if size)

    @staticmethod
    def _add_masks(check: MaskCheck, entries: RecordEntries) -> None:
        columns = (entries.metadata(name) for name in ("classes", "unknown", "mask_values", "notes"))
        for classes, unknown, values, notes in zip(*columns, strict=True):
            check.add(classes or (), unknown or "", values, notes or {})

    @property
    def masks_not_compared(self) -> int:
        """Number of masks in old manifest entries, which do not list the values of masks."""
        return sum(counter["masks"] for counter in self.splits.values()) - sum(c.masks for c in self.checks.values())

    def _add_labels(self, entries: RecordEntries, of_split: Counter[int]) -> None:
        for present in entries.metadata("classes"):
            self.present.update(present or ())
            of_split.update(present or ())
        changes: Counter[int] = Counter()
        for text, times in Counter(entries.metadata("unknown")).items():
            if text is None:
                self.unknown_is_kept = False
                continue
            for first, last in spans_of(text):
                changes[first] += times
                changes[last + 1] -= times
        unknown = 0
        for class_id in range(max(changes, default=0)):
            unknown += changes[class_id]
            self.unknown[class_id] += unknown


def summarise(opened: OpenedLayer) -> LayerSummary:
    """Summarize a layer from its manifest entries."""
    summary = LayerSummary(opened.display_name, opened.layer.kind, opened.layer.classes())
    for manifest in opened.manifest_entries():
        summary.add(manifest)
    return summary


def lines(summary: LayerSummary) -> Iterator[str]:
    """Records, bytes and missing records per split; for samples also the image sizes."""
    yield f"{summary.name}: {summary.kind} records"
    is_samples = summary.kind == Sample.kind
    for split, counter in summary.splits.items():
        masks = f", {counter['masks']} with a mask" if is_samples else ""
        masks += f", {counter['left_out']} left out" if counter["left_out"] else ""
        yield (
            f"{split}: {counted(counter['records'], 'record')} in {counted(counter['shards'], 'shard')}, "
            f"{counter['num_bytes'] / 1e6:.1f} MB, {counter['missing']} missing{masks}"
        )
    for hardware, shards in sorted(summary.made_on.items()):
        yield f"computed on {hardware}: {counted(shards, 'shard')}"
    if not is_samples:
        return
    if summary.sides:
        low, middle, high = (int(side) for side in np.percentile(np.asarray(summary.sides), (0, 50, 100)))
        yield f"longer side of an image: {low} to {high} pixels, median {middle}"
    if not summary.unknown_is_kept:
        yield "these shards were built by an older version, which did not list unknown classes; build them again"
    yield from mask_lines(summary)


def mask_lines(summary: LayerSummary) -> Iterator[str]:
    """Mismatches between the masks and labels of a layer of samples; nothing if they agree."""
    yield from mismatch_lines(summary.checks)
    yield from likely_causes(summary.checks, summary.names)
    if count := summary.masks_not_compared:
        yield (
            f"{count} masks were not compared with the labels: these shards were built by an older version; build them "
            "again to compare"
        )
