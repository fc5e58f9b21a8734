from __future__ import annotations

import numpy as np
import pytest

from shards.boxes import boxes_of_mask, inside
from shards.records import BadSampleError, Box


def test_every_component_of_a_class_has_a_frame_and_diagonals_join() -> None:
    mask = np.zeros((7, 11), np.uint8)
    mask[0, 0] = mask[1, 1] = 3
    mask[4:, 9:] = 3
    mask[2, 5] = 1
    mask[6, 0] = 255
    assert boxes_of_mask(mask) == (Box(1, 2, 5, 3, 6), Box(3, 0, 0, 2, 2), Box(3, 4, 9, 7, 11))


def test_no_object_no_frame() -> None:
    assert boxes_of_mask(np.full((3, 5), 255, np.uint8)) == boxes_of_mask(np.zeros((3, 5), np.uint8)) == ()


def test_boxes_are_cut_at_the_border() -> None:
    assert inside([Box(1, -4, 2, 3, 99)], size=(7, 11)) == (Box(1, 0, 2, 3, 11),)


@pytest.mark.parametrize("box", [Box(1, 7, 0, 9, 3), Box(1, 3, 0, 3, 3), Box(1, 0, 5, 3, 4), Box(1, 0, -5, 3, 0)])
def test_a_box_without_a_pixel_is_refused(box: Box) -> None:
    with pytest.raises(
        BadSampleError, match=r"a box of class 1, .* contains no pixel of an image of 7 rows and 11 columns"
    ):
        inside([box], size=(7, 11))
