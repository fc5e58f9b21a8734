from __future__ import annotations

import numpy as np
import pytest
import torch

from wsss.data.augment import fill_colour
from wsss.data.images import long_side_size, normalised, pixels, resize_image, to_tensor

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def test_normalisation_by_its_definition() -> None:
    image = np.random.default_rng(0).integers(0, 256, (3, 5, 3), dtype=np.uint8)
    before = image.copy()
    x_3HW = to_tensor(image, mean=MEAN, std=STD)
    assert x_3HW.shape == (3, 3, 5) and x_3HW.dtype == torch.float32
    for row in range(3):
        for column in range(5):
            for c in range(3):
                expected = (image[row, column, c] / 255 - MEAN[c]) / STD[c]
                assert float(x_3HW[c, row, column]) == pytest.approx(expected, abs=1e-5)
    np.testing.assert_array_equal(image, before)


def test_fill_is_nearly_zero_after_normalisation() -> None:
    pixel = np.array(fill_colour(MEAN), np.uint8)[None, None]
    assert to_tensor(pixel, mean=MEAN, std=STD).abs().max() < 0.01


def test_sizes() -> None:
    assert long_side_size((375, 500), long_side=512) == (384, 512)
    assert long_side_size((500, 333), long_side=100) == (100, 67)
    assert long_side_size((1, 1000), long_side=10) == (1, 10)
    x = torch.rand(1, 3, 7, 11)
    assert resize_image(x, size=(7, 11)) is x
    assert resize_image(x, size=(13, 5)).shape == (1, 3, 13, 5)


def test_constant_images_stay_constant() -> None:
    flat = torch.full((1, 3, 17, 23), 0.7)
    torch.testing.assert_close(resize_image(flat, size=(5, 41)), torch.full((1, 3, 5, 41), 0.7))


def test_a_batch_of_pixels_is_normalised_to_the_same_numbers() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 5, 7, 3), dtype=np.uint8)
    images[2] = images[1, :, ::-1]
    batch = torch.stack([pixels(images[0]), pixels(images[1]), pixels(images[1][:, ::-1])])
    found = normalised(batch, mean=MEAN, std=STD)
    assert torch.equal(found, torch.stack([to_tensor(image, mean=MEAN, std=STD) for image in images]))
    assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [(1, 1), (5, 7), (1, 7)])
def test_a_decoded_image_which_is_read_only_gives_a_tensor_that_may_be_written(size: tuple[int, int]) -> None:
    image = np.full((*size, 3), 51, dtype=np.uint8)
    image.flags.writeable = False
    values = to_tensor(image, mean=(0.0,) * 3, std=(1.0,) * 3)
    assert values.shape == (3, *size) and values.unique().tolist() == pytest.approx([0.2])
    pixels(image).zero_()
    assert (image == 51).all()
