from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageOps

from shards.orientation import stored_size, upright, upright_box
from shards.records import Box


@pytest.mark.parametrize("orientation", range(1, 9))
def test_maps_and_boxes_turn_as_the_image_does(orientation: int) -> None:
    stored = np.zeros((7, 11), np.uint8)
    stored[2:4, 5:10] = 9
    stored[0, 0] = 3
    image = Image.fromarray(stored)
    image.getexif()[0x0112] = orientation
    shown = np.asarray(ImageOps.exif_transpose(image))

    turned = upright(stored, orientation=orientation)
    np.testing.assert_array_equal(turned, shown)
    assert stored_size(turned.shape, orientation=orientation) == (7, 11)
    box = upright_box(Box(9, 2, 5, 4, 10), orientation=orientation, size=turned.shape)
    rows, columns = np.nonzero(turned == 9)
    assert box == Box(9, rows.min(), columns.min(), rows.max() + 1, columns.max() + 1)
