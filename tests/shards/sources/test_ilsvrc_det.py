from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards.records import BadSampleError, Box, Sample
from shards.sources import disk, pascal_xml
from shards.sources.ilsvrc_det import IlsvrcDetSource
from shards.sources.ilsvrc_lists import read_class_lists
from shards.sources.source import forget_lists
from shards.taxonomy import ilsvrc_det_200
from tests.shards.sources.ilsvrc_folder import (
    ANT,
    ANTS,
    BEAR,
    BREEDS,
    DOG,
    EXTRA,
    FULL,
    LISTS,
    PERSON,
    TRAIN,
    make_ilsvrc,
    write_lists,
    xml,
)
from tests.shards.sources.pictures import jpeg, put

ALL = set(range(1, 201))
VAL = ["ILSVRC2013_val_00000002", "ILSVRC2012_val_00000001"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_ilsvrc(tmp_path / "det")


@pytest.fixture
def checked(root: Path) -> Path:
    """The tree with the lists of what each image was checked for."""
    write_lists(root, LISTS)
    return root


def source(root: Path, **changes: Any) -> IlsvrcDetSource:
    return IlsvrcDetSource(root=root, **({"boxes": "annotations"} | changes))


def read(data: IlsvrcDetSource, key: str, split: str = "train") -> Sample:
    return data.read(next(listed for listed in data.list_split(split) if listed.key == key))


def annotation(root: Path, key: str) -> Path:
    return root / "ILSVRC" / "Annotations" / "DET" / "train" / f"{key}.xml"


def test_train_is_what_lies_on_disk_and_val_and_test_are_listed(root: Path) -> None:
    data = source(root)
    assert [listed.key for listed in data.list_split("train")] == sorted(TRAIN)
    assert [listed.position for listed in data.list_split("train")] == list(range(len(TRAIN)))
    assert [listed.key for listed in data.list_split("val")] == VAL, "in the list's order"
    assert [listed.key for listed in data.list_split("test")] == ["ILSVRC2015_test_00000001"], "no list: what is there"
    assert source(root / "ILSVRC").list_split("train").keys == data.list_split("train").keys
    with pytest.raises(ValueError, match="ILSVRC DET has no split 'dev'; it has train, val, test"):
        data.list_split("dev")


def test_listing_opens_no_image_and_no_annotation(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(root: Path, name: str) -> bytes:
        raise AssertionError(f"{name} was opened")

    for module in (disk, pascal_xml):
        monkeypatch.setattr(module, "read_file", refuse)
    data = source(root, splits=("train",))
    assert len(data.list_split("train")) == len(TRAIN)
    assert data.signature()


def test_sample_holds_the_files_own_bytes_and_pixels_counted_from_zero(root: Path) -> None:
    sample = read(source(root), f"{ANTS}1")
    name = f"Data/DET/train/{ANTS}1.JPEG"
    assert (sample.source, sample.position, sample.size) == (name, 1, (37, 53))
    assert sample.encoded == (root / "ILSVRC" / name).read_bytes()
    assert sample.boxes == (Box(ANT, 0, 0, 37, 53), Box(ANT, 5, 3, 10, 9)), "last row and column are the object's"
    assert read(source(root), f"{FULL}1").boxes == (Box(ANT, 5, 3, 10, 9), Box(PERSON, 11, 10, 37, 13))
    assert read(source(root, boxes="none"), f"{ANTS}1").boxes is None


@pytest.mark.parametrize(
    ("key", "present", "absent"),
    [
        (f"{ANTS}1", {ANT}, {DOG}),
        (f"{ANTS}22", {ANT}, set()),  # partial in the lists, no box
        (f"{ANTS}3", {BEAR}, {ANT}),  # queried, annotated, and not among the objects
        (f"{BREEDS}7", {DOG}, set()),
        (EXTRA, set(), {ANT, PERSON}),
        (f"{FULL}1", {ANT, PERSON}, ALL - {ANT, PERSON}),
        (f"{FULL}2", set(), ALL),  # no XML: no object
    ],
)
def test_what_train_knows(checked: Path, key: str, present: set[int], absent: set[int]) -> None:
    sample = read(source(checked), key)
    assert sample.classes == tuple(sorted(present))
    assert sample.unknown == tuple(sorted(ALL - present - absent))


def test_frames_are_unknown_only_where_an_object_could_stand(root: Path) -> None:
    assert read(source(root), EXTRA).boxes is None
    assert read(source(root), f"{FULL}2").boxes == ()


def test_without_the_lists_of_the_classes_less_is_known(root: Path) -> None:
    data = source(root)
    assert (read(data, f"{ANTS}22").classes, len(read(data, f"{ANTS}22").unknown)) == ((), 199)
    assert read(data, f"{ANTS}1").unknown == tuple(sorted(ALL - {ANT}))
    assert read(data, EXTRA).unknown == tuple(sorted(ALL))
    assert read(data, f"{FULL}1").unknown == ()


def test_val_is_fully_labelled_and_test_is_not_labelled(root: Path) -> None:
    bear, empty = read(source(root), VAL[1], "val"), read(source(root), VAL[0], "val")
    assert (bear.classes, bear.unknown, bear.boxes) == ((BEAR,), (), (Box(BEAR, 5, 3, 10, 9),))
    assert (empty.classes, empty.unknown, empty.boxes) == ((), (), ())
    test = read(source(root), "ILSVRC2015_test_00000001", "test")
    assert (test.classes, test.unknown, test.boxes) == ((), tuple(sorted(ALL)), None)


def test_subset_of_classes_is_numbered_anew(checked: Path) -> None:
    data = source(checked, class_names=("person", "dog", "ant"))
    assert data.taxonomy.names == ("person", "dog", "ant")
    assert read(data, f"{FULL}1").classes == (1, 3)
    assert read(data, EXTRA).unknown == (2,)
    assert read(data, f"{ANTS}3").classes == () and read(data, f"{ANTS}3").boxes == ()
    assert ilsvrc_det_200().id_of("person") == PERSON


def test_lists_stand_in_for_the_disk_and_what_they_name_may_be_missing(root: Path, tmp_path: Path) -> None:
    given = put(tmp_path / "my.txt", f"{FULL}2 17\n{ANTS}99\n")
    data = source(root, lists={"train": given})
    assert [listed.key for listed in data.list_split("train")] == [f"{FULL}2", f"{ANTS}99"]
    with pytest.raises(BadSampleError, match=r"cannot read Data/DET/train/.*_99\.JPEG: No such file"):
        read(data, f"{ANTS}99")
    put(given, "elsewhere/picture\n")
    with pytest.raises(ValueError, match="'elsewhere' below Data/DET/train is not a folder of ILSVRC"):
        source(root, lists={"train": given}).list_split("train")


def test_lists_apply_by_name_whatever_the_order_of_the_images(checked: Path, tmp_path: Path) -> None:
    given = put(tmp_path / "my.txt", f"{EXTRA}\n{ANTS}1\n")
    data = source(checked, lists={"train": given})
    assert ALL - set(read(data, f"{ANTS}1").unknown) == {ANT, DOG}
    assert ALL - set(read(data, EXTRA).unknown) == {ANT, PERSON}


def test_folders_as_the_readme_prints_them(checked: Path) -> None:
    train = checked / "ILSVRC" / "Data" / "DET" / "train"
    (train / "ILSVRC2013_train_extra0").rename(train / "ILSVRC2013_DET_train_extra0")
    sample = read(source(checked), EXTRA.replace("2013_train_extra", "2013_DET_train_extra"))
    assert ALL - set(sample.unknown) == {ANT, PERSON}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda train: put(train / "more" / "1.JPEG", b""), "'more' below Data/DET/train is not a folder of ILSVRC"),
        (lambda train: put(train / "1.JPEG", b""), "'' below Data/DET/train is not a folder of ILSVRC"),
        (
            lambda train: put(train / f"{FULL}3.jpg", b""),
            r"contains ILSVRC2014_train_00000003.jpg, but its images must end in .JPEG",
        ),
        (lambda train: shutil.rmtree(train), r"contains no images \(.JPEG\)"),
    ],
)
def test_trees_that_are_not_ilsvrcs(root: Path, change: Any, message: str) -> None:
    change(root / "ILSVRC" / "Data" / "DET" / "train")
    with pytest.raises(ValueError, match=message):
        source(root).list_split("train")


def test_files_of_the_system_are_passed_over(root: Path) -> None:
    folder = root / "ILSVRC" / "Data" / "DET" / "train" / "ILSVRC2014_train_0000"
    for name in (".DS_Store", "._ILSVRC2014_train_00000001.JPEG", "Thumbs.db"):
        put(folder / name, b"")
    assert len(source(root).list_split("train")) == len(TRAIN)


@pytest.mark.parametrize(("split", "folder"), [("train", "train/ILSVRC2014_train_0000"), ("val", "val")])
def test_images_whose_annotations_were_not_unpacked(root: Path, tmp_path: Path, split: str, folder: str) -> None:
    shutil.rmtree(root / "ILSVRC" / "Annotations" / "DET" / folder)
    own = {"train": put(tmp_path / "my.txt", f"{FULL}1\n")} if split == "train" else {}
    for lists in ({}, own):
        with pytest.raises(ValueError, match=rf"Annotations/DET/{folder} is missing .* unpack the annotations too"):
            source(root, lists=lists).list_split(split)
    assert source(root).list_split("test")


def test_no_data_at_all(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="contains no folder Data/DET or ILSVRC/Data/DET"):
        source(tmp_path).list_split("train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<annotation><object>", r"cannot read the labels in Annotations/DET/train/.*\.xml"),
        ("", r"cannot read the labels in Annotations/DET/train/.*\.xml"),
        (
            xml([(ANT, 0, 0, 1, 1)]).replace("n02219486", "n99999999"),
            "label 'n99999999' is not the synset of one of the 200",
        ),
        (xml([(ANT, 60, 0, 70, 9)]), "columns 60 to 71, contains no pixel of an image of 37 rows and 53 columns"),
        (xml([(ANT, 0, 0, 1, 1)]).replace("<xmin>0", "<xmin>"), "is not four numbers"),
        (xml([(ANT, 0, 0, 1, 1)], height=74, width=106), "are for an image of 106x74, but the image is 53x37"),
    ],
)
def test_bad_annotations_are_bad_samples(root: Path, content: str, message: str) -> None:
    annotation(root, f"{FULL}1").write_text(content)
    with pytest.raises(BadSampleError, match=message) as caught:
        read(source(root), f"{FULL}1")
    assert str(root) not in str(caught.value)


def test_bad_images_are_bad_samples(root: Path) -> None:
    path = root / "ILSVRC" / "Data" / "DET" / "train" / f"{FULL}1.JPEG"
    for content in (b"", path.read_bytes()[:600], b"text"):
        path.write_bytes(content)
        with pytest.raises(BadSampleError, match=rf"Data/DET/train/{FULL}1\.JPEG: "):
            read(source(root), f"{FULL}1")


@pytest.mark.parametrize("known_size", [True, False])
def test_boxes_turn_with_an_image_that_exif_turns(root: Path, known_size: bool) -> None:
    put(root / "ILSVRC" / "Data" / "DET" / "train" / f"{FULL}1.JPEG", jpeg(37, 53, seed=1, orientation=6))
    text = (
        xml([(ANT, 3, 5, 8, 9)])
        if known_size
        else xml([(ANT, 3, 5, 8, 9)]).replace("<size>", "<none>").replace("</size>", "</none>")
    )
    annotation(root, f"{FULL}1").write_text(text)
    sample = read(source(root), f"{FULL}1")
    assert sample.size == (53, 37)
    assert sample.boxes == (Box(ANT, 3, 37 - 10, 9, 37 - 5),)
    annotation(root, f"{FULL}1").write_text(xml([(ANT, 3, 5, 8, 9)], height=53, width=37))
    assert read(source(root), f"{FULL}1").boxes == (Box(ANT, 5, 3, 10, 9),), "drawn on the image as shown"


def test_signature(root: Path, tmp_path: Path) -> None:
    before = source(root).signature()
    assert source(shutil.copytree(root, tmp_path / "copy")).signature() == before
    assert source(root, splits=("train",)).signature() != before
    changed = [before]
    write_lists(root, LISTS | {BEAR: [f"{ANTS}1 -1"]})
    changed.append(source(root).signature())
    annotation(root, f"{ANTS}3").unlink()
    changed.append(source(root).signature())
    put(root / "ILSVRC" / "Data" / "DET" / "train" / f"{FULL}3.JPEG", jpeg(8, 8, seed=1))
    changed.append(source(root).signature())
    (root / "ILSVRC" / "Data" / "DET" / "val" / f"{VAL[0]}.JPEG").unlink()
    changed.append(source(root).signature())
    assert len(set(changed)) == len(changed)


def test_class_lists_by_their_definition(tmp_path: Path) -> None:
    generator = np.random.default_rng(5)
    keys = [f"ILSVRC2013_train/n{n:08d}/n{n:08d}_{n}" for n in range(17)] + [f"{FULL}{n}" for n in range(3)]
    lists: dict[int, list[str]] = {}
    expected: dict[str, dict[int, int]] = {key: {} for key in keys}
    for class_id in range(1, 201):
        lists[class_id] = []
        for key in generator.permutation(keys)[:5].tolist():
            label = int(generator.integers(-1, 2))
            lists[class_id].append(f"{key}{' ' * int(generator.integers(1, 3))}{label}")
            expected[key][class_id] = label
    write_lists(tmp_path, lists)
    put(
        tmp_path / "ILSVRC" / "ImageSets" / "DET" / "train_7.txt", "\r\n".join(["", *lists[7], "", ""])
    )  # from another system
    found = read_class_lists(tmp_path / "ILSVRC" / "ImageSets" / "DET", keys)
    for position, key in enumerate(keys):
        present, absent = found.of_image(position)
        if key.startswith("ILSVRC2013"):
            assert present == {c for c, label in expected[key].items() if label >= 0}
            assert absent == {c for c, label in expected[key].items() if label < 0}
        else:
            assert not present and not absent, "the 2014 part needs no list"


@pytest.mark.parametrize("line", [f"{ANTS}1", f"{ANTS}1 2", f"{ANTS}1 10", f"{ANTS}1 -1 x", "1", "n02219486_1 1"])
def test_lines_that_are_no_image_with_a_label(root: Path, line: str) -> None:
    write_lists(root, LISTS | {BEAR: [f"{FULL}1 -1", line]})
    with pytest.raises(
        ValueError, match=r"train_20\.txt, line 2: .*; write an image of ILSVRC's train folder and -1, 0"
    ):
        read(source(root), f"{ANTS}1")


def test_some_lists_without_the_others(checked: Path) -> None:
    (checked / "ILSVRC" / "ImageSets" / "DET" / "train_77.txt").unlink()
    with pytest.raises(ValueError, match=r"train_77\.txt is missing, but the lists of 199 other classes exist"):
        source(checked).signature()


def test_forgotten_lists_are_read_again(root: Path) -> None:
    """What is sent to workers of later stages does not hold the keys, of which LID has half a million."""
    data = source(root)
    before, signature, taxonomy = list(data.list_split("train")), data.signature(), data.taxonomy
    with_lists = len(pickle.dumps(data))
    forget_lists(data)
    assert len(pickle.dumps(data)) < with_lists and before[0].key.encode() not in pickle.dumps(data)
    assert (data.taxonomy, data.signature()) == (taxonomy, signature)
    assert list(data.list_split("train")) == before
