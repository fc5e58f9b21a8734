"""The metrics of ImageNet-S's evaluator, beside those of `evaluate`, from the same label maps.

Shape letters: `C` classes with background, `G` groups of pixels (all, S, MS, ML, L), `I` images.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from shards.label_type import ignore_of
from shards.records import InstanceLabel, Prediction, PseudoLabel, Sample
from wsss.contract.counts import Counts
from wsss.data.images import label_tensor
from wsss.ops.object_sizes import GROUPS, f_measure, size_counts, size_scores

NAME = "imagenet_s"
_COLUMNS = 5
"""Of a row: the image's position; foreground pixels in truth, prediction and both; if the largest class is right."""


def empty_sizes(num_classes: int) -> np.ndarray:
    """Totals of zero, i64[G, C, 2, 3]."""
    return np.zeros((len(GROUPS), num_classes, 2, 3), dtype=np.int64)


def empty_row() -> np.ndarray:
    """The rows of no image, i64[0, 5]."""
    return np.zeros((0, _COLUMNS), dtype=np.int64)


def add_sizes(total: np.ndarray, record: object, sample: Sample) -> np.ndarray:
    """Add one image of label maps to the total, in place, and return its row, i64[1, 5]."""
    assert isinstance(record, PseudoLabel | Prediction | InstanceLabel) and sample.mask is not None
    truth_HW, label_HW = label_tensor(sample.mask), label_tensor(record.mask)
    found = size_counts(truth_HW, label_HW, num_classes=total.shape[1], ignore_index=ignore_of(sample.mask))
    total[:, found.ids.numpy()] += found.counts.numpy()
    return np.array([[sample.position, *found.foreground, found.largest_is_right]], dtype=np.int64)


def metrics_of(counts: Counts, split: str) -> dict[str, float]:
    """`imagenet_s.mean_iou` and so on, in [0, 1]; without those of sizes that no object has."""
    found_rows = counts.rows[f"{split}.{NAME}"]
    rows = torch.tensor(found_rows[found_rows[:, 0].argsort(kind="stable")])  # a fixed order for sums of floats
    found = size_scores(torch.tensor(counts.sums[f"{split}.{NAME}"]))
    found |= {"image_accuracy": float(rows[:, 4].double().mean()), "f_measure": f_measure(rows[:, 1:4])}
    return {f"{NAME}.{name}": value for name, value in found.items() if not math.isnan(value)}
