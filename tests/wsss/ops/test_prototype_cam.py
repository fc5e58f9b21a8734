"""LPCAM: the response of a classifier to a prototype, the choice of prototypes, and maps by their definition."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from wsss.ops.prototype_cam import (
    class_response,
    kept_contexts,
    kept_prototypes,
    prototype_cam,
    prototype_direction,
)

D, SIZE = 5, (7, 11)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cosine(one: Tensor, other: Tensor) -> float:
    return float(one @ other / (one.norm() * other.norm()))


def test_the_response_is_the_softmax_of_a_centres_logits() -> None:
    weights, centres = drawn(3, D, seed=1), drawn(4, D, seed=2)
    found = class_response(centres, weights_LD=weights, row=1)
    for k in range(4):
        logits = [math.exp(float(weights[c] @ centres[k])) for c in range(3)]
        assert float(found[k]) == pytest.approx(logits[1] / sum(logits))
    by_hand = class_response(torch.tensor([[2.0, 0.0]]), weights_LD=torch.eye(2), row=0)
    assert float(by_hand) == pytest.approx(1 / (1 + math.exp(-2.0)))
    assert class_response(centres, weights_LD=weights[:1], row=0).tolist() == [1.0] * 4, "one class is always sure"
    assert class_response(centres[:0], weights_LD=weights, row=0).shape == (0,)
    assert class_response(centres * 50, weights_LD=weights * 50, row=0).isfinite().all()


def test_prototypes_above_the_threshold_or_the_best_one() -> None:
    centres, response = torch.arange(4.0)[:, None], torch.tensor([0.95, 0.2, 0.9, 0.99])
    assert kept_prototypes(centres, response_K=response, threshold=0.9)[:, 0].tolist() == [0.0, 3.0]
    assert kept_prototypes(centres, response_K=response, threshold=0.995)[:, 0].tolist() == [3.0]
    assert kept_prototypes(centres[:0], response_K=response[:0], threshold=0.9).shape == (0, 1)


def test_contexts_between_the_thresholds() -> None:
    centres, response = torch.arange(5.0)[:, None], torch.tensor([0.05, 0.06, 0.5, 0.9, 0.89])
    limits = {"lower": float(response[0]), "upper": float(response[3])}
    assert kept_contexts(centres, response_K=response, **limits)[:, 0].tolist() == [1.0, 2.0, 4.0]
    assert len(kept_contexts(centres, response_K=response, lower=0.9, upper=0.95)) == 0


@pytest.mark.parametrize("num_contexts", [0, 1, 3])
def test_the_map_by_its_definition(num_contexts: int) -> None:
    features, prototypes, contexts = drawn(D, *SIZE), drawn(2, D, seed=1), drawn(num_contexts, D, seed=2)
    other = drawn(4, D, seed=3)
    directions = torch.stack(
        [prototype_direction(prototypes, contexts_QD=contexts), prototype_direction(other, contexts_QD=contexts[:0])]
    )
    found = prototype_cam(features, directions_KD=directions)
    assert found.shape == (2, *SIZE) and found.dtype == torch.float64
    for y in range(SIZE[0]):
        for x in range(SIZE[1]):
            one = features[:, y, x]
            own = sum(cosine(one, p) for p in prototypes) / 2
            context = sum(cosine(one, q) for q in contexts) / num_contexts if num_contexts else 0.0
            assert float(found[0, y, x]) == pytest.approx(max(0.0, own - context), abs=1e-9)
            second = sum(cosine(one, p) for p in other) / 4
            assert float(found[1, y, x]) == pytest.approx(max(0.0, second), abs=1e-9)


def test_the_length_of_features_and_prototypes_does_not_count() -> None:
    features, prototypes, contexts = drawn(D, *SIZE), drawn(3, D, seed=1), drawn(2, D, seed=2)

    def maps(scale: float, longer: Tensor) -> Tensor:
        direction = prototype_direction(prototypes * scale, contexts_QD=contexts * scale)
        return prototype_cam(features * longer, directions_KD=direction[None])

    torch.testing.assert_close(maps(7.0, drawn(*SIZE, seed=4).abs() + 0.1), maps(1.0, torch.ones(SIZE).double()))


def test_edges_of_maps() -> None:
    prototypes = drawn(2, D, seed=1)
    direction = prototype_direction(prototypes, contexts_QD=prototypes[:0])[None]
    assert prototype_cam(drawn(D, *SIZE), directions_KD=direction[:0]).shape == (0, *SIZE)
    assert not prototype_cam(torch.zeros(D, *SIZE).double(), directions_KD=direction).any()
    flat = prototype_cam(drawn(D, 1, 1).expand(D, *SIZE), directions_KD=direction)
    assert torch.allclose(flat, flat[:, :1, :1].expand_as(flat))
    assert not prototype_direction(prototypes[:0], contexts_QD=prototypes).any(), "no prototype, no map"
    same = prototype_direction(prototypes, contexts_QD=prototypes)
    assert prototype_cam(drawn(D, *SIZE), directions_KD=same[None]).abs().max() < 1e-12
    opposite = prototype_cam(
        -prototypes[0][:, None, None],
        directions_KD=prototype_direction(prototypes[:1], contexts_QD=prototypes[:0])[None],
    )
    assert opposite.item() == 0.0, "a negative cosine is no evidence"


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"allowed: \[K,D\] and \[L,D\] of the same D, and a row"):
        class_response(drawn(4, D), weights_LD=drawn(3, D), row=3)
    with pytest.raises(ValueError, match=r"centres are \[4, 5\], weights \[3, 4\]"):
        class_response(drawn(4, D), weights_LD=drawn(3, D - 1), row=0)
    with pytest.raises(ValueError, match=r"allowed: \[P,D\] and \[Q,D\]"):
        prototype_direction(drawn(2, D), contexts_QD=drawn(2, D + 1))
    with pytest.raises(ValueError, match=r"allowed: \[D,h,w\] and \[K,D\]"):
        prototype_cam(drawn(D, *SIZE), directions_KD=drawn(2, D + 1))
