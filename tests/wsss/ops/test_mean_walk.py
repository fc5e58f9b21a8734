from __future__ import annotations

import pytest
import torch
from torch import Tensor

from wsss.ops.mean_walk import mean_walk
from wsss.ops.pixel_pairs import half_plane_offsets
from wsss.ops.random_walk import propagate


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def affinities_of(size: tuple[int, int], *, radius: int, seed: int) -> Tensor:
    return of_pairs(drawn(len(half_plane_offsets(radius)), *size, seed=seed) ** 3, radius=radius)


def of_pairs(values_Phw: Tensor, *, radius: int) -> Tensor:
    """The same, 0 where the partner lies outside."""
    h, w = values_Phw.shape[1:]
    row, column = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    inside = [(row + dy < h) & (column + dx >= 0) & (column + dx < w) for dy, dx in half_plane_offsets(radius)]
    return values_Phw.where(torch.stack(inside), 0.0)


def dense_transition(affinity_Phw: Tensor, *, radius: int) -> Tensor:
    """A / column sums, one pair at a time."""
    h, w = affinity_Phw.shape[1:]
    matrix_NN = torch.eye(h * w, dtype=torch.float64)
    for y in range(h):
        for x in range(w):
            for pair, (dy, dx) in enumerate(half_plane_offsets(radius)):
                if 0 <= y + dy < h and 0 <= x + dx < w:
                    one, other = y * w + x, (y + dy) * w + x + dx
                    matrix_NN[one, other] = matrix_NN[other, one] = affinity_Phw[pair, y, x]
    return matrix_NN / matrix_NN.sum(0)


def test_two_pixels_by_hand() -> None:
    seeds = torch.tensor([[[1.0, 0.0]]])
    # T_1 = 1/2 everywhere, T_2 = the identity; their mean is [[3/4, 1/4], [1/4, 3/4]]; two steps from (1, 0).
    one, none = (of_pairs(torch.full((len(half_plane_offsets(2)), 1, 2), value), radius=2) for value in (1.0, 0.0))
    found = mean_walk(seeds, affinities=[one, none], radius=2, num_steps_log2=1)
    torch.testing.assert_close(found, torch.tensor([[[5 / 8, 3 / 8]]], dtype=torch.float64))


@pytest.mark.parametrize("num_steps_log2", [0, 1, 3, 8])
@pytest.mark.parametrize(("size", "radius", "number"), [((7, 11), 3, 2), ((5, 3), 5, 3), ((1, 13), 4, 2)])
def test_definition(size: tuple[int, int], radius: int, number: int, num_steps_log2: int) -> None:
    seeds = drawn(2, *size, seed=9)
    of_networks = [affinities_of(size, radius=radius, seed=seed) for seed in range(number)]
    step_NN = sum(dense_transition(one, radius=radius) for one in of_networks) / number
    expected = seeds.flatten(1) @ torch.linalg.matrix_power(step_NN, 2**num_steps_log2)  # type: ignore[arg-type]
    found = mean_walk(seeds, affinities=of_networks, radius=radius, num_steps_log2=num_steps_log2)
    torch.testing.assert_close(found.flatten(1), expected, rtol=1e-10, atol=1e-12)


def test_equal_matrices_are_one() -> None:
    seeds, one = drawn(3, 11, 13, seed=2), affinities_of((11, 13), radius=4, seed=3)
    alone = propagate(seeds, affinity_Phw=one, radius=4, num_steps_log2=6, tolerance=1e-15)
    for number in (1, 2, 3):
        found = mean_walk(seeds, affinities=[one] * number, radius=4, num_steps_log2=6)
        torch.testing.assert_close(found, alone, rtol=1e-10, atol=1e-12)


def test_order_constants_and_range() -> None:
    size = (7, 13)
    seeds, many = drawn(3, *size, seed=4), [affinities_of(size, radius=3, seed=seed) for seed in (5, 6, 7)]
    found = mean_walk(seeds, affinities=many, radius=3, num_steps_log2=5)
    torch.testing.assert_close(mean_walk(seeds, affinities=many[::-1], radius=3, num_steps_log2=5), found)
    permuted = mean_walk(seeds[[2, 0, 1]], affinities=many, radius=3, num_steps_log2=5)
    torch.testing.assert_close(permuted, found[[2, 0, 1]])
    assert (found.amax((1, 2)) <= seeds.amax((1, 2))).all() and (found.amin((1, 2)) >= seeds.amin((1, 2))).all()
    constant = mean_walk(torch.full((1, *size), 0.3), affinities=many, radius=3, num_steps_log2=8)
    torch.testing.assert_close(constant, torch.full((1, *size), 0.3).double())


def test_images_stacked_vertically_are_walked_apart() -> None:
    size, radius = (5, 7), 3
    seeds = [drawn(2, *size, seed=seed) for seed in (1, 2, 3)]
    of_networks = [[affinities_of(size, radius=radius, seed=10 * n + image) for image in range(3)] for n in (1, 2)]
    together = mean_walk(
        torch.cat(seeds, dim=1),
        affinities=[torch.cat(of_images, dim=1) for of_images in of_networks],
        radius=radius,
        num_steps_log2=3,
    )
    for place, (one, found) in enumerate(zip(seeds, together.split(5, dim=1), strict=True)):
        alone = mean_walk(one, affinities=[of[place] for of in of_networks], radius=radius, num_steps_log2=3)
        torch.testing.assert_close(found, alone, rtol=1e-12, atol=1e-14)


def test_a_wall_of_one_matrix_is_crossed_by_the_other() -> None:
    """Where either network sees no boundary, scores still pass, more slowly."""
    open_Phw = of_pairs(torch.ones(len(half_plane_offsets(2)), 1, 5), radius=2)
    closed_Phw = torch.zeros_like(open_Phw)
    seeds = torch.tensor([[[1.0, 0.0, 0.0, 0.0, 0.0]]])
    both, one = (
        mean_walk(seeds, affinities=of, radius=2, num_steps_log2=2)[0, 0]
        for of in ([open_Phw, closed_Phw], [open_Phw, open_Phw])
    )
    assert 0 < both[4] < one[4] and both[0] > one[0]


def test_what_does_not_fit_is_refused() -> None:
    seeds, one = drawn(2, 5, 7, seed=1), affinities_of((5, 7), radius=3, seed=2)
    for wrong in ([], [one, affinities_of((5, 11), radius=3, seed=3)]):
        with pytest.raises(ValueError, match=r"seeds are \[2, 5, 7\], affinities .*; give at least one \[P, h, w\]"):
            mean_walk(seeds, affinities=wrong, radius=3, num_steps_log2=2)
    with pytest.raises(ValueError, match="num_steps_log2 -1; give"):
        mean_walk(seeds, affinities=[one], radius=3, num_steps_log2=-1)
