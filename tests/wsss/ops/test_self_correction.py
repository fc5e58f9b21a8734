from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from wsss.ops.self_correction import annealed_alpha, linear_self_correction


def test_by_hand() -> None:
    logits, ancillary = torch.tensor([[[[1.0]], [[-2.0]]]]), torch.tensor([[[[4.0]], [[1.0]]]])
    found = linear_self_correction(logits, ancillary_BCHW=ancillary, alpha=2)
    assert found.flatten().tolist() == pytest.approx([3.0, 0.0])


def test_ends() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, ancillary = (torch.randn(2, 3, 5, 7, generator=generator) for _ in range(2))
    assert torch.equal(linear_self_correction(logits, ancillary_BCHW=ancillary, alpha=0), logits)
    almost = linear_self_correction(logits, ancillary_BCHW=ancillary, alpha=1e7)
    torch.testing.assert_close(almost, ancillary, rtol=1e-5, atol=1e-5)


def test_permuting_classes_permutes_the_result() -> None:
    generator = torch.Generator().manual_seed(1)
    logits, ancillary = (torch.randn(2, 3, 5, 7, generator=generator) for _ in range(2))
    order = [2, 0, 1]
    permuted = linear_self_correction(logits[:, order], ancillary_BCHW=ancillary[:, order], alpha=5)
    assert torch.equal(permuted, linear_self_correction(logits, ancillary_BCHW=ancillary, alpha=5)[:, order])


@pytest.mark.parametrize("alpha", [-0.5, float("inf"), float("nan")])
def test_alpha_is_finite_and_not_negative(alpha: float) -> None:
    with pytest.raises(ValueError, match=rf"alpha = {alpha}; give a finite number of at least 0"):
        linear_self_correction(torch.zeros(1, 2, 3, 5), ancillary_BCHW=torch.zeros(1, 2, 3, 5), alpha=alpha)


def test_shapes_are_the_same() -> None:
    with pytest.raises(
        ValueError,
        match=r"logits are \[1, 2, 3, 5\] and the ancillary model's \[1, 2, 5, 3\]; both must have",
    ):
        linear_self_correction(torch.zeros(1, 2, 3, 5), ancillary_BCHW=torch.zeros(1, 2, 5, 3), alpha=1)


def test_a_schedule_falls_by_one_factor_from_end_to_end() -> None:
    alphas = [annealed_alpha(step, num_steps=7, first_alpha=30, last_alpha=0.5) for step in range(7)]
    assert alphas[0] == 30 and alphas[-1] == pytest.approx(0.5)
    factors = [after / before for before, after in pairwise(alphas)]
    assert factors == pytest.approx([factors[0]] * 6) and factors[0] < 1
    assert annealed_alpha(0, num_steps=1, first_alpha=30, last_alpha=0.5) == 30


@pytest.mark.parametrize(("step", "num_steps"), [(-1, 5), (5, 5), (0, 0)])
def test_steps_outside_a_schedule_are_refused(step: int, num_steps: int) -> None:
    with pytest.raises(ValueError, match=f"step {step} is outside a schedule of num_steps = {num_steps}"):
        annealed_alpha(step, num_steps=num_steps, first_alpha=30, last_alpha=0.5)


@pytest.mark.parametrize(("first", "last"), [(0, 0.5), (30, 0), (-1, 1), (float("nan"), 1)])
def test_alphas_of_a_schedule_are_positive(first: float, last: float) -> None:
    with pytest.raises(ValueError, match=f"first_alpha = {first} and last_alpha = {last}; both must be above 0"):
        annealed_alpha(0, num_steps=5, first_alpha=first, last_alpha=last)
