"""One record of every kind, from a seed, in prime sizes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from shards.images import encode_png
from shards.records import (
    Box,
    CamRecord,
    InstanceLabel,
    Prediction,
    PseudoLabel,
    Record,
    Sample,
    ScoreRecord,
    SeedRecord,
    grid_size,
)

SIZE = (13, 19)


def sample(key: str, seed: int = 0, *, masked: bool = True, position: int = 0, with_boxes: bool = False) -> Sample:
    random = np.random.default_rng(seed)
    return Sample(
        key=key,
        encoded=encode_png(random.integers(0, 256, (*SIZE, 3), dtype=np.uint8)),
        size=SIZE,
        classes=(2, 5),
        unknown=(3,),
        mask=random.integers(0, 7, SIZE, dtype=np.uint8) if masked else None,
        boxes=(Box(2, 0, 3, 13, 19), Box(5, 4, 1, 6, 2)) if with_boxes else None,
        saliency=random.integers(0, 256, SIZE, dtype=np.uint8) if with_boxes else None,
        position=position,
        source=f"JPEGImages/{key}.jpg",
    )


def seed_record(key: str, seed: int = 0) -> SeedRecord:
    return SeedRecord(key=key, label=np.random.default_rng(seed).integers(0, 256, SIZE, dtype=np.uint8))


def one_of_each(key: str, seed: int = 0) -> list[Record]:
    random = np.random.default_rng(seed)
    grid = grid_size(SIZE)
    classes = np.array([2, 5, 200], dtype=np.int16)
    maps = random.random((3, *grid)).astype(np.float16)
    empty = np.zeros((0, *grid), dtype=np.float16)
    mask, confidence = random.integers(0, 256, SIZE, dtype=np.uint8), random.integers(0, 256, grid, dtype=np.uint8)
    return [
        sample(key, seed),
        sample(key, seed, masked=False),
        sample(key, seed, with_boxes=True),
        CamRecord(key=key, classes=classes, maps=maps, size=SIZE),
        CamRecord(key=key, classes=classes, maps=maps, peak=maps * 2, probabilities=maps[:, 0, 0], size=SIZE),
        CamRecord(key=key, classes=classes[:0], maps=empty, peak=empty, size=SIZE),
        ScoreRecord(key=key, classes=classes, scores=maps, size=SIZE),
        ScoreRecord(key=key, classes=classes, scores=maps, background=maps[0] * 2, size=SIZE),
        seed_record(key, seed),
        replace(seed_record(key, seed), classes=classes, scores=random.random((2, 4, *SIZE)).astype(np.float16)),
        PseudoLabel(key=key, mask=mask, confidence=confidence),
        Prediction(key=key, mask=mask, confidence=confidence),
        Prediction(key=key, mask=mask, confidence=confidence, ablation={"none": mask[::-1], "all": mask}),
        InstanceLabel(
            key=key,
            instances=random.integers(0, 301, SIZE, dtype=np.uint16),
            classes=random.integers(1, 201, 300).astype(np.int16),
            scores=random.random(300).astype(np.float16),
        ),
        InstanceLabel(
            key=key, instances=np.zeros(SIZE, np.uint16), classes=classes[:0], scores=np.zeros(0, np.float16)
        ),
    ]


def assert_equal(a: Record, b: Record) -> None:
    """Equal in every field, arrays with their types."""
    assert type(a) is type(b)
    assert vars(a).keys() == vars(b).keys()
    for name, value in vars(a).items():
        other = vars(b)[name]
        if isinstance(value, np.ndarray):
            assert (value.dtype, value.shape) == (other.dtype, other.shape), name
            np.testing.assert_array_equal(value, other, err_msg=name)
        elif name == "ablation":
            assert value.keys() == other.keys()
            for subset in value:
                np.testing.assert_array_equal(value[subset], other[subset], err_msg=subset)
        else:
            assert value == other, name
