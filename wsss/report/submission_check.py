"""`wsss check-submission`: what is wrong with the archive of a submission, printed."""

from __future__ import annotations

from pathlib import Path

from wsss.stages.evaluation.check_submission import check_submission, expected_images, fault_lines


def check(file: Path, *, num_classes: int, samples: Path | None, split: str) -> int:
    """Print the faults; returns 0 if there are none, else 1.

    `samples`: the layer of the images, for sizes and missing images; without it these are not checked.
    Raises ValueError for a number of classes that byte masks cannot hold.
    """
    if not 1 <= num_classes <= 254:
        raise ValueError(f"--num-classes {num_classes}: allowed are 1..254, since 0 is background and 255 is ignored")
    expected = expected_images(samples, split) if samples else None
    line = ""
    for line in fault_lines(check_submission(file, num_classes=num_classes, expected=expected)):
        print(line)
    if expected is None:
        print("not checked: sizes, and whether an image is missing; --samples LAYER names the layer of the images")
    return 0 if line == "in order" else 1
