"""How well a multi-label classifier ranks and decides, by torchmetrics.

Shape letters: `N` images, `C` foreground classes.
"""

from __future__ import annotations

import numpy as np
import torch
from torchmetrics.functional.classification import multilabel_average_precision, multilabel_f1_score


def classification_metrics(scores_NC: np.ndarray, *, truth_NC: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Average precision f64[C], F1 f64[C] and micro F1, at probability 0.5.

    `scores_NC` f64 in [0, 1], `truth_NC` bool. NaN for a class that no image shows.
    """
    scores, truth = torch.from_numpy(scores_NC), torch.from_numpy(truth_NC).long()
    num_labels = truth.shape[1]
    shown_C = truth.sum(0) > 0
    precision_C = multilabel_average_precision(scores, truth, num_labels=num_labels, average="none").double()
    f1_C = multilabel_f1_score(scores, truth, num_labels=num_labels, average="none").double()
    micro = multilabel_f1_score(scores, truth, num_labels=num_labels, average="micro")
    precision_C[~shown_C], f1_C[~shown_C] = torch.nan, torch.nan
    return precision_C.numpy(), f1_C.numpy(), float(micro)
