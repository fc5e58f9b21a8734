"""Mean IoU of FickleNet's rule at every theta, from one pass over the stochastic maps.

A pixel is foreground if the largest of its stochastic maps is above theta. Its class is, among the classes with a map
above theta, the one with the highest mean map; so the winner depends on theta, unlike for a background threshold. With
the classes in the order of their means, the k-th wins at the thetas from the largest peak of those before it up to its
own peak. It is counted with 1 in the bin of its own peak and with -1 in the bin of that largest peak: sums over bins
>= i, which every function of `threshold_curve` uses, are then the pixels that it wins at theta = i/256.

Shape letters: C classes with background, K classes scored, L winners, H W pixels, N bins.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from wsss.ops.confusion import require_labels
from wsss.ops.threshold_curve import NUM_BINS, require_scores

_BELOW_EVERY_THETA = -1


def peak_winners(classes: Sequence[int]) -> list[int]:
    """Columns of `peak_counts`: the scored classes, then the background, for pixels whose peaks are all 0."""
    return [*(int(c) for c in classes), 0]


def peak_counts(
    mean_KHW: Tensor,
    *,
    peak_KHW: Tensor,
    classes: Sequence[int],
    truth_HW: Tensor,
    num_classes: int,
    ignore_index: int,
) -> Tensor:
    """Signed pixel counts of one image by (truth, winner, bin); `confusion_at`, `curve` and `class_sums` read them.

    Shapes: mean and peak [K,H,W] in [0, 1] at the truth's size, K class ids, truth integer [H,W]; result int64
    [C,L,256], one column for every one of `peak_winners(classes)`. `num_classes` counts the background. The sum over
    bins >= i of a class's column is the number of pixels that it wins at theta = i/256, where peak > theta is strict.
    Every counted pixel adds 1 to the total over all winners and bins. Equal means: the class listed first.

    Raises: ValueError as `image_counts` does.

    Source: the rule: Lee et al., CVPR 2019 (FickleNet), section 3.3, as `ficklenet_label`. The counts are ours.
    """
    require_scores(mean_KHW, classes=classes, truth_HW=truth_HW, num_classes=num_classes)
    require_scores(peak_KHW, classes=classes, truth_HW=truth_HW, num_classes=num_classes)
    counted_HW = truth_HW != ignore_index
    truth_P = truth_HW[counted_HW].to(torch.int64)
    require_labels(truth_P, num_classes=num_classes, name="truth")
    num_winners = len(classes) + 1
    first_cell_P = truth_P * (num_winners * NUM_BINS)
    counts = torch.zeros(num_classes * num_winners * NUM_BINS, dtype=torch.int64, device=truth_HW.device)
    for winner_P, bin_P, chosen_P, sign in _changes(mean_KHW[:, counted_HW], peak_KHW[:, counted_HW]):
        cell = (first_cell_P + winner_P * NUM_BINS + bin_P)[chosen_P]
        counts += sign * torch.bincount(cell, minlength=len(counts))
    return counts.view(num_classes, num_winners, NUM_BINS)


def _changes(mean_KP: Tensor, peak_KP: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor, int]]:
    """(winner, bin, pixels, sign) of everything that is counted."""
    # peak > i / 256  <=>  i <= ceil(256 * peak) - 1
    bin_KP = (peak_KP.float() * NUM_BINS).ceil().clamp(0, NUM_BINS).to(torch.int64) - 1
    order_KP = mean_KP.sort(dim=0, descending=True, stable=True).indices
    highest_P = torch.full(mean_KP.shape[1:], _BELOW_EVERY_THETA, dtype=torch.int64, device=mean_KP.device)
    for winner_P in order_KP:
        bin_P = bin_KP.gather(0, winner_P[None])[0]
        wins_P = bin_P > highest_P
        yield winner_P, bin_P, wins_P, 1
        yield winner_P, highest_P, wins_P & (highest_P > _BELOW_EVERY_THETA), -1
        highest_P = torch.maximum(highest_P, bin_P)
    background_P = torch.full_like(highest_P, len(mean_KP))
    yield background_P, torch.zeros_like(highest_P), highest_P == _BELOW_EVERY_THETA, 1
