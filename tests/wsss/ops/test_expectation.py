from __future__ import annotations

import pytest
import torch

from wsss.ops.expectation import em_fixed_label


def test_the_best_class_among_those_allowed_with_its_bonus() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(2, 4, 5, 7, generator=generator)
    allowed = torch.rand(logits.shape, generator=generator) < 0.5
    found = em_fixed_label(logits, allowed_BCHW=allowed, foreground_bias=5.0, background_bias=3.0)
    for b, y, x in torch.cartesian_prod(torch.arange(2), torch.arange(5), torch.arange(7)).tolist():
        scores = {0: float(logits[b, 0, y, x]) + 3.0}
        scores |= {c: float(logits[b, c, y, x]) + 5.0 for c in (1, 2, 3) if allowed[b, c, y, x]}
        assert int(found[b, y, x]) == max(scores, key=lambda c: scores[c])
    assert len(found.unique()) == 4


def test_outside_every_box_is_background_however_sure_the_network_is() -> None:
    logits = torch.tensor([-90.0, 90.0])[None, :, None, None].expand(1, 2, 3, 5)
    allowed = torch.zeros(1, 2, 3, 5, dtype=torch.bool)
    allowed[..., 2:] = True
    found = em_fixed_label(logits, allowed_BCHW=allowed, foreground_bias=2.0, background_bias=1.0)
    assert torch.equal(found[0], allowed[0, 1].long())


@pytest.mark.parametrize("biases", [(3.0, 3.0), (2.0, 3.0), (3.0, 0.0)])
def test_biases_that_give_objects_up(biases: tuple[float, float]) -> None:
    logits = torch.zeros(1, 2, 1, 1)
    with pytest.raises(ValueError, match="both must be above 0, and foreground_bias must be the larger one"):
        em_fixed_label(logits, allowed_BCHW=logits > 0, foreground_bias=biases[0], background_bias=biases[1])


def test_shapes_that_differ() -> None:
    with pytest.raises(ValueError, match=r"logits are \[1, 2, 3, 3\] and allowed classes \[1, 2, 3, 4\]"):
        em_fixed_label(
            torch.zeros(1, 2, 3, 3),
            allowed_BCHW=torch.zeros(1, 2, 3, 4, dtype=torch.bool),
            foreground_bias=2.0,
            background_bias=1.0,
        )
