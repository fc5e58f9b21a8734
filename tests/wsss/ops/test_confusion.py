from __future__ import annotations

import math

import pytest
import torch

from wsss.ops.confusion import Scores, confused_pairs, confusion_matrix


def test_matrix_by_hand() -> None:
    truth = torch.tensor([[0, 0, 1], [1, 2, 255]], dtype=torch.uint8)
    prediction = torch.tensor([[0, 1, 1], [1, 0, 2]], dtype=torch.uint8)
    confusion = confusion_matrix(truth, prediction, num_classes=4, ignore_index=255)
    assert confusion.dtype == torch.int64
    assert confusion.tolist() == [[1, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]


def test_definition_with_many_classes() -> None:
    random = torch.Generator().manual_seed(1)
    truth = torch.randint(0, 201, (29, 31), generator=random, dtype=torch.uint8)
    prediction = torch.randint(0, 201, (29, 31), generator=random, dtype=torch.uint8)
    truth[:5] = 255
    wanted = torch.zeros(201, 201, dtype=torch.int64)
    for i in range(5, 29):
        for j in range(31):
            wanted[int(truth[i, j]), int(prediction[i, j])] += 1
    assert torch.equal(confusion_matrix(truth, prediction, num_classes=201, ignore_index=255), wanted)


def test_scores_by_hand() -> None:
    scores = Scores.from_confusion(torch.tensor([[6, 2, 1, 0], [1, 3, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]))
    torch.testing.assert_close(
        scores.iou_per_class, torch.tensor([6 / 10, 3 / 6, 0.0, math.nan], dtype=torch.float64), equal_nan=True
    )
    assert scores.mean_iou == pytest.approx((0.6 + 0.5 + 0.0) / 3)
    assert scores.mean_accuracy == pytest.approx((6 / 9 + 3 / 4) / 2)
    assert scores.pixel_accuracy == pytest.approx(9 / 13)
    assert scores.freq_weighted_iou == pytest.approx((9 * 0.6 + 4 * 0.5) / 13)
    assert scores.num_absent_classes == 1
    assert scores.mean_iou_present == pytest.approx((0.6 + 0.5) / 2)
    assert scores.mean_iou_all_classes == pytest.approx((0.6 + 0.5) / 4)
    assert scores.mean_iou_foreground == pytest.approx((0.5 + 0.0) / 2)
    assert scores.num_skipped_classes == 0
    torch.testing.assert_close(
        scores.precision_per_class, torch.tensor([6 / 7, 3 / 5, 0.0, math.nan], dtype=torch.float64), equal_nan=True
    )


def test_which_mean_rewards_silence() -> None:
    """Two networks alike but for class 3, which the truth does not hold: one calls ten pixels by it, one is silent."""
    loud = torch.tensor([[80, 0, 0, 10], [0, 50, 0, 0], [0, 0, 50, 0], [0, 0, 0, 0]])
    silent = loud.clone()
    silent[0, 0], silent[0, 3] = 80, 0
    silent[0, 1] = 10
    a, b = Scores.from_confusion(loud), Scores.from_confusion(silent)
    assert b.mean_iou > a.mean_iou + 0.15, "ten wrong pixels either way, but one is averaged over three classes"
    assert b.mean_iou_present < a.mean_iou_present, "here the silent one is charged for class 1 as well"
    # A class that is there and never predicted costs a full zero.
    skipped = torch.tensor([[90, 0, 0, 0], [0, 50, 0, 0], [50, 0, 0, 0], [0, 0, 0, 0]])
    scores = Scores.from_confusion(skipped)
    assert scores.mean_iou_present == pytest.approx((90 / 140 + 1 + 0) / 3)
    assert (scores.num_skipped_classes, scores.num_absent_classes) == (1, 1)
    assert scores.mean_accuracy == pytest.approx(2 / 3)


def test_confused_pairs_by_hand() -> None:
    confusion = torch.tensor([[96, 4, 0], [30, 10, 20], [1, 0, 1]])
    pairs = confused_pairs(confusion, num_pairs=9)
    assert [(p.truth, p.prediction, p.pixels) for p in pairs] == [(1, 0, 30), (2, 0, 1), (1, 2, 20), (0, 1, 4)]
    assert [p.share for p in pairs] == pytest.approx([0.5, 0.5, 1 / 3, 0.04])
    assert confused_pairs(confusion, num_pairs=2) == pairs[:2]
    assert confused_pairs(torch.diag(torch.arange(3)), num_pairs=2) == []


def test_nothing_counted_scores_nan() -> None:
    scores = Scores.from_confusion(torch.zeros(3, 3, dtype=torch.int64))
    assert scores.num_absent_classes == 3
    assert all(
        map(
            math.isnan,
            (
                scores.mean_iou,
                scores.mean_iou_present,
                scores.mean_iou_all_classes,
                scores.mean_accuracy,
                scores.pixel_accuracy,
                scores.freq_weighted_iou,
            ),
        )
    )


def test_renaming_classes_renames_their_scores() -> None:
    confusion = torch.randint(0, 50, (7, 7), generator=torch.Generator().manual_seed(1))
    order = torch.randperm(7, generator=torch.Generator().manual_seed(2))
    scores, renamed = Scores.from_confusion(confusion), Scores.from_confusion(confusion[order][:, order])
    assert torch.equal(renamed.iou_per_class, scores.iou_per_class[order])
    assert renamed.mean_iou == pytest.approx(scores.mean_iou)


def test_undecided_pixels_need_a_decision() -> None:
    truth = torch.tensor([[1, 0, 255]], dtype=torch.uint8)
    prediction = torch.tensor([[255, 255, 255]], dtype=torch.uint8)
    with pytest.raises(ValueError, match="give undecided_as"):
        confusion_matrix(truth, prediction, num_classes=3, ignore_index=255)
    decided = confusion_matrix(truth, prediction, num_classes=3, ignore_index=255, undecided_as=0)
    assert decided.tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 0]]


def test_an_undecided_pixel_that_is_ignored_is_no_error() -> None:
    truth = torch.tensor([[1, 255]], dtype=torch.uint8)
    prediction = torch.tensor([[1, 255]], dtype=torch.uint8)
    assert int(confusion_matrix(truth, prediction, num_classes=3, ignore_index=255).sum()) == 1


@pytest.mark.parametrize("undecided_as", [None, 0, 2])
@pytest.mark.parametrize("ignore_index", [255, 2, -1])
def test_bytes_are_counted_as_other_integers_are(undecided_as: int | None, ignore_index: int) -> None:
    random = torch.Generator().manual_seed(1)
    truth, prediction = (torch.randint(0, 5, (13, 17), generator=random) for _ in range(2))
    if ignore_index == 255:
        truth[3] = 255
    if undecided_as is not None:
        prediction[:, 4] = 255
    matrices = [
        confusion_matrix(
            truth.to(dtype),
            prediction.to(dtype),
            num_classes=5,
            ignore_index=ignore_index,
            undecided_as=undecided_as,
        )
        for dtype in (torch.uint8, torch.int64)
    ]
    assert torch.equal(*matrices) and matrices[0].shape == (5, 5)
    assert int(matrices[0].sum()) == int((truth != ignore_index).sum())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
@pytest.mark.parametrize(("truth", "prediction"), [(3, 0), (0, 3), (0, 255), (254, 0)])
def test_labels_outside_are_refused_as_bytes_too(truth: int, prediction: int, dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=r"has labels|the prediction has 255"):
        confusion_matrix(
            torch.tensor([[truth, 1]], dtype=dtype),
            torch.tensor([[prediction, 1]], dtype=dtype),
            num_classes=3,
            ignore_index=255,
        )


@pytest.mark.parametrize(("truth", "prediction", "name"), [(3, 0, "truth"), (0, 3, "prediction"), (-1, 0, "truth")])
def test_labels_outside_are_refused(truth: int, prediction: int, name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} has labels .*allowed: 0\.\.2"):
        confusion_matrix(torch.tensor([[truth]]), torch.tensor([[prediction]]), num_classes=3, ignore_index=255)


def test_shapes_must_match() -> None:
    with pytest.raises(ValueError, match="resize the prediction"):
        confusion_matrix(torch.zeros(5, 7).long(), torch.zeros(7, 5).long(), num_classes=3, ignore_index=255)
    with pytest.raises(ValueError, match="square"):
        Scores.from_confusion(torch.zeros(3, 5, dtype=torch.int64))
