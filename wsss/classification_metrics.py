"""How well a multi-label classifier ranks and decides, by torchmetrics.

Shape letters: `N` images, `C` foreground classes.
"""

from __future__ import annotations

import numpy as np
import torch
from torchmetrics.functional.classification import binary_average_precision, binary_f1_score


def classification_metrics(scores_NC: np.ndarray, *, truth_NC: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Average precision f64[C], F1 f64[C] and micro F1, at probability 0.5.

    `scores_NC` f64 in [0, 1], `truth_NC` bool. NaN for a class that no image shows.
    """
    scores, truth = torch.from_numpy(scores_NC), torch.from_numpy(truth_NC).long()
    columns = range(truth.shape[1])
    precision_C = torch.stack([binary_average_precision(scores[:, c], truth[:, c]).double() for c in columns])
    f1_C = torch.stack([binary_f1_score(scores[:, c], truth[:, c]).double() for c in columns])
    micro = binary_f1_score(scores.flatten(), truth.flatten())
    not_shown_C = truth.sum(0) == 0
    precision_C[not_shown_C], f1_C[not_shown_C] = torch.nan, torch.nan
    return precision_C.numpy(), f1_C.numpy(), float(micro)
