from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from wsss.losses.symmetric_cross_entropy import symmetric_cross_entropy


def inputs(batch: int, classes: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(batch * classes)
    logits = 2 * torch.randn(batch, classes, height, width, generator=generator, dtype=torch.float64)
    label = torch.randint(0, classes, (batch, height, width), generator=generator)
    return logits, label.masked_fill(torch.rand(label.shape, generator=generator) < 0.3, 255)


def probability(logits: Tensor, label: Tensor, b: int, y: int, x: int) -> list[float]:
    powers = [math.exp(value) for value in logits[b, :, y, x].tolist()]
    return [power / sum(powers) for power in powers]


def cost_of(logits: Tensor, label: Tensor, *, alpha: float = 0.3, beta: float = 1.7, log_zero: float = -5.0) -> Tensor:
    return symmetric_cross_entropy(logits, label_BHW=label, alpha=alpha, beta=beta, log_zero=log_zero, ignore_index=255)


def test_by_hand() -> None:
    logits = torch.tensor([0.0, math.log(3.0)]).view(1, 2, 1, 1)  # p = 1/4, 3/4
    found = cost_of(logits, torch.tensor([[[1]]]), alpha=0.1, beta=1.0, log_zero=-4.0)
    assert float(found) == pytest.approx(0.1 * math.log(4 / 3) + 4 * 0.25)


@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (3, 5, 2, 11)])
def test_definition(shape: tuple[int, int, int, int]) -> None:
    """Both sums over the classes, with the logarithms of a one-hot label."""
    logits, label = inputs(*shape)
    found = cost_of(logits, label)
    for b, y, x in torch.ones_like(label).nonzero().tolist():
        if label[b, y, x] == 255:
            assert float(found[b, y, x]) == 0
            continue
        p, one = probability(logits, label, b, y, x), int(label[b, y, x])
        direct = -sum((c == one) * math.log(value) for c, value in enumerate(p))
        reverse = -sum(value * (0.0 if c == one else -5.0) for c, value in enumerate(p))
        assert float(found[b, y, x]) == pytest.approx(0.3 * direct + 1.7 * reverse, rel=1e-9)


def test_invariants() -> None:
    logits, label = inputs(2, 3, 5, 7)
    order, place = torch.tensor([2, 0, 1]), torch.tensor([1, 2, 0])
    moved = torch.where(label == 255, label, place[label.clamp(max=2)])
    torch.testing.assert_close(cost_of(logits[:, order], moved), cost_of(logits, label))
    plain = F.cross_entropy(logits, label, ignore_index=255, reduction="none")
    torch.testing.assert_close(cost_of(logits, label, alpha=1.0, beta=0.0), plain)
    reverse = cost_of(logits, label, alpha=0.0, beta=1.0)
    assert (reverse >= 0).all() and (reverse <= 5).all()


def test_gradient() -> None:
    logits, label = inputs(2, 3, 3, 5)
    assert torch.autograd.gradcheck(lambda given: cost_of(given, label), (logits.requires_grad_(),))
    cost_of(logits, label).sum().backward()
    assert logits.grad is not None and torch.equal((logits.grad != 0).any(1), label != 255)


def test_extreme_logits_are_finite() -> None:
    logits = torch.tensor([90.0, -90.0]).view(1, 2, 1, 1).requires_grad_()
    found = cost_of(logits, torch.tensor([[[1]]]))
    found.sum().backward()
    assert found.item() == pytest.approx(0.3 * 180 + 1.7 * 5) and logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("wrong", [{"alpha": -1.0}, {"beta": -0.1}, {"alpha": 0.0, "beta": 0.0}, {"log_zero": 0.0}])
def test_constants_outside_their_range(wrong: dict[str, float]) -> None:
    logits, label = inputs(2, 3, 5, 7)
    with pytest.raises(ValueError, match="allowed: weights of at least 0, not both 0, and a logarithm below 0"):
        cost_of(logits, label, **wrong)
