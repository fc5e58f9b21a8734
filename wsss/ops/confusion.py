"""The confusion matrix and the scores computed from it.

Shape letters: C classes with background, H W pixels. Rows are the truth, columns the prediction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor

_UNDECIDED = 255
_BYTES = 256
"""Values of a uint8."""


def confusion_matrix(
    truth_HW: Tensor,
    prediction_HW: Tensor,
    *,
    num_classes: int,
    ignore_index: int,
    undecided_as: int | None = None,
) -> Tensor:
    """Pixels by true and predicted class, N_tp = #{pixels with truth t, prediction p}, without truth = `ignore_index`.

    Shapes: two label maps of the same shape, any integer dtype; result int64 [C,C], to be summed over images.
    `num_classes` counts the background. `undecided_as` names the class that an undecided pixel of a prediction counts
    as: 255, or `ignore_index` if there are more than 255 classes.

    Raises: ValueError for different shapes, for labels outside 0..C-1, and for an undecided pixel in a prediction if
    `undecided_as` is not given: the usual bincount would silently count such a pixel in another cell.

    Two uint8 maps and at most 255 classes take one pass over the pixels. `present_confusion` is for more classes.

    Source: the protocol of PASCAL VOC.  Differs: irn counts 255 as background silently; here that is
    `undecided_as=0`.
    """
    if truth_HW.shape != prediction_HW.shape:
        raise ValueError(
            f"truth is {list(truth_HW.shape)}, prediction {list(prediction_HW.shape)}; "
            "resize the prediction to the truth, which is never resized"
        )
    if truth_HW.dtype == prediction_HW.dtype == torch.uint8 and num_classes <= _UNDECIDED:
        pairs, num_counted = _byte_pairs(truth_HW, prediction_HW, ignore_index=ignore_index, undecided_as=undecided_as)
        confusion_CC = pairs[:num_classes, :num_classes].clone()
        if int(confusion_CC.sum()) == num_counted:
            return confusion_CC
        # Some label is not allowed: the checks below find which one.
    # Ignored pixels are counted in an extra last cell, which is faster than selecting the others.
    counted = truth_HW != ignore_index
    truth = torch.where(counted, truth_HW, 0).to(torch.int64)
    prediction = torch.where(counted, prediction_HW, 0).to(torch.int64)
    undecided = _UNDECIDED if num_classes <= _UNDECIDED else ignore_index
    if undecided_as is not None:
        prediction = torch.where(prediction == undecided, undecided_as, prediction)
    elif bool((prediction == undecided).any()):
        raise ValueError(
            f"the prediction has {undecided} (undecided); decide every pixel, or give undecided_as "
            "(0 counts such pixels as background)"
        )
    require_labels(truth, num_classes=num_classes, name="truth")
    require_labels(prediction, num_classes=num_classes, name="prediction")
    num_cells = num_classes**2
    cell = torch.where(counted, truth * num_classes + prediction, num_cells).flatten()
    return torch.bincount(cell, minlength=num_cells + 1)[:num_cells].view(num_classes, num_classes)


def _byte_pairs(
    truth_HW: Tensor, prediction_HW: Tensor, *, ignore_index: int, undecided_as: int | None
) -> tuple[Tensor, int]:
    """Pixels by true and predicted byte, int64 [256,256], and their number without the ignored ones.

    One pass over the pixels; everything else is computed from the table.
    """
    pair_HW = prediction_HW.to(torch.int32).add_(truth_HW, alpha=_BYTES)
    pairs, num_counted = torch.bincount(pair_HW.flatten(), minlength=_BYTES**2).view(_BYTES, _BYTES), pair_HW.numel()
    if 0 <= ignore_index < _BYTES:
        num_counted -= int(pairs[ignore_index].sum())
        pairs[ignore_index] = 0
    if undecided_as is not None and 0 <= undecided_as < _BYTES:
        undecided = pairs[:, _UNDECIDED].clone()
        pairs[:, _UNDECIDED] = 0
        pairs[:, undecided_as] += undecided
    return pairs, num_counted


def require_labels(labels: Tensor, *, num_classes: int, name: str) -> None:
    """Raise ValueError if a label is outside 0..num_classes-1."""
    if labels.numel() == 0:
        return
    low, high = (int(bound) for bound in torch.aminmax(labels))
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"{name} has labels from {low} to {high}; allowed: 0..{num_classes - 1} "
            f"(num_classes is {num_classes}, background counted)"
        )


def class_iou(hits: Tensor, *, in_truth: Tensor, in_prediction: Tensor) -> Tensor:
    """Hits over union, TP / (truth + prediction - TP), float64; NaN for a class that is in neither."""
    union = (in_truth + in_prediction - hits).to(torch.float64)
    return torch.where(union > 0, hits / union, torch.nan)


def activation_rates(confusion_CC: Tensor) -> tuple[float, float]:
    """Over- and under-activation of int64 [C,C], rows = truth; both in [0, 1], NaN without such pixels.

    Over-activation, the false positive rate: background pixels predicted as any class / background pixels.
    Under-activation, the false negative rate: pixels of any class predicted as background / pixels of any class.
    Confusions between classes count as neither; mean IoU measures these.

    Source: Wang et al., CVPR 2020 (SEAM), m_FP and m_FN.  Differs: theirs are means over classes of
    FP_c / TP_c and FN_c / TP_c, without a bound and undefined for a class without hits; ours are rates over pixels.
    """
    background, foreground = int(confusion_CC[0].sum()), int(confusion_CC[1:].sum())
    taken, lost = int(confusion_CC[0, 1:].sum()), int(confusion_CC[1:, 0].sum())
    return (
        taken / background if background else float("nan"),
        lost / foreground if foreground else float("nan"),
    )


class ConfusedPair(NamedTuple):
    """Pixels of one class that are predicted as another."""

    truth: int
    prediction: int
    pixels: int
    share: float
    """Fraction of the pixels of the true class."""


def confused_pairs(confusion_CC: Tensor, *, num_pairs: int) -> list[ConfusedPair]:
    """At most `num_pairs` cells off the diagonal of int64 [C,C], rows = truth: sorted by fraction of the true class.

    Fractions rather than pixels, because mean IoU weighs every class equally: by pixels, only large classes and the
    background would be listed. Equal fractions: the cell with more pixels first, then lower class ids. Empty cells are
    excluded.

    Source: ours.
    """
    wrong_CC = confusion_CC - torch.diag(confusion_CC.diagonal())
    truth, prediction = wrong_CC.nonzero(as_tuple=True)
    pixels, in_truth = wrong_CC[truth, prediction], confusion_CC.sum(dim=1)[truth]
    cells = zip(
        truth.tolist(), prediction.tolist(), pixels.tolist(), (pixels.double() / in_truth).tolist(), strict=True
    )
    return sorted((ConfusedPair(*cell) for cell in cells), key=lambda p: (-p.share, -p.pixels, *p[:2]))[:num_pairs]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores from a confusion matrix over a whole data set. All in [0, 1], NaN if undefined.

    Four means of the same IoU, which differ in the classes they are taken over:

    - `mean_iou`, the field's and the challenge's: classes in truth or prediction. The set of classes depends
      on the prediction: for a class absent from the truth, one wrong pixel adds a zero to the mean. So a network that
      never predicts rare classes is averaged over fewer classes, and its mean is higher if the images lack some
      classes; two networks may be averaged over different classes.
    - `mean_iou_present`: classes in the truth. Determined by the images only, so the same for every network. A class
      that is never predicted counts as zero; a pixel predicted as an absent class lowers the IoU of the pixel's true
      class. `mean_accuracy` is the mean recall of just these classes, `num_skipped_classes` how many of them have a
      recall of zero.
    - `mean_iou_all_classes`: all classes of the list, a class in neither counted as 0. A floor, never above the others
      that include the background.
    - `mean_iou_foreground`: as `mean_iou`, without the background, whose IoU is high in every system.
    """

    iou_per_class: Tensor
    """Intersection over union, float64; NaN for a class in neither truth nor prediction."""
    accuracy_per_class: Tensor
    """Recall, float64; NaN for a class that is not in the truth."""
    precision_per_class: Tensor
    """Hits over pixels predicted, float64; NaN for a class that is never predicted."""
    mean_iou: float
    """Mean of `iou_per_class` without NaN: a class that is only predicted counts as 0, an absent one not at all."""
    mean_iou_present: float
    """Mean of `iou_per_class` over the classes that the truth holds."""
    mean_iou_all_classes: float
    """Sum of `iou_per_class` without NaN, over the number of all classes."""
    mean_iou_foreground: float
    """Mean of `iou_per_class[1:]` without NaN."""
    mean_accuracy: float
    """Mean of `accuracy_per_class` without NaN: the mean recall of the classes that the truth holds."""
    pixel_accuracy: float
    freq_weighted_iou: float
    """sum_c (fraction of c in the truth) * IoU_c."""
    num_absent_classes: int
    """Classes in neither truth nor prediction, which the mean excludes."""
    num_skipped_classes: int
    """Classes in the truth of which no pixel is predicted correctly."""

    @classmethod
    def from_confusion(cls, confusion_CC: Tensor) -> Self:
        """Scores of int64 [C,C], rows = truth; merge matrices by addition first, never scores by averaging.

        Raises: ValueError for a matrix that is not square.

        Source: Long et al., CVPR 2015, section 5.  Differs: classes absent from both are excluded from the mean.
        """
        if confusion_CC.ndim != 2 or confusion_CC.shape[0] != confusion_CC.shape[1]:
            raise ValueError(f"the confusion matrix is {list(confusion_CC.shape)}; allowed: square, [C,C]")
        hits = confusion_CC.diagonal()
        in_truth, in_prediction = confusion_CC.sum(dim=1), confusion_CC.sum(dim=0)
        iou = class_iou(hits, in_truth=in_truth, in_prediction=in_prediction)
        accuracy = torch.where(in_truth > 0, hits.to(torch.float64) / in_truth, torch.nan)
        precision = torch.where(in_prediction > 0, hits.to(torch.float64) / in_prediction, torch.nan)
        total = int(in_truth.sum())
        weighted = float((in_truth * iou.nan_to_num(0.0)).sum())
        return cls(
            iou_per_class=iou,
            accuracy_per_class=accuracy,
            precision_per_class=precision,
            mean_iou=float(iou.nanmean()),
            mean_iou_present=float(iou[in_truth > 0].mean()),
            mean_iou_all_classes=float(iou.nansum()) / len(iou) if in_prediction.any() else float("nan"),
            mean_iou_foreground=float(iou[1:].nanmean()),
            mean_accuracy=float(accuracy.nanmean()),
            pixel_accuracy=int(hits.sum()) / total if total else float("nan"),
            freq_weighted_iou=weighted / total if total else float("nan"),
            num_absent_classes=int(iou.isnan().sum()),
            num_skipped_classes=int(((in_truth > 0) & (hits == 0)).sum()),
        )
