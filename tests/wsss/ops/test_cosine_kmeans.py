"""Clusters by the cosine: a case by hand, the definition in loops, and what happens at the edges."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from wsss.ops.cosine_kmeans import cosine_kmeans


def clusters(features: Tensor, *, num_clusters: int, num_iterations: int = 20, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return cosine_kmeans(features, num_clusters=num_clusters, num_iterations=num_iterations, generator=generator)


def by_loops(features: Tensor, num_clusters: int, num_iterations: int, seed: int) -> tuple[list[Tensor], list[int]]:
    drawn = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))[:num_clusters]
    centres = [features[place] for place in drawn.tolist()]

    def nearest(one: Tensor) -> int:
        cosines = [float(one @ c / (one.norm() * c.norm())) for c in centres]
        return cosines.index(max(cosines))

    for _ in range(num_iterations):
        members: list[list[Tensor]] = [[] for _ in centres]
        for one in features:
            members[nearest(one)].append(one)
        centres = [sum(own) / len(own) if own else c for own, c in zip(members, centres, strict=True)]  # type: ignore[misc]
    found = [nearest(one) for one in features]
    return [c for k, c in enumerate(centres) if k in found], [found.count(k) for k in sorted(set(found))]


def test_two_bundles_of_directions_by_hand() -> None:
    """Length does not decide: the long and the short vector of a direction are in one cluster, whose centre is their
    mean."""
    features = torch.tensor([[9.0, 0.0], [1.0, 0.0], [0.0, 4.0], [0.0, 2.0], [2.0, 0.0]])
    for seed in range(4):
        centres, sizes = clusters(features, num_clusters=2, seed=seed)
        if len(sizes) == 1:  # both first centres were drawn from one direction
            continue
        assert sorted(zip(centres.tolist(), sizes.tolist(), strict=True)) == [([0.0, 3.0], 2), ([4.0, 0.0], 3)]
    assert any(len(clusters(features, num_clusters=2, seed=seed)[1]) == 2 for seed in range(4))


@pytest.mark.parametrize("num_iterations", [1, 2, 20])
def test_the_definition_in_loops(num_iterations: int) -> None:
    features = torch.randn(41, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    centres, sizes = clusters(features, num_clusters=5, num_iterations=num_iterations, seed=3)
    wanted, wanted_sizes = by_loops(features, 5, num_iterations, 3)
    torch.testing.assert_close(centres, torch.stack(wanted))
    assert sizes.tolist() == wanted_sizes and sum(wanted_sizes) == 41


def test_more_iterations_change_the_centres_and_another_seed_does_too() -> None:
    features = torch.randn(41, 7, generator=torch.Generator().manual_seed(1))
    one, more = (clusters(features, num_clusters=5, num_iterations=n)[0] for n in (1, 20))
    assert not torch.equal(one, more)
    assert torch.equal(more, clusters(features, num_clusters=5)[0]), "the same twice"
    assert not torch.equal(more, clusters(features, num_clusters=5, seed=8)[0])


def test_fewer_vectors_than_clusters_and_equal_vectors() -> None:
    three = torch.eye(3)
    centres, sizes = clusters(three, num_clusters=12)
    assert sizes.tolist() == [1, 1, 1] and torch.equal(centres.sum(0), torch.ones(3))
    centres, sizes = clusters(torch.tensor([[1.0, 2.0]]).repeat(6, 1), num_clusters=4)
    assert sizes.tolist() == [6] and torch.equal(centres, torch.tensor([[1.0, 2.0]])), "empty clusters are left out"
    centres, sizes = clusters(torch.zeros(4, 2), num_clusters=2)
    assert sizes.tolist() == [4] and not centres.any() and centres.isfinite().all()
    centres, sizes = clusters(torch.zeros(0, 5), num_clusters=2)
    assert centres.shape == (0, 5) and sizes.shape == (0,)


@pytest.mark.parametrize(
    ("features", "settings"),
    [
        (torch.ones(4), {"num_clusters": 2, "num_iterations": 1}),
        (torch.ones(4, 2), {"num_clusters": 0, "num_iterations": 1}),
        (torch.ones(4, 2), {"num_clusters": 2, "num_iterations": 0}),
    ],
)
def test_bad_input_is_refused(features: Tensor, settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"allowed: \[N,D\], and at least 1 for both"):
        cosine_kmeans(features, **settings, generator=torch.Generator())
