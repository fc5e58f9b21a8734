from __future__ import annotations

import pytest
import torch
from torch import Tensor

from wsss.ops.bootstrap import ROW_START, image_rows, mean_iou_interval, two_fold_mean_iou
from wsss.ops.confusion import Scores, confusion_matrix
from wsss.ops.threshold_curve import NUM_BINS, at_thresholds, class_sums, image_counts, two_fold_threshold, winners_of

C = 5


def drawn_image(random: torch.Generator, *, classes: list[int], size: tuple[int, int] = (11, 13)) -> Tensor:
    """Counts [C,L,256] of an image whose scores know something of its truth."""
    truth = torch.tensor([0, 0, *classes])[torch.randint(0, len(classes) + 2, size, generator=random)]
    strength = torch.rand(1, generator=random)
    scores = torch.rand(len(classes), *size, generator=random) * 0.6
    for k, class_id in enumerate(classes):
        scores[k] += 0.4 * strength * (truth == class_id)
    truth[0, :3] = 255
    return image_counts(scores, classes=classes, truth_HW=truth, num_classes=C, ignore_index=255)


def drawn_images(seed: int, num: int) -> list[tuple[list[int], Tensor]]:
    random = torch.Generator().manual_seed(seed)
    chosen = [[[1], [4, 2], [3], [2], []][n % 5] for n in range(num)]
    return [(classes, drawn_image(random, classes=classes)) for classes in chosen]


def rows_of(images: list[tuple[list[int], Tensor]]) -> Tensor:
    return torch.cat([image_rows(counts, winners=winners_of(c), image=7 * n) for n, (c, counts) in enumerate(images)])


def total_of(images: list[tuple[list[int], Tensor]]) -> Tensor:
    total = torch.zeros(C, C, NUM_BINS, dtype=torch.int64)
    for classes, counts in images:
        for place, winner in enumerate(winners_of(classes)):
            total[:, winner] += counts[:, place]
    return total


def interval(
    folds: list[Tensor], *, num_replicates: int = 200, seed: int = 3, level: float = 0.95
) -> tuple[float, float]:
    random = torch.Generator().manual_seed(seed)
    return mean_iou_interval(folds, num_classes=C, num_replicates=num_replicates, level=level, generator=random)


def test_rows_are_the_class_sums_of_one_image() -> None:
    ((classes, counts),) = drawn_images(1, 2)[1:]
    rows = image_rows(counts, winners=classes, image=19)
    sums = class_sums(counts, winners=classes)
    assert rows.dtype == torch.int32
    assert rows[:, :ROW_START].tolist() == [[19, 0], [19, 2], [19, 4]]
    assert torch.equal(rows[:, ROW_START:].long(), sums[[0, 2, 4]])
    assert not sums[[1, 3]].any()


def test_many_pairs_of_folds_are_scored_as_one_is() -> None:
    a, b = ([total_of(drawn_images(seed + k, 6)) for seed in range(4)] for k in (10, 20))
    wanted = [two_fold_threshold(x, y).scores.mean_iou for x, y in zip(a, b, strict=True)]
    above = [torch.stack([at_thresholds(class_sums(x, winners=range(C))) for x in fold]).double() for fold in (a, b)]
    torch.testing.assert_close(two_fold_mean_iou(*above), torch.tensor(wanted, dtype=torch.float64), rtol=0, atol=1e-14)
    assert len(set(wanted)) == 4


def test_equals_doing_all_of_it_again_on_every_draw() -> None:
    folds = [drawn_images(1, 9), drawn_images(2, 8)]
    random, values = torch.Generator().manual_seed(3), []
    for _ in range(60):
        totals = []
        for images in folds:
            drawn = torch.randint(len(images), (len(images),), generator=random).tolist()
            totals.append(total_of([images[n] for n in drawn]))
        values.append(two_fold_threshold(totals[0], totals[1]).scores.mean_iou)
    low, high = torch.tensor(values, dtype=torch.float64).quantile(torch.tensor([0.05, 0.95], dtype=torch.float64))
    found = interval([rows_of(images) for images in folds], num_replicates=60, level=0.9)
    assert found == pytest.approx((float(low), float(high)), abs=1e-12)
    assert high - low > 0.01


def test_label_maps_are_the_case_of_one_bin() -> None:
    random, images = torch.Generator().manual_seed(4), []
    for _ in range(14):
        truth, prediction = torch.randint(0, 4, (2, 5, 7), generator=random)
        images.append(
            confusion_matrix(truth, torch.where(truth % 2 == 0, truth, prediction), num_classes=C, ignore_index=255)
        )
    rows = [image_rows(matrix[..., None], winners=range(C), image=n) for n, matrix in enumerate(images)]
    folds = [torch.cat(rows[fold::2]) for fold in (0, 1)]
    random, values = torch.Generator().manual_seed(3), []
    for _ in range(50):
        picked = [torch.randint(7, (7,), generator=random) * 2 + fold for fold in (0, 1)]
        matrix = torch.stack([images[n] for n in torch.cat(picked).tolist()]).sum(0)
        values.append(Scores.from_confusion(matrix).mean_iou)
    low, high = torch.tensor(values, dtype=torch.float64).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64))
    assert interval(folds, num_replicates=50) == pytest.approx((float(low), float(high)), abs=1e-12)


def test_the_order_of_rows_and_the_size_of_a_chunk_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    folds = [rows_of(drawn_images(1, 9)), rows_of(drawn_images(2, 8))]
    wanted = interval(folds)
    assert wanted == interval(folds), "the same seed draws the same images"
    assert wanted != interval(folds, seed=4)
    shuffled = [rows[torch.randperm(len(rows))] for rows in folds]
    assert interval(shuffled) == wanted
    monkeypatch.setattr("wsss.ops.bootstrap._CELLS_AT_ONCE", C * 513 * 7)
    assert interval(folds) == wanted


def test_one_image_says_nothing_of_others_and_an_empty_fold_is_borne() -> None:
    folds = [rows_of(drawn_images(1, 1)), torch.zeros(0, ROW_START + 1 + 2 * NUM_BINS, dtype=torch.int32)]
    low, high = interval(folds)
    assert low == high


def test_it_holds_the_truth_as_often_as_it_says() -> None:
    """Label maps of many small worlds: the 95 % intervals must hold the mean IoU of the whole world about so often."""
    random = torch.Generator().manual_seed(9)
    share_I = 0.35 + 0.5 * torch.rand(40_000, generator=random)  # of its pixels that an image's prediction gets right
    right = (40 * share_I).round().long()
    wrong = (40 - right) // 2
    matrix_I22 = torch.stack([torch.stack([right, 40 - right], -1), torch.stack([wrong, 40 - wrong], -1)], 1)
    world = Scores.from_confusion(matrix_I22.sum(0)).mean_iou

    image, zero, forty = torch.arange(len(share_I)), torch.zeros_like(right), torch.full_like(right, 40)
    taken, won = matrix_I22[:, 0, 1], matrix_I22[:, :, 1].sum(1)
    rows_I2V = torch.stack(
        [
            torch.stack([image, zero, forty, taken, zero], -1),
            torch.stack([image, zero + 1, forty, matrix_I22[:, 1, 1], won], -1),
        ],
        1,
    )
    assert torch.equal(rows_I2V[7], image_rows(matrix_I22[7][..., None], winners=[0, 1], image=7).long())

    held, num_trials, num_images = 0, 200, 60
    for part in rows_I2V[: num_trials * num_images].split(num_images):
        folds = [part[fold::2].flatten(0, 1) for fold in (0, 1)]
        low, high = mean_iou_interval(folds, num_classes=2, num_replicates=300, level=0.95, generator=random)
        held += low <= world <= high
    assert 0.90 <= held / num_trials <= 0.99, held / num_trials
