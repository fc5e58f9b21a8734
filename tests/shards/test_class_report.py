from __future__ import annotations

from shards.class_report import class_lines, slip_lines


def test_classes_with_their_images_over_all_splits() -> None:
    assert list(class_lines({"train": {"cat": 3, "dog": 1}, "val": {"dog": 4, "emu": 0}})) == [
        "3 classes (images): dog 5, cat 3, emu 0"
    ]
    assert list(class_lines({"train": {"cat": 1}})) == ["1 class (images): cat 1"]
    assert list(class_lines({})) == []


def test_a_name_that_may_be_a_slip() -> None:
    _, line = class_lines({"train": {"aeroplane": 40, "aeroplan": 1}, "val": {"aeroplan": 1}})
    assert line == (
        "the class 'aeroplan' (2 images) is spelt nearly like 'aeroplane' (40): if it is a misspelling, use one "
        "name for both"
    )
    assert list(slip_lines({"aeroplane": 40, "aeroplan": 30})) == [], "both are frequent"


def test_of_many_classes_the_frequent_and_the_rare() -> None:
    (line,) = class_lines({"train": {f"{letter * 9}{n:03d}xyz{n * 7919}": 900 - n for n, letter in _numbered(100)}})
    assert line.startswith("100 classes (images): ") and "... 40 more ..." in line
    assert "000xyz0 900" in line and "099xyz783981 801" in line and "050xyz" not in line


def _numbered(count: int) -> list[tuple[int, str]]:
    return [(number, chr(ord("a") + number % 26)) for number in range(count)]
