from __future__ import annotations

import errno
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from shards.file_system_errors import FileSystemError
from shards.records import BadSampleError
from shards.sources import disk, neighbours
from shards.sources.disk import file_sizes, presence, read_file, read_image, read_index_png
from shards.sources.neighbours import beside, in_other_form
from tests.shards.sources.pictures import jpeg, put

NAME = "Übung/Äpfel_1.jpg"
COMPOSED, DECOMPOSED = (unicodedata.normalize(form, NAME) for form in ("NFC", "NFD"))


@pytest.mark.parametrize(("written", "asked"), [(DECOMPOSED, COMPOSED), (COMPOSED, DECOMPOSED)])
def test_a_name_in_another_unicode_form_is_found(tmp_path: Path, written: str, asked: str) -> None:
    data = jpeg(9, 7, seed=1)
    put(tmp_path / written, data)
    assert in_other_form(tmp_path, asked) == written and in_other_form(tmp_path, written) is None
    assert read_file(tmp_path, asked) == data == read_image(tmp_path, asked).encoded
    assert file_sizes(tmp_path, [asked, written, "none.jpg"]).tolist() == [len(data), len(data), 0]
    assert list(presence(tmp_path, [asked, written, "Übung/x.jpg"])) == [b"1", b"1", b"0"]


@pytest.mark.parametrize(("interleaved", "most"), [(False, 3), (True, 6)])
def test_few_folders_are_held_and_none_is_scanned_more_than_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interleaved: bool, most: int
) -> None:
    for folder in "abc":
        for number in range(4):
            put(tmp_path / folder / f"{number}.jpg", b"x")
    names = [f"{folder}/{number}.jpg" for folder in "abc" for number in range(5)]
    names = names[::5] + names[4::5] + names[1::5] + names[2::5] if interleaved else names
    scans: list[object] = []
    real = disk.os.listdir
    monkeypatch.setattr(disk.os, "listdir", lambda folder: (scans.append(folder), real(folder))[1])
    monkeypatch.setattr(disk, "in_other_form", lambda root, name: None)
    monkeypatch.setattr(disk, "_MOST_HELD", 3)
    assert list(disk.presence(tmp_path, names)) == [b"0" if "/4" in name else b"1" for name in names]
    assert 3 <= len(scans) <= most


def test_two_forms_are_two_files(tmp_path: Path) -> None:
    """Neither is taken for the other; a third spelling is none of them."""
    composed, decomposed = ("\u1e69.jpg", "s\u0323\u0307.jpg")
    put(tmp_path / composed, b"1")
    put(tmp_path / decomposed, b"22")
    assert [read_file(tmp_path, name) for name in (composed, decomposed)] == [b"1", b"22"]
    assert in_other_form(tmp_path, "s\u0307\u0323.jpg") is None
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path, "s\u0307\u0323.jpg")


def test_a_folder_is_scanned_once_for_all_its_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        put(tmp_path / unicodedata.normalize("NFD", f"Ü{number}.jpg"), b"x")
    scans: list[object] = []
    real = neighbours.os.listdir
    monkeypatch.setattr(neighbours.os, "listdir", lambda folder: (scans.append(folder), real(folder))[1])
    assert all(read_file(tmp_path, f"\u00dc{number}.jpg") == b"x" for number in range(20))
    assert len(scans) == 1


def test_hints_at_many_missing_files_look_at_every_name_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(50):
        put(tmp_path / f"{number:03d}_mask.png", b"x")
    folded: list[str] = []
    real = neighbours._folded
    monkeypatch.setattr(neighbours, "_folded", lambda name: (folded.append(name), real(name))[1])
    for number in range(200):
        hint = beside(tmp_path, f"{number:03d}.png", mask_suffix="")
        assert ("set mask_suffix = '_mask'" in hint) == (number < 50)
    assert len(folded) <= 2 * 50 + 2 * 200, "the names once for each order, and two for every question"


@pytest.mark.parametrize(
    ("number", "tries", "error"),
    [
        (errno.ESTALE, 4, FileSystemError),
        (errno.EIO, 4, OSError),
        (errno.ENOENT, 1, FileNotFoundError),
        (errno.EACCES, 1, PermissionError),
    ],
)
def test_an_error_that_may_pass_is_met_by_further_attempts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, tries: int, error: type[Exception]
) -> None:
    """A file system that stays away is no fault of one image; a bad block is."""
    put(tmp_path / "1.jpg", b"xyz")
    monkeypatch.setattr(disk, "_PAUSES", (0.0, 0.0, 0.0))
    tried: list[int] = []
    real = os.read

    def fails(times: int) -> None:
        def read(descriptor: int, size: int) -> bytes:
            tried.append(descriptor)
            if len(tried) <= times:
                raise OSError(number, os.strerror(number))
            return real(descriptor, size)

        tried.clear()
        monkeypatch.setattr(disk.os, "read", read)

    fails(99)
    with pytest.raises(error):
        read_file(tmp_path, "1.jpg")
    assert len(tried) == tries
    fails(tries - 1)
    assert read_file(tmp_path, "1.jpg") == b"xyz"


@pytest.mark.parametrize(
    ("lies", "asked", "expected"),
    [
        ("a/1.JPG", "a/1.jpg", " (a/1.JPG exists, in another case or Unicode form: use that name, or rename the file)"),
        ("a/1.jpeg", "a/1.jpg", " (a/1.jpeg exists, with another extension: use that name, or convert the file)"),
        ("1.png", "1.jpg", " (1.png exists, with another extension: use that name, or convert the file)"),
        ("a/1.xml", "a/1.jpg", ""),
        ("A/1.jpg", "a/b/1.jpg", " (there is no folder a, but one called A)"),
        ("c/1.jpg", "a/b/1.jpg", " (there is no folder a/b)"),
        ("m/1_mask.png", "m/1.png", " (m/1_mask.png exists: rename it)"),
        ("m/10.png", "m/1.png", ""),
    ],
)
def test_what_lies_beside_a_missing_file(tmp_path: Path, lies: str, asked: str, expected: str) -> None:
    put(tmp_path / lies, b"x")
    assert beside(tmp_path, asked) == expected


def test_a_setting_for_the_names_of_masks(tmp_path: Path) -> None:
    put(tmp_path / "m" / "1_gtFine_labelIds.png", b"x")
    reported = " (m/1_gtFine_labelIds.png exists: set mask_suffix = '_gtFine_labelIds')"
    assert beside(tmp_path, "m/1.png", mask_suffix="") == reported
    assert beside(tmp_path, "m/1_mask.png", mask_suffix="_mask") == reported


def test_the_reason_of_a_missing_image_and_mask(tmp_path: Path) -> None:
    put(tmp_path / "1.JPG", jpeg(9, 7, seed=1))
    with pytest.raises(BadSampleError, match=r"cannot read 1.jpg: No such file or directory \(1.JPG exists, in"):
        read_image(tmp_path, "1.jpg")
    put(tmp_path / "1_mask.png", np.zeros((9, 7), np.uint8).tobytes())
    image = read_image(tmp_path, "1.JPG")
    with pytest.raises(BadSampleError, match=r"cannot read the mask 1_x.png: No such file .* \(1_mask.png exists: set"):
        read_index_png(tmp_path, "1_x.png", what="mask", image=image, mask_suffix="_x")
    put(tmp_path / "2.jpg", b"")
    with pytest.raises(BadSampleError, match=r"^2.jpg: the file is empty$"):
        read_image(tmp_path, "2.jpg")
