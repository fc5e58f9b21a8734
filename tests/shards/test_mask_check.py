from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import numpy as np
import pytest

from shards.mask_check import MaskCheck, likely_causes, mask_values, mismatch_lines
from tests.shards.example_records import sample

NAMES = ("cat", "dog", "emu", "fox")
Row = tuple[tuple[int, ...], str | None]
"""Labelled classes, and the values of the mask."""


def check_of(rows: Iterable[Row], *, unknown: str = "", notes: Mapping[str, int] | None = None) -> MaskCheck:
    check = MaskCheck()
    for classes, values in rows:
        check.add(classes, unknown, values, notes or {})
    return check


def cause(rows: Iterable[Row], *, notes: Mapping[str, int] | None = None) -> str:
    (found,) = likely_causes({"train": check_of(rows, notes=notes)}, NAMES) or [""]
    return found


def test_values_of_a_mask() -> None:
    mask = np.zeros((5, 7), np.uint8)
    mask[1, 2:4], mask[2, 2], mask[3, 3] = (1, 2), 255, 254
    assert mask_values(mask) == "0-2,254-255" and mask_values(mask[:1]) == "0"


def test_counts_by_hand() -> None:
    rows: list[Row] = [
        ((1,), "0-1,255"),  # agrees: neither 0 nor 255 is a class
        ((), "0"),
        ((1, 2), "0-1"),  # lacks 2
        ((1,), "0-2"),  # 2 is not labelled
        ((1,), "0,2"),  # both
        ((3,), None),  # no mask
    ]
    check = check_of(rows)
    assert (check.masks, check.lacking, check.unlabelled, check.mismatched) == (5, 2, 2, 3)
    assert check.metrics() == {"masks": 5.0, "lacking": 2.0, "unlabelled": 2.0}
    assert list(mismatch_lines({"val": check, "test": MaskCheck()})) == [
        "val: 2 of 5 masks lack a class that the image is labelled with, 2 show a class that it is not labelled with"
    ]


def test_a_class_that_nobody_checked_is_no_mismatch() -> None:
    rows: list[Row] = [((1,), "0-2"), ((1,), "0-1,3")]
    assert (check_of(rows).unlabelled, check_of(rows, unknown="2-3").unlabelled) == (2, 0)
    assert check_of(rows, unknown="2-3").mismatched == 0


def test_a_decoded_sample_counts_like_its_row() -> None:
    record = sample("a", 1)
    assert record.mask is not None
    by_row, decoded = MaskCheck(), MaskCheck()
    by_row.add(record.classes, "3", mask_values(record.mask), {"objects": 2})
    decoded.add_sample(record, notes={"objects": 2})
    assert by_row == decoded and decoded.masks == decoded.mismatched == 1


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([((1,), "0,255"), ((2,), "0,255"), ((1, 2), "255")], "the masks contain only 0 and 255"),
        ([((1,), "0"), ((2,), "0"), ((), "0")], "the masks contain only 0 .background."),
        ([((2,), "0-1"), ((3,), "0,2"), ((1,), "0"), ((2, 3), "0-2")], "one lower than the .*1 cat, 2 dog, 3 emu, "),
        ([((1,), "0,2"), ((2,), "0,3"), ((1, 3), "0,2,4")], "one higher than the class ids"),
        ([((1,), "0-1"), ((2,), "0-1"), ((3,), "0-1"), ((2, 4), "0-1")], "masks only separate objects from background"),
        (
            [((1,), "0,3"), ((2,), "0,2"), ((3,), "0-1"), ((1, 3), "0-1,3")],
            "a different order .* images of 'cat' show value 3 .'emu'.; images of 'emu' show value 1 .'cat'.$",
        ),
    ],
)  # fmt: skip
def test_likely_causes(rows: list[Row], expected: str) -> None:
    found = cause(rows * 5)
    assert found.startswith("likely cause: ") and re.search(expected, found), found


@pytest.mark.parametrize(
    "rows",
    [
        [((1,), "0-1")] * 20 + [((1,), "0,255")],  # one of many: an object that is too small or void
        [((1,), "0-1")] * 3 + [((2,), "0-1")] * 3 + [((3,), "0,3"), ((3,), "0-3")] * 3,  # of no known kind
        [((1,), "0-1"), ((2,), "0,2"), ((), "0"), ((3,), None)],
        [],
    ],
)
def test_no_cause_where_there_is_none(rows: list[Row]) -> None:
    assert cause(rows) == ""


def test_classes_that_agree_are_no_shifted_list() -> None:
    """Class 1 is right and 2 shows 1: not a list that begins one too early."""
    assert "masks only separate objects from background" in cause([((1,), "0-1")] * 4 + [((2,), "0-1")] * 4)


def test_crowds_differ_from_masks_of_two_values() -> None:
    rows: list[Row] = [((1,), "0,255"), ((2,), "0,255")]
    assert "iscrowd" in cause(rows, notes={"objects": 2, "crowds": 2})
    assert "only 0 and 255" in cause(rows, notes={"objects": 2, "crowds": 1})


def test_objects_without_an_outline_differ_from_masks_of_two_values() -> None:
    found = cause([((1,), "0,255"), ((2,), "0,255")], notes={"objects": 2, "without_outline": 1})
    assert "have boxes but no outlines" in found


def test_objects_without_an_outline_are_counted() -> None:
    check = check_of([((1,), "0,255"), ((1,), None)], notes={"objects": 3, "without_outline": 2})
    assert list(mismatch_lines({"train": check}))[1].startswith("train: 4 of 6 objects have no outline: ")


def test_one_cause_of_two_splits_is_reported_once() -> None:
    check = check_of([((1,), "0,255")])
    (found,) = likely_causes({"train": check, "val": check}, None)
    assert found.endswith("save every object's pixels as its class id")
