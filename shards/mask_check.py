"""Compares masks with the image-level labels of their images: counts per split, and the likely cause of a mismatch.

Mismatches are only counted and reported. A mask is never used as an image-level label, and a label never changes a
mask.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from shards.label_type import BACKGROUND, BYTE, ignore_of, label_type
from shards.ranges import from_ranges, to_ranges
from shards.records import Sample

_MOST = 0.9
"""A cause is reported if it explains at least this share of the masks concerned."""
_FEW = 0.1
"""If no more than this share of the masks mismatch, no cause is reported."""


def mask_values(mask_HW: np.ndarray) -> str:
    """The distinct values of u8[H, W] or u16[H, W], ascending, in the format of `shards.ranges`: 0-2,255."""
    present = np.flatnonzero(np.bincount(mask_HW.ravel(), minlength=ignore_of(mask_HW) + 1))
    return to_ranges(tuple(present.tolist()))


@dataclass
class MaskCheck:
    """Counts of one split."""

    masks: int = 0
    """Samples with a mask whose values are known."""
    lacking: int = 0
    """Masks without a pixel of a class that their image is labelled with."""
    unlabelled: int = 0
    """Masks with a class that is known to be absent from their image."""
    mismatched: int = 0
    """Masks that are `lacking` or `unlabelled`, or both."""
    only_ignored: int = 0
    """Among `lacking`: masks that contain 255 and otherwise only 0."""
    only_crowds: int = 0
    """Among `only_ignored`: every object of the image is a crowd."""
    only_unoutlined: int = 0
    """Among `only_ignored`: some object of the image has no outline."""
    only_background: int = 0
    """Among `lacking`: masks that contain only 0."""
    one_lower: int = 0
    """Mismatched masks whose class ids are the labelled ones minus 1."""
    one_higher: int = 0
    """Mismatched masks whose class ids are the labelled ones plus 1."""
    only_ones: int = 0
    """Mismatched masks whose only class is 1."""
    pairs: Counter[tuple[int, int]] = field(default_factory=Counter)
    """(labelled class, class of the mask) -> images with exactly one of each."""
    notes: Counter[str] = field(default_factory=Counter)
    """Sums of `Sample.notes`, including samples without masks."""
    ignore: int = BYTE.ignore
    """The value of ignored pixels in the masks."""

    @classmethod
    def of_classes(cls, num_classes: int) -> MaskCheck:
        """Counts of zero for a data set of this number of classes (0: not known)."""
        return cls(ignore=label_type(num_classes).ignore)

    def add(self, classes: Iterable[int], unknown: str, values: str | None, notes: Mapping[str, int]) -> None:
        """Count one sample. `unknown`, `values`: in the format of `shards.ranges`; `values` is None without a mask."""
        self.notes.update(notes)
        if values is None:
            return
        self.masks += 1
        held, labelled = set(from_ranges(values)), set(classes)
        shown = held - {BACKGROUND, self.ignore}
        if len(labelled) == len(shown) == 1:
            self.pairs[min(labelled), min(shown)] += 1
        if shown == labelled:
            return
        lacking, unlabelled = labelled - shown, shown - labelled - set(from_ranges(unknown))
        if not lacking and not unlabelled:
            return
        self.mismatched += 1
        self.lacking += bool(lacking)
        self.unlabelled += bool(unlabelled)
        if lacking and not shown:
            self.only_ignored += self.ignore in held
            self.only_crowds += self.ignore in held and 0 < notes.get("crowds", 0) == notes.get("objects", 0)
            self.only_unoutlined += self.ignore in held and notes.get("without_outline", 0) > 0
            self.only_background += self.ignore not in held
        self.one_lower += shown == {c - 1 for c in labelled} - {BACKGROUND}
        self.one_higher += shown == {c + 1 for c in labelled}
        self.only_ones += shown == {1}

    def add_sample(self, sample: Sample, *, notes: Mapping[str, int]) -> None:
        """Count a decoded sample; `notes` come from its manifest entry."""
        values = None if sample.mask is None else mask_values(sample.mask)
        self.add(sample.classes, to_ranges(sample.unknown), values, notes)

    def metrics(self) -> dict[str, float]:
        """The metrics that a run records for the split."""
        counts = {"masks": self.masks, "lacking": self.lacking, "unlabelled": self.unlabelled}
        return {name: float(count) for name, count in (counts | dict(self.notes)).items()}


def mismatch_lines(checks: Mapping[str, MaskCheck]) -> Iterator[str]:
    """A line for every split (the keys of `checks`) with masks that do not match the labelled classes."""
    for split, check in checks.items():
        if check.mismatched:
            yield (
                f"{split}: {check.lacking} of {check.masks} masks lack a class that the image is labelled with, "
                f"{check.unlabelled} show a class that it is not labelled with"
            )
        if count := check.notes["without_outline"]:
            yield (
                f"{split}: {count} of {check.notes['objects']} objects have no outline: their boxes (without a box, "
                "all pixels that no other object covers) are 255 (ignored) in the masks"
            )


def likely_causes(checks: Mapping[str, MaskCheck], names: Sequence[str] | None) -> list[str]:
    """Likely causes of mismatches, without duplicates over splits; empty if mismatches are few or of no known kind.

    `names`: names of classes 1, 2, ..., if they are known.
    """
    found = [_cause(check, names) for check in checks.values() if check.mismatched > _FEW * check.masks]
    return [text for text in dict.fromkeys(found) if text]


def _cause(check: MaskCheck, names: Sequence[str] | None) -> str:
    most, matched = _MOST * check.mismatched, check.masks - check.mismatched
    if check.only_ignored >= most and check.only_crowds >= _MOST * check.only_ignored:
        return (
            "likely cause: every object of these images is a crowd (iscrowd = 1), which is 255 (ignored) in masks; "
            "write iscrowd = 0 for single objects"
        )
    if check.only_ignored >= most and check.only_unoutlined >= _MOST * check.only_ignored:
        return (
            "likely cause: the objects of these images have boxes but no outlines (an empty segmentation), so their "
            "pixels are not known; annotate outlines, or evaluate on images whose objects have outlines"
        )
    if check.only_ignored >= most:
        return (
            "likely cause: the masks contain only 0 and 255, and 255 means ignored, not object; save every object's "
            f"pixels as its class id{_class_ids(names)}"
        )
    if check.only_background >= most:
        return (
            "likely cause: the masks contain only 0 (background); they belong to other images, or the objects were "
            "lost when the masks were saved"
        )
    if check.one_lower >= most and matched <= _FEW * check.masks:
        return (
            "likely cause: the values of the masks are one lower than the class ids; the first name of the class list "
            f"is class 1{_class_ids(names)}: remove a first line such as 'background' from it, or add 1 to the masks"
        )
    if check.one_higher >= most and matched <= _FEW * check.masks:
        return (
            "likely cause: the values of the masks are one higher than the class ids: the class list lacks its first "
            f"class, or the masks use 1 for background{_class_ids(names)}"
        )
    if check.only_ones >= most:
        return (
            "likely cause: the masks only separate objects from background (every object is 1); save every object's "
            f"pixels as its class id{_class_ids(names)}"
        )
    return _other_order(check, names)


def _other_order(check: MaskCheck, names: Sequence[str] | None) -> str:
    """The message if images with one label consistently show one other class, as with reordered classes; else ""."""
    shown: dict[int, Counter[int]] = {}
    for (label, value), count in check.pairs.items():
        shown.setdefault(label, Counter())[value] += count
    order = {label: of_label.most_common(1)[0] for label, of_label in shown.items()}
    explained = sum(count for _, count in order.values())
    others = {label: value for label, (value, _) in order.items() if value != label}
    if not others or len({value for value, _ in order.values()}) < len(order):
        return ""
    if explained < _MOST * check.pairs.total():
        return ""
    examples = "; ".join(
        f"images of {_name(label, names)} show value {value} ({_name(value, names)})"
        for label, value in sorted(others.items())[:3]
    )
    return f"likely cause: the classes are listed in a different order than the masks' values: {examples}"


def _name(class_id: int, names: Sequence[str] | None) -> str:
    return repr(names[class_id - 1]) if names and class_id <= len(names) else f"class {class_id}"


def _class_ids(names: Sequence[str] | None) -> str:
    """The first class names with their ids, in parentheses."""
    if not names:
        return ""
    some = ", ".join(f"{number} {name}" for number, name in enumerate(names[:3], start=1))
    return f" ({some}{', ...' if len(names) > 3 else ''})"
