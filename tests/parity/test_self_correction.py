"""Self-correction against a public re-implementation (the authors published no code)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from wsss.losses.soft_cross_entropy import soft_cross_entropy_sum
from wsss.models.correction import ConvSelfCorrection
from wsss.ops.self_correction import annealed_alpha, linear_self_correction

GOLDEN = np.load(Path(__file__).parent / "data" / "self_correction.npz", allow_pickle=False)
CASES = [(case, float(alpha)) for case in range(int(GOLDEN["n_cases"])) for alpha in GOLDEN[f"c{case}_alphas"]]


def golden(case: int, name: str) -> Tensor:
    return torch.from_numpy(GOLDEN[f"c{case}_{name}"])


@pytest.mark.parametrize(("case", "alpha"), CASES)
def test_corrected_logits(case: int, alpha: float) -> None:
    found = linear_self_correction(golden(case, "logits"), ancillary_BCHW=golden(case, "logits_anc"), alpha=alpha)
    torch.testing.assert_close(found, golden(case, f"a{alpha:g}_logits_refined"), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.softmax(1), golden(case, f"a{alpha:g}_q"), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("case", "alpha"), CASES)
def test_loss_and_gradient_with_the_target_held_constant(case: int, alpha: float) -> None:
    logits = golden(case, "logits").double().requires_grad_()
    corrected = linear_self_correction(logits, ancillary_BCHW=golden(case, "logits_anc").double(), alpha=alpha)
    term = soft_cross_entropy_sum(logits, target_BCHW=corrected.softmax(1), valid_BHW=None)
    loss = term.numerator / term.count
    assert loss.item() == pytest.approx(float(golden(case, f"a{alpha:g}_soft_ce_f64")), rel=1e-6)
    (found,) = torch.autograd.grad(loss, logits)
    wanted = golden(case, f"a{alpha:g}_grad_logits")
    tolerance = 1e-5 * float(wanted.abs().max())
    assert float((found - wanted).abs().max()) < tolerance
    if case == 0:
        other = golden(case, f"a{alpha:g}_grad_logits_if_not_detached")
        assert float((found - other).abs().max()) > 1000 * tolerance


@pytest.mark.parametrize("case", [0, 1])
def test_schedule(case: int) -> None:
    steps = int(golden(case, "schedule_total_steps"))
    found = [annealed_alpha(step, num_steps=steps, first_alpha=30, last_alpha=0.5) for step in range(steps)]
    assert found == pytest.approx(golden(case, "schedule_alpha").tolist(), rel=1e-12)


def test_convolutional_correction() -> None:
    correction = ConvSelfCorrection(5)
    weights = {f"layers.{n}.{part}": golden(0, f"conv_net_{n}_{part}") for n in (0, 2) for part in ("weight", "bias")}
    correction.load_state_dict(weights)
    logits = golden(0, "logits")
    with torch.no_grad():
        corrected = correction(logits, golden(0, "logits_anc"))
    torch.testing.assert_close(corrected, golden(0, "conv_logits_refined"), rtol=1e-5, atol=1e-5)
    term = soft_cross_entropy_sum(logits, target_BCHW=corrected.softmax(1), valid_BHW=None)
    assert float(term.numerator / term.count) == pytest.approx(float(golden(0, "conv_soft_ce")), rel=1e-5)
