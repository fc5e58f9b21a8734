"""Masks compared with the image-level labels of their images: counts per split, and the likely cause of a mismatch.

Only counted and reported. A mask never serves as an image-level label, and a label never changes a mask.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from shards.ranges import from_ranges, to_ranges
from shards.records import BACKGROUND, IGNORE, Sample

_MOST = 0.9
"""A cause is named where it explains this share of the masks it is about."""
_FEW = 0.1
"""Below this share of masks that mismatch, a data set is taken for sound: no cause is named."""


def mask_values(mask_HW: np.ndarray) -> str:
    """The distinct values of u8[H, W], ascending, as `shards.ranges` writes them: 0-2,255."""
    present = np.flatnonzero(np.bincount(mask_HW.ravel(), minlength=IGNORE + 1))
    return to_ranges(tuple(present.tolist()))


@dataclass
class MaskCheck:
    """Counts of one split."""

    masks: int = 0
    """Samples with a mask whose values are known."""
    lacking: int = 0
    """Masks without a pixel of a class that their image is labelled with."""
    unlabelled: int = 0
    """Masks with a class that their image is known not to show."""
    mismatched: int = 0
    """Masks of either kind."""
    only_ignored: int = 0
    """Of those lacking one: of 0 and 255 alone."""
    only_crowds: int = 0
    """Of those of 0 and 255 alone: every object of the image is a crowd."""
    only_unoutlined: int = 0
    """Of those of 0 and 255 alone: some object of the image has no outline."""
    only_background: int = 0
    """Of those lacking one: of 0 alone."""
    one_lower: int = 0
    """Mismatched masks whose classes are the labelled ones less 1."""
    one_higher: int = 0
    """Mismatched masks whose classes are the labelled ones plus 1."""
    only_ones: int = 0
    """Mismatched masks whose only class is 1."""
    pairs: Counter[tuple[int, int]] = field(default_factory=Counter)
    """(labelled class, class of the mask) -> images that have one of each."""
    notes: Counter[str] = field(default_factory=Counter)
    """Sums of `Sample.notes`, masks or not."""

    def add(self, classes: Iterable[int], unknown: str, values: str | None, notes: Mapping[str, int]) -> None:
        """Count one sample. `unknown` and `values`: as `shards.ranges`; `values` is None without a mask."""
        self.notes.update(notes)
        if values is None:
            return
        self.masks += 1
        held, labelled = set(from_ranges(values)), set(classes)
        shown = held - {BACKGROUND, IGNORE}
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
            self.only_ignored += IGNORE in held
            self.only_crowds += IGNORE in held and 0 < notes.get("crowds", 0) == notes.get("objects", 0)
            self.only_unoutlined += IGNORE in held and notes.get("without_outline", 0) > 0
            self.only_background += IGNORE not in held
        self.one_lower += shown == {c - 1 for c in labelled} - {BACKGROUND}
        self.one_higher += shown == {c + 1 for c in labelled}
        self.only_ones += shown == {1}

    def add_sample(self, sample: Sample, *, notes: Mapping[str, int]) -> None:
        """Count a sample that was decoded; `notes` are those of its row."""
        values = None if sample.mask is None else mask_values(sample.mask)
        self.add(sample.classes, to_ranges(sample.unknown), values, notes)

    def metrics(self) -> dict[str, float]:
        """What a run records of the split."""
        counts = {"masks": self.masks, "lacking": self.lacking, "unlabelled": self.unlabelled}
        return {name: float(count) for name, count in (counts | dict(self.notes)).items()}


def mismatch_lines(checks: Mapping[str, MaskCheck]) -> Iterator[str]:
    """A line for every split (the keys of `checks`) whose masks do not all show exactly the labelled classes."""
    for split, check in checks.items():
        if check.mismatched:
            yield (
                f"{split}: {check.lacking} of {check.masks} masks lack a class that the image is labelled with, "
                f"{check.unlabelled} show a class that it is not labelled with"
            )
        if count := check.notes["without_outline"]:
            yield (
                f"{split}: {count} of {check.notes['objects']} objects have no outline: their boxes (without a box, "
                "all that no other object covers) are 255 in the masks, ignored"
            )


def likely_causes(checks: Mapping[str, MaskCheck], names: Sequence[str] | None) -> list[str]:
    """What probably went wrong, once each over all splits; nothing where the mismatches are few or of no known kind.

    `names`: of the classes from 1 on, where they are known.
    """
    found = [_cause(check, names) for check in checks.values() if check.mismatched > _FEW * check.masks]
    return [text for text in dict.fromkeys(found) if text]


def _cause(check: MaskCheck, names: Sequence[str] | None) -> str:
    most, matched = _MOST * check.mismatched, check.masks - check.mismatched
    if check.only_ignored >= most and check.only_crowds >= _MOST * check.only_ignored:
        return (
            "likely cause: every object of these images is a crowd (iscrowd = 1), which masks hold as 255, ignored; "
            "write iscrowd = 0 for single objects"
        )
    if check.only_ignored >= most and check.only_unoutlined >= _MOST * check.only_ignored:
        return (
            "likely cause: the objects of these images have boxes and no outlines (an empty segmentation), so where "
            "they are is not known; outline them, or measure on images whose objects are outlined"
        )
    if check.only_ignored >= most:
        return (
            "likely cause: the masks hold 0 and 255 alone, and 255 means ignored, not object; save every object's "
            f"pixels as the number of its class{_numbers(names)}"
        )
    if check.only_background >= most:
        return (
            "likely cause: the masks hold nothing but 0, background; they are of other images, or their objects were "
            "lost when they were saved"
        )
    if check.one_lower >= most and matched <= _FEW * check.masks:
        return (
            "likely cause: the values of the masks are one lower than the classes; the class list names the first "
            f"class from 1 on{_numbers(names)}: take a first line such as 'background' out of it, or add 1 to the masks"
        )
    if check.one_higher >= most and matched <= _FEW * check.masks:
        return (
            "likely cause: the values of the masks are one higher than the classes: the class list lacks its first "
            f"class, or the masks begin with 1 as background{_numbers(names)}"
        )
    if check.only_ones >= most:
        return (
            "likely cause: the masks tell objects from background alone (every object is 1); save every object's "
            f"pixels as the number of its class{_numbers(names)}"
        )
    return _other_order(check, names)


def _other_order(check: MaskCheck, names: Sequence[str] | None) -> str:
    """Where the images of one label each show one class each, in other numbers: which."""
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
    told = "; ".join(
        f"images of {_name(label, names)} show value {value} ({_name(value, names)})"
        for label, value in sorted(others.items())[:3]
    )
    return f"likely cause: the classes are listed in another order than the masks' values: {told}"


def _name(class_id: int, names: Sequence[str] | None) -> str:
    return repr(names[class_id - 1]) if names and class_id <= len(names) else f"class {class_id}"


def _numbers(names: Sequence[str] | None) -> str:
    """The first classes with their numbers, in brackets."""
    if not names:
        return ""
    some = ", ".join(f"{number} {name}" for number, name in enumerate(names[:3], start=1))
    return f" ({some}{', ...' if len(names) > 3 else ''})"
