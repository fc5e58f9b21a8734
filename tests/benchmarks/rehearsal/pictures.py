"""Small pictures with objects of LID's 200 classes, drawn fast: a few tenths of a millisecond each, encoding included.

Each class is a shape of two colours in stripes, so that a network can learn it. A picture is a background of soft
noise with one to three objects; their masks and boxes are exact.

Shape letters: `H W` pixels.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from functools import cache

import numpy as np

SIZES = ((48, 64), (48, 64), (48, 64), (64, 48), (48, 48))
"""Height and width; as in ILSVRC, most images are landscapes of one size."""
_GOLDEN = 0.618034
_NUM_BACKGROUNDS, _BACKGROUND_SIDE = 32, 96


@dataclass(frozen=True)
class Object:
    """An object in a picture."""

    class_id: int
    box: tuple[int, int, int, int]
    """xmin, ymin, xmax, ymax; the last pixel belongs to it."""


@dataclass(frozen=True)
class Picture:
    """A picture and the truth about it."""

    image: np.ndarray
    """u8[H, W, 3]."""
    mask: np.ndarray
    """u8[H, W]: class ids, 0 = background."""
    objects: tuple[Object, ...]
    """Those of which at least one pixel is visible."""


def draw(random: np.random.Generator, class_ids: list[int]) -> Picture:
    """A picture of these classes; later objects cover earlier ones, but none of them wholly."""
    height, width = SIZES[int(random.integers(len(SIZES)))]
    image = _background(random, height, width)
    mask = np.zeros((height, width), np.uint8)
    objects = []
    for place, class_id in enumerate(class_ids):
        sprite, inside = _sprite(class_id)
        side = inside.shape[0]
        # Each object has a column of the picture of its own to begin in.
        column = place * width // len(class_ids)
        left = min(int(column + random.integers(0, max(width // len(class_ids) - side, 0) + 3)), width - side)
        top = int(random.integers(0, height - side + 1))
        window = (slice(top, top + side), slice(left, left + side))
        image[window][inside] = sprite[inside]
        mask[window][inside] = class_id
    for class_id in dict.fromkeys(class_ids):
        rows, columns = np.nonzero(mask == class_id)
        if len(rows):
            box = (int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max()))
            objects.append(Object(class_id, box))
    return Picture(image, mask, tuple(objects))


def _background(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    field = _backgrounds()[int(random.integers(_NUM_BACKGROUNDS))]
    top, left = random.integers(0, _BACKGROUND_SIDE - np.array([height, width]) + 1)
    return field[top : top + height, left : left + width].copy()


@cache
def _backgrounds() -> np.ndarray:
    """u8[n, side, side, 3]: coarse fields of dull colour, smoothed, with noise."""
    random = np.random.default_rng(7)
    coarse = random.uniform(60, 150, (_NUM_BACKGROUNDS, _BACKGROUND_SIDE // 12 + 1, _BACKGROUND_SIDE // 12 + 1, 3))
    place = np.linspace(0, coarse.shape[1] - 1.001, _BACKGROUND_SIDE)
    whole, part = place.astype(int), place - place.astype(int)
    rows = coarse[:, whole] * (1 - part)[:, None, None] + coarse[:, whole + 1] * part[:, None, None]
    fields = rows[:, :, whole] * (1 - part)[:, None] + rows[:, :, whole + 1] * part[:, None]
    return np.clip(fields + random.normal(0, 6, fields.shape), 0, 255).astype(np.uint8)


@cache
def _sprite(class_id: int) -> tuple[np.ndarray, np.ndarray]:
    """u8[side, side, 3] and bool[side, side]: the object of a class, and its pixels."""
    side = 18 + class_id * 5 % 7
    rows, columns = np.mgrid[:side, :side] / (side - 1) * 2 - 1
    shapes = (
        rows**2 + columns**2 <= 1,
        np.maximum(abs(rows), abs(columns)) <= 0.85,
        abs(rows) + abs(columns) <= 1,
        (rows >= -0.9) & (abs(columns) <= (rows + 1) / 2),
        (abs(rows) <= 0.35) | (abs(columns) <= 0.35),
        rows**2 + (columns / 0.6) ** 2 <= 1,
    )
    hue = class_id * _GOLDEN % 1
    colours = [colorsys.hsv_to_rgb((hue + shift) % 1, 0.9, value) for shift, value in ((0, 0.95), (0.33, 0.6))]
    along = (rows, columns, rows + columns)[class_id // 6 % 3]
    stripes = (np.floor(along * (1 + class_id // 18 % 3)) % 2).astype(int)
    return (np.array(colours) * 255).astype(np.uint8)[stripes], shapes[class_id % len(shapes)]
