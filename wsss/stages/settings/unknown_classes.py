"""What a stage that reads image-level labels takes as known, and what becomes of images with unknown classes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Literal

from shards.layer import split_of
from shards.records import Missing, Sample
from wsss.contract.settings import settings

Unchecked = Literal["unknown", "absent", "absent_if_labelled"]
_TRAIN = "train"


@settings
class LabelReading:
    """How the classes count that nobody looked for in a training image."""

    unchecked: Unchecked = "unknown"
    """What a class counts as in a training image that was not checked for it (in ILSVRC DET, most images of the 2013
    part were checked for few classes): `unknown`; `absent`, as in published systems; or `absent_if_labelled`, absent in
    images that show a labelled class and unknown in all others. Other splits keep their unknown classes."""

    def as_read(self, sample: Sample, split: str) -> Sample:
        """The sample with only those classes unknown that this stage takes as unknown."""
        if not sample.unknown or split != _TRAIN or not self.takes_as_absent(sample.classes):
            return sample
        return replace(sample, unknown=())

    def takes_as_absent(self, labels: Collection[int]) -> bool:
        """Whether the unchecked classes of a training image with these labels count as absent."""
        return self.unchecked == "absent" or (self.unchecked == "absent_if_labelled" and bool(labels))


def left_out_for_unknown(sample: Sample, learned: Collection[int]) -> Missing | None:
    """`Missing` for an image that may show a learned class without being labelled with it; else None.

    `sample`: as read, see `LabelReading.as_read`.
    """
    number = len(set(learned) & set(sample.unknown))
    if not number:
        return None
    reason = "1 class is unknown" if number == 1 else f"{number} classes are unknown"
    return Missing(key=sample.key, reason=reason, left_out=True)


def left_out_without_maps(sample: Sample, shard: str, learned: Collection[int]) -> Missing | None:
    """`Missing` for a training image with only dropped classes, which would be learned as background; else None."""
    if split_of(shard) != _TRAIN or not sample.classes or set(learned) & set(sample.classes):
        return None
    return Missing(key=sample.key, reason="no classifier learns any of its classes", left_out=True)
