"""DSRG against its public code: growing, the smoothed softmax, both losses and their gradients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from wsss.losses.dsrg import BalancedSeedSums, balanced_seed_sums, boundary_sum, smoothed_softmax
from wsss.losses.masked_mean import MaskedSum
from wsss.ops.region_growing import grow_seeds

GOLDEN = np.load(Path(__file__).parent / "data" / "dsrg.npz", allow_pickle=False)
GROWING = [f"g{case}" for case in range(int(GOLDEN["n_cases"]))]
LOSSES = [f"l{case}" for case in range(int(GOLDEN["n_loss_cases"]))]


def golden(case: str, name: str) -> Tensor:
    return torch.from_numpy(GOLDEN[f"{case}_{name}"])


def mean(term: MaskedSum) -> Tensor:
    return term.numerator / term.count


def seed_loss(sums: BalancedSeedSums) -> Tensor:
    return mean(sums.background) + mean(sums.foreground)


def assert_close(found: Tensor, wanted: Tensor) -> None:
    """The recorded gradients have single precision."""
    assert float((found - wanted).abs().max()) < 1e-5 * float(wanted.abs().max())


@pytest.mark.parametrize("case", GROWING)
def test_growing(case: str) -> None:
    seeds, wanted = golden(case, "seeds"), golden(case, "new_seeds")
    grown = grow_seeds(
        seeds[None],
        probs_BChw=golden(case, "probs")[None],
        present_BC=golden(case, "image_labels")[None],
        foreground_threshold=float(golden(case, "th_fg")),
        background_threshold=float(golden(case, "th_bg")),
    )
    assert torch.equal(grown[0].to(torch.uint8), wanted)
    assert wanted.sum() > 2 * seeds.sum()


@pytest.mark.parametrize("case", LOSSES)
def test_smoothed_softmax(case: str) -> None:
    torch.testing.assert_close(smoothed_softmax(golden(case, "logits")), golden(case, "probs"), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("case", LOSSES)
def test_losses(case: str) -> None:
    probs = smoothed_softmax(golden(case, "logits").double())
    sums = balanced_seed_sums(probs, seeds_BChw=golden(case, "seeds"))
    boundary = boundary_sum(probs, refined_BChw=golden(case, "q_log").double().exp())
    for name, value in (
        ("seed_loss_bg", mean(sums.background)),
        ("seed_loss_fg", mean(sums.foreground)),
        ("balanced_seed_loss", seed_loss(sums)),
        ("constrain_loss", mean(boundary)),
    ):
        assert float(value) == pytest.approx(float(golden(case, f"{name}_f64")), rel=1e-6), name


@pytest.mark.parametrize("case", LOSSES)
def test_gradients_at_the_probabilities(case: str) -> None:
    probs = golden(case, "probs").double().requires_grad_()
    refined_log = golden(case, "q_log").double().requires_grad_()
    (at_seeds,) = torch.autograd.grad(seed_loss(balanced_seed_sums(probs, seeds_BChw=golden(case, "seeds"))), probs)
    assert_close(at_seeds, golden(case, "grad_seed_probs"))
    boundary = mean(boundary_sum(probs, refined_BChw=refined_log.exp()))
    at_probs, at_refined = torch.autograd.grad(boundary, (probs, refined_log))
    assert_close(at_probs, golden(case, "grad_constrain_probs"))
    assert_close(at_refined, golden(case, "grad_constrain_qlog"))


@pytest.mark.parametrize("case", LOSSES)
def test_gradient_of_the_whole_objective(case: str) -> None:
    logits = golden(case, "logits").double().requires_grad_()
    probs = smoothed_softmax(logits)
    seeds = balanced_seed_sums(probs, seeds_BChw=golden(case, "seeds"))
    boundary = boundary_sum(probs, refined_BChw=golden(case, "q_log").double().exp())
    (found,) = torch.autograd.grad(seed_loss(seeds) + mean(boundary), logits)
    assert_close(found, golden(case, "grad_total_logits_q_detached"))


def test_cases_hold_images_without_seeds_of_one_side() -> None:
    """These cases need the guard against division by zero."""
    assert not golden("l1", "seeds")[:, 0].flatten(1).any(1).all()
    assert not golden("l2", "seeds")[:, 1:].flatten(1).any(1).all()
