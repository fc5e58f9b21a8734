from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shards.images import encode_png
from tests.shards.png_by_hand import png
from wsss.stages.evaluation.check_submission import REPACK, Fault, check_submission, fault_lines


def faults(tmp_path: Path, members: dict[str, bytes], expected: dict[str, tuple[int, int]] | None = None) -> list[str]:
    path = tmp_path / "results.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return [str(fault) for fault in check_submission(path, num_classes=20, expected=expected)]


def as_png(mode: str) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (4, 3)).save(buffer, format="PNG")
    return buffer.getvalue()


WRITE_GREY = "write one 8-bit grey channel of class ids, without a palette"
NO_COLOUR = "save the class id of every pixel, not a colour"
NO_INDICES = "a mask must be a PNG of indices (mode L or P), this one is a PNG of mode"
IN_FOLDER = f"is in a folder, but the zip must contain only <basename>.png files, no folders; {REPACK}"
GOOD = encode_png(np.zeros((3, 4), np.uint8))


def test_form_alone(tmp_path: Path) -> None:
    assert faults(tmp_path, {"a.png": GOOD, "b.png": GOOD}) == []


@pytest.mark.parametrize(
    ("name", "data", "fault"),
    [
        ("folder/a.png", GOOD, f"folder/a.png: {IN_FOLDER}"),
        ("a.jpg", GOOD, "a.jpg: the zip must contain only <basename>.png files, no folders"),
        ("a.png", as_png("RGB"), f"a.png: {NO_INDICES} RGB; {NO_COLOUR}"),
        ("a.png", as_png("I;16"), f"a.png: has mode I;16; {WRITE_GREY}"),
        ("a.png", as_png("P"), f"a.png: has mode P; {WRITE_GREY}"),
        ("a.png", as_png("1"), f"a.png: has mode 1; {WRITE_GREY}"),
        (
            "a.png",
            png(3, 4, 3 * b"\x00\x55", depth=2),
            "a.png: has 2 bits per pixel, which readers scale; write 8 bits",
        ),
        ("a.png", b"", "a.png: the file is empty"),
        ("a.png", b"text", "a.png: not a readable image: unknown format"),
        ("a.png", encode_png(np.full((3, 4), 21, np.uint8)), "a.png: holds the value 21; allowed are 0..20"),
        ("a.png", encode_png(np.full((3, 4), 255, np.uint8)), "a.png: holds the value 255; allowed are 0..20"),
    ],
)  # fmt: skip
def test_every_fault_is_reported(tmp_path: Path, name: str, data: bytes, fault: str) -> None:
    assert faults(tmp_path, {name: data, "good.png": GOOD}) == [fault]


def test_images_against_the_list(tmp_path: Path) -> None:
    found = faults(tmp_path, {"a.png": GOOD, "c.png": GOOD}, {"a": (4, 3), "b": (3, 4)})
    assert found == ["a.png: is 4x3, but its image is 3x4", "c.png: no such image in the list", "b.png: missing"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_image_that_stands_in_it_twice(tmp_path: Path) -> None:
    path = tmp_path / "results.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", GOOD)
        archive.writestr("a.png", GOOD)
    assert [str(fault) for fault in check_submission(path, num_classes=20)] == ["a.png: appears twice"]


def test_damaged_member(tmp_path: Path) -> None:
    faults(tmp_path, {"a.png": GOOD, "b.png": GOOD})
    path = tmp_path / "results.zip"
    data = bytearray(path.read_bytes())
    data[50] ^= 1
    path.write_bytes(data)
    (fault,) = check_submission(path, num_classes=20)
    assert str(fault).startswith("a.png: cannot be read: ")


def test_a_few_of_each_kind_and_the_rest_counted(tmp_path: Path) -> None:
    path = tmp_path / "results.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(9):
            archive.writestr(f"{number}.png", as_png("RGB"))
        archive.writestr("folder/a.png", GOOD)
    lines = list(fault_lines(check_submission(path, num_classes=20), examples=2))
    assert lines == [
        f"0.png: {NO_INDICES} RGB; {NO_COLOUR}",
        f"1.png: {NO_INDICES} RGB; {NO_COLOUR}",
        f"folder/a.png: {IN_FOLDER}",
        "9 files in all: no mask",
        "faults: 10",
    ]
    assert list(fault_lines([])) == ["in order"]


def test_submission_of_another_split(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none of the 2 images expected; .* is it of another split"):
        faults(tmp_path, {"x.png": GOOD}, {"a": (3, 4), "b": (3, 4)})


def test_file_that_is_no_zip(tmp_path: Path) -> None:
    (tmp_path / "results.zip").write_bytes(GOOD)
    with pytest.raises(ValueError, match=r"results.zip is not a readable zip file"):
        list(check_submission(tmp_path / "results.zip", num_classes=20))
    with pytest.raises(ValueError, match=r"there is no file .*none.zip"):
        list(check_submission(tmp_path / "none.zip", num_classes=20))
    with pytest.raises(ValueError, match="is a folder; name the zip"):
        list(check_submission(tmp_path, num_classes=20))


def test_an_empty_archive_is_no_submission(tmp_path: Path) -> None:
    assert faults(tmp_path, {}) == ["results.zip: the zip holds no PNG (0 entries in all)"]
    reported = faults(tmp_path, {"notes.txt": b"x"}, {"a": (3, 4), "b": (3, 4)})
    assert reported[0] == "results.zip: the zip holds no PNG (1 entries in all); 2 images are expected"
    assert list(fault_lines([Fault("results.zip", "no PNG", "the zip holds no PNG")]))[-1] == "faults: 1"


@pytest.mark.parametrize("folder", ["results\\", "results/", "a/b/", ".\\"])
def test_masks_in_a_folder_are_known_by_their_names(tmp_path: Path, folder: str) -> None:
    members = {f"{folder}a.png": GOOD, f"{folder}b.png": encode_png(np.full((3, 4), 21, np.uint8))}
    reported = faults(tmp_path, members, {"a": (3, 4), "b": (3, 4)})
    words = "the name has a backslash" if "\\" in folder else "is in a folder"
    assert len(reported) == 3 and reported[0].startswith(f"{folder}a.png: {words}") and reported[0].endswith(REPACK)
    assert reported[2] == f"{folder}b.png: holds the value 21; allowed are 0..20", (
        "the masks themselves are checked as well"
    )


def test_what_file_managers_add_is_reported_as_such(tmp_path: Path) -> None:
    members = {"a.png": GOOD, "__MACOSX/._a.png": b"x", ".DS_Store": b"x", "._a.png": b"x", "masks/": b""}
    reported = faults(tmp_path, members, {"a": (3, 4)})
    assert [line.partition(":")[0] for line in reported] == ["__MACOSX/._a.png", ".DS_Store", "._a.png", "masks/"]
    assert all("added by a file manager" in line for line in reported[:3]) and "is a folder" in reported[3]


def test_names_that_differ_in_ending_or_unicode_form_are_not_called_missing(tmp_path: Path) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    reported = faults(tmp_path, {"a.PNG": GOOD, f"{decomposed}.png": GOOD}, {"a": (3, 4), composed: (3, 4)})
    assert reported == [
        "a.PNG: ends in .PNG, but the ending must be .png",
        f"{decomposed}.png: is written in another Unicode form than the image's name {composed!r}",
    ]
