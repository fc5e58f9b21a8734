from __future__ import annotations

import numpy as np
import pytest

from wsss.ops.compiled_lattice import PixelLattice, pixel_lattice
from wsss.ops.compiled_mean_field import mean_field, pass_for

HEIGHT, WIDTH = 5, 7


def lattice(num_colours: int) -> PixelLattice:
    image = np.random.default_rng(1).integers(0, 60, (HEIGHT, WIDTH, num_colours), dtype=np.uint8)
    return pixel_lattice(image, sxy=2.0, srgb=9.0)


def dense(one: PixelLattice) -> np.ndarray:
    """The filter as a matrix f64[N, N]: splat, blur and slice of one pixel after the other."""
    num_pixels, num_vertices = len(one.vertices), one.neighbours.shape[1]
    splat = np.zeros((num_vertices, num_pixels))
    for pixel in range(num_pixels):
        for vertex, weight in zip(one.vertices[pixel], one.weights[pixel], strict=True):
            splat[vertex, pixel] += weight
    blurred = splat.copy()
    for sides in one.neighbours:
        padded = np.vstack([blurred, np.zeros(num_pixels)])
        blurred = blurred + 0.5 * (padded[sides[:, 0]] + padded[sides[:, 1]])
    return np.asarray(splat.T @ blurred * one.scale)


def softmax(logits_BKN: np.ndarray) -> np.ndarray:
    e = np.exp(logits_BKN - logits_BKN.max(1, keepdims=True))
    return np.asarray(e / e.sum(1, keepdims=True))


@pytest.mark.parametrize("colours", [(3,), (0,), (3, 0)])
@pytest.mark.parametrize(("num_unaries", "num_labels"), [(1, 2), (1, 3), (2, 3), (2, 4), (1, 11)])
def test_equals_the_equation_with_dense_matrices(num_unaries: int, num_labels: int, colours: tuple[int, ...]) -> None:
    energy = np.random.default_rng(2).random((num_unaries, num_labels, HEIGHT * WIDTH)).astype(np.float32)
    kernels = [(lattice(one), weight) for one, weight in zip(colours, (1.7, 0.6), strict=False)]
    q = softmax(-energy.astype(np.float64))
    for _ in range(3):
        q = softmax(-energy + sum(weight * q @ dense(one).T for one, weight in kernels))
    np.testing.assert_allclose(mean_field(energy, kernels=kernels, num_iterations=3), q, atol=2e-6)


def test_row_sums_are_the_filter_of_ones() -> None:
    one = lattice(3)
    np.testing.assert_allclose(one.row_sums, dense(one).sum(1), atol=1e-5)


def test_few_channels_have_a_loop_of_their_own() -> None:
    assert pass_for(2, 3) is not pass_for(2, 2)
    assert pass_for(12, 13) is pass_for(6, 4)
