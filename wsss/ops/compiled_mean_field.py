"""Mean field of the dense CRF as one compiled loop over the pixels: slice, softmax and splat in the same pass.

Shapes: B unaries of one image, K labels, N pixels, C = B (K - 1) filtered channels, M lattice vertices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from wsss.ops.compiled import compiled, inlined
from wsss.ops.compiled_lattice import PixelLattice, blur, pixel_lattice

_Kernel = tuple[np.ndarray, np.ndarray, np.float32, np.ndarray, np.ndarray]
"""A kernel in an iteration: vertices, weights, scale, and values by vertex: filtered ones, and those to splat to."""

_MOST_SPECIAL = 4
"""Up to this many channels a loop of its own is compiled, with the number as a constant: half the time."""

# exp(x) = 2^n exp(r), n = round(x / log 2), |r| <= log(2) / 2; coefficients of Cephes' expf (Moshier), error 1e-7.
_LOG2_E = np.float32(1.44269504088896341)
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_EXP = tuple(
    np.float32(one)
    for one in (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
)
_E0, _E1, _E2, _E3, _E4, _E5 = _EXP
_LOWEST = np.float32(-87)
"""exp of less than this is taken as 0; it is below 2e-38."""
_LARGEST_POWER = 126
_POWERS_OF_TWO = (2.0 ** np.arange(-_LARGEST_POWER, 1)).astype(np.float32)


def mean_field(
    energy_BKN: np.ndarray, *, kernels: Sequence[tuple[PixelLattice, float]], num_iterations: int
) -> np.ndarray:
    """Q of `dense_crf` for several unaries of one image that share one or two lattices, f32[B, K, N].

    `energy_BKN` is f32; `kernels` are lattices and their weights. K is at least 2.
    """
    _, num_labels, num_pixels = energy_BKN.shape
    # Only logits relative to the last label matter: z_k = U_K - U_k + m_k - m_K with m_K = total - sum_k m_k.
    relative_BNJ = (energy_BKN[:, -1:] - energy_BKN[:, :-1]).transpose(0, 2, 1)
    relative_NC = np.ascontiguousarray(relative_BNJ.transpose(1, 0, 2).reshape(num_pixels, -1))
    total_N = np.zeros(num_pixels, np.float32)
    for lattice, weight in kernels:
        total_N += np.float32(weight) * lattice.row_sums
    two = [*kernels, *[(_nothing(num_pixels), 0.0)] * (2 - len(kernels))]
    values = [
        [np.zeros((lattice.neighbours.shape[1] + 1, relative_NC.shape[1]), np.float32) for _ in range(2)]
        for lattice, _ in two
    ]
    one_pass, q_BKN = pass_for(relative_NC.shape[1], num_labels), np.empty_like(energy_BKN)
    for step in range(num_iterations + 1):
        sides: list[_Kernel] = []
        for (lattice, weight), (filtered, splatted) in zip(two, values, strict=True):
            splatted[:] = 0
            scale = np.float32(weight * lattice.scale)
            sides.append((lattice.vertices, lattice.weights, scale, filtered, splatted))
        one_pass(relative_NC, total_N, *sides, step, num_iterations, num_labels, _POWERS_OF_TWO, q_BKN)
        for (lattice, _), pair in zip(two, values, strict=True) if step < num_iterations else ():
            pair[:] = blur(pair[1], pair[0], lattice.neighbours)
    return q_BKN


def _nothing(num_pixels: int) -> PixelLattice:
    """A lattice without vertices."""
    return PixelLattice(
        vertices=np.empty((num_pixels, 0), np.int32),
        weights=np.empty((num_pixels, 0), np.float32),
        neighbours=np.empty((0, 0, 2), np.int32),
        row_sums=np.zeros(num_pixels, np.float32),
        scale=0.0,
    )


def compile_ahead() -> None:
    """Compile the loops for one to three labels besides background, with one label map and with two."""
    lattices = [pixel_lattice(np.zeros((2, 3, colours), np.uint8), sxy=1.0, srgb=1.0) for colours in (3, 0)]
    for num_unaries in (1, 2):
        for num_labels in (2, 3, 4):
            energy_BKN = np.zeros((num_unaries, num_labels, 6), np.float32)
            mean_field(energy_BKN, kernels=[(lattice, 1.0) for lattice in lattices], num_iterations=1)


def pass_for(num_channels: int, num_labels: int) -> Callable[..., None]:
    """The compiled iteration for C channels of K - 1 labels each."""
    return _pass(num_channels, num_labels) if num_channels <= _MOST_SPECIAL else _pass(0, 0)


@compiled
def _exp(x: np.float32, powers_of_two: np.ndarray) -> np.float32:
    """exp(x) for x <= 0."""
    if x < _LOWEST:
        return np.float32(0)
    n = np.rint(x * _LOG2_E)
    r = x - n * _LN2_HIGH - n * _LN2_LOW
    y = ((((_E0 * r + _E1) * r + _E2) * r + _E3) * r + _E4) * r + _E5
    return (y * (r * r) + r + np.float32(1)) * powers_of_two[np.int64(n) + _LARGEST_POWER]


@inlined
def _slice(
    values: np.ndarray, vertices: np.ndarray, weights: np.ndarray, pixel: int, num_channels: int, messages: np.ndarray
) -> None:
    """messages_c = sum over the pixel's corners of weight times value."""
    for channel in range(num_channels):
        messages[channel] = np.float32(0)
    for corner in range(vertices.shape[1]):
        weight, vertex = weights[pixel, corner], vertices[pixel, corner]
        for channel in range(num_channels):
            messages[channel] += weight * values[vertex, channel]


@inlined
def _splat(
    values: np.ndarray, vertices: np.ndarray, weights: np.ndarray, pixel: int, num_channels: int, q: np.ndarray
) -> None:
    """Add weight times q to the values of the pixel's corners."""
    for corner in range(vertices.shape[1]):
        weight, vertex = weights[pixel, corner], vertices[pixel, corner]
        for channel in range(num_channels):
            values[vertex, channel] += weight * q[channel]


@inlined
def _softmax(logits: np.ndarray, first: int, others: int, powers_of_two: np.ndarray) -> np.float32:
    """Make probabilities of the logits first, ..., first + others - 1; returns that of the last label, of logit 0."""
    largest = np.float32(0)
    for channel in range(first, first + others):
        largest = max(largest, logits[channel])
    last = _exp(-largest, powers_of_two)
    norm = last
    for channel in range(first, first + others):
        logits[channel] = _exp(logits[channel] - largest, powers_of_two)
        norm += logits[channel]
    norm = np.float32(1) / norm
    for channel in range(first, first + others):
        logits[channel] *= norm
    return last * norm


@cache
def _pass(fixed_channels: int, fixed_labels: int) -> Callable[..., None]:
    """One iteration over all pixels, for a constant number of channels and labels; 0 for any number."""

    @compiled
    def one_pass(
        relative_NC: np.ndarray,
        total_N: np.ndarray,
        a: _Kernel,
        b: _Kernel,
        step: int,
        last_step: int,
        given_labels: int,
        powers_of_two: np.ndarray,
        q_BKN: np.ndarray,
    ) -> None:
        num_channels = fixed_channels or relative_NC.shape[1]
        others = (fixed_labels or given_labels) - 1
        vertices_a, weights_a, scale_a, filtered_a, splatted_a = a
        vertices_b, weights_b, scale_b, filtered_b, splatted_b = b
        q, second = np.empty(num_channels, np.float32), np.empty(num_channels, np.float32)
        for pixel in range(len(relative_NC)):
            if step > 0:
                _slice(filtered_a, vertices_a, weights_a, pixel, num_channels, q)
                _slice(filtered_b, vertices_b, weights_b, pixel, num_channels, second)
            for first in range(0, num_channels, others):
                shared = np.float32(0)
                if step > 0:
                    for channel in range(first, first + others):
                        q[channel] = q[channel] * scale_a + second[channel] * scale_b
                        shared += q[channel]
                    shared -= total_N[pixel]
                for channel in range(first, first + others):
                    message = q[channel] + shared if step > 0 else np.float32(0)
                    q[channel] = relative_NC[pixel, channel] + message
                last = _softmax(q, first, others, powers_of_two)
                if step == last_step:
                    for label in range(others):
                        q_BKN[first // others, label, pixel] = q[first + label]
                    q_BKN[first // others, others, pixel] = last
            if step < last_step:
                _splat(splatted_a, vertices_a, weights_a, pixel, num_channels, q)
                _splat(splatted_b, vertices_b, weights_b, pixel, num_channels, q)

    result: Callable[..., None] = one_pass
    return result


if __name__ == "__main__":
    compile_ahead()
