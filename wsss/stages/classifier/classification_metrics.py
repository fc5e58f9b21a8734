"""Average precision and F1 of a multi-label classifier, by torchmetrics.

Shape letters: `N` images, `C` foreground classes.
"""

from __future__ import annotations

import numpy as np
import torch
from torchmetrics.functional.classification import binary_average_precision, binary_f1_score


def classification_metrics(
    scores_NC: np.ndarray, *, truth_NC: np.ndarray, known_NC: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, float]:
    """Average precision f64[C], F1 f64[C] and micro F1, at probability 0.5.

    `scores_NC` f64 in [0, 1], `truth_NC` bool; `known_NC` bool, false if it was not annotated whether an image has a
    class: such pairs are ignored. NaN for a class that no image is known to show.
    """
    known = torch.ones(truth_NC.shape, dtype=torch.bool) if known_NC is None else torch.from_numpy(known_NC)
    scores, truth = torch.from_numpy(scores_NC), torch.from_numpy(truth_NC) & known
    precision_C, f1_C = np.full((2, truth.shape[1]), np.nan)
    for c in range(truth.shape[1]):
        looked, shown = scores[known[:, c], c], truth[known[:, c], c].long()
        if shown.any():
            precision_C[c] = float(binary_average_precision(looked, shown))
            f1_C[c] = float(binary_f1_score(looked, shown))
    micro = float(binary_f1_score(scores[known], truth[known].long())) if known.any() else 0.0
    return precision_C, f1_C, micro
