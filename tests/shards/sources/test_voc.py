from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from shards.images import decode_index_png, encode_png
from shards.records import BadSampleError, Box, Sample
from shards.sources.voc import VocSource
from tests.shards.png_by_hand import png
from tests.shards.sources.pictures import jpeg, put
from tests.shards.sources.voc_folder import LABELS, make_voc


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_voc(tmp_path / "voc")


def source(root: Path, **changes: Any) -> VocSource:
    settings: dict[str, Any] = {
        "root": root,
        "lists": {split: root / "lists" / f"{split}.txt" for split in ("train", "val")},
        "labels": root / "labels.json",
        "masks": "SegmentationClassAug",
        "masked_splits": ("train", "val"),
    }
    return VocSource(**(settings | changes))


def read(data: VocSource, number: int) -> Sample:
    listed = [*data.list_split("train"), *data.list_split("val")]
    return data.read(listed[number])


def test_sample_holds_the_files_own_bytes(root: Path) -> None:
    sample = read(source(root), 1)
    assert (sample.key, sample.position, sample.source) == ("2007_2", 1, "JPEGImages/2007_2.jpg")
    assert sample.encoded == (root / "JPEGImages" / "2007_2.jpg").read_bytes()
    assert sample.size == sample.image.shape[:2] == (38, 53)
    np.testing.assert_array_equal(
        sample.mask, decode_index_png((root / "SegmentationClassAug" / "2007_2.png").read_bytes())
    )


@pytest.mark.parametrize("labels", ["json", "xml"])
def test_labels_from_json_and_from_xml(root: Path, labels: str) -> None:
    data = source(root, labels=root / "labels.json" if labels == "json" else None)
    assert [read(data, number).classes for number in range(4)] == [(8, 15), (12,), (8, 18), ()]


def test_masks_never_serve_as_labels(root: Path) -> None:
    data = source(root, masked_splits=("val",))
    assert read(data, 0).mask is None and read(data, 3).mask is not None
    (root / "labels.json").write_text(json.dumps({**LABELS, "2007_1": ["boat"]}))
    assert read(source(root), 0).classes == (4,)


@pytest.mark.parametrize("other", [0, 255])
def test_subset_of_classes_is_numbered_anew(root: Path, other: int) -> None:
    data = source(root, class_names=("dog", "cat"), other_classes_as=other)
    assert data.taxonomy.names == ("dog", "cat")
    assert [read(data, number).classes for number in range(4)] == [(2,), (1,), (2,), ()]
    mask = read(data, 2).mask
    assert mask is not None
    assert (mask[5, 7], mask[12, 3], mask[25, 25], mask[0, 0]) == (2, 255, other, 0)


def test_mask_of_another_size(root: Path) -> None:
    (root / "SegmentationClassAug" / "2007_1.png").write_bytes(encode_png(np.zeros((53, 37), np.uint8)))
    with pytest.raises(BadSampleError, match=r"mask SegmentationClassAug/2007_1.png is 37x53, but its image is 53x37"):
        read(source(root), 0)


def test_mask_with_a_value_that_is_no_class(root: Path) -> None:
    (root / "SegmentationClassAug" / "2007_1.png").write_bytes(encode_png(np.full((37, 53), 21, np.uint8)))
    with pytest.raises(BadSampleError, match=r"holds the value 21, which is not a class id; allowed are 0..20 and 255"):
        read(source(root), 0)


def test_label_outside_the_class_list(root: Path) -> None:
    (root / "labels.json").write_text(json.dumps({**LABELS, "2007_1": ["cat", "unicorn"]}))
    with pytest.raises(BadSampleError, match="label 'unicorn' is not in the class list"):
        read(source(root), 0)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("JPEGImages/2007_1.jpg", None, r"cannot read JPEGImages/2007_1\.jpg: No such file"),
        ("JPEGImages/2007_1.jpg", b"", r"JPEGImages/2007_1\.jpg: the file is empty"),
        ("JPEGImages/2007_1.jpg", jpeg(37, 53, seed=0)[:700], r"JPEGImages/2007_1\.jpg: the image does not decode"),
        ("SegmentationClassAug/2007_1.png", None, "cannot read the mask SegmentationClassAug/2007_1.png"),
        ("SegmentationClassAug/2007_1.png", b"text", "cannot read the mask SegmentationClassAug/2007_1.png"),
    ],
)
def test_missing_and_unreadable_files_are_bad_samples(
    root: Path, file: str, content: bytes | None, message: str
) -> None:
    if content is None:
        (root / file).unlink()
    else:
        (root / file).write_bytes(content)
    with pytest.raises(BadSampleError, match=message) as caught:
        read(source(root), 0)
    assert str(root) not in str(caught.value), "a reason in a manifest does not depend on the root's place"
    assert read(source(root), 1).key == "2007_2"


def test_classes_that_an_image_was_not_checked_for(root: Path) -> None:
    labels = {**LABELS, "2007_1": {"present": ["person"], "unknown": ["dog", "cat"]}}
    (root / "labels.json").write_text(json.dumps(labels))
    first, second = read(source(root), 0), read(source(root), 1)
    assert (first.classes, first.unknown) == ((15,), (8, 12))
    assert second.unknown == ()
    chosen = read(source(root, class_names=("person", "cat")), 0)
    assert (chosen.classes, chosen.unknown) == ((1,), (2,)), "classes outside the subset are not unknown but not there"
    (root / "labels.json").write_text(json.dumps({**LABELS, "2007_1": {"present": ["cat"], "unknown": ["cat"]}}))
    with pytest.raises(BadSampleError, match="'cat' is both present and unknown"):
        read(source(root), 0)


def test_missing_labels_of_one_image(root: Path) -> None:
    (root / "labels.json").write_text(json.dumps({"2007_2": ["dog"]}))
    with pytest.raises(BadSampleError, match="no image-level labels for '2007_1'"):
        read(source(root), 0)
    (root / "Annotations" / "2007_1.xml").write_text("<annotation><object>")
    with pytest.raises(BadSampleError, match=r"cannot read the labels in Annotations/2007_1.xml"):
        read(source(root, labels=None), 0)


def test_missing_and_broken_label_file(root: Path) -> None:
    with pytest.raises(ValueError, match=r"the file of image-level labels does not exist: .*/none.json"):
        read(source(root, labels=root / "none.json"), 0)
    (root / "labels.json").write_text("{")
    with pytest.raises(ValueError, match=r"is not valid JSON: .*/labels\.json"):
        read(source(root), 0)


def test_lists(root: Path) -> None:
    data = source(root)
    assert [listed.key for listed in data.list_split("train")] == ["2007_1", "2007_2", "2007_3"]
    with pytest.raises(ValueError, match=r"no list for split 'test'; lists are given for \['train', 'val'\]"):
        data.list_split("test")
    (root / "lists" / "val.txt").write_text(" \n")
    with pytest.raises(ValueError, match=r"the list of split 'val' is empty: .*/val.txt"):
        data.list_split("val")
    (root / "lists" / "val.txt").write_text("a\nb\na\n")
    with pytest.raises(ValueError, match="the list of split 'val' contains 'a' more than once"):
        data.list_split("val")
    (root / "lists" / "val.txt").unlink()
    with pytest.raises(ValueError, match=r"the list of split 'val' does not exist: .*/val.txt"):
        data.list_split("val")


@pytest.mark.parametrize(
    "line", ["../../etc/passwd", "/etc/passwd", "a//b", "./a", "2007_1 1", "2007_1\x00", "a\\b", "x" * 300]
)
def test_lines_that_are_no_key(root: Path, line: str) -> None:
    (root / "lists" / "val.txt").write_text(f"2007_4\n{line}\n")
    with pytest.raises(ValueError, match=r"the list of split 'val' has no valid key in line 2: .*val\.txt"):
        source(root).list_split("val")


def test_lists_of_other_systems(root: Path) -> None:
    (root / "lists" / "val.txt").write_bytes(b"\xef\xbb\xbf2007_4\r\nfolder/2007_5\r\n\r\n")
    assert [listed.key for listed in source(root).list_split("val")] == ["2007_4", "folder/2007_5"]
    (root / "lists" / "val.txt").write_bytes(b"2007_4\n\xff\n")
    with pytest.raises(ValueError, match=r"the list of split 'val' is not UTF-8 text: .*val\.txt"):
        source(root).list_split("val")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("3", r"must have the form \{key: \[names\]\}: .*labels\.json"),
        ('["2007_1"]', r"must have the form \{key: \[names\]\}"),
        ('{"2007_1": 3}', "the labels of '2007_1' are 3; write a list of class names"),
        ('{"2007_1": "cat"}', "the labels of '2007_1' are 'cat'; write a list"),
        ('{"2007_1": {"unknown": ["cat"]}}', "the labels of '2007_1' are .*; write a list of class names, or"),
        ('{"2007_1": {"present": [], "unkown": ["cat"]}}', "the labels of '2007_1' are .*; write a list"),
        ('{"2007_1": [["cat"]]}', "write a list of class names"),
    ],
)
def test_label_file_of_another_form(root: Path, content: str, message: str) -> None:
    (root / "labels.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        source(root).signature()


def test_signature_follows_what_annotations_say(root: Path) -> None:
    path = root / "Annotations" / "2007_2.xml"
    before = source(root, labels=None).signature()
    path.write_text(path.read_text().replace("dog", "cat"))
    assert source(root, labels=None).signature() != before


def test_signature_follows_the_annotations_where_labels_come_from_them(root: Path) -> None:
    before = {labels: source(root, labels=labels).signature() for labels in (None, root / "labels.json")}
    (root / "Annotations" / "2007_3.xml").write_text("<annotation/>")
    after = {labels: source(root, labels=labels).signature() for labels in before}
    assert [before[labels] != after[labels] for labels in before] == [True, False]


def test_signature_does_not_depend_on_the_roots_place(root: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "a" / "copy"
    shutil.copytree(root, elsewhere)
    assert source(root).signature() == source(elsewhere).signature()


@pytest.mark.parametrize("file", ["JPEGImages/2007_3.jpg", "SegmentationClassAug/2007_3.png", "labels.json"])
def test_signature_follows_the_files(root: Path, file: str) -> None:
    before = source(root).signature()
    (root / file).write_bytes((root / file).read_bytes() + b" ")
    changed = source(root).signature()
    (root / "lists" / "val.txt").write_text("2007_4\n2007_3\n")
    assert len({before, changed, source(root).signature()}) == 3


def test_boxes_of_annotations_count_from_one_and_end_at_the_border(root: Path) -> None:
    data = source(root, boxes="annotations", class_names=("person", "cat"), labels=root / "labels.json")
    assert read(source(root), 0).boxes is None
    assert read(data, 0).boxes == (Box(2, 3, 5, 37, 19), Box(1, 3, 5, 37, 19))
    assert read(data, 1).boxes == () and read(data, 3).boxes == ()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<xmax>19", "<xmax>wide", "the box of an object 'dog' is not four numbers"),
        ("<xmax>19", "<xmax>nan", "the box of an object 'dog' is not four numbers"),
        ("<xmin>5.6", "<xmin>54", "columns 53 to 19, contains no pixel of an image of 38 rows and 53 columns"),
    ],
)
def test_boxes_that_frame_nothing(root: Path, old: str, new: str, message: str) -> None:
    path = root / "Annotations" / "2007_2.xml"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(BadSampleError, match=message):
        read(source(root, boxes="annotations"), 1)


def test_boxes_of_masks_frame_every_component_of_a_class(root: Path) -> None:
    assert read(source(root, boxes="masks"), 0).boxes == (Box(8, 3, 5, 11, 19), Box(18, 20, 23, 29, 31))
    assert read(source(root, boxes="masks"), 1).boxes == (Box(12, 3, 5, 11, 19), Box(12, 20, 23, 29, 31))
    assert read(source(root, boxes="masks", masked_splits=("val",)), 0).boxes is None


def test_saliency_maps_are_read_and_must_fit(root: Path) -> None:
    (root / "saliency").mkdir()
    drawn = np.arange(37 * 53).reshape(37, 53).astype(np.uint8)
    (root / "saliency" / "2007_1.png").write_bytes(encode_png(drawn))
    (root / "saliency" / "2007_2.png").write_bytes(encode_png(drawn))
    data = source(root, saliency="saliency")
    before = data.signature()
    np.testing.assert_array_equal(read(data, 0).saliency, drawn)
    with pytest.raises(BadSampleError, match=r"the saliency map saliency/2007_2.png is 53x37, but its image is 53x38"):
        read(data, 1)
    assert read(data, 2).saliency is None, "test images, say, need none"
    (root / "saliency" / "2007_3.png").write_bytes(encode_png(drawn))
    assert data.signature() != before


def sbd_file(mask: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    savemat(buffer, {"GTcls": {"Segmentation": mask, "Boundaries": np.zeros(3), "CategoriesPresent": np.uint8(8)}})
    return buffer.getvalue()


@pytest.mark.parametrize("place", ["dataset/cls", "benchmark_RELEASE/dataset/cls", "cls"])
def test_masks_of_sbd_stand_in_for_those_that_are_missing(root: Path, tmp_path: Path, place: str) -> None:
    drawn = np.zeros((37, 53), np.uint8)
    drawn[4:9, 2:5] = 8
    put(tmp_path / "sbd" / place / "2007_1.mat", sbd_file(drawn))
    put(tmp_path / "sbd" / place / "2007_2.mat", sbd_file(np.full((38, 53), 20, np.uint8)))
    data = source(root, sbd=tmp_path / "sbd", class_names=("cat",), other_classes_as=255)
    both_there = data.signature()
    assert 255 in np.unique(read(data, 0).mask), "the folder's own mask comes first"
    (root / "SegmentationClassAug" / "2007_1.png").unlink()
    np.testing.assert_array_equal(read(data, 0).mask, np.where(drawn == 8, 1, 0))
    assert data.signature() != both_there != source(root).signature()


def test_images_may_lack_a_mask_if_asked_for(root: Path, tmp_path: Path) -> None:
    (root / "SegmentationClassAug" / "2007_1.png").unlink()
    with pytest.raises(BadSampleError, match=r"cannot read the mask SegmentationClassAug/2007_1\.png"):
        read(source(root), 0)
    partly = source(root, partly_masked=True)
    assert read(partly, 0).mask is None and read(partly, 1).mask is not None

    put(tmp_path / "sbd" / "cls" / "2007_9.mat", b"")
    assert read(source(root, partly_masked=True, sbd=tmp_path / "sbd"), 0).mask is None
    put(tmp_path / "sbd" / "cls" / "2007_1.mat", sbd_file(np.full((37, 53), 8, np.uint8)))
    assert read(source(root, partly_masked=True, sbd=tmp_path / "sbd"), 0).mask is not None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read the mask 2007_1.mat of SBD: No such file"),
        (b"text", "the mask 2007_1.mat is not a file of SBD"),
        (sbd_file(np.zeros((37, 53)))[:400], "the mask 2007_1.mat is not a file of SBD"),
        (sbd_file(np.zeros((37, 53))), r"holds float64\[37, 53\], not u8\[H, W\]"),
        (sbd_file(np.zeros((53, 37), np.uint8)), "the mask 2007_1.mat of SBD is 37x53, but its image is 53x37"),
        (sbd_file(np.full((37, 53), 21, np.uint8)), "holds the value 21, which is not a class id"),
    ],
)
def test_bad_masks_of_sbd(root: Path, tmp_path: Path, content: bytes | None, message: str) -> None:
    (tmp_path / "sbd" / "cls").mkdir(parents=True)
    if content is not None:
        put(tmp_path / "sbd" / "cls" / "2007_1.mat", content)
    (root / "SegmentationClassAug" / "2007_1.png").unlink()
    with pytest.raises(BadSampleError, match=message):
        read(source(root, sbd=tmp_path / "sbd"), 0)


def test_a_folder_that_is_not_sbds(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no folder dataset/cls with SBD's masks"):
        source(root, sbd=tmp_path).signature()


@pytest.mark.parametrize(
    "size",
    ["<width>0</width><height>0</height>", "<width>53</width>", "<width>0</width><height>38</height>", ""],
)
def test_a_size_that_says_nothing_is_no_contradiction(root: Path, size: str) -> None:
    path = root / "Annotations" / "2007_2.xml"
    before = read(source(root, boxes="annotations"), 1).boxes
    path.write_text(path.read_text().replace("</annotation>", f"<size>{size}</size></annotation>"))
    assert before and read(source(root, boxes="annotations"), 1).boxes == before


def test_masks_of_four_bits_and_saliency_of_one(root: Path) -> None:
    size = (38, 53)
    nibbles = png(*size, b"".join(b"\0" + bytes([0x01] * 27) for _ in range(38)), depth=4)
    put(root / "SegmentationClassAug" / "2007_2.png", nibbles)
    put(root / "saliency" / "2007_2.png", png(*size, b"".join(b"\0" + b"\x80" * 7 for _ in range(38)), depth=1))
    sample = read(source(root, saliency="saliency"), 1)
    assert sample.mask is not None and sample.saliency is not None
    assert sample.mask[5, :4].tolist() == [0, 1, 0, 1], "aeroplane, not sheep"
    assert sample.saliency[5, :9].tolist() == [255, *[0] * 7, 255]


@pytest.mark.parametrize("format", ["JPEG", "TIFF", "PNG", "WEBP"])
def test_masks_and_boxes_turn_with_the_image_in_every_format(root: Path, format: str) -> None:
    stored, exif, buffer = np.zeros((38, 53), np.uint8), Image.Exif(), io.BytesIO()
    stored[10:20, 30:50] = 8
    exif[0x0112] = 6
    Image.fromarray(np.full((38, 53, 3), 90, np.uint8)).save(buffer, format=format, exif=exif)
    put(root / "JPEGImages" / "2007_2.jpg", buffer.getvalue())
    put(root / "SegmentationClassAug" / "2007_2.png", encode_png(stored))
    box = "<bndbox><xmin>31</xmin><ymin>11</ymin><xmax>50</xmax><ymax>20</ymax></bndbox>"
    put(root / "Annotations" / "2007_2.xml", f"<annotation><object><name>cat</name>{box}</object></annotation>")
    sample = read(source(root, boxes="annotations"), 1)
    np.testing.assert_array_equal(sample.mask, np.rot90(stored, 3))
    assert sample.size == (53, 38) == sample.image.shape[:2]
    assert sample.boxes == (Box(8, 30, 18, 50, 28),)


def test_boxes_of_another_image(root: Path) -> None:
    path = root / "Annotations" / "2007_2.xml"
    size = "<size><width>500</width><height>375</height></size></annotation>"
    path.write_text(path.read_text().replace("</annotation>", size))
    with pytest.raises(
        BadSampleError, match=r"boxes in Annotations/2007_2.xml are for an image of 500x375, but the image is 53"
    ):
        read(source(root, boxes="annotations"), 1)
