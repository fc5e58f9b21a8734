from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from wsss.losses.dsrg import balanced_seed_sums, boundary_sum, floored_probabilities, smoothed_softmax


def inputs(batch: int, classes: int, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, seeds (none of the background in the first image), refined probabilities; several ratios are clipped."""
    generator = torch.Generator().manual_seed(batch * classes)
    logits, other = (
        2 * torch.randn(batch, classes, height, width, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    seeds = torch.rand(batch, classes, height, width, generator=generator) < 0.3
    seeds[0, 0] = False
    return logits, seeds, floored_probabilities(other.softmax(1))


def test_smoothed_softmax_by_hand() -> None:
    probs = smoothed_softmax(torch.tensor([0.0, math.log(3.0), -1000.0]).view(1, 3, 1, 1)).flatten().tolist()
    assert probs == pytest.approx([0.2501 / 1.0003, 0.7501 / 1.0003, 0.0001 / 1.0003])


def test_floored_probabilities_by_hand() -> None:
    probs = floored_probabilities(torch.tensor([0.0, 0.25, 0.75]).view(1, 3, 1, 1)).flatten().tolist()
    assert probs == pytest.approx([0.0001 / 1.0001, 0.25 / 1.0001, 0.75 / 1.0001])


@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (3, 5, 2, 11)])
def test_seed_sums_are_their_definition(shape: tuple[int, int, int, int]) -> None:
    logits, seeds, _ = inputs(*shape)
    probs = smoothed_softmax(logits)
    sums = balanced_seed_sums(probs, seeds_BChw=seeds)
    for term, classes in ((sums.background, range(1)), (sums.foreground, range(1, shape[1]))):
        total = 0.0
        for b in range(shape[0]):
            costs = [
                -math.log(probs[b, c, y, x].item())
                for c in classes
                for y in range(shape[2])
                for x in range(shape[3])
                if seeds[b, c, y, x]
            ]
            total += sum(costs) / len(costs) if costs else 0.0
        assert float(term.numerator) == pytest.approx(total, rel=1e-12)
        assert term.count == shape[0] and not term.count.is_floating_point()


@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (3, 5, 2, 11)])
def test_boundary_sum_is_its_definition(shape: tuple[int, int, int, int]) -> None:
    logits, _, refined = inputs(*shape)
    probs = smoothed_softmax(logits)
    term = boundary_sum(probs, refined_BChw=refined)
    ratios = refined / probs
    assert (ratios < 0.05).any() and (ratios > 20).any()
    pairs = zip(probs.flatten().tolist(), refined.flatten().tolist(), strict=True)
    wanted = sum(q * math.log(min(max(q / p, 0.05), 20.0)) for p, q in pairs)
    assert float(term.numerator) == pytest.approx(wanted, rel=1e-12)
    assert term.count == shape[0] * shape[2] * shape[3] and not term.count.is_floating_point()


def test_probabilities_that_the_crf_leaves_alone_cost_nothing() -> None:
    probs = smoothed_softmax(inputs(2, 3, 5, 7)[0])
    assert boundary_sum(probs, refined_BChw=probs).numerator == 0


def test_gradients_by_finite_differences() -> None:
    logits, seeds, refined = inputs(2, 3, 3, 5)

    def numerators(given: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        probs = smoothed_softmax(given)
        sums = balanced_seed_sums(probs, seeds_BChw=seeds)
        boundary = boundary_sum(probs, refined_BChw=floored_probabilities(target)).numerator
        return sums.background.numerator, sums.foreground.numerator, boundary

    assert torch.autograd.gradcheck(numerators, (logits.requires_grad_(), refined.requires_grad_()))


def test_clipped_ratios_send_no_gradient() -> None:
    logits, _, refined = inputs(2, 3, 5, 7)
    probs = smoothed_softmax(logits).requires_grad_()
    (gradient,) = torch.autograd.grad(boundary_sum(probs, refined_BChw=refined).numerator, probs)
    ratio = refined / probs
    assert torch.equal(gradient != 0, (ratio >= 0.05) & (ratio <= 20))


def test_sure_logits_stay_finite() -> None:
    logits = torch.tensor([1e4, -1e4, 0.0]).view(1, 3, 1, 1).requires_grad_()
    probs = smoothed_softmax(logits)
    seeds = balanced_seed_sums(probs, seeds_BChw=torch.ones(1, 3, 1, 1))
    refined = floored_probabilities(torch.tensor([0.0, 1.0, 0.0]).view(1, 3, 1, 1))
    loss = sum(term.numerator for term in (*seeds, boundary_sum(probs, refined_BChw=refined)))
    assert isinstance(loss, Tensor) and loss.isfinite()
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.isfinite().all()


def test_permuting_foreground_classes_changes_nothing() -> None:
    logits, seeds, refined = inputs(2, 5, 5, 7)
    order, probs = [0, 3, 1, 4, 2], smoothed_softmax(logits)
    here = *balanced_seed_sums(probs, seeds_BChw=seeds), boundary_sum(probs, refined_BChw=refined)
    probs, seeds, refined = probs[:, order], seeds[:, order], refined[:, order]
    there = *balanced_seed_sums(probs, seeds_BChw=seeds), boundary_sum(probs, refined_BChw=refined)
    for one, other in zip(here, there, strict=True):
        torch.testing.assert_close(one.numerator, other.numerator)


def test_sums_of_two_ranks_add_up_to_the_whole_batch() -> None:
    logits, seeds, refined = inputs(3, 4, 5, 7)
    probs = smoothed_softmax(logits)

    def sums(rows: slice) -> list[tuple[Tensor, Tensor]]:
        terms = (
            *balanced_seed_sums(probs[rows], seeds_BChw=seeds[rows]),
            boundary_sum(probs[rows], refined_BChw=refined[rows]),
        )
        return [(term.numerator, term.count) for term in terms]

    for whole, first, rest in zip(sums(slice(None)), sums(slice(1)), sums(slice(1, None)), strict=True):
        torch.testing.assert_close(whole[0], first[0] + rest[0])
        assert whole[1] == first[1] + rest[1]


def test_shapes_must_fit() -> None:
    probs = torch.full((2, 3, 5, 7), 1 / 3)
    with pytest.raises(ValueError, match=r"probabilities are \[2, 3, 5, 7\] and seeds \[2, 3, 7, 5\]; give"):
        balanced_seed_sums(probs, seeds_BChw=torch.zeros(2, 3, 7, 5))
    with pytest.raises(ValueError, match=r"and refined probabilities \[3, 5, 7\]; give"):
        boundary_sum(probs, refined_BChw=probs[0])
