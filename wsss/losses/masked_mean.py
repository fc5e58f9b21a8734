"""Means over a subset whose size varies per batch, kept as sum and count so that both can be summed over ranks."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class MaskedSum(NamedTuple):
    """A sum over selected elements and how many were selected; both scalar tensors, to be added over ranks first."""

    numerator: Tensor
    """Sum of the selected elements, float, carries the gradient."""
    count: Tensor  # type: ignore[assignment]  # hides tuple.count, which is not needed here
    """Number of selected elements, int64, or the sum of their weights, float; no gradient."""


def masked_mean(term: MaskedSum, *, eps: float = 1e-5) -> Tensor:
    """Mean over the selected elements, 0 with gradient 0 if there are none.

    numerator / (count + eps) -> scalar of the numerator's dtype.

    Source: public code of Ahn et al., CVPR 2019 (IRNet).  Differs: as published.
    """
    return term.numerator / (term.count.to(term.numerator.dtype) + eps)
