"""`wsss check-submission`: what is wrong with the archive of a submission, printed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from shards.id_colours import IGNORED, MAX_CLASSES
from shards.label_type import BYTE
from wsss.stages.evaluation import check_imagenet_s
from wsss.stages.evaluation.check_submission import Fault, check_submission, expected_images, fault_lines


def check(file: Path, *, num_classes: int, samples: Path | None, split: str, layout: str = "lid") -> int:
    """Print the faults; returns 0 if there are none, else 1.

    `samples`: the layer of the images, for sizes and missing images; without it these are not checked.
    Raises ValueError for a number of classes that the masks of the `layout` (`submit.format`) cannot hold.
    """
    most, ignored = (BYTE.ignore - 1, BYTE.ignore) if layout == "lid" else (MAX_CLASSES, IGNORED)
    if not 1 <= num_classes <= most:
        raise ValueError(
            f"--num-classes {num_classes}: allowed are 1..{most}, since 0 is background and {ignored} is ignored"
        )
    line = ""
    for line in fault_lines(faults_of(file, num_classes=num_classes, samples=samples, split=split, layout=layout)):
        print(line)
    if samples is None:
        print("not checked: sizes, and whether an image is missing; --samples LAYER names the layer of the images")
    return 0 if line == "in order" else 1


def faults_of(file: Path, *, num_classes: int, samples: Path | None, split: str, layout: str) -> Iterator[Fault]:
    """The faults of a submission in this layout. Raises as `check_submission`."""
    is_lid = layout == "lid"
    expected = (expected_images if is_lid else check_imagenet_s.expected_images)(samples, split) if samples else None
    checked = check_submission if is_lid else check_imagenet_s.check_imagenet_s
    return checked(file, num_classes=num_classes, expected=expected)
