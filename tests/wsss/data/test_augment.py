from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from wsss.data.augment import Augmentation, augment

FILL = (124, 116, 104)


def pipeline(**changes: Any) -> Any:
    settings: dict[str, Any] = {"crop_size": 40, "resize_long": (32, 64), "colour_jitter": 0.0, "fill": FILL}
    return Augmentation(**(settings | changes)).compose()


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)


def apply(compose: Any, image: np.ndarray, **changes: Any) -> np.ndarray:
    arguments: dict[str, Any] = {"mask_HW": None, "seed": 1, "epoch": 2, "key": "a"}
    changed, mask = augment(compose, image, **(arguments | changes))
    assert mask is None
    return changed


@pytest.mark.parametrize("changes", [{}, {"colour_jitter": 0.3}, {"strong": True}])
def test_same_seed_epoch_and_key_same_picture(image: np.ndarray, changes: dict[str, Any]) -> None:
    compose = pipeline(**changes)
    first = apply(compose, image)
    for _ in range(3):
        apply(compose, image, key="others in between")
    np.testing.assert_array_equal(apply(compose, image), first)
    np.testing.assert_array_equal(apply(pipeline(**changes), image), first)
    others = [{"seed": 2}, {"epoch": 3}, {"key": "b"}]
    assert all((apply(compose, image, **other) != first).any() for other in others)
    assert first.shape == (40, 40, 3) and first.dtype == np.uint8


def test_mask_moves_with_the_image_and_never_mixes_classes() -> None:
    # Every class has its colour; large areas, so that the image's interpolation blurs few pixels.
    mask = np.repeat(np.repeat(np.arange(12, dtype=np.uint8).reshape(3, 4), 20, axis=0), 20, axis=1)
    image = np.stack([20 * mask, 255 - 20 * mask, np.full_like(mask, 50)], axis=2)
    compose, flipped, padded = pipeline(crop_size=48, resize_long=(48, 128)), 0, 0
    for key in map(str, range(40)):
        changed, label = augment(compose, image, mask_HW=mask, seed=0, epoch=0, key=key)
        assert label is not None and label.shape == (48, 48) and label.dtype == np.uint8
        assert set(np.unique(label)) <= {*range(12), 255}
        outside, inside = label == 255, label != 255
        assert (changed[outside] == FILL).all()
        agree = np.abs(changed[inside].astype(int)[:, 0] - 20 * label[inside].astype(int)) <= 10
        assert agree.mean() > 0.85
        row = label[24][inside[24]].astype(int)
        flipped += bool(len(row) and row[0] > row[-1])
        padded += bool(outside.any())
    assert 8 < flipped < 32 and 0 < padded < 40


def test_same_geometry_with_and_without_a_mask(image: np.ndarray) -> None:
    mask = np.zeros(image.shape[:2], np.uint8)
    changed, _ = augment(pipeline(), image, mask_HW=mask, seed=1, epoch=2, key="a")
    np.testing.assert_array_equal(changed, apply(pipeline(), image))


def test_longer_side_varies_within_its_range() -> None:
    white = np.full((50, 100, 3), 255, np.uint8)
    compose = pipeline(crop_size=128, resize_long=(32, 96))
    widths = {int((apply(compose, white, key=str(key))[..., 0] > 200).any(axis=0).sum()) for key in range(60)}
    assert widths == {32, 48, 64, 80, 96}


@pytest.mark.parametrize("num_planes", [1, 2, 3])
def test_planes_of_a_mask_move_together(image: np.ndarray, num_planes: int) -> None:
    mask = np.random.default_rng(5).integers(0, 200, image.shape[:2], dtype=np.uint8)
    alone_image, alone = augment(pipeline(), image, mask_HW=mask, seed=1, epoch=2, key="a")
    planes = np.stack([mask + number for number in range(num_planes)], axis=2).astype(np.uint8)
    changed, label = augment(pipeline(), image, mask_HW=planes, seed=1, epoch=2, key="a")
    assert alone is not None and label is not None and label.shape == (40, 40, num_planes)
    np.testing.assert_array_equal(changed, alone_image)
    for number in range(num_planes):
        np.testing.assert_array_equal(label[..., number], np.where(alone == 255, 255, alone + number))
    assert (alone == 255).any() and (alone != 255).any()


def smooth(seed: int, size: tuple[int, int]) -> np.ndarray:
    """A picture of large areas: noise would hide what moves."""
    coarse = np.random.default_rng(seed).integers(0, 256, (size[0] // 16 + 1, size[1] // 16 + 1, 3), dtype=np.uint8)
    return coarse.repeat(16, axis=0).repeat(16, axis=1)[: size[0], : size[1]]


def test_strong_moves_mask_and_image_alike() -> None:
    """The brighter half of a picture stays under its label, wherever rotation and deformation take it."""
    image = np.full((80, 112, 3), 60, np.uint8)
    mask = np.zeros(image.shape[:2], np.uint8)
    mask[10:70, 20:60] = 7
    image[mask == 7] = 190
    compose, filled = pipeline(crop_size=64, resize_long=(64, 112), strong=True), 0
    for key in map(str, range(60)):
        changed, label = augment(compose, image, mask_HW=mask, seed=0, epoch=0, key=key)
        assert label is not None and label.shape == (64, 64) and changed.shape == (64, 64, 3)
        assert changed.dtype == label.dtype == np.uint8 and set(np.unique(label)) <= {0, 7, 255}
        grey, inside, outside = changed.mean(axis=2), label == 7, label == 0
        filled += bool((label == 255).any())
        if inside.sum() > 100 and outside.sum() > 100:
            middle = (np.median(grey[inside]) + np.median(grey[outside])) / 2
            assert np.median(grey[inside]) > np.median(grey[outside])
            assert (grey[inside] > middle).mean() > 0.85 and (grey[outside] < middle).mean() > 0.85, key
    assert 0 < filled < 60


def test_strong_steps_happen_independently_of_each_other() -> None:
    """A step of one half, four of them and one of 0.4: no change at all in 0.6 / 16 of the cases, 7.5 of 200."""
    image = smooth(3, (96, 96))
    compose = pipeline(crop_size=96, resize_long=(96, 96), strong=True)
    plain, mask = [image, image[:, ::-1]], np.zeros((96, 96), np.uint8)
    untouched = turned = 0
    for key in map(str, range(200)):
        changed, label = augment(compose, image, mask_HW=mask, seed=0, epoch=0, key=key)
        assert label is not None
        turned += bool((label == 255).sum() > 400)
        untouched += any((changed == one).all() for one in plain)
    assert 50 < turned < 110 and 2 <= untouched <= 16


def test_a_mask_makes_no_difference_to_a_strongly_changed_image(image: np.ndarray) -> None:
    mask = np.zeros(image.shape[:2], np.uint8)
    for key in map(str, range(8)):
        changed, _ = augment(pipeline(strong=True), image, mask_HW=mask, seed=1, epoch=2, key=key)
        np.testing.assert_array_equal(changed, apply(pipeline(strong=True), image, key=key))


def test_flip_size_and_place_are_drawn_independently_of_each_other() -> None:
    """A picture whose left half is bright, at sizes of 32 to 96 in crops of 128: side, size and place say all."""
    image = np.full((50, 100, 3), 40, np.uint8)
    image[:, :50] = 220
    compose = pipeline(crop_size=128, resize_long=(32, 96), fill=(0, 0, 0))
    found = []
    for key in map(str, range(400)):
        grey = apply(compose, image, key=key)[..., 0].astype(int)
        columns = np.flatnonzero((grey > 20).any(axis=0))
        left, right = grey[:, columns[: len(columns) // 3]], grey[:, columns[-(len(columns) // 3) :]]
        room = 128 - len(columns)
        found.append((float(left.max() < right.max()), float(len(columns)), columns[0] / room))
    correlations = np.corrcoef(np.array(found).T)
    assert np.abs(correlations - np.eye(3)).max() < 0.2
