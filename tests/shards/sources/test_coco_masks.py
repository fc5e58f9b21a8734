from __future__ import annotations

import numpy as np
import pytest

from shards.sources.coco_masks import add_polygon, instances_values, segmentation_mask, uncompressed_counts
from tests.shards.sources.coco_folder import counts_of, square


def by_definition(polygon: np.ndarray, height: int, width: int) -> np.ndarray:
    """Every pixel's centre by itself: how many edges does a ray to the left of it cross?"""
    inside = np.zeros((height, width), bool)
    corners = polygon.reshape(-1, 2).tolist()
    for row in range(height):
        for column in range(width):
            x, y, crossed = column + 0.5, row + 0.5, 0
            for (x0, y0), (x1, y1) in zip(corners, [*corners[1:], corners[0]], strict=True):
                if (y0 <= y) != (y1 <= y) and x0 + (y - y0) * (x1 - x0) / (y1 - y0) <= x:
                    crossed += 1
            inside[row, column] = crossed % 2 == 1
    return inside


@pytest.mark.parametrize("seed", range(12))
def test_polygons_by_their_definition_also_outside_the_image(seed: int) -> None:
    generator = np.random.default_rng(seed)
    polygon = generator.uniform(-9, 30, (int(generator.integers(3, 9)), 2)).reshape(-1)
    mask = np.zeros((17, 23), bool)
    add_polygon(mask, polygon.tolist())
    np.testing.assert_array_equal(mask, by_definition(polygon, 17, 23))


def test_squares_that_touch_share_no_pixel_and_leave_none_out() -> None:
    total = np.zeros((6, 6), int)
    for left, top, right, bottom in [(0, 0, 2.5, 6), (2.5, 0, 6, 3.5), (2.5, 3.5, 6, 6)]:
        mask = np.zeros((6, 6), bool)
        add_polygon(mask, square(left, top, right, bottom))
        total += mask
    assert (total == 1).all()


@pytest.mark.parametrize("polygon", [[], [1, 1], [1, 1, 5, 5], [2, 2, 2, 2, 2, 2], square(0.6, 0.6, 1.4, 1.4)])
def test_polygons_without_a_pixel(polygon: list[float]) -> None:
    mask = np.zeros((5, 5), bool)
    add_polygon(mask, polygon)
    assert not mask.any()


def compressed(counts: list[int]) -> str:
    """COCO's compressed form, by its description."""
    text = ""
    for place, count in enumerate(counts):
        number = count - (counts[place - 2] if place > 2 else 0)
        while True:
            bits, number = number & 31, number >> 5
            more = number != (-1 if bits & 16 else 0)
            text += chr(48 + bits + 32 * more)
            if not more:
                break
    return text


@pytest.mark.parametrize("seed", range(6))
def test_run_lengths_both_ways(seed: int) -> None:
    generator = np.random.default_rng(seed)
    mask = generator.uniform(size=(37, 101)) < (0.5, 0.01, 0.99, 0.0, 1.0, 0.2)[seed]
    counts = counts_of(mask)
    assert uncompressed_counts(compressed(counts)) == counts
    for form in (counts, compressed(counts)):
        np.testing.assert_array_equal(segmentation_mask({"size": [37, 101], "counts": form}, size=(37, 101)), mask)


def test_compressed_form_of_the_published_code() -> None:
    # maskApi's own output for a 5 x 4 mask whose rows 1..3 of columns 1 and 2 are set: run lengths 6, 3, 2, 3, 6.
    assert uncompressed_counts("63204") == [6, 3, 2, 3, 6] and compressed([6, 3, 2, 3, 6]) == "63204"
    with pytest.raises(ValueError, match="end in the middle of a number"):
        uncompressed_counts("P")


def test_255_lies_behind_and_small_before_large() -> None:
    outlines = [(3, [square(1, 1, 3, 3)]), (255, [square(0, 0, 1, 1)]), (2, [square(0, 0, 4, 4)])]
    expected = np.full((5, 5), 2)
    expected[1:3, 1:3], expected[4], expected[:, 4] = 3, 0, 0
    np.testing.assert_array_equal(instances_values(outlines, size=(5, 5)), expected)
