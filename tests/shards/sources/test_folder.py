from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards.images import encode_png
from shards.records import BadSampleError, Box, Sample
from shards.sources.folder import FolderSource
from tests.shards.sources.pictures import jpeg, put

TABLE = """image,labels,unknown,split
a/1.jpg,cat|dog,,train
a/2.png, dog ,,train
b/3.jpg,,bird | cat,train
b/4.jpg,,*,val
"b/5,5.jpg",bird,*,val
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    for number, name in enumerate(("a/1.jpg", "a/2.png", "b/3.jpg", "b/4.jpg", "b/5,5.jpg")):
        put(folder / name, jpeg(17 + number, 23, seed=number))
    put(folder / "labels.csv", TABLE)
    return folder


def source(root: Path, **changes: Any) -> FolderSource:
    tables = dict.fromkeys(("train", "val"), root / "labels.csv")
    return FolderSource(root=root, **({"tables": tables, "label_separator": "|"} | changes))


def samples(data: FolderSource) -> dict[str, Sample]:
    return {listed.key: data.read(listed) for split in data.tables for listed in data.list_split(split)}


def test_one_table_for_all_splits(root: Path) -> None:
    data = source(root)
    assert data.taxonomy.names == ("bird", "cat", "dog")
    assert [listed.key for listed in data.list_split("train")] == ["a/1", "a/2", "b/3"]
    found = samples(data)
    assert {key: (sample.classes, sample.unknown) for key, sample in found.items()} == {
        "a/1": ((2, 3), ()),
        "a/2": ((3,), ()),
        "b/3": ((), (1, 2)),
        "b/4": ((), (1, 2, 3)),
        "b/5,5": ((1,), (2, 3)),
    }
    assert found["a/2"].source == "a/2.png" and found["a/2"].encoded == (root / "a/2.png").read_bytes()
    assert [found[key].position for key in ("a/1", "a/2", "b/3", "b/4", "b/5,5")] == [0, 1, 2, 0, 1]


def test_a_table_for_each_split_and_a_row_for_each_label(root: Path) -> None:
    train = put(root / "train.csv", "﻿extra,image,labels\r\n1,a/1.jpg,dog\r\n2,a/2.png,\r\n3,a/1.jpg,cat\r\n\r\n")
    val = put(root / "val.csv", "image\nb/4.jpg\n")
    found = samples(source(root, tables={"train": train, "val": val}))
    assert list(found) == ["a/1", "a/2", "b/4"], "in the order of the first rows"
    assert (found["a/1"].classes, found["a/2"].classes) == ((1, 2), ())
    assert found["b/4"].unknown == (1, 2), "without a column of labels nobody labelled"


def test_what_a_later_row_knows_is_known(root: Path) -> None:
    table = put(root / "t.csv", "image,labels,unknown\na/1.jpg,cat,*\na/1.jpg,dog,\na/1.jpg,,bird\n")
    (sample,) = samples(source(root, tables={"train": table})).values()
    assert (sample.classes, sample.unknown) == ((2, 3), (1,))


def test_another_separator(root: Path) -> None:
    put(root / "labels.csv", TABLE.replace("|", ";"))
    assert samples(source(root, label_separator=";"))["a/1"].classes == (2, 3)
    with pytest.raises(
        ValueError, match=r"labels.csv, line 4: 'bird ; cat' seems to be several names separated by ';'"
    ):
        _ = source(root).taxonomy
    names = put(root / "classes.txt", "bird\ncat\ndog\n")
    with pytest.raises(ValueError, match=r"line 2: unknown class 'cat;dog'; .*label_separator is '\|'"):
        source(root, class_list=names).list_split("train")


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_tables_as_spreadsheets_write_them(root: Path, delimiter: str) -> None:
    text = '\ufeffimage,labels,split\r\na/1.jpg,cat|dog,train\r\na\\2.png, "bird",val\r\n'
    put(root / "labels.csv", text.replace(",", delimiter))
    found = samples(source(root))
    assert {key: sample.classes for key, sample in found.items()} == {"a/1": (2, 3), "a/2": (1,)}, "a backslash too"


def test_lists_in_cells_and_names_composed(root: Path) -> None:
    put(root / "labels.csv", "image,labels\na/1.jpg,\"['cat', 'dog']\"\n./a/2.png,U\u0308bung\n")
    data = source(root, tables={"train": root / "labels.csv"})
    assert data.taxonomy.names == ("cat", "dog", "\u00dcbung")
    names = put(root / "classes.txt", "dog\nU\u0308bung\ncat\n")
    assert [s.classes for s in samples(source(root, tables=data.tables, class_list=names)).values()] == [(1, 3), (2,)]


def test_a_class_list_that_begins_with_the_background(root: Path) -> None:
    mask = np.zeros((18, 23), np.uint8)
    mask[3:5, 6:9] = 1
    put(root / "masks" / "a" / "2.png", encode_png(mask))
    names = put(root / "classes.txt", "_background_\ndog\ncat\nbird\n")
    data = source(root, class_list=names, masks="masks", masked_splits=("train",))
    sample = data.read(data.list_split("train")[1])
    assert data.taxonomy.names == ("dog", "cat", "bird") and sample.classes == (1,)
    np.testing.assert_array_equal(sample.mask, mask)


def test_class_list_and_subset(root: Path) -> None:
    names = put(root / "classes.txt", "dog\nunseen\n\ncat \nbird\n")
    data = source(root, class_list=names)
    assert data.taxonomy.names == ("dog", "unseen", "cat", "bird")
    assert samples(data)["a/1"].classes == (1, 3)
    chosen = source(root, class_list=names, class_names=("bird", "cat"))
    assert samples(chosen)["a/1"].classes == (2,) and samples(chosen)["b/4"].unknown == (1, 2)


def test_masks_and_their_frames(root: Path) -> None:
    names = put(root / "classes.txt", "dog\ncat\nbird\n")
    mask = np.zeros((20, 23), np.uint8)
    mask[3:5, 6:9], mask[8], mask[11:13] = 2, 255, 3
    put(root / "masks" / "b" / "4.png", encode_png(mask))
    settings: dict[str, Any] = {"class_list": names, "masks": "masks", "masked_splits": ("val",), "boxes": "masks"}
    data = source(root, **settings)
    val, train = data.list_split("val")[0], data.list_split("train")[0]
    np.testing.assert_array_equal(data.read(val).mask, mask)
    assert data.read(val).boxes == (Box(2, 3, 6, 5, 9), Box(3, 11, 0, 13, 23))
    assert data.read(train).mask is None and data.read(train).boxes is None
    with pytest.raises(BadSampleError, match=r"cannot read the mask masks/b/5,5.png: No such file"):
        data.read(data.list_split("val")[1])
    cats = source(root, **settings, class_names=("cat",), other_classes_as=255).read(val).mask
    assert cats is not None and (cats[3, 6], cats[8, 0], cats[11, 0], cats[0, 0]) == (1, 255, 255, 0)
    renamed = (root / "masks" / "b" / "4.png").rename(root / "masks" / "b" / "4_mask.png")
    with pytest.raises(BadSampleError, match=r"masks/b/4_mask.png exists: set mask_suffix = '_mask'"):
        data.read(val)
    np.testing.assert_array_equal(source(root, **settings, mask_suffix="_mask").read(val).mask, mask)
    assert source(root, **settings, mask_suffix="_mask").signature() != data.signature()
    renamed.rename(root / "masks" / "b" / "4.png")
    with pytest.raises(ValueError, match="masks are given, but no class_list"):
        source(root, masks="masks")


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", 1, "the header has no column 'image'; it has no columns"),
        ("Id,Target\n", 1, "the header has no column 'image'; it has Id, Target"),
        ("image,labels,labels\n", 1, "the header has the column 'labels' more than once"),
        ("Id;Target\n", 1, "no column 'image'; it has Id;Target; separate its columns with commas, semicolons or tabs"),
        ("filename,labels\n", 1, "no column 'image'; it has filename, labels, but 'filename': rename it to 'image'"),
        ("image,Class\n", 1, "the header has no column 'labels', but 'Class': rename it to 'labels'"),
        ("image,labels,subset\n", 1, "the header has no column 'split', but 'subset': rename it to 'split'"),
        ("image,labels,labels.1\n", 1, "the header has a column 'labels.1'; write all class names of an image in"),
        ("image,Label 2,labels\n", 1, "the header has a column 'Label 2'; write all class names of an image in"),
        ("image,labels\na/1.jpg,background\n", 2, "'background' is not a class: leave the cell empty"),
        ("image,labels\na/1.jpg,Cat\n", 2, "unknown class 'Cat'; did you mean cat"),
        ("image,labels\na/1.jpg,cat dog\n", 2, "unknown class 'cat dog'; .*; label_separator is '.'"),
        ("image,labels,split\na/1.jpg,cat,TRAIN\n", 2, "the split 'TRAIN' resembles 'train'"),
        ("image,label,split\n", 1, "the header has a column 'label'; did you mean 'labels'"),
        ("image,splits\n", 1, "the header has a column 'splits'; did you mean 'split'"),
        ("image,labels,split\na/1.jpg,cat,train\na/2.jpg,cat,trian\n", 3, "the split 'trian' resembles 'train'"),
        ("image,labels\na/1.jpg\n", 2, "1 columns, but the header has 2"),
        ("image,labels\na/1.jpg,cat,dog\n", 2, "3 columns, but the header has 2"),
        ("image,labels\na/1.jpg,cat\n../b.jpg,cat\n", 3, r"the image '\.\./b\.jpg' is not a path relative to the root"),
        (
            "image,labels\n\n\nC:\\b.jpg,cat\n",
            4,
            "is not a path relative to the root; write it without .. or a leading /, and separate folders with /",
        ),
        ("image,labels\n,cat\n", 2, "the image '' is not a path relative to the root"),
        ("image,labels\na/1.jpg,caat\n", 2, "unknown class 'caat'; did you mean cat"),
        ("image,labels,unknown\na/1.jpg,cat,caat\n", 2, "unknown class 'caat'; did you mean cat"),
        ("image,labels,unknown\na/1.jpg,cat|dog,dog\n", 2, "'dog' is both a label and unknown"),
        ("image,labels\na/1.jpg,cat\na/1.png,cat\n", 3, "a/1.png and a/1.jpg differ only in their extension"),
        ('image,labels\n"a/1.jpg,cat\n', 2, "unexpected end of data"),
    ],
)
def test_faults_are_reported_with_file_and_line(root: Path, text: str, line: int, message: str) -> None:
    put(root / "labels.csv", text)
    names = put(root / "classes.txt", "cat\ndog\n")
    with pytest.raises(ValueError, match=rf"labels\.csv, line {line}: .*{message}"):
        source(root, class_list=names).list_split("train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"image,labels\n\xff,cat\n", r"labels\.csv is not UTF-8 text"),
        (b"image,labels,split\na/1.jpg,cat,val\n", r"labels\.csv has no rows of split 'train'; it has rows of val"),
        (b"image,a,b,c\na/1.jpg,1,0,3\na/2.png,,1,1\n", r"labels\.csv has no column 'labels', and .*0 and 1 \(a, b\)"),
        (b"image,labels\n", r"labels\.csv has no rows of split 'train'$"),
        (None, r"the table of split 'train' does not exist: .*labels\.csv"),
    ],
)
def test_tables_that_cannot_be_read(root: Path, text: bytes | None, message: str) -> None:
    path = root / "labels.csv"
    path.unlink() if text is None else path.write_bytes(text)
    with pytest.raises(ValueError, match=message):
        source(root, class_list=put(root / "classes.txt", "cat")).list_split("train")


def test_class_lists_that_cannot_be_read(root: Path) -> None:
    with pytest.raises(ValueError, match=r"the list of classes does not exist: .*none.txt"):
        _ = source(root, class_list=root / "none.txt").taxonomy
    with pytest.raises(ValueError, match=r"the list of classes is not UTF-8 text: .*c.txt"):
        _ = source(root, class_list=put(root / "c.txt", b"\xff")).taxonomy
    put(root / "labels.csv", "image\na/1.jpg\n")
    with pytest.raises(ValueError, match=r"labels\.csv contains no class; list the classes in class_list, one"):
        _ = source(root).taxonomy
    with pytest.raises(ValueError, match=r"no table for split 'test'; tables are given for \['train', 'val'\]"):
        source(root).list_split("test")


def test_missing_images_are_bad_samples(root: Path) -> None:
    (root / "a" / "1.jpg").unlink()
    data = source(root)
    with pytest.raises(BadSampleError, match=r"cannot read a/1.jpg: No such file"):
        data.read(data.list_split("train")[0])


def test_signature(root: Path, tmp_path: Path) -> None:
    before = source(root).signature()
    assert source(shutil.copytree(root, tmp_path / "copy")).signature() == before
    names = put(root / "classes.txt", "dog\ncat\nbird\n")
    changed = [before, source(root, class_list=names).signature()]
    put(root / "labels.csv", TABLE + "a/9.jpg,,,train\n")
    changed.append(source(root).signature())
    put(root / "a" / "9.jpg", jpeg(9, 9, seed=1))
    changed.append(source(root).signature())
    masked = {"class_list": names, "masks": "masks", "masked_splits": ("train",)}
    changed.append(source(root, **masked).signature())
    put(root / "masks" / "a" / "9.png", encode_png(np.zeros((9, 9), np.uint8)))
    changed.append(source(root, **masked).signature())
    put(root / "masks" / "a" / "9.png", encode_png(np.arange(81, dtype=np.uint8).reshape(9, 9)))  # corrected in place
    changed.append(source(root, **masked).signature())
    for folder in ("other_masks", "saliency", "other_saliency"):
        shutil.copytree(root / "masks", root / folder)
    changed.append(source(root, **masked | {"masks": "other_masks"}).signature())
    changed += [source(root, saliency=folder).signature() for folder in ("saliency", "other_saliency")]
    assert len(set(changed)) == len(changed)
