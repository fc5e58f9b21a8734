from __future__ import annotations

import numpy as np
import pytest

from tuning.paired_comparison import confusion_of, rows_of
from tuning.pixel_counts import cells_of

IDS = np.array([0, 3, 255, 256, 300], np.uint16)


def maps(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Truth and label, u8[13, 17], of five classes; some of the truth is ignored."""
    random = np.random.default_rng(seed)
    truth, label = (random.integers(0, 5, (13, 17)).astype(np.uint8) for _ in range(2))
    truth[random.random(truth.shape) < 0.2] = 255
    return truth, label


def wide(label: np.ndarray) -> np.ndarray:
    return np.where(label == 255, np.uint16(65_535), IDS[np.minimum(label, 4)])


@pytest.mark.parametrize("many", [False, True])
def test_cells_are_the_pixels_of_every_pair(many: bool) -> None:
    truth, label = (wide(one) if many else one for one in maps(1))
    found = cells_of(truth, label)
    wanted: dict[tuple[int, int], int] = {}
    for t, p in zip(truth.ravel().tolist(), label.ravel().tolist(), strict=True):
        if t != (65_535 if many else 255):
            wanted[t, p] = wanted.get((t, p), 0) + 1
    first, second = found.labels
    assert dict(zip(zip(first.tolist(), second.tolist(), strict=True), found.pixels.tolist(), strict=True)) == wanted
    assert found.cells.tolist() == sorted(found.cells.tolist())


def test_rows_and_confusion_of_many_classes_are_those_of_few() -> None:
    few = [[cells_of(*maps(seed))] for seed in range(3)]
    many = [[cells_of(*(wide(one) for one in maps(seed)))] for seed in range(3)]
    small, large = rows_of(few), rows_of(many)
    small[:, 1] = small[:, 1].clone().apply_(lambda class_id: int(IDS[class_id]))
    assert small.tolist() == large.tolist()
    matrix = confusion_of([one[0] for one in many], num_classes=301)
    ids = IDS.astype(np.int64)
    assert matrix[ids][:, ids].tolist() == confusion_of([one[0] for one in few], num_classes=5).tolist()
