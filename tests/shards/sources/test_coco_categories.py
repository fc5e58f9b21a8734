from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.shards.sources.coco_folder import (
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


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_coco(tmp_path / "coco")


def test_categories_are_joined_by_name(root: Path) -> None:
    other_order = [{"id": 1, "name": "toothbrush"}, {"id": 2, "name": "person"}]  # no dog, which train does not show
    found = [annotation(1, 1, 1, [square(2, 3, 6, 5)]), annotation(2, 2, 2, [square(2, 3, 6, 5)])]
    data = source(root, boxes="annotations", **two_splits(root, other_order, found))
    brush, person = of_split(data, "train")
    assert data.taxonomy.names == ("person", "dog", "toothbrush")
    assert (brush.classes, person.classes) == ((3,), (1,))
    assert [np.unique(sample.mask).tolist() for sample in (brush, person)] == [[0, 3], [0, 1]]
    assert [box.class_id for sample in (brush, person) for box in sample.boxes or ()] == [3, 1]
    assert read(data).classes == (1, 2)


def test_a_category_that_the_first_file_lacks(root: Path) -> None:
    categories = [{"id": 1, "name": "Person"}, {"id": 2, "name": "dog"}]
    settings = two_splits(root, categories, [annotation(1, 1, 1, [square(2, 3, 6, 5)], iscrowd=0)])
    data = source(root, **settings)
    assert data.list_split("val")
    message = r"train2017.json has a category 'Person', but .*no category of that name .it has person, dog,"
    with pytest.raises(ValueError, match=message + ".*use 'person' in both"):
        data.list_split("train")
    for other in (0, 255):
        chosen = source(root, class_names=("dog",), other_classes_as=other, **settings)
        sample = of_split(chosen, "train")[0]
        assert sample.classes == () and sample.mask is not None and sample.mask[3, 2] == other


@pytest.mark.parametrize("value", ["0", 0, 0.0, False, "false", None, ""])
def test_what_is_no_crowd(root: Path, value: object) -> None:
    rewrite(root, [one | ({"iscrowd": value} if one["iscrowd"] == 0 else {}) for one in instances()])
    np.testing.assert_array_equal(read(source(root)).mask, expected_mask())


@pytest.mark.parametrize("value", ["1", 1.0, True, "True"])
def test_what_is_a_crowd(root: Path, value: object) -> None:
    rewrite(root, [one | ({"iscrowd": value} if one["iscrowd"] == 1 else {}) for one in instances()])
    sample = read(source(root))
    np.testing.assert_array_equal(sample.mask, expected_mask())
    assert sample.notes == {"objects": 3, "crowds": 1}


def test_a_crowd_need_not_be_given(root: Path) -> None:
    rewrite(root, [{k: v for k, v in one.items() if k != "iscrowd"} for one in instances()[:3]])
    assert read(source(root)).notes == {"objects": 2}


def test_a_category_called_background_is_no_class(root: Path) -> None:
    categories = [{"id": 0, "name": "_background_"}, *document([])["categories"]]
    rewrite(root, [*instances(), annotation(9, 4, 0, [square(0, 0, 1, 1)])], categories=categories)
    data = source(root, boxes="annotations")
    assert data.taxonomy.names == ("person", "dog", "toothbrush")
    toothbrush = read(data, 1)
    assert toothbrush.classes == (3,) and len(toothbrush.boxes or ()) == 1
    assert toothbrush.mask is not None and toothbrush.mask[0, :4].tolist() == [0, 3, 3, 0], "smaller, so in front"
