from __future__ import annotations

import pytest
import torch
from torch import Tensor

from wsss.ops.confusion import Scores, activation_rates, confusion_matrix
from wsss.ops.threshold_curve import (
    activation_curves,
    bin_of,
    class_sums,
    confusion_at,
    curve,
    curve_counts,
    image_counts,
    two_fold_threshold,
    winners_of,
)

Image = tuple[Tensor, list[int], Tensor]


def images(seed: int, *, num: int = 3) -> list[Image]:
    """Scores that say something about the truth, values exactly on thresholds among them, one image without classes."""
    random = torch.Generator().manual_seed(seed)
    made: list[Image] = []
    for n in range(num):
        truth = torch.randint(0, 7, (13 + 2 * n, 19), generator=random, dtype=torch.uint8)
        classes = [5, 2, 3][: n + 1]
        scores = torch.rand(len(classes), *truth.shape, generator=random) * 0.7
        for k, class_id in enumerate(classes):
            scores[k] += 0.3 * (truth == class_id)
        scores[:, ::3] = (scores[:, ::3] * 256).round() / 256
        truth[:, :2] = 255
        made.append((scores, classes, truth))
    made.append((torch.zeros(0, 5, 7), [], torch.ones(5, 7, dtype=torch.uint8)))
    return made


def counts_of(some: list[Image], *, dtype: torch.dtype = torch.float32) -> Tensor:
    total = torch.zeros(7, 7, 256, dtype=torch.int64)
    for scores, classes, truth in some:
        curve_counts(scores.to(dtype), classes=classes, truth_HW=truth, num_classes=7, ignore_index=255, total=total)
    return total


def thresholded(some: list[Image], *, threshold: float) -> Tensor:
    confusion = torch.zeros(7, 7, dtype=torch.int64)
    for scores, classes, truth in some:
        prediction = torch.zeros(truth.shape, dtype=torch.int64)
        for i in range(truth.shape[0]):
            for j in range(truth.shape[1]):
                column = scores[:, i, j].tolist()
                if column and max(column) >= threshold:
                    prediction[i, j] = classes[column.index(max(column))]
        confusion += confusion_matrix(truth, prediction, num_classes=7, ignore_index=255)
    return confusion


def test_by_hand() -> None:
    scores = torch.tensor([[[0.5, 0.1, 1.0]], [[0.25, 0.7, 1.0]]])
    truth = torch.tensor([[2, 0, 255]])
    counts = curve_counts(scores, classes=[2, 1], truth_HW=truth, num_classes=3, ignore_index=255)
    assert counts.shape == (3, 3, 256) and counts.dtype == torch.int64
    assert counts.nonzero().tolist() == [[0, 1, 179], [2, 2, 128]]  # 0.7 * 256 = 179.2
    assert confusion_at(counts, threshold_bin=128).tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 1]]
    assert confusion_at(counts, threshold_bin=129).tolist() == [[0, 1, 0], [0, 0, 0], [1, 0, 0]]
    assert confusion_at(counts, threshold_bin=180).tolist() == [[1, 0, 0], [0, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize("threshold_bin", [0, 1, 64, 97, 128, 200, 255])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_every_threshold_equals_thresholding(threshold_bin: int, dtype: torch.dtype) -> None:
    some = [(scores.to(dtype), classes, truth) for scores, classes, truth in images(1)]
    wanted = thresholded(some, threshold=threshold_bin / 256)
    assert torch.equal(confusion_at(counts_of(some, dtype=dtype), threshold_bin=threshold_bin), wanted)


def test_curve_is_the_mean_iou_of_every_matrix() -> None:
    counts = counts_of(images(1))
    wanted = [Scores.from_confusion(confusion_at(counts, threshold_bin=i)).mean_iou for i in range(256)]
    torch.testing.assert_close(curve(counts), torch.tensor(wanted, dtype=torch.float64))
    assert max(wanted) - min(wanted) > 0.1
    assert bool(curve(torch.zeros_like(counts)).isnan().all())


def test_activation_by_hand() -> None:
    scores = torch.tensor([[[0.5, 0.1, 1.0, 0.3]], [[0.25, 0.7, 1.0, 0.1]]])
    truth = torch.tensor([[1, 0, 255, 0]])
    counts = curve_counts(scores, classes=[2, 1], truth_HW=truth, num_classes=3, ignore_index=255)
    over, under = activation_curves(counts)
    # Background pixels won at 0.7 and 0.3; the foreground pixel at 0.5, by another class, which is not given here.
    assert [over[i].item() for i in (0, 76, 77, 179, 180)] == [1.0, 1.0, 0.5, 0.5, 0.0]
    assert [under[i].item() for i in (0, 128, 129)] == [0.0, 0.0, 1.0]


def test_activation_curves_are_the_rates_of_every_matrix() -> None:
    counts = counts_of(images(1))
    over, under = activation_curves(counts)
    rates = [activation_rates(confusion_at(counts, threshold_bin=i)) for i in range(256)]
    assert over.tolist() == [rate for rate, _ in rates]
    torch.testing.assert_close(under, torch.tensor([rate for _, rate in rates], dtype=torch.float64))
    assert bool((over.diff() <= 0).all()) and bool((under.diff() >= 0).all())
    assert all(bool(rates.isnan().all()) for rates in activation_curves(torch.zeros_like(counts)))
    nothing = activation_rates(torch.zeros(3, 3, dtype=torch.int64))
    assert all(rate != rate for rate in nothing)


def test_class_sums_of_images_add_up_to_those_of_the_whole() -> None:
    some = images(1)
    parts = [
        class_sums(
            image_counts(scores, classes=classes, truth_HW=truth, num_classes=7, ignore_index=255),
            winners=winners_of(classes),
        )
        for scores, classes, truth in some
    ]
    assert torch.equal(sum(parts[1:], parts[0]), class_sums(counts_of(some), winners=range(7)))


def test_rounding_of_a_resize_decides_between_classes_and_counts_as_one() -> None:
    scores = torch.tensor([[[1.0, -1e-7]], [[1.0000001, -2e-7]]])
    counts = curve_counts(scores, classes=[1, 2], truth_HW=torch.tensor([[0, 0]]), num_classes=3, ignore_index=255)
    assert counts.nonzero().tolist() == [[0, 1, 0], [0, 2, 255]]


def test_only_multiples_of_a_bin_are_thresholds() -> None:
    assert [bin_of(threshold) for threshold in (0.0, 1 / 256, 0.25, 255 / 256)] == [0, 1, 64, 255]
    for threshold in (0.3, 1, -0.25):
        with pytest.raises(ValueError, match="not a multiple of 1/256"):
            bin_of(threshold)
    with pytest.raises(ValueError, match=r"the nearest allowed are 0\.296875 and 0\.30078125"):
        bin_of(0.3)


def test_counts_add_up() -> None:
    some = images(1)
    assert torch.equal(counts_of(some), counts_of(some[:2]) + counts_of(some[2:]))
    assert int(counts_of(some).sum()) == sum(int((truth != 255).sum()) for _, _, truth in some)


def test_two_folds_use_each_others_threshold() -> None:
    fold_a, fold_b = images(1), [(scores * 0.5, classes, truth) for scores, classes, truth in images(2)]
    counts_a, counts_b = counts_of(fold_a), counts_of(fold_b)
    chosen = two_fold_threshold(counts_a, counts_b)
    best_a, best_b = int(curve(counts_a).argmax()), int(curve(counts_b).argmax())
    assert best_a != best_b
    assert (chosen.threshold_from_a, chosen.threshold_from_b) == (best_a / 256, best_b / 256)
    wanted = thresholded(fold_a, threshold=best_b / 256) + thresholded(fold_b, threshold=best_a / 256)
    assert torch.equal(chosen.confusion, wanted)
    assert chosen.scores.mean_iou == Scores.from_confusion(wanted).mean_iou


def test_equal_thresholds_choose_the_lowest() -> None:
    truth = torch.tensor([[1, 0]])
    scores = torch.tensor([[[0.75, 0.25]]])
    counts = curve_counts(scores, classes=[1], truth_HW=truth, num_classes=2, ignore_index=255)
    assert two_fold_threshold(counts, counts).threshold_from_a == 65 / 256


def test_an_empty_fold_is_refused() -> None:
    counts = counts_of(images(1))
    with pytest.raises(ValueError, match="fold b has no counted pixel"):
        two_fold_threshold(counts, torch.zeros_like(counts))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"scores_KHW": torch.full((2, 5, 7), 1.5)}, r"outside \[0, 1\]"),
        ({"scores_KHW": torch.full((2, 5, 7), torch.nan)}, r"outside \[0, 1\] or NaN"),
        ({"scores_KHW": torch.zeros(2, 7, 5)}, r"allowed: \[2, 5, 7\]"),
        ({"classes": [0, 2]}, r"different ids from 1\.\.6"),
        ({"classes": [2, 2]}, r"different ids from 1\.\.6"),
        ({"truth_HW": torch.full((5, 7), 7)}, r"truth has labels from 7 to 7; allowed: 0\.\.6"),
    ],
)
def test_wrong_input_is_refused(changed: dict[str, object], message: str) -> None:
    given = {"scores_KHW": torch.zeros(2, 5, 7), "classes": [1, 2], "truth_HW": torch.zeros(5, 7).long()} | changed
    with pytest.raises(ValueError, match=message):
        curve_counts(num_classes=7, ignore_index=255, **given)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"allowed: 0\.\.255"):
        confusion_at(torch.zeros(7, 7, 256, dtype=torch.int64), threshold_bin=256)


def test_a_score_that_rounding_has_raised_above_one_is_one() -> None:
    truth = torch.zeros(2, 3, dtype=torch.int64)
    given = {"classes": [2], "truth_HW": truth, "num_classes": 4, "ignore_index": 255}
    above, one = (image_counts(torch.full((1, 2, 3), score), **given) for score in (1.001, 1.0))  # type: ignore[arg-type]
    assert torch.equal(above, one)
