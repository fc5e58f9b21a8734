from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pycocotools import mask as published

from shards.records import BadSampleError
from shards.sources.coco_masks import (
    Outline,
    box_mask,
    box_of_mask,
    compressed_counts,
    instances_values,
    segmentation_mask,
    uncompressed_counts,
)
from tests.shards.sources.coco_folder import counts_of, square

SIZE = (17, 23)


def covered(segmentation: Any, size: tuple[int, int] = SIZE) -> np.ndarray:
    mask = segmentation_mask(segmentation, size=size)
    assert mask is not None and mask.dtype == bool and mask.shape == size
    return mask


@pytest.mark.parametrize("seed", range(12))
def test_polygons_are_those_of_the_published_code_also_outside_the_image(seed: int) -> None:
    generator = np.random.default_rng(seed)
    polygons = [generator.uniform(-9, 30, 2 * int(generator.integers(3, 9))).tolist() for _ in range(seed % 3 + 1)]
    expected = published.decode(published.merge(published.frPyObjects(polygons, *SIZE)))
    np.testing.assert_array_equal(covered(polygons), expected)


def test_squares_on_whole_pixels_by_hand() -> None:
    expected = np.zeros(SIZE, bool)
    expected[4:8, 5:9] = expected[10:12, 20:22] = True
    np.testing.assert_array_equal(covered([square(5, 4, 9, 8), square(20, 10, 22, 12)]), expected)


def test_other_ways_to_write_polygons() -> None:
    corners = square(5, 4, 9, 8)
    expected = covered([corners])
    pairs = [corners[place : place + 2] for place in range(0, 8, 2)]
    for written in (corners, [pairs], [corners, []], [corners, [1, 1, 2, 2]]):
        np.testing.assert_array_equal(covered(written), expected)


@pytest.mark.parametrize("segmentation", [None, [], "", [[]], [[1, 1]], [[1, 1, 5, 5]], [[], [3, 3, 4, 4]]])
def test_no_outline(segmentation: Any) -> None:
    assert segmentation_mask(segmentation, size=SIZE) is None


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (3, "a polygon is '3', not a list of numbers"),
        ([[1, 2, 3]], "a polygon has 3 numbers; they must be pairs"),
        ([[1, 2, 3, 4, 5, 6, 7]], "a polygon has 7 numbers"),
        ([["a", 2, 3, 4, 5, 6]], "could not convert string to float"),
        ([[1, 2, 3, 4, 5, float("nan")]], "corner is not finite"),
        ([[1, 2, 3, 4, 5, float("inf")]], "corner is not finite"),
        ([[1, 2, 3, 4, 1e9, 6]], "is at 1000000000, far outside its image of 23x17"),
        ([[0, 0, 200, 0] * 6000], "the edges of a polygon are more than 2000000 pixels long"),
        ([[1, 2, 3, 4, 5, 6], 7], "a polygon is '7', not a list"),
        ({"size": [9, 9], "counts": [81]}, "is for an image of .9, 9. rows and columns, but the image has .17, 23."),
        ({"size": [17, 23], "counts": [390]}, "run lengths of an outline cover 390 pixels, but its image has 391"),
        ({"size": [17, 23], "counts": [392]}, "cover 392 pixels"),
        ({"size": [17, 23], "counts": []}, "cover 0 pixels"),
        ({"size": [17, 23], "counts": [400, -9]}, "a run length of an outline is negative"),
        ({"size": [17, 23], "counts": [390.5, 0.5]}, "a run length is '390.5', not a whole number"),
        ({"size": [17, 23], "counts": "\x00"}, "is not allowed in compressed run lengths"),
        ({"size": [17, 23], "counts": "P"}, "end in the middle of a number"),
        ({"size": [17, 23], "counts": "o" * 50}, "a number in the compressed run lengths is too long"),
        ({"size": [17, 23], "counts": "0"}, "cover 0 pixels"),
        ({"counts": [391]}, "neither polygons nor run lengths in COCO's format: 'size'"),
        ({"size": [17, 23], "counts": None}, "neither polygons nor run lengths"),
    ],
)
def test_malformed_outlines_never_reach_the_c_code(
    segmentation: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached: list[object] = []
    real = published.frPyObjects
    monkeypatch.setattr(published, "frPyObjects", lambda *given: (reached.append(given), real(*given))[1])
    with pytest.raises(BadSampleError, match=message):
        segmentation_mask(segmentation, size=SIZE)
    assert [given for given in reached if given[0] != [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]] == []


@pytest.mark.parametrize("seed", range(6))
def test_run_lengths_are_those_of_the_published_code(seed: int) -> None:
    generator = np.random.default_rng(seed)
    mask = generator.uniform(size=(37, 101)) < (0.5, 0.01, 0.99, 0.0, 1.0, 0.2)[seed]
    counts, compressed = counts_of(mask), published.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    assert uncompressed_counts(compressed) == counts
    for form in (counts, [float(count) for count in counts], compressed):
        np.testing.assert_array_equal(covered({"size": [37, 101], "counts": form}, (37, 101)), mask)
    both = [{"size": ["37", "101"], "counts": counts}, square(0, 0, 3, 3)]
    mask[:3, :3] = True
    np.testing.assert_array_equal(covered(both, (37, 101)), mask)


def test_compressed_form_by_hand() -> None:
    # A 5 x 4 mask whose rows 1..3 of columns 1 and 2 are set: run lengths 6, 3, 2, 3, 6.
    assert uncompressed_counts("63204") == [6, 3, 2, 3, 6]


def test_boxes_as_masks_and_back() -> None:
    mask = box_mask([3.2, 4.0, 5.0, 6.5], size=SIZE)
    assert box_of_mask(mask) == (4, 3, 11, 9) and mask.sum() == 7 * 6
    assert box_of_mask(box_mask([-4, 15, 9, 9], size=SIZE)) == (15, 0, 17, 5), "cut at the border"
    for unknown in (None, [], [0, 0, 0, 0], [3, 3, 0, 5]):
        assert box_mask(unknown, size=SIZE).all(), "anywhere"
    assert box_of_mask(np.zeros(SIZE, bool)) is None
    with pytest.raises(BadSampleError, match="not four numbers"):
        box_mask([1, 2, 3], size=SIZE)


def test_what_is_behind_and_small_before_large() -> None:
    size = (5, 5)
    outlines = [
        Outline(3, False, covered([square(1, 1, 3, 3)], size)),
        Outline(255, True, covered([square(0, 0, 1, 5)], size)),
        Outline(2, False, covered([square(0, 0, 4, 4)], size)),
    ]
    expected = np.full(size, 2)
    expected[1:3, 1:3], expected[4], expected[:, 4], expected[4, 0] = 3, 0, 0, 255
    np.testing.assert_array_equal(instances_values(outlines, size=size), expected)


def test_run_lengths_of_a_mask_go_down_its_columns() -> None:
    mask = np.array([[False, True, False], [True, True, False]])
    written = compressed_counts(mask)
    assert written["size"] == [2, 3]
    assert uncompressed_counts(written["counts"]) == [1, 3, 2]
    np.testing.assert_array_equal(segmentation_mask(written, size=(2, 3)), mask)
