"""SEC's losses against their definitions in loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from wsss.losses.dsrg import smoothed_softmax
from wsss.losses.masked_mean import MaskedSum
from wsss.losses.sec import expand_sums, global_weighted_rank_pooling, seed_sum

DECAYS = {"foreground_decay": 0.9, "background_decay": 0.97}


def inputs(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits, seeds, present and absent classes; image 1 shows no class, image 2 has no absent one, 3 no seed."""
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(4, 5, 3, 7, generator=random, dtype=torch.float64) * 2
    seeds = torch.rand(logits.shape, generator=random) < 0.3
    seeds[3] = False
    present = torch.tensor([[1, 1, 0, 1, 0], [1, 0, 0, 0, 0], [1, 1, 0, 0, 1], [1, 0, 0, 1, 0]]).bool()
    absent = torch.tensor([[0, 0, 1, 0, 1], [0, 1, 1, 0, 1], [0, 0, 0, 0, 0], [0, 1, 0, 0, 0]]).bool()
    return logits, seeds, present, absent


def mean(term: MaskedSum) -> float:
    return float(term.numerator / term.count)


def pooled(scores: list[float], decay: float) -> float:
    ranked = sorted(scores, reverse=True)
    weights = [decay**j for j in range(len(ranked))]
    return sum(w * p for w, p in zip(weights, ranked, strict=True)) / sum(weights)


def test_pooling_by_hand_and_its_limits() -> None:
    scores = torch.tensor([[[0.2, 0.8, 0.4]]], dtype=torch.float64)
    found = global_weighted_rank_pooling(scores, decay=0.5)
    assert found.shape == (1, 1) and float(found) == pytest.approx((0.8 + 0.5 * 0.4 + 0.25 * 0.2) / 1.75)
    assert float(global_weighted_rank_pooling(scores, decay=0.0)) == pytest.approx(0.8), "the maximum"
    assert float(global_weighted_rank_pooling(scores, decay=1.0)) == pytest.approx(1.4 / 3), "the mean"
    weights = [0.996**j for j in range(41 * 41)]
    assert sum(weights[:173]) / sum(weights) == pytest.approx(0.5, abs=2e-3), "as the docstring says"


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.996, 1.0])
def test_pooling_by_its_definition(decay: float) -> None:
    logits, *_ = inputs()
    probs = smoothed_softmax(logits)
    found = global_weighted_rank_pooling(probs.flatten(2), decay=decay)
    for b in range(4):
        for c in range(5):
            assert float(found[b, c]) == pytest.approx(pooled(probs[b, c].flatten().tolist(), decay))


def test_seed_loss_by_its_definition() -> None:
    logits, seeds, *_ = inputs()
    probs, total = smoothed_softmax(logits), 0.0
    for b in range(4):
        costs = [
            -math.log(probs[b, c, y, x]) for c in range(5) for y in range(3) for x in range(7) if seeds[b, c, y, x]
        ]
        total += sum(costs) / max(len(costs), 1)
    assert mean(seed_sum(probs, seeds_BChw=seeds)) == pytest.approx(total / 4)


def test_seed_loss_is_not_balanced_between_background_and_classes() -> None:
    """Of one seed of the background and three of a class, the class has three quarters of the weight."""
    probs = torch.tensor([0.5, 0.25, 0.25])[None, :, None, None].expand(1, 3, 2, 2)
    seeds = torch.zeros(1, 3, 2, 2)
    seeds[0, 0, 0, 0] = seeds[0, 1, 0, 1] = seeds[0, 1, 1, 0] = seeds[0, 1, 1, 1] = 1
    assert mean(seed_sum(probs, seeds_BChw=seeds)) == pytest.approx((math.log(2) + 3 * math.log(4)) / 4)


def test_expansion_by_its_definition() -> None:
    logits, _, present, absent = inputs()
    probs = smoothed_softmax(logits)
    found = expand_sums(probs, present_BC=present, absent_BC=absent, **DECAYS)
    kept: dict[str, list[float]] = {"present": [], "absent": [], "background": []}
    for b in range(4):
        scores = [probs[b, c].flatten().tolist() for c in range(5)]
        there = [-math.log(pooled(scores[c], 0.9)) for c in range(1, 5) if present[b, c]]
        gone = [-math.log(1 - max(scores[c])) for c in range(1, 5) if absent[b, c]]
        if there:
            kept["present"].append(sum(there) / len(there))
        if gone:
            kept["absent"].append(sum(gone) / len(gone))
        if all(present[b, c] or absent[b, c] for c in range(1, 5)):
            kept["background"].append(-math.log(pooled(scores[0], 0.97)))
    for name, values in kept.items():
        term = getattr(found, name)
        assert int(term.count) == len(values)
        assert mean(term) == pytest.approx(sum(values) / len(values)), name
    assert [int(term.count) for term in found] == [3, 3, 1]


def test_an_unknown_class_has_no_loss() -> None:
    logits, _, present, absent = inputs()
    logits.requires_grad_(True)
    terms = expand_sums(logits.sigmoid(), present_BC=present, absent_BC=absent, **DECAYS)
    (terms.present.numerator + terms.absent.numerator + terms.background.numerator).backward()
    assert logits.grad is not None
    assert not logits.grad[3, [2, 4]].any() and not logits.grad[1, 3].any(), "neither present nor absent"
    assert all(logits.grad[b, c].any() for b, c in ((0, 1), (0, 2), (3, 1), (0, 0)))
    assert not logits.grad[[1, 3], 0].any(), "nor is the background expanded where a class is unknown"


def test_gradients() -> None:
    logits, seeds, present, absent = inputs(3)

    def loss(logits: Tensor) -> Tensor:
        probs = smoothed_softmax(logits)
        expand = expand_sums(probs, present_BC=present, absent_BC=absent, **DECAYS)
        terms = [seed_sum(probs, seeds_BChw=seeds), *expand]
        return torch.stack([term.numerator / term.count for term in terms])

    assert torch.autograd.gradcheck(loss, logits.requires_grad_(True))


def test_sums_of_two_ranks_add_up_to_the_whole_batch() -> None:
    logits, seeds, present, absent = inputs()
    probs = smoothed_softmax(logits)

    def sums(rows: slice) -> list[MaskedSum]:
        expand = expand_sums(probs[rows], present_BC=present[rows], absent_BC=absent[rows], **DECAYS)
        return [seed_sum(probs[rows], seeds_BChw=seeds[rows]), *expand]

    for whole, first, rest in zip(sums(slice(None)), sums(slice(1)), sums(slice(1, None)), strict=True):
        torch.testing.assert_close(whole.numerator, first.numerator + rest.numerator)
        assert whole.count == first.count + rest.count


def test_permuting_foreground_classes_changes_nothing() -> None:
    logits, seeds, present, absent = inputs()
    order = [0, 3, 1, 4, 2]
    one, other = smoothed_softmax(logits), smoothed_softmax(logits[:, order])
    here = expand_sums(one, present_BC=present, absent_BC=absent, **DECAYS)
    there = expand_sums(other, present_BC=present[:, order], absent_BC=absent[:, order], **DECAYS)
    for a, b in zip(here, there, strict=True):
        torch.testing.assert_close(a.numerator, b.numerator)
    torch.testing.assert_close(
        seed_sum(one, seeds_BChw=seeds).numerator, seed_sum(other, seeds_BChw=seeds[:, order]).numerator
    )


def test_wrong_input_is_refused() -> None:
    logits, seeds, present, absent = inputs()
    probs = smoothed_softmax(logits)
    with pytest.raises(ValueError, match=r"seeds \[4, 5, 7, 3\]; give \[B,C,h,w\] twice"):
        seed_sum(probs, seeds_BChw=seeds.transpose(2, 3))
    with pytest.raises(ValueError, match=r"presence \[4, 4\] and absence \[4, 5\]"):
        expand_sums(probs, present_BC=present[:, 1:], absent_BC=absent, **DECAYS)
    with pytest.raises(ValueError, match="both present and absent"):
        expand_sums(probs, present_BC=present, absent_BC=~absent, **DECAYS)
    with pytest.raises(ValueError, match=r"decay is 1\.5, of 21 scores; allowed: from 0 to 1"):
        global_weighted_rank_pooling(probs.flatten(2), decay=1.5)
