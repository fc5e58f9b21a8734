from __future__ import annotations

import pytest
import torch

from wsss.losses.consistency import consistency_sum

B, C, H, W = 2, 3, 5, 7


def drawn() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(B, C, H, W, generator=generator)
    label = torch.randint(0, C, (B, H, W), generator=generator)
    confidence = torch.rand(B, H, W, generator=generator)
    inside = torch.rand(B, H, W, generator=generator) < 0.7
    return logits, {"label_BHW": label, "confidence_BHW": confidence, "inside_BHW": inside}


def test_confident_pixels_count_for_the_sum_and_all_pixels_inside_for_the_mean() -> None:
    logits, maps = drawn()
    maps["confidence_BHW"][0, 0, 0], maps["inside_BHW"][0, 0, 0] = 0.6, True  # exactly the threshold counts
    total, inside, taught = 0.0, 0, 0
    for b in range(B):
        for y in range(H):
            for x in range(W):
                if not maps["inside_BHW"][b, y, x]:
                    continue
                inside += 1
                if maps["confidence_BHW"][b, y, x] >= 0.6:
                    taught += 1
                    total -= float(logits[b, :, y, x].log_softmax(0)[maps["label_BHW"][b, y, x]])
    term = consistency_sum(logits, **maps, min_confidence=0.6)
    assert float(term.numerator) == pytest.approx(total, rel=1e-5)
    assert int(term.count) == inside and 0 < taught < inside


def test_the_gradient_is_that_of_cross_entropy_where_taught_and_0_elsewhere() -> None:
    logits, maps = drawn()
    logits.requires_grad_()
    consistency_sum(logits, **maps, min_confidence=0.6).numerator.backward()
    assert logits.grad is not None
    taught = maps["inside_BHW"] & (maps["confidence_BHW"] >= 0.6)
    wanted = logits.detach().softmax(1) - torch.nn.functional.one_hot(maps["label_BHW"], C).permute(0, 3, 1, 2)
    torch.testing.assert_close(logits.grad, wanted * taught[:, None])


def test_a_teacher_that_is_never_confident_teaches_nothing() -> None:
    logits, maps = drawn()
    term = consistency_sum(logits.requires_grad_(), **maps, min_confidence=1.1)
    term.numerator.backward()
    assert logits.grad is not None and float(term.numerator.detach()) == 0 and not logits.grad.any()


def test_maps_of_another_shape_are_refused() -> None:
    logits, maps = drawn()
    maps["confidence_BHW"] = maps["confidence_BHW"].mT
    with pytest.raises(ValueError, match=r"logits are \[2, 3, 5, 7\], but .*confidence.*\[2, 7, 5\].*be \[2, 5, 7\]"):
        consistency_sum(logits, **maps, min_confidence=0.5)
