from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from wsss.ops.boundary_iou import band_width, boundary_counts, boundary_iou

IGNORE = 255


def defined(truth: Tensor, prediction: Tensor, *, num_classes: int, width: float) -> Tensor:
    """The definition, pixel by pixel."""
    height, breadth = truth.shape
    distance = max(1, round(width * math.sqrt(height**2 + breadth**2)))

    def in_band(labels: Tensor, y: int, x: int) -> bool:
        for dy in range(-distance, distance + 1):
            for dx in range(-distance, distance + 1):
                there, across = y + dy, x + dx
                if not (0 <= there < height and 0 <= across < breadth):
                    return True
                if truth[there, across] != IGNORE and labels[there, across] != labels[y, x]:
                    return True
        return False

    counts = torch.zeros(num_classes, 2, dtype=torch.int64)
    for y in range(height):
        for x in range(breadth):
            if truth[y, x] == IGNORE:
                continue
            bands = {
                (name, int(labels[y, x]))
                for name, labels in (("truth", truth), ("prediction", prediction))
                if in_band(labels, y, x)
            }
            for class_id in {class_id for _, class_id in bands}:
                counts[class_id, 0] += {("truth", class_id), ("prediction", class_id)} <= bands
                counts[class_id, 1] += 1
    return counts


def maps(seed: int, size: tuple[int, int], num_classes: int) -> tuple[Tensor, Tensor]:
    """Blocks of classes, the prediction shifted against the truth, ignored pixels strewn and in a strip."""
    random = torch.Generator().manual_seed(seed)
    rows, columns = (torch.arange(n) // (n // 3) for n in size)
    truth = torch.randint(0, num_classes, (4, 4), generator=random)[rows.clamp_max(3)][:, columns.clamp_max(3)]
    prediction = truth.roll((1, 2), (0, 1))
    truth = torch.where(torch.rand(size, generator=random) < 0.05, IGNORE, truth)
    truth[:, size[1] // 2] = IGNORE
    prediction[truth == IGNORE] = IGNORE  # whatever it is, it does not count
    return truth.to(torch.uint8), prediction.to(torch.uint8)


@pytest.mark.parametrize("width", [0.001, 0.05, 0.11, 0.4, 1.0])
@pytest.mark.parametrize(("size", "num_classes"), [((17, 23), 5), ((19, 13), 201)])
def test_definition(size: tuple[int, int], num_classes: int, width: float) -> None:
    truth, prediction = maps(1, size, num_classes)
    found = boundary_counts(truth, prediction, num_classes=num_classes, ignore_index=IGNORE, width=width)
    assert found.dtype == torch.int64
    assert torch.equal(found, defined(truth, prediction, num_classes=num_classes, width=width))


def test_other_integers_than_bytes_and_255_classes() -> None:
    truth, prediction = (labels.to(torch.int64) for labels in maps(2, (11, 13), 255))
    truth[0, 3], prediction[1, 1], truth[5, 0] = 254, 254, -1
    truth[truth == IGNORE] = -1
    found = boundary_counts(truth, prediction, num_classes=255, ignore_index=-1, width=0.1)
    truth[truth == -1] = IGNORE
    assert torch.equal(found, defined(truth, prediction, num_classes=255, width=0.1))


def test_more_classes_than_a_byte_holds() -> None:
    truth, prediction = (labels.to(torch.int32) for labels in maps(5, (13, 17), 7))
    truth[truth == IGNORE] = 65_535
    for labels in (truth, prediction):
        for before, after in ((2, 255), (3, 256), (5, 918)):
            labels[labels == before] = after
    found = boundary_counts(truth, prediction, num_classes=920, ignore_index=65_535, width=0.1)
    names = {255: 2, 256: 3, 918: 5, 65_535: IGNORE}
    small = [labels.clone() for labels in (truth, prediction)]
    for labels in small:
        for before, after in names.items():
            labels[labels == before] = after
    wanted = defined(*(labels.to(torch.uint8) for labels in small), num_classes=7, width=0.1)
    assert torch.equal(found[[0, 1, 255, 256, 4, 918, 6]], wanted) and int(found.sum()) == int(wanted.sum())


def test_by_hand() -> None:
    truth = torch.zeros(10, 12, dtype=torch.uint8)
    prediction = truth.clone()
    truth[2:8, 3:9], prediction[2:8, 4:10] = 1, 1  # 6 x 6, one pixel aside; the diagonal is 15.6, so d = 1
    counts = boundary_counts(truth, prediction, num_classes=3, ignore_index=IGNORE, width=0.06)
    # Rings of 20 pixels each meet in 5 pixels at the top and 5 at the bottom.
    assert counts[1].tolist() == [10, 30] and counts[2].tolist() == [0, 0]
    iou = boundary_iou(counts)
    assert float(iou[1]) == pytest.approx(1 / 3) and bool(iou[2].isnan())
    assert torch.equal(counts, defined(truth, prediction, num_classes=3, width=0.06))


def test_width_of_the_band() -> None:
    assert band_width((375, 500), width=0.02) == 12  # 12.5, rounded to even as in the published code
    assert band_width((30, 40), width=0.02) == 1 and band_width((3, 4), width=0.02) == 1


def test_right_where_it_counts_is_one_and_what_is_ignored_changes_nothing() -> None:
    truth, other = maps(3, (29, 31), 4)
    right = torch.where(truth == IGNORE, 3, truth)
    counts = boundary_counts(truth, right, num_classes=4, ignore_index=IGNORE, width=0.05)
    assert torch.equal(counts[:, 0], counts[:, 1]) and int(counts.sum()) > 0
    changed = torch.where(truth == IGNORE, 2, other)
    found = [boundary_counts(truth, p, num_classes=4, ignore_index=IGNORE, width=0.05) for p in (other, changed)]
    assert torch.equal(*found)


def test_a_strip_of_ignored_pixels_gives_no_outline_away() -> None:
    truth = torch.zeros(60, 60, dtype=torch.uint8)
    truth[18:42, 18:42] = IGNORE
    truth[20:40, 20:40] = 1
    everywhere = torch.ones_like(truth)
    counts = boundary_counts(truth, everywhere, num_classes=2, ignore_index=IGNORE, width=0.05)
    assert counts[1, 0] == 0, "a map of one class has no outline but the image's edge"
    assert counts[1, 1] > 0


def test_renaming_classes_renames_their_counts_and_turning_the_image_changes_nothing() -> None:
    truth, prediction = maps(4, (23, 17), 5)
    counts = boundary_counts(truth, prediction, num_classes=5, ignore_index=IGNORE, width=0.07)
    turned = boundary_counts(truth.t(), prediction.t(), num_classes=5, ignore_index=IGNORE, width=0.07)
    assert torch.equal(counts, turned)
    names = torch.full((256,), IGNORE, dtype=torch.uint8)
    names[:5] = order = torch.tensor([2, 0, 4, 1, 3], dtype=torch.uint8)
    renamed = boundary_counts(
        names[truth.long()], names[prediction.long()], num_classes=5, ignore_index=IGNORE, width=0.07
    )
    assert torch.equal(renamed[order.long()], counts)


def test_what_is_refused() -> None:
    labels = torch.zeros(5, 7, dtype=torch.uint8)
    with pytest.raises(ValueError, match="resize the prediction"):
        boundary_counts(labels, labels.t(), num_classes=3, ignore_index=IGNORE, width=0.02)
    with pytest.raises(ValueError, match="width is 0; allowed: above 0"):
        boundary_counts(labels, labels, num_classes=3, ignore_index=IGNORE, width=0)
    with pytest.raises(ValueError, match=r"prediction has labels .*allowed: 0\.\.2"):
        boundary_counts(labels, labels + 255, num_classes=3, ignore_index=IGNORE, width=0.02)
