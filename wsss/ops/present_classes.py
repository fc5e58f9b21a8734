"""Label maps of one image in terms of the few classes that it holds, so that counts do not grow with all classes.

Shape letters: C classes with background, K of them in the image, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from wsss.ops.confusion import confusion_matrix, require_labels

MOST_IN_BYTES = 254
"""Largest K that is numbered in bytes: K itself is the number of ignored pixels, and 255 is free."""


class PresentLabels(NamedTuple):
    """Label maps numbered by the classes present: 0..K-1 for `ids`, and K for ignored pixels."""

    maps: tuple[Tensor, ...]
    """[H,W] each, uint8; int32 if K is above `MOST_IN_BYTES`."""
    ids: Tensor
    """int64 [K]: the class ids, ascending; the background is always first."""

    @property
    def ignore_index(self) -> int:
        """K."""
        return len(self.ids)


def present_labels(*maps_HW: Tensor, num_classes: int, ignore_index: int, also: Sequence[int] = ()) -> PresentLabels:
    """Number the labels of an image's maps by the classes in any of them, the background and `also`.

    Shapes: maps [H,W] of any integer type, labels 0..C-1 and `ignore_index`. The order of classes is kept.

    Raises: ValueError for other labels.
    Source: ours.
    """
    is_present = torch.zeros(num_classes, dtype=torch.bool)
    is_present[[0, *also]] = True
    for label_HW in maps_HW:
        if label_HW.numel() and int(label_HW.min()) < 0:
            require_labels(label_HW, num_classes=num_classes, name="a label map")
        found = torch.bincount(label_HW.flatten()).nonzero()[:, 0]
        found = found[found != ignore_index]
        require_labels(found, num_classes=num_classes, name="a label map")
        is_present[found] = True
    ids_K = is_present.nonzero()[:, 0]
    dtype = torch.uint8 if len(ids_K) <= MOST_IN_BYTES else torch.int32
    table = torch.full((max(num_classes, ignore_index + 1),), len(ids_K), dtype=dtype)
    table[ids_K] = torch.arange(len(ids_K)).to(dtype)
    # Several times faster than indexing with a tensor of the map's shape.
    numbered = (table.index_select(0, label_HW.flatten().to(torch.int32)).view(label_HW.shape) for label_HW in maps_HW)
    return PresentLabels(tuple(numbered), ids_K)


class PresentConfusion(NamedTuple):
    """The cells of a confusion matrix that an image can fill."""

    ids: Tensor
    """int64 [K]: the class ids, ascending; the background is always first."""
    matrix: Tensor
    """int64 [K,K], rows = truth."""


def present_confusion(
    truth_HW: Tensor, prediction_HW: Tensor, *, num_classes: int, ignore_index: int
) -> PresentConfusion:
    """`confusion_matrix` of one image without the rows and columns of classes that are in neither map.

    Raises: ValueError as `confusion_matrix` does, also for a prediction that is `ignore_index` where the truth is not.

    Source: ours.
    """
    if truth_HW.shape != prediction_HW.shape:
        raise ValueError(
            f"truth is {list(truth_HW.shape)}, prediction {list(prediction_HW.shape)}; "
            "resize the prediction to the truth, which is never resized"
        )
    found = present_labels(truth_HW, prediction_HW, num_classes=num_classes, ignore_index=ignore_index)
    truth_HW, prediction_HW = found.maps
    try:
        matrix_KK = confusion_matrix(
            truth_HW, prediction_HW, num_classes=len(found.ids), ignore_index=found.ignore_index
        )
    except ValueError:  # the only label that is left to refuse
        raise ValueError(
            f"the prediction has {ignore_index} (undecided) where the truth has not; decide every pixel"
        ) from None
    return PresentConfusion(found.ids, matrix_KK)
