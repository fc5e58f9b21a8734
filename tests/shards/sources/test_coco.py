from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards.images import encode_jpeg, encode_png
from shards.records import BadSampleError, Box
from tests.shards.sources.coco_folder import (
    HEIGHT,
    WIDTH,
    annotation,
    colours,
    document,
    expected_mask,
    instances,
    make_coco,
    panoptic,
    read,
    rewrite,
    source,
    square,
)
from tests.shards.sources.pictures import jpeg, put


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_coco(tmp_path / "coco")


def test_classes_count_the_categories_by_their_ids(root: Path) -> None:
    data = source(root)
    assert data.taxonomy.names == ("person", "dog", "toothbrush")
    assert [listed.key for listed in data.list_split("val")] == ["000009", "000004", "000005"], "in the file's order"
    assert [read(data, number).classes for number in range(3)] == [(1, 2), (3,), ()]
    assert all(read(data, number).unknown == () for number in range(3))
    assert read(data).encoded == (root / "val2017" / "000009.jpg").read_bytes()
    assert (read(data).source, read(data, 1).position) == ("val2017/000009.jpg", 1)


def test_masks_of_instances(root: Path) -> None:
    np.testing.assert_array_equal(read(source(root)).mask, expected_mask())
    np.testing.assert_array_equal(read(source(root), 2).mask, np.zeros((HEIGHT, WIDTH), np.uint8))
    assert read(source(root, masked_splits=())).mask is None
    rewrite(root, instances()[::-1])
    np.testing.assert_array_equal(read(source(root)).mask, expected_mask(), "whatever the order of the annotations")


def test_a_crowd_alone_is_an_image_level_label(root: Path) -> None:
    rewrite(root, instances()[3:])
    sample = read(source(root, boxes="annotations"))
    assert sample.classes == (1,) and sample.boxes == ()
    assert sample.mask is not None and set(np.unique(sample.mask).tolist()) == {0, 255}


def test_boxes_of_annotations_hold_every_pixel_they_touch(root: Path) -> None:
    data = source(root, boxes="annotations")
    assert read(source(root)).boxes is None
    assert read(data).boxes == (Box(2, 4, 3, 11, 9), Box(1, 2, 30, 3, 31)), "at least a pixel, cut at the border"
    assert read(data, 2).boxes == ()
    assert read(source(root, boxes="masks"), 1).boxes == (Box(3, 0, 0, 3, 3),)


@pytest.mark.parametrize("other", [0, 255])
def test_subset_of_classes(root: Path, other: int) -> None:
    sample = read(source(root, class_names=("toothbrush", "dog"), other_classes_as=other, boxes="annotations"))
    expected = expected_mask()
    expected[expected == 1] = other
    np.testing.assert_array_equal(sample.mask, expected)
    assert sample.classes == (2,) and [box.class_id for box in sample.boxes or ()] == [2]


def test_panoptic(root: Path) -> None:
    sample = read(source(root, "panoptic", boxes="annotations"))
    expected = np.full((HEIGHT, WIDTH), 255, np.uint8)
    expected[2:9], expected[9:14] = 1, 2
    np.testing.assert_array_equal(sample.mask, expected)
    assert sample.classes == (1, 2) and sample.boxes == (Box(1, 2, 0, 9, 31), Box(2, 2, 0, 9, 31))


def test_stuff_has_no_frames(root: Path) -> None:
    things = [{"id": 1, "name": "person", "isthing": 1}, {"id": 18, "name": "sky", "isthing": 0}]
    put(root / "annotations" / "panoptic_val2017.json", json.dumps(document(panoptic()[0]) | {"categories": things}))
    sample = read(source(root, "panoptic", boxes="annotations"))
    assert sample.classes == (1, 2) and [box.class_id for box in sample.boxes or ()] == [1]


def test_a_list_of_images_without_annotations(root: Path) -> None:
    path = root / "annotations" / "image_info_test2017.json"
    sample = read(source(root, annotations={"test": path}, masked_splits=("test",), boxes="annotations"))
    assert (sample.classes, sample.unknown, sample.mask, sample.boxes) == ((), (1, 2, 3), None, None)
    rewrite(root, [])
    assert read(source(root)).unknown == (), "annotations that say: nothing there"


@pytest.mark.parametrize("stored", [True, False])
def test_annotations_turn_with_an_image_that_exif_turns(root: Path, stored: bool) -> None:
    height, width = (HEIGHT, WIDTH) if stored else (WIDTH, HEIGHT)
    put(root / "val2017" / "000009.jpg", jpeg(HEIGHT, WIDTH, seed=0, orientation=6))
    images = [{"id": 9, "file_name": "000009.jpg", "height": height, "width": width}]
    rewrite(root, [annotation(1, 9, 18, [square(2, 3, 6, 5)], bbox=[2, 3, 4, 2])], images=images)
    sample = read(source(root, boxes="annotations"))
    expected = np.zeros((height, width), np.uint8)
    expected[3:5, 2:6] = 2
    np.testing.assert_array_equal(sample.mask, np.rot90(expected, 3) if stored else expected)
    assert sample.mask is not None
    rows, columns = np.nonzero(sample.mask)
    assert sample.boxes == (Box(2, rows.min(), columns.min(), rows.max() + 1, columns.max() + 1),)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"category_id": 2}, "an annotation has category 2, which is not in the file's list of categories"),
        ({"segmentation": 3}, "an outline is neither polygons nor run lengths"),
        ({"segmentation": [[1, 2, 3]]}, "an outline is neither polygons nor run lengths"),
        ({"segmentation": {"size": [9, 9], "counts": [81]}}, "an outline is for an image of"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": [7]}}, "outline cover 7 pixels, but its image has"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": "\x00"}}, "is not allowed in compressed run lengths"),
        ({"category_id": None}, "not in COCO's format: TypeError.'None is not an id'"),
        ({"iscrowd": 2}, "an annotation has iscrowd = 2; write 0 for one object, 1 for a group"),
        ({"segmentation": [[1, 2, 3, 4, 1e8, 6]]}, "far outside its image"),
        ({"bbox": [1, 2, 3]}, "the box of an object is .*, not four numbers"),
        ({"bbox": [40, 2, 3, 3]}, "columns 40 to 43, contains no pixel"),
    ],
)
def test_bad_annotations_are_bad_samples(root: Path, change: dict[str, Any], message: str) -> None:
    first, *others = instances()
    rewrite(root, [first | change, *others])
    with pytest.raises(BadSampleError, match=message):
        read(source(root, boxes="annotations"))
    assert read(source(root, boxes="annotations"), 1).classes == (3,)


def test_bad_images_and_sizes_are_bad_samples(root: Path) -> None:
    put(root / "val2017" / "000009.jpg", jpeg(HEIGHT, WIDTH + 1, seed=0))
    with pytest.raises(BadSampleError, match=r"000009.jpg is 32x23, but its annotations are for an image of 31x23"):
        read(source(root))
    (root / "val2017" / "000009.jpg").unlink()
    with pytest.raises(BadSampleError, match=r"cannot read val2017/000009.jpg: No such file"):
        read(source(root))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", r"cannot read the mask 000009.png: No such file"),
        ("unknown segment", "contains segment 8, which its annotation does not list"),
        ("grey", "but the image has"),
        ("jpeg", "cannot read the mask 000009.png: a mask of colours must be a PNG, this one is a JPEG"),
        ("two", "has 2 panoptic annotations; it must have exactly one"),
        ("outside", "is not a valid path relative to its folder"),
    ],
)
def test_bad_panoptic_masks(root: Path, change: str, message: str) -> None:
    path = root / "annotations" / "panoptic_val2017" / "000009.png"
    annotations, ids = panoptic()
    if change == "missing":
        path.unlink()
    elif change == "unknown segment":
        path.write_bytes(encode_png(colours(np.where(ids == 7, 8, ids))))
    elif change == "grey":
        path.write_bytes(encode_png(np.zeros((5, 6, 3), np.uint8)))
    elif change == "jpeg":
        path.write_bytes(encode_jpeg(colours(ids)))
    elif change == "two":
        rewrite(root, annotations * 2, "panoptic")
    else:
        rewrite(root, [annotations[0] | {"file_name": "../000009.png"}], "panoptic")
    with pytest.raises(BadSampleError, match=message):
        read(source(root, "panoptic"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not valid JSON: it ends too early"),
        ("[]", r"is not valid JSON: \{ expected at byte 0, found '\['"),
        ('{"images": [1]}', "is not a COCO file: TypeError .* at byte 12"),
        ('{"images": [{"id": 1}]}', "is not a COCO file: KeyError 'file_name' at byte 12"),
        ('{"images": [], "annotations": []}', "is not a COCO file: it lists 0 images and 0 categories"),
        ('{"images": [}', "is not valid JSON: Expecting value at byte 12"),
        (json.dumps(document(instances()))[:700], "is not valid JSON"),
        (json.dumps(document([annotation(1, 77, 1, [])])), "refers to image 77, which the file does not list"),
        (json.dumps(document([], images=document([])["images"] * 2)), "lists the image 9 more than once"),
    ],
)
def test_files_that_are_not_cocos(root: Path, text: str, message: str) -> None:
    put(root / "annotations" / "instances_val2017.json", text)
    with pytest.raises(ValueError, match=message) as caught:
        source(root).list_split("val")
    assert "instances_val2017.json" in str(caught.value)


@pytest.mark.parametrize("name", ["../../a.jpg", "/a.jpg", "a//b.jpg", "000004.png"])
def test_file_names_that_cannot_be_keys(root: Path, name: str) -> None:
    images = document([])["images"]
    rewrite(root, [], images=[*images, {"id": 1, "file_name": name, "height": 3, "width": 3}])
    with pytest.raises(ValueError, match=r"is not a valid path below a folder|is used by two images, ignoring"):
        source(root).list_split("val")


def test_splits_of_other_forms(root: Path) -> None:
    data = source(root)
    with pytest.raises(ValueError, match=r"no annotations for split 'test'; annotations are given for \['val'\]"):
        data.list_split("test")
    with pytest.raises(ValueError, match="the annotation file does not exist"):
        source(root, annotations={"val": root / "none.json"}).list_split("val")


@pytest.mark.parametrize("form", ["instances", "panoptic"])
def test_signature(root: Path, tmp_path: Path, form: str) -> None:
    before = source(root, form).signature()
    assert source(shutil.copytree(root, tmp_path / "copy"), form).signature() == before
    changed = [before]
    if form == "panoptic":
        (root / "annotations" / "panoptic_val2017" / "000009.png").unlink()
        changed.append(source(root, form).signature())
    (root / "val2017" / "000005.jpg").unlink()
    changed.append(source(root, form).signature())
    rewrite(root, [], form)
    changed.append(source(root, form).signature())
    assert len(set(changed)) == len(changed)
