"""`wsss shards info`: what a layer holds, from its index and rows alone; no tar is opened."""

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


@dataclass
class LayerSummary:
    """Counts of a layer; of samples also labels and sizes. `N` samples, `C` classes from 1 on."""

    name: str
    kind: str
    names: tuple[str, ...] | None
    """Of the classes, where the index has them."""
    splits: dict[str, Counter[str]] = field(default_factory=dict)
    """Split -> shards, records, num_bytes, missing, left_out, masks."""
    present: Counter[int] = field(default_factory=Counter)
    """Class -> samples that show it."""
    present_in: dict[str, Counter[int]] = field(default_factory=dict)
    """Split -> class -> samples that show it."""
    unknown: Counter[int] = field(default_factory=Counter)
    """Class -> samples that nobody checked for it."""
    unknown_is_kept: bool = True
    """False for rows written before unknown classes entered them."""
    checks: dict[str, MaskCheck] = field(default_factory=dict)
    """Split -> its masks against its labels."""
    sides: array[int] = field(default_factory=lambda: array("L"))
    """Longer side of every sample's image in pixels."""
    weights: array[int] = field(default_factory=lambda: array("Q"))
    """Bytes of every record in its tar."""
    made_on: Counter[str] = field(default_factory=Counter)
    """What computed the records (`ManifestEntry.made_on`) -> shards."""

    @property
    def num_records(self) -> int:
        return sum(counter["records"] for counter in self.splits.values())

    def classes(self) -> list[int]:
        """All classes: those that are named, else those that are met."""
        met = max((*self.present, *self.unknown), default=0)
        return list(range(1, max(met, len(self.names or ())) + 1))

    def name_of(self, class_id: int) -> str:
        """A class's name, or its number."""
        return self.names[class_id - 1] if self.names and class_id <= len(self.names) else str(class_id)

    def images_of_classes(self) -> dict[str, dict[str, int]]:
        """Split -> name of a class -> samples that show it."""
        return {
            split: {self.name_of(class_id): counts[class_id] for class_id in self.classes()}
            for split, counts in self.present_in.items()
        }

    def absent(self, class_id: int) -> int:
        """Samples known not to show a class."""
        return self.num_records - self.present[class_id] - self.unknown[class_id]

    def add(self, row: ManifestEntry) -> None:
        """Count one shard."""
        counter = self.splits.setdefault(split_of(row.shard), Counter())
        left_out = sum(one.left_out for one in row.missing)
        counter.update(shards=1, records=row.count, num_bytes=row.num_bytes, left_out=left_out)
        counter.update(missing=len(row.missing) - left_out)
        self.weights.extend(row.entries.lengths)
        if row.made_on:
            self.made_on[row.made_on] += 1
        if self.kind == Sample.kind:
            counter.update(masks=sum(map(bool, row.entries.metadata("has_mask"))))
            self._add_labels(row.entries, self.present_in.setdefault(split_of(row.shard), Counter()))
            self._add_masks(self.checks.setdefault(split_of(row.shard), MaskCheck()), row.entries)
            self.sides.extend(max(size) for size in row.entries.metadata("size") if size)

    @staticmethod
    def _add_masks(check: MaskCheck, entries: RecordEntries) -> None:
        columns = (entries.metadata(name) for name in ("classes", "unknown", "mask_values", "notes"))
        for classes, unknown, values, notes in zip(*columns, strict=True):
            check.add(classes or (), unknown or "", values, notes or {})

    @property
    def masks_not_compared(self) -> int:
        """Masks of rows that were written before the values of masks entered them."""
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
    """Count a layer, row by row."""
    summary = LayerSummary(opened.display_name, opened.layer.kind, opened.layer.classes())
    for row in opened.manifest_entries():
        summary.add(row)
    return summary


def lines(summary: LayerSummary) -> Iterator[str]:
    """Records, bytes and missing per split; of samples also the images' sizes."""
    yield f"{summary.name}: {summary.kind} records"
    is_samples = summary.kind == Sample.kind
    for split, counter in summary.splits.items():
        masks = f", {counter['masks']} with a mask" if is_samples else ""
        masks += f", {counter['left_out']} left out" if counter["left_out"] else ""
        yield (
            f"{split}: {counter['records']} records in {counter['shards']} shards, "
            f"{counter['num_bytes'] / 1e6:.1f} MB, {counter['missing']} missing{masks}"
        )
    for where, shards in sorted(summary.made_on.items()):
        yield f"computed on {where}: {shards} shards"
    if not is_samples:
        return
    if summary.sides:
        low, middle, high = (int(side) for side in np.percentile(np.asarray(summary.sides), (0, 50, 100)))
        yield f"longer side of an image: {low} to {high} pixels, median {middle}"
    if not summary.unknown_is_kept:
        yield "which classes are unknown stands in no index of that age; build the shards again to see it"
    yield from mask_lines(summary)


def mask_lines(summary: LayerSummary) -> Iterator[str]:
    """How the masks of a layer of samples compare with its labels; nothing where they agree."""
    yield from mismatch_lines(summary.checks)
    yield from likely_causes(summary.checks, summary.names)
    if count := summary.masks_not_compared:
        yield f"{count} masks were not compared with the labels: this index is older; build the shards again to see it"
