"""Per-image scores, computed from the rows that the bootstrap stores.

Shape letters: C classes with background, I images, P rows: one per image and class.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from wsss.ops.bootstrap import ROW_START


class ImageScores(NamedTuple):
    """One value per image that has a counted pixel, sorted by image index."""

    images: Tensor
    """Image indices, int64 [I]."""
    mean_iou: Tensor
    """Mean IoU over the classes in the image's truth or prediction, float64 [I]."""
    pixel_accuracy: Tensor
    """float64 [I]."""


def image_scores(rows_PV: Tensor) -> ImageScores:
    """`Scores.mean_iou` and `Scores.pixel_accuracy` of each image, from `image_rows` of label maps, [P,5].

    A row has, for one class in one image, its pixels in the truth, those it wins (for the background: those it loses)
    and those in the prediction (for the background: 0, since it has the remaining pixels). The result does not depend
    on the order of the rows.

    The mean of these values differs from the mean IoU of the data set, and is not an estimate of it: here a class
    counts once per image that contains it, and a few wrong pixels of an absent class lower an image's score a lot.

    Raises: ValueError for rows of more than one bin, which are not from label maps.
    Source: ours.
    """
    if rows_PV.shape[1] != ROW_START + 3:
        raise ValueError(f"rows are {list(rows_PV.shape)}; allowed: [P, {ROW_START + 3}], as computed from label maps")
    # A fixed order for floating point sums, independent of the order in which shards were counted.
    rows_PV = rows_PV[rows_PV[:, 1].argsort(stable=True)]
    rows_PV = rows_PV[rows_PV[:, 0].argsort(stable=True)]
    image_I, place_P = rows_PV[:, 0].long().unique(return_inverse=True)
    of_class_P = rows_PV[:, 1] > 0
    truth_P, own_P, won_P = rows_PV[:, ROW_START:].long().unbind(dim=1)

    def per_image(values_P: Tensor, chosen_P: Tensor) -> Tensor:
        return values_P.new_zeros(len(image_I)).index_add_(0, place_P[chosen_P], values_P[chosen_P])

    everything_P = torch.ones_like(of_class_P)
    total_I, won_I = per_image(truth_P, everything_P), per_image(won_P, of_class_P)
    background_I = per_image(truth_P, ~of_class_P)
    background_hits_I = background_I - per_image(own_P, ~of_class_P)
    background_union_I = background_I + (total_I - won_I) - background_hits_I
    iou_P = own_P.double() / (truth_P + won_P - own_P)
    has_background_I = background_union_I > 0
    background_iou_I = background_hits_I.double() / background_union_I.clamp_min(1)
    num_classes_I = per_image(torch.ones_like(truth_P), of_class_P) + has_background_I
    hits_I = per_image(own_P, of_class_P) + background_hits_I
    return ImageScores(
        images=image_I,
        mean_iou=(per_image(iou_P, of_class_P) + background_iou_I) / num_classes_I,
        pixel_accuracy=hits_I.double() / total_I,
    )
