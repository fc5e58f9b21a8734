"""From the features of all shards to the prototypes of every class.

Shape letters: `N` features, `D` channels, `L` learned classes, `P` prototypes, `Q` context prototypes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from wsss.contract.counts import Counts
from wsss.ops.cosine_kmeans import cosine_kmeans
from wsss.ops.prototype_cam import class_response, kept_contexts, kept_prototypes
from wsss.stages.classifier.prototype_features import CONTEXT, OBJECT, drawn_number
from wsss.stages.classifier.prototype_settings import PrototypeSettings


class ClassPrototypes(NamedTuple):
    """What was found for one class."""

    prototypes: Tensor
    """f32[P, D]; P = 0 if no feature was found."""
    contexts: Tensor
    """f32[Q, D]."""
    num_features: tuple[int, int]
    """Features of the class that were clustered, and of its context."""
    largest_response: float
    """The largest probability of the class that the classifier gives to a cluster of its features; 0 without one."""


def cluster_classes(
    counts: Counts, *, weights_LD: Tensor, learned: Sequence[int], stage: PrototypeSettings, seed: int
) -> dict[int, ClassPrototypes]:
    """Class -> its prototypes, for the classes `learned`, which the rows of `weights_LD` belong to.

    The features may come in any order: they are sorted by image and position first. Bytes do not depend on the number
    of threads of this process.
    """
    found = _Features(counts, num_channels=weights_LD.shape[1])
    with _one_thread():
        return {
            class_id: _prototypes(found, class_id, weights_LD=weights_LD, row=row, stage=stage, seed=seed)
            for row, class_id in enumerate(learned)
        }


class _Features:
    """The rows of all shards, sorted."""

    def __init__(self, counts: Counts, *, num_channels: int) -> None:
        empty: dict[str, np.ndarray] = {"features": np.zeros((0, num_channels), np.float16)}
        empty |= {name: np.zeros(0, np.int64) for name in ("keys", "classes", "roles", "places")}
        rows: Mapping[str, np.ndarray] = counts.rows or empty
        self._order = np.lexsort((rows["places"], rows["keys"], rows["roles"], rows["classes"]))
        self._of, self._features = rows["classes"][self._order] * 2 + rows["roles"][self._order], rows["features"]

    def of(self, class_id: int, role: int) -> Tensor:
        """f32[N, D]."""
        begin, end = np.searchsorted(self._of, [class_id * 2 + role, class_id * 2 + role + 1])
        return torch.from_numpy(self._features[self._order[begin:end]]).float()


def _prototypes(
    found: _Features, class_id: int, *, weights_LD: Tensor, row: int, stage: PrototypeSettings, seed: int
) -> ClassPrototypes:
    kept: list[Tensor] = []
    numbers: list[int] = []
    largest = 0.0
    for role in (OBJECT, CONTEXT):
        features_ND = found.of(class_id, role)
        centres_KD, _ = cosine_kmeans(
            features_ND,
            num_clusters=stage.num_clusters,
            num_iterations=stage.num_iterations,
            generator=torch.Generator().manual_seed(drawn_number(f"clusters {seed} {class_id} {role}")),
        )
        response_K = class_response(centres_KD, weights_LD=weights_LD, row=row)
        numbers.append(len(features_ND))
        if role == OBJECT:
            largest = float(response_K.max()) if len(response_K) else 0.0
            kept.append(kept_prototypes(centres_KD, response_K=response_K, threshold=stage.prototype_threshold))
        else:
            lower, upper = stage.context_lower_threshold, stage.context_upper_threshold
            kept.append(kept_contexts(centres_KD, response_K=response_K, lower=lower, upper=upper))
    return ClassPrototypes(kept[OBJECT], kept[CONTEXT], (numbers[OBJECT], numbers[CONTEXT]), largest)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute with one thread: sums of floats are grouped by thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
