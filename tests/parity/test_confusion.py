"""Confusion matrix and scores against plain loops, whose results equal those of three public metrics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from wsss.ops.confusion import Scores, confusion_matrix

GOLDEN = np.load(Path(__file__).parent / "data" / "confusion.npz", allow_pickle=False)
CASES = range(int(GOLDEN["n_cases"]))


def golden(case: int, name: str) -> Tensor:
    return torch.from_numpy(np.asarray(GOLDEN[f"c{case}_{name}"]))


def merged(case: int) -> Tensor:
    num_classes, ignore_index = int(golden(case, "n_classes")), int(golden(case, "ignore_index"))
    matrices = [
        confusion_matrix(
            golden(case, f"gt{n}"), golden(case, f"pred{n}"), num_classes=num_classes, ignore_index=ignore_index
        )
        for n in range(int(golden(case, "n_images")))
    ]
    return torch.stack(matrices).sum(dim=0)


@pytest.mark.parametrize("case", CASES)
def test_matrix(case: int) -> None:
    assert torch.equal(merged(case), golden(case, "confusion").long())


@pytest.mark.parametrize("case", CASES)
def test_scores(case: int) -> None:
    scores = Scores.from_confusion(merged(case))
    for ours, name in [(scores.iou_per_class, "iou_per_class"), (scores.accuracy_per_class, "acc_per_class")]:
        torch.testing.assert_close(ours, golden(case, name), rtol=1e-14, atol=0, equal_nan=True)
    for name in ("mean_iou", "mean_accuracy", "pixel_accuracy", "freq_weighted_iou"):
        assert getattr(scores, name) == pytest.approx(float(golden(case, name)), rel=1e-13), name
    for ours, name in [
        (scores.mean_iou_all_classes, "variant_mean_iou_absent_as_0"),
        (scores.mean_iou_present, "variant_mean_iou_gt_classes_only"),
    ]:
        assert ours == pytest.approx(float(golden(case, name)), rel=1e-13), name
    assert scores.num_absent_classes == int(np.isnan(GOLDEN[f"c{case}_iou_per_class"]).sum())


@pytest.mark.parametrize("case", [0, 1])
def test_the_usual_mistakes_have_other_values(case: int) -> None:
    mean_iou = Scores.from_confusion(merged(case)).mean_iou
    for name in ("dsrg_jaccard", "variant_mean_iou_absent_as_0", "variant_mean_iou_gt_classes_only"):
        assert abs(mean_iou - float(golden(case, name))) > 0.01, name
