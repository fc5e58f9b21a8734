from __future__ import annotations

import math

import pytest
import torch

from wsss.ops.object_sizes import GROUPS, SizeCounts, f_measure, size_counts, size_scores

C, IGNORE = 301, 65_535
IDS = (0, 3, 255, 256, 300)


def images(seed: int, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Truth and prediction, int32: rectangles of a few of 301 classes, an ignored strip, another edge."""
    random = torch.Generator().manual_seed(seed)
    truth = torch.zeros(size, dtype=torch.int32)
    for class_id in IDS[1:]:
        top, left = (int(torch.randint(0, side - 5, (1,), generator=random)) for side in size)
        height, width = (int(torch.randint(2, side // 2, (1,), generator=random)) for side in size)
        truth[top : top + height, left : left + width] = class_id
    prediction = truth.roll((2, -1), (0, 1))
    prediction[3:5, 2:9] = 17
    truth[:2], truth[7:11, 4] = IGNORE, IGNORE
    return truth, prediction


def in_band(label: torch.Tensor, row: int, column: int, distance: int) -> bool:
    """Whether a square around the pixel reaches another label or the outside."""
    for dy in range(-distance, distance + 1):
        for dx in range(-distance, distance + 1):
            y, x = row + dy, column + dx
            if not (0 <= y < label.shape[0] and 0 <= x < label.shape[1]) or label[y, x] != label[row, column]:
                return True
    return False


def defined(truth: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor:
    """The counts [G,C,2,3] pixel by pixel: ignored pixels have a band like a class, and are not counted."""
    height, width = truth.shape
    distance = max(1, round(0.03 * math.sqrt(height**2 + width**2)))
    seen = truth != IGNORE
    total = int(seen.sum())
    sizes = {0: {1 + n for n in range(4)}}
    present = [int(c) for c in truth.unique() if c not in (0, IGNORE)]
    for class_id in present:
        percent = math.ceil(100 * int((truth == class_id).sum()) / total)
        sizes[class_id] = {1 if percent <= 5 else 2 if percent <= 25 else 3 if percent <= 50 else 4}
    used = {group for class_id in present for group in sizes[class_id]}
    counts = torch.zeros(len(GROUPS), C, 2, 3, dtype=torch.int64)
    for row, column in seen.nonzero().tolist():
        t, p = int(truth[row, column]), int(prediction[row, column])
        bands = in_band(truth, row, column, distance), in_band(prediction, row, column, distance)
        for group in {0, *(sizes[t] & used)}:
            for part, (in_truth, in_prediction) in enumerate(((True, True), bands)):
                counts[group, t, part, 0] += t == p and in_truth and in_prediction
                counts[group, t, part, 1] += in_truth
                counts[group, p, part, 2] += in_prediction
    return counts


def whole(found: SizeCounts) -> torch.Tensor:
    counts = torch.zeros(len(GROUPS), C, 2, 3, dtype=torch.int64)
    counts[:, found.ids] = found.counts
    return counts


@pytest.mark.parametrize(("seed", "size"), [(1, (23, 29)), (2, (41, 31)), (3, (37, 53))])
def test_definition(seed: int, size: tuple[int, int]) -> None:
    truth, prediction = images(seed, size)
    found = size_counts(truth, prediction, num_classes=C, ignore_index=IGNORE)
    assert torch.equal(whole(found), defined(truth, prediction))


def test_by_hand() -> None:
    """10 x 20 pixels: class 300 has 10 (5 %, S), class 255 has 11 (6 %, MS); the rest is background, without a band."""
    truth = torch.zeros(10, 20, dtype=torch.int32)
    truth[0, :10], truth[9, :11] = 300, 255
    prediction = torch.zeros_like(truth)
    prediction[0, :8], prediction[9, :11], prediction[5, 5] = 300, 255, 300
    found = size_counts(truth, prediction, num_classes=C, ignore_index=IGNORE)
    counts = whole(found)
    assert counts[0, 300, 0].tolist() == [8, 10, 9] and counts[0, 255, 0].tolist() == [11, 11, 11]
    assert counts[1, :, 0].nonzero()[:, 0].unique().tolist() == [0, 300], "S: without the pixels of 255"
    assert counts[1, 0, 0].tolist() == [178, 179, 180] and counts[2, 0, 0].tolist() == [178, 179, 178]
    assert counts[3:].sum() == 0
    scores = size_scores(counts)
    background = 178 / (179 + 180 - 178)
    assert scores["mean_iou"] == pytest.approx((background + 8 / 11 + 1) / C), "absent classes count as 0"
    assert scores["mean_iou_s"] == pytest.approx((background + 8 / 11) / 2)
    assert scores["mean_iou_ms"] == pytest.approx((178 / 179 + 1) / 2)
    assert math.isnan(scores["mean_iou_l"]) and math.isnan(scores["boundary_iou_ml"])
    assert found.foreground == (21, 20, 19) and found.largest_is_right
    assert f_measure(torch.tensor([found.foreground])) == pytest.approx(
        1.3 * (19 / 20) * (19 / 21) / (0.3 * 19 / 20 + 19 / 21)
    )


@pytest.mark.parametrize(("pixels", "group"), [(5, 1), (6, 2), (25, 2), (26, 3), (50, 3), (51, 4), (100, 4)])
def test_limits_of_the_sizes(pixels: int, group: int) -> None:
    truth = torch.zeros(100, dtype=torch.int32)
    truth[:pixels] = 9
    truth = torch.cat([truth, torch.full((20,), IGNORE, dtype=torch.int32)]).view(8, 15)
    found = size_counts(truth, torch.where(truth == IGNORE, 0, truth), num_classes=C, ignore_index=IGNORE)
    of_class = whole(found)[:, 9, 0, 1].tolist()
    assert of_class == [pixels if place in (0, group) else 0 for place in range(5)], "of pixels that are not ignored"


def test_an_outline_towards_ignored_pixels_counts() -> None:
    truth = torch.zeros(31, 37, dtype=torch.int32)
    truth[:, 20:] = 255
    truth[:, 19:22] = IGNORE
    found = whole(size_counts(truth, torch.zeros_like(truth), num_classes=C, ignore_index=IGNORE))
    assert int(found[0, 255, 1, 1]) == 2 * 15 + 2 * 29, "one pixel wide on four sides"


def test_a_prediction_without_objects() -> None:
    truth = torch.full((5, 7), 255, dtype=torch.int32)
    found = size_counts(truth, torch.zeros_like(truth), num_classes=C, ignore_index=IGNORE)
    assert not found.largest_is_right and found.foreground == (35, 0, 0)
    assert f_measure(torch.tensor([found.foreground, (3, 3, 3)])) == pytest.approx(0.5)


def test_what_is_refused() -> None:
    truth = torch.zeros(5, 7, dtype=torch.int32)
    with pytest.raises(ValueError, match="resize the prediction"):
        size_counts(truth, truth.t(), num_classes=C, ignore_index=IGNORE)
    with pytest.raises(ValueError, match=r"the prediction has 65535 \(undecided\)"):
        size_counts(truth, torch.full_like(truth, IGNORE), num_classes=C, ignore_index=IGNORE)
