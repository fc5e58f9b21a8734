"""COCO files as other programs than COCO's own write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards.records import Box
from tests.shards.sources.coco_folder import (
    HEIGHT,
    WIDTH,
    annotation,
    document,
    expected_mask,
    instances,
    make_coco,
    of_split,
    read,
    rewrite,
    source,
    square,
    two_splits,
)
from tests.shards.sources.pictures import jpeg, put


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_coco(tmp_path / "coco")


@pytest.mark.parametrize("segmentation", [[], [[]], None, [[3, 4, 8, 4]]])
def test_an_object_without_an_outline_is_ignored_in_its_box(root: Path, segmentation: object) -> None:
    dog = annotation(1, 9, 18, segmentation, bbox=[2, 3, 10, 6])
    rewrite(root, [dog, annotation(2, 9, 1, [square(4, 3, 14, 15)])])
    sample = read(source(root))
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[3:9, 2:12] = 255
    expected[3:15, 4:14] = 1
    np.testing.assert_array_equal(sample.mask, expected)
    assert sample.classes == (1, 2) and sample.notes == {"objects": 2, "without_outline": 1}
    subset = read(source(root, class_names=("person",))).mask
    assert subset is not None and not (subset == 255).any(), "no class that is kept, so background"
    rewrite(root, [{k: v for k, v in dog.items() if k not in ("bbox", "segmentation")}])
    anywhere = read(source(root)).mask
    assert anywhere is not None and (anywhere == 255).all()


def test_boxes_of_objects_that_have_an_outline_alone(root: Path) -> None:
    first, *others = instances()
    rewrite(root, [{k: v for k, v in first.items() if k != "bbox"}, *others])
    assert (read(source(root, boxes="annotations")).boxes or ())[0] == Box(2, 4, 5, 12, 22)


@pytest.mark.parametrize("reported", [{}, {"height": 0, "width": 0}, {"height": None, "width": ""}, {"height": HEIGHT}])
def test_sizes_that_say_nothing_are_the_images(root: Path, reported: dict[str, Any]) -> None:
    rewrite(root, instances(), images=[{"id": 9, "file_name": "000009.jpg", **reported}, *document([])["images"][1:]])
    np.testing.assert_array_equal(read(source(root)).mask, expected_mask())
    put(root / "val2017" / "000009.jpg", jpeg(HEIGHT, WIDTH, seed=0, orientation=6))
    np.testing.assert_array_equal(read(source(root)).mask, np.rot90(expected_mask(), 3))


def test_sizes_in_quotes_and_sizes_that_are_none(root: Path) -> None:
    image = {"id": 9, "file_name": "000009.jpg", "height": str(HEIGHT), "width": float(WIDTH)}
    rewrite(root, instances(), images=[image, *document([])["images"][1:]])
    np.testing.assert_array_equal(read(source(root)).mask, expected_mask())
    rewrite(root, instances(), images=[image | {"height": "tall"}])
    with pytest.raises(
        ValueError, match=r"instances_val2017.json, at byte \d+: height and width of an image are 'tall'"
    ):
        source(root).list_split("val")


def test_a_list_of_test_images_without_categories(root: Path) -> None:
    path = put(root / "annotations" / "t.json", json.dumps({"images": [{"id": 1, "file_name": "000001.jpg"}]}))
    annotations = {"test": path, "val": root / "annotations" / "instances_val2017.json"}
    data = source(root, annotations=annotations)
    (sample,) = of_split(data, "test")
    assert (sample.classes, sample.unknown) == ((), (1, 2, 3))
    with pytest.raises(ValueError, match=r"t.json lists no categories"):
        _ = source(root, annotations={"test": path}).taxonomy


def test_file_names_with_folders_and_backslashes(root: Path) -> None:
    images = [{"id": n, "file_name": f"images\\{n}/a.jpg"} for n in (9, 4)] + [{"id": 5, "file_name": "./000005.jpg"}]
    for n in (9, 4):
        put(root / "val2017" / "images" / str(n) / "a.jpg", jpeg(HEIGHT, WIDTH, seed=n))
    rewrite(root, instances(), images=images)
    data = source(root)
    assert [listed.key for listed in data.list_split("val")] == ["images/9/a", "images/4/a", "000005"]
    assert [sample.classes for sample in of_split(data, "val")] == [(1, 2), (3,), ()]
    assert data.image_bytes("val").all()


def test_ids_as_they_are_written(root: Path) -> None:
    categories = [{"id": "b", "name": "emu"}, {"id": "10", "name": "dog"}, {"id": 9.0, "name": "cat"}]
    images = [{"id": "x-1", "file_name": "000009.jpg"}, {"id": 7, "file_name": "000004.jpg"}]
    outline = [square(2, 3, 6, 5)]
    found = [annotation(1, 0, 0, outline) | {"image_id": image, "category_id": category}  # type: ignore[dict-item]
             for image, category in (("x-1", "b"), ("7", 10), (7.0, "9"))]  # fmt: skip
    rewrite(root, found, images=images, categories=categories)
    data = source(root)
    assert data.taxonomy.names == ("cat", "dog", "emu"), "numbers by their size, then the others"
    assert [sample.classes for sample in of_split(data, "val")] == [(3,), (1, 2)]
    rewrite(root, found, images=images, categories=[*categories, {"id": 10, "name": "fox"}])
    with pytest.raises(ValueError, match="the categories 'dog' and 'fox' have the same id 10"):
        source(root).list_split("val")


def test_images_of_the_same_names_in_two_folders(root: Path) -> None:
    settings = two_splits(root, document([])["categories"], [])
    put(root / "train2017" / "000009.jpg", jpeg(HEIGHT, WIDTH, seed=77))
    images = [{"id": 1, "file_name": "000009.jpg"}, {"id": 2, "file_name": "t2.jpg"}]
    put(root / "annotations" / "instances_train2017.json", json.dumps(document([], images=images)))
    data = source(root, **settings)
    assert [listed.key for listed in data.list_split("train")] == ["train2017/000009", "train2017/t2"]
    assert [listed.key for listed in data.list_split("val")] == ["val2017/000009", "val2017/000004", "val2017/000005"]
    assert of_split(data, "train")[0].encoded == (root / "train2017" / "000009.jpg").read_bytes()
    same = source(root, **{**settings, "images": {"val": "val2017", "train": "./val2017/"}})
    assert same.list_split("train")[0].key == same.list_split("val")[0].key == "000009", "the same image: named as such"
