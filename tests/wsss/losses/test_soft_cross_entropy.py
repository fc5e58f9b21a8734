from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from wsss.losses.soft_cross_entropy import soft_cross_entropy_sum


def inputs(batch: int, classes: int, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(batch * classes)
    logits = torch.randn(batch, classes, height, width, generator=generator, dtype=torch.float64)
    target = torch.randn(batch, classes, height, width, generator=generator, dtype=torch.float64).softmax(1)
    return logits, target, torch.rand(batch, height, width, generator=generator) < 0.7


def test_by_hand() -> None:
    logits = torch.tensor([0.0, math.log(3.0)]).view(1, 2, 1, 1)
    term = soft_cross_entropy_sum(logits, target_BCHW=torch.tensor([0.25, 0.75]).view(1, 2, 1, 1), valid_BHW=None)
    assert term.count == 1
    assert float(term.numerator) == pytest.approx(0.25 * math.log(4) + 0.75 * math.log(4 / 3))


@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (3, 5, 2, 11)])
def test_definition(shape: tuple[int, int, int, int]) -> None:
    logits, target, valid = inputs(*shape)
    term = soft_cross_entropy_sum(logits, target_BCHW=target, valid_BHW=valid)
    total, count = 0.0, 0
    for b, y, x in valid.nonzero().tolist():
        normaliser = math.log(sum(math.exp(v) for v in logits[b, :, y, x].tolist()))
        pairs = zip(logits[b, :, y, x].tolist(), target[b, :, y, x].tolist(), strict=True)
        total += sum(q * (normaliser - value) for value, q in pairs)
        count += 1
    assert term.count == count and not term.count.is_floating_point()
    assert float(term.numerator) == pytest.approx(total, rel=1e-12)


def test_one_hot_targets_give_the_ordinary_cross_entropy() -> None:
    logits, _, valid = inputs(2, 3, 5, 7)
    label = torch.randint(0, 3, (2, 5, 7), generator=torch.Generator().manual_seed(0))
    one_hot = F.one_hot(label, 3).movedim(-1, 1).double()
    term = soft_cross_entropy_sum(logits, target_BCHW=one_hot, valid_BHW=valid)
    wanted = F.cross_entropy(logits, label.masked_fill(~valid, 255), ignore_index=255, reduction="sum")
    torch.testing.assert_close(term.numerator, wanted)


def test_gradient() -> None:
    logits, target, valid = inputs(2, 3, 3, 5)

    def numerator(given: Tensor) -> Tensor:
        return soft_cross_entropy_sum(given, target_BCHW=target, valid_BHW=valid).numerator

    assert torch.autograd.gradcheck(numerator, (logits.requires_grad_(),))


def test_the_target_gets_no_gradient_and_invalid_pixels_none_either() -> None:
    logits, target, valid = inputs(2, 3, 5, 7)
    logits, target = logits.requires_grad_(), target.requires_grad_()
    soft_cross_entropy_sum(logits, target_BCHW=target, valid_BHW=valid).numerator.backward()
    assert target.grad is None
    assert logits.grad is not None
    assert torch.equal((logits.grad != 0).any(1), valid)


def test_without_valid_pixels_it_is_0_of_0() -> None:
    logits, target, valid = inputs(2, 3, 5, 7)
    term = soft_cross_entropy_sum(logits, target_BCHW=target, valid_BHW=torch.zeros_like(valid))
    assert term.numerator == 0 and term.count == 0


def test_sums_of_two_ranks_add_up_to_the_whole_batch() -> None:
    logits, target, valid = inputs(3, 2, 5, 7)
    whole = soft_cross_entropy_sum(logits, target_BCHW=target, valid_BHW=valid)
    parts = [
        soft_cross_entropy_sum(logits[rows], target_BCHW=target[rows], valid_BHW=valid[rows])
        for rows in (slice(1), slice(1, None))
    ]
    assert whole.count == sum(part.count for part in parts)
    torch.testing.assert_close(whole.numerator, parts[0].numerator + parts[1].numerator)


def test_shapes_must_fit() -> None:
    logits, target, valid = inputs(2, 3, 5, 7)
    with pytest.raises(ValueError, match=r"logits are \[2, 3, 5, 7\], targets \[2, 2, 5, 7\], valid pixels None; give"):
        soft_cross_entropy_sum(logits, target_BCHW=target[:, :2], valid_BHW=None)
    with pytest.raises(ValueError, match=r"valid pixels \[2, 5\]; give"):
        soft_cross_entropy_sum(logits, target_BCHW=target, valid_BHW=valid[..., 0])
