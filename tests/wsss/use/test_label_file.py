from __future__ import annotations

import re
from pathlib import Path

import pytest

from shards.taxonomy import Taxonomy
from tests.wsss.use.test_picture_folder import fill
from wsss.use.label_file import LabelFile, read_labels

CLASSES = Taxonomy(("cat", "dog"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return fill(tmp_path / "in", "a.jpg", "b/c.png")


def read(root: Path, text: str, *, split: str = "") -> LabelFile:
    table = root.parent / "labels.csv"
    table.write_text(text)
    return read_labels(table, root, CLASSES, split=split)


def test_pictures_and_classes_that_are_not_there(root: Path) -> None:
    assert read(root, "image,labels\na.jpg,cat\nb/c.png,dog|cat\n") == LabelFile(
        pictures=("a.jpg", "b/c.png"), notes=()
    )
    with pytest.raises(ValueError, match=r"names 2 of 3 pictures that are not in .*: b/d\.png, e\.jpg\. Write paths"):
        read(root, "image,labels\na.jpg,cat\nb/d.png,dog\ne.jpg,\n")
    with pytest.raises(ValueError, match=r"labels\.csv, line 2: unknown class 'cot'; did you mean cat"):
        read(root, "image,labels\na.jpg,cot\n")


@pytest.mark.parametrize(
    ("text", "split", "message"),
    [
        ("image\na.jpg\n", "", "has no column 'labels', which names the classes of each picture; it has image"),
        ("image,labels\n", "", "names no picture; write a row for each one below the header"),
        ("a.jpg,cat\n", "", "line 1: the first line is no header: it has 'a.jpg'; put a line above it"),
        ("", "", "line 1: the header has no column 'image'; it has no columns"),
        ("image,labels,split\na.jpg,cat,train\nb/c.png,,val\n", "", "has a column 'split'; choose the rows with "
         "--split: there are train, val"),
        ("image,labels,split\na.jpg,cat,train\n", "test", "has no rows of --split test; choose the rows with --split: "
         "there are train"),
        ("image,labels\na.jpg,cat\n", "train", "--split train: .* has no column 'split'; leave --split out"),
    ],
)  # fmt: skip
def test_a_table_of_another_form_is_refused_in_the_user_s_words(
    root: Path, text: str, split: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as said:
        read(root, text, split=split)
    assert "'pictures'" not in str(said.value), "a name of the inside"


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"LABELS = .*none\.csv: there is no such file; give a CSV file with the columns"
    ):
        read_labels(tmp_path / "none.csv", tmp_path, CLASSES, split="")


def test_rows_of_one_split_are_read(root: Path) -> None:
    text = "image,labels,split\na.jpg,cat,train\nb/c.png,dog,val\n"
    assert read(root, text, split="val").pictures == ("b/c.png",)


def test_several_rows_of_a_picture_are_taken_together_and_said(root: Path) -> None:
    found = read(root, "image,labels\na.jpg,cat\nb/c.png,dog\na.jpg,dog\n")
    assert found.pictures == ("a.jpg", "b/c.png")
    assert found.notes == ("1 picture has several rows, whose labels are taken together: a.jpg (lines 2 and 4)",)


@pytest.mark.parametrize(("first", "second"), [("cat", ""), ("", "cat")])
def test_classes_in_one_row_and_none_in_another_contradict_each_other(root: Path, first: str, second: str) -> None:
    classes, none = (2, 4) if first else (4, 2)
    message = f"a.jpg has classes in line {classes} and none in line {none}; remove one of the two lines"
    with pytest.raises(ValueError, match=re.escape(message)):
        read(root, f"image,labels\na.jpg,{first}\nb/c.png,dog\na.jpg,{second}\n")
