from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from wsss.ops.compiled_lattice import pixel_lattice
from wsss.ops.permutohedral import build_lattice

HEIGHT, WIDTH, SXY, SRGB = 11, 17, 3.0, 7.0


def picture(num_colours: int) -> np.ndarray:
    return np.random.default_rng(num_colours).integers(0, 60, (HEIGHT, WIDTH, num_colours), dtype=np.uint8)


def features(image_HWF: np.ndarray) -> torch.Tensor:
    """f32[D, N], pixel by pixel."""
    rows = [
        [x / SXY, y / SXY, *(float(colour) / SRGB for colour in image_HWF[y, x])]
        for y in range(HEIGHT)
        for x in range(WIDTH)
    ]
    return torch.tensor(rows).T.contiguous()


@pytest.mark.parametrize("num_colours", [0, 1, 3])
def test_the_vertices_are_those_of_the_sorting_lattice(num_colours: int) -> None:
    """As many vertices, with the same pixels and weights: sums of weights by vertex, in any order, are equal."""
    image = picture(num_colours)
    ours, other = pixel_lattice(image, sxy=SXY, srgb=SRGB), build_lattice(features(image))
    num_vertices = ours.neighbours.shape[1]
    assert num_vertices == len(other.splat_offsets) - 2 == ours.vertices.max() + 1
    sums = np.zeros(num_vertices)
    np.add.at(sums, ours.vertices.ravel(), ours.weights.ravel())
    bounds = other.splat_offsets.tolist()
    other_sums = [float(other.splat_weights[a:b].sum()) for a, b in pairwise(bounds[:-1])]
    np.testing.assert_allclose(np.sort(sums), np.sort(other_sums), atol=1e-5)
    row_sums = other.filter(torch.ones(HEIGHT * WIDTH, 1))[:, 0].numpy()
    np.testing.assert_allclose(ours.row_sums, row_sums, atol=1e-5)


def test_vertices_are_numbered_as_pixels_meet_them() -> None:
    vertices = pixel_lattice(picture(3), sxy=SXY, srgb=SRGB).vertices.ravel()
    first_seen = np.unique(vertices, return_index=True)[1]
    assert np.all(np.diff(first_seen) > 0)


def test_neighbours_are_mutual_and_absent_ones_are_the_number_of_vertices() -> None:
    neighbours = pixel_lattice(picture(3), sxy=SXY, srgb=SRGB).neighbours
    axes, num_vertices, _ = neighbours.shape
    assert axes == 6 and neighbours.min() >= 0 and neighbours.max() == num_vertices
    for axis in range(axes):
        there = np.flatnonzero(neighbours[axis, :, 0] < num_vertices)
        assert len(there) and np.array_equal(neighbours[axis, neighbours[axis, there, 0], 1], there)
        assert np.count_nonzero(neighbours[axis, :, 1] < num_vertices) == len(there)


def test_features_too_far_apart_are_refused() -> None:
    image = np.zeros((2, 3, 3), np.uint8)
    image[0, 0] = 255
    with pytest.raises(ValueError, match=r"more than 63 bits can number; use wider kernels \(larger sxy, srgb\)"):
        pixel_lattice(image, sxy=3, srgb=1e-4)
