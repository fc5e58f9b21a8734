from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from wsss.losses.generalised_cross_entropy import generalised_cross_entropy


def inputs(batch: int, classes: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(batch * classes)
    logits = 2 * torch.randn(batch, classes, height, width, generator=generator, dtype=torch.float64)
    label = torch.randint(0, classes, (batch, height, width), generator=generator)
    return logits, label.masked_fill(torch.rand(label.shape, generator=generator) < 0.3, 255)


def probability(logits: Tensor, label: Tensor, b: int, y: int, x: int) -> list[float]:
    powers = [math.exp(value) for value in logits[b, :, y, x].tolist()]
    return [power / sum(powers) for power in powers]


def cost_of(logits: Tensor, label: Tensor, exponent: float = 0.7) -> Tensor:
    return generalised_cross_entropy(logits, label_BHW=label, exponent=exponent, ignore_index=255)


def test_by_hand() -> None:
    logits = torch.tensor([0.0, math.log(3.0)]).view(1, 2, 1, 1)  # p = 1/4, 3/4
    assert float(cost_of(logits, torch.tensor([[[0]]]), 0.5)) == pytest.approx((1 - 0.5) / 0.5)


@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (3, 5, 2, 11)])
@pytest.mark.parametrize("exponent", [0.2, 0.7, 1.0])
def test_definition(shape: tuple[int, int, int, int], exponent: float) -> None:
    logits, label = inputs(*shape)
    found = cost_of(logits, label, exponent)
    for b, y, x in torch.ones_like(label).nonzero().tolist():
        if label[b, y, x] == 255:
            assert float(found[b, y, x]) == 0
            continue
        p = probability(logits, label, b, y, x)[int(label[b, y, x])]
        assert float(found[b, y, x]) == pytest.approx((1 - p**exponent) / exponent, rel=1e-9)


def test_invariants() -> None:
    logits, label = inputs(2, 3, 5, 7)
    order, place = torch.tensor([2, 0, 1]), torch.tensor([1, 2, 0])
    moved = torch.where(label == 255, label, place[label.clamp(max=2)])
    torch.testing.assert_close(cost_of(logits[:, order], moved), cost_of(logits, label))
    plain = F.cross_entropy(logits, label, ignore_index=255, reduction="none")
    torch.testing.assert_close(cost_of(logits, label, 1e-9), plain, msg="the limit is cross entropy")
    costs = [cost_of(logits, label, exponent) for exponent in (0.2, 0.7, 1.0)]
    assert all((costs[n] >= costs[n + 1]).all() for n in range(2)) and (costs[1] <= 1 / 0.7).all()


def test_gradient() -> None:
    logits, label = inputs(2, 3, 3, 5)
    assert torch.autograd.gradcheck(lambda given: cost_of(given, label), (logits.requires_grad_(),))
    cost_of(logits, label).sum().backward()
    assert logits.grad is not None and torch.equal((logits.grad != 0).any(1), label != 255)


def test_extreme_logits_are_finite() -> None:
    logits = torch.tensor([90.0, -90.0]).view(1, 2, 1, 1).requires_grad_()
    found = cost_of(logits, torch.tensor([[[1]]]))
    found.sum().backward()
    assert found.item() == pytest.approx(1 / 0.7) and logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("exponent", [0.0, -0.5, 1.1])
def test_exponents_outside_their_range(exponent: float) -> None:
    logits, label = inputs(2, 3, 5, 7)
    with pytest.raises(ValueError, match=r"exponent = .*; allowed: above 0 and at most 1 \(published: 0.7\)"):
        cost_of(logits, label, exponent)
