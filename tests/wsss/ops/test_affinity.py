from __future__ import annotations

import pytest
import torch
from torch import Tensor

from wsss.ops.affinity import interior_path_minimum, path_affinity, path_minimum, rank_pixels
from wsss.ops.pixel_pairs import half_plane_offsets, path_pixels


def random_map(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_wall_separates_and_open_ground_joins() -> None:
    edge_Bhw = torch.zeros(1, 3, 5)
    edge_Bhw[:, :, 2] = 0.75
    affinity_PBuv = path_affinity(edge_Bhw, radius=2)
    right = half_plane_offsets(2).index((0, 1))
    assert affinity_PBuv.shape == (4, 1, 2, 3)
    assert affinity_PBuv[right, 0].tolist() == [[0.25, 0.25, 1.0], [0.25, 0.25, 1.0]]


@pytest.mark.parametrize("radius", [1, 3, 5])
def test_interior_affinity_is_its_definition(radius: int) -> None:
    edge_Bhw = random_map(2, 13, 17)
    affinity_PBuv = path_affinity(edge_Bhw, radius=radius)
    reach = radius - 1
    assert affinity_PBuv.shape == (len(half_plane_offsets(radius)), 2, 13 - reach, 17 - 2 * reach)
    for pair, offset in enumerate(half_plane_offsets(radius)):
        for b in range(2):
            for i in range(13 - reach):
                for j in range(17 - 2 * reach):
                    strongest = max(edge_Bhw[b, i + y, j + reach + x].item() for y, x in path_pixels(offset))
                    assert affinity_PBuv[pair, b, i, j].item() == 1 - strongest


@pytest.mark.parametrize("size", [(7, 11), (1, 1), (1, 5), (5, 1), (2, 3)])
def test_in_image_minimum_is_its_definition_on_any_size(size: tuple[int, int]) -> None:
    h, w = size
    values_hw = random_map(h, w) + 1
    out_Phw = path_minimum(values_hw, radius=5)
    for pair, (dy, dx) in enumerate(half_plane_offsets(5)):
        for i in range(h):
            for j in range(w):
                inside = i + dy < h and 0 <= j + dx < w
                pixels = path_pixels((dy, dx)) if inside else ()
                expected = min((values_hw[i + y, j + x].item() for y, x in pixels), default=0.0)
                assert out_Phw[pair, i, j].item() == expected


def test_gradient_goes_to_the_strongest_pixel_of_each_path() -> None:
    edge_Bhw = random_map(2, 7, 11).requires_grad_()
    assert torch.autograd.gradcheck(lambda edge: path_affinity(edge, radius=3), (edge_Bhw,))
    path_affinity(edge_Bhw, radius=3).sum().backward()
    assert edge_Bhw.grad is not None
    num_pairs = len(half_plane_offsets(3)) * 2 * 5 * 7
    assert edge_Bhw.grad.sum().item() == -num_pairs


def test_training_and_inference_agree_on_interior_pairs() -> None:
    values_hw = random_map(11, 13)
    interior_PBuv = interior_path_minimum(values_hw[None], radius=4)
    torch.testing.assert_close(interior_PBuv[:, 0], path_minimum(values_hw, radius=4)[:, :8, 3:10], rtol=0, atol=0)


def test_ranks_order_each_image_on_its_own_and_break_ties_by_position() -> None:
    values_Bhw = torch.tensor([[[3.0, 1.0, 1.0]], [[0.0, 9.0, -2.0]]])
    rank_Bhw, order_BN = rank_pixels(values_Bhw)
    assert rank_Bhw.tolist() == [[[2, 0, 1]], [[1, 2, 0]]]
    assert order_BN.tolist() == [[1, 2, 0], [2, 0, 1]]
