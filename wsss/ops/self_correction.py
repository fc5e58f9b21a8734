"""Linear self-correction: soft labels that combine the predictions of an ancillary model and of the network itself.

Shape letters: B batch, C classes, H W pixels.
"""

from __future__ import annotations

from torch import Tensor


def linear_self_correction(logits_BCHW: Tensor, *, ancillary_BCHW: Tensor, alpha: float) -> Tensor:
    """Corrected logits, (l + alpha l_anc) / (1 + alpha); their softmax is the target of the images without masks.

    Logits of the network and of the ancillary model, float [B,C,H,W]; alpha >= 0: 0 uses only the network, infinity
    would use only the ancillary model. The result has a gradient; `soft_cross_entropy_sum` takes targets as constants.

    Raises: ValueError if shapes differ or alpha is negative or not finite.
    Source: Ibrahim et al., CVPR 2020 (self-correcting networks), linear self-correction.  Differs: as published.
    """
    if logits_BCHW.shape != ancillary_BCHW.shape:
        raise ValueError(
            f"logits are {list(logits_BCHW.shape)} and the ancillary model's {list(ancillary_BCHW.shape)}; "
            "both must have the same shape [B,C,H,W]: resize them first"
        )
    if not 0 <= alpha < float("inf"):
        raise ValueError(f"alpha = {alpha}; give a finite number of at least 0 (published: from 30 down to 0.5)")
    return (logits_BCHW + alpha * ancillary_BCHW) / (1 + alpha)


def annealed_alpha(step: int, *, num_steps: int, first_alpha: float, last_alpha: float) -> float:
    """Weight of the ancillary model at a step: first (last / first)^(k / (n - 1)) for k = 0..n-1.

    Both ends are reached: `first_alpha` at step 0, `last_alpha` at step num_steps - 1. A schedule of one step is
    `first_alpha`.

    Raises: ValueError for alphas that are not positive, and for a step outside the schedule.
    Source: Ibrahim et al., CVPR 2020 (self-correcting networks): from 30 to 0.5.  Differs: the paper does not give the
    form of the schedule; this one is from a public re-implementation.
    """
    if not (first_alpha > 0 and last_alpha > 0):
        raise ValueError(
            f"first_alpha = {first_alpha} and last_alpha = {last_alpha}; both must be above 0 (published: 30 and 0.5)"
        )
    if not 0 <= step < num_steps:
        raise ValueError(f"step {step} is outside a schedule of num_steps = {num_steps}; give 0..{num_steps - 1}")
    return first_alpha * (last_alpha / first_alpha) ** (step / max(num_steps - 1, 1))
