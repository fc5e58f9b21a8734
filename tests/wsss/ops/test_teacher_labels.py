from __future__ import annotations

import pytest
import torch

from wsss.ops.teacher_labels import confident_labels

B, C, H, W = 3, 5, 2, 7


def test_classes_that_are_absent_are_removed_before_the_softmax() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(B, C, H, W, generator=generator)
    absent = torch.tensor([[0, 1, 0, 0, 1], [0, 1, 1, 1, 1], [0, 0, 0, 0, 0]]).bool()
    label, probability = confident_labels(logits, absent_BC=absent)
    without_labels = logits.argmax(1)
    for b in range(B):
        allowed = [c for c in range(C) if not absent[b, c]]
        for y in range(H):
            for x in range(W):
                exponents = {c: float(logits[b, c, y, x].double().exp()) for c in allowed}
                best = max(exponents, key=lambda c: exponents[c])
                assert int(label[b, y, x]) == best
                assert float(probability[b, y, x]) == pytest.approx(exponents[best] / sum(exponents.values()), rel=1e-5)
    assert (label[0] != without_labels[0]).any(), "some pixel would have got an absent class"
    assert (label[1] == 0).all() and (probability[1] == 1).all(), "with the background alone nothing else is possible"
    assert torch.equal(label[2], without_labels[2])


def test_both_are_constants() -> None:
    _, probability = confident_labels(torch.randn(1, 2, 2, 2).requires_grad_(), absent_BC=torch.zeros(1, 2).bool())
    assert not probability.requires_grad


def test_bad_input_is_refused() -> None:
    logits = torch.zeros(2, 3, 4, 4)
    with pytest.raises(ValueError, match=r"logits are \[2, 3, 4, 4\], absent classes \[2, 4\]; give \[B,C\]"):
        confident_labels(logits, absent_BC=torch.zeros(2, 4).bool())
    with pytest.raises(ValueError, match="every class of an image is absent; the background must not be"):
        confident_labels(logits, absent_BC=torch.tensor([[False] * 3, [True] * 3]))
