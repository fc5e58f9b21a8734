"""The interval of a mean IoU whose two folds were measured by different `evaluate` instances, as in a sweep's choice.

Shape letters: `C` classes with background, `I` images, `P` rows, `R` replicates, `V` columns of class sums.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from wsss.contract.stage import Instance
from wsss.ops.bootstrap import ROW_START
from wsss.ops.threshold_curve import at_thresholds, bin_of, hits_and_union, mean_over_classes
from wsss.stages.evaluation.counts import FOLDS
from wsss.stages.evaluation.label_free import counted

REPLICATES, LEVEL = 1000, 0.95


def chosen_interval(
    measured: Sequence[Instance], *, split: str, thresholds: Sequence[float | None], seed: int
) -> tuple[float, float]:
    """The 95 % interval over images of the mean IoU of both folds together; the images are counted again.

    `measured`: for each fold the `evaluate` instance that it is scored by; `thresholds`: the background threshold of
    each, or None for label maps. Images are resampled within their fold. The choice itself is not repeated.

    Source: as `wsss.ops.bootstrap.mean_iou_interval`.
    """
    rows = {}
    for instance in measured:
        if instance.fingerprint not in rows:
            rows[instance.fingerprint] = torch.from_numpy(counted(instance, split).rows[split])
    num_classes = len(measured[0].taxonomy) + 1
    folds = []
    for fold, (instance, threshold) in enumerate(zip(measured, thresholds, strict=True)):
        own_PV = rows[instance.fingerprint]
        own_PV = own_PV[own_PV[:, 0] % FOLDS == fold]
        folds.append(image_sums(own_PV, threshold=threshold, num_classes=num_classes))
    return resampled_interval(folds, seed=seed)


def image_sums(rows_PV: Tensor, *, threshold: float | None, num_classes: int) -> Tensor:
    """The class sums of every image at one threshold, int64 [I,C,3], from its `image_rows`; None: of label maps."""
    above_PV = at_thresholds(rows_PV[:, ROW_START:].to(torch.int64))
    num_bins = above_PV.shape[1] // 2
    place = 0 if threshold is None else bin_of(threshold)
    kept_P3 = above_PV[:, [0, 1 + place, 1 + num_bins + place]]
    images, image_P = rows_PV[:, 0].unique(return_inverse=True)
    sums_IC3 = torch.zeros((len(images), num_classes, 3), dtype=torch.int64)
    sums_IC3[image_P, rows_PV[:, 1].to(torch.int64)] = kept_P3
    return sums_IC3


def resampled_interval(folds_IC3: Sequence[Tensor], *, seed: int) -> tuple[float, float]:
    """The interval of the mean IoU over replicates that draw as many images from each fold as it has."""
    random = torch.Generator().manual_seed(seed)
    num_classes = folds_IC3[0].shape[1]
    sums_RC3 = torch.zeros((REPLICATES, num_classes, 3), dtype=torch.float64)
    for fold_IC3 in folds_IC3:
        size = len(fold_IC3)
        drawn_RI = torch.randint(0, size, (REPLICATES, size), generator=random)
        times_RI = torch.zeros((REPLICATES, size), dtype=torch.float64)
        times_RI.scatter_add_(1, drawn_RI, torch.ones_like(drawn_RI, dtype=torch.float64))
        sums_RC3 += (times_RI @ fold_IC3.reshape(size, -1).to(torch.float64)).view(REPLICATES, num_classes, 3)
    hits_RC1, union_RC1 = hits_and_union(sums_RC3)
    values_R = mean_over_classes(hits_RC1, union_CN=union_RC1)[:, 0]
    share = (1 - LEVEL) / 2
    low, high = torch.nanquantile(values_R, torch.tensor([share, 1 - share], dtype=values_R.dtype)).tolist()
    return low, high
