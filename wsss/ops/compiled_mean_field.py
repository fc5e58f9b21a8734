"""Mean field of the dense CRF as one compiled loop over the pixels: slice, softmax and splat in the same pass.

Shapes: B unaries of one image, K labels, J = K - 1, N pixels, C = B J filtered channels, M lattice vertices, P pixels
of a block, R = B K rows of a block: all labels of all unaries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from wsss.ops.compiled import compiled, inlined
from wsss.ops.compiled_lattice import MOST_SPECIAL, PixelLattice, blur_for

_Sizes = tuple[int, int]
"""Channels, and corners of a pixel's simplex: constants, so that the loops over them are unrolled."""
_Kernel = tuple[np.ndarray, np.ndarray, np.float32, np.ndarray, np.ndarray]
"""A kernel in an iteration: vertices, weights, scale, and values by vertex: filtered ones, and those to splat to."""

_USUAL = (6, 3)
"""Corners of a pixel's simplex in the lattices of the appearance kernel and of the smoothness kernel."""

# exp(x) = 2^n exp(r), n = round(x / log 2), |r| <= log(2) / 2; coefficients of Cephes' expf (Moshier), error 1e-7.
_LOG2_E = np.float32(1.44269504088896341)
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_EXP = tuple(
    np.float32(one)
    for one in (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
)
_E0, _E1, _E2, _E3, _E4, _E5 = _EXP
_LOWEST = np.float32(-87)
"""exp of less than this is taken as exp of this, 2e-38."""
_EXPONENT_BIAS, _FRACTION_BITS = 127, 23
"""Of a float32: n + 127 in the bits above the lowest 23 is 2^n."""
_BLOCK = 128
"""Pixels whose logits are computed together: the loops over them use the CPU's vector instructions."""


def mean_field(
    energy_BKN: np.ndarray, *, kernels: Sequence[tuple[PixelLattice, float]], num_iterations: int
) -> np.ndarray:
    """Q of `dense_crf` for several unaries of one image that share one or two lattices, f32[B, K, N].

    `energy_BKN` is f32; `kernels` are lattices and their weights. K is at least 2.

    Source: Krähenbühl and Koltun, NIPS 2011, algorithm 1.  Differs: as `dense_crf` says.
    """
    _, num_labels, num_pixels = energy_BKN.shape
    # Only logits relative to the last label matter: z_k = U_K - U_k + m_k - m_K with m_K = total - sum_k m_k.
    relative_BJN = energy_BKN[:, -1:] - energy_BKN[:, :-1]
    num_channels = relative_BJN.shape[0] * relative_BJN.shape[1]
    total_N, nothing_N = np.zeros(num_pixels, np.float32), np.zeros(num_pixels, np.float32)
    for lattice, weight in kernels:
        total_N += np.float32(weight) * lattice.row_sums
    two = [*kernels, *[(_nothing(num_pixels), 0.0)] * (2 - len(kernels))]
    values = [
        [np.zeros((lattice.neighbours.shape[1] + 1, num_channels), np.float32) for _ in range(2)] for lattice, _ in two
    ]
    corners = (two[0][0].vertices.shape[1], two[1][0].vertices.shape[1])
    one_pass, blur = pass_for(num_channels, num_labels, corners=corners), blur_for(num_channels)
    q_BKN = np.empty_like(energy_BKN)
    for step in range(num_iterations + 1):
        sides: list[_Kernel] = []
        for (lattice, weight), (filtered, splatted) in zip(two, values, strict=True):
            splatted[:] = 0
            scale = np.float32(weight * lattice.scale)
            sides.append((lattice.vertices, lattice.weights, scale, filtered, splatted))
        # At first there are no messages: filtered values are zero.
        one_pass(relative_BJN, total_N if step else nothing_N, *sides, step == num_iterations, q_BKN)
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


def pass_for(num_channels: int, num_labels: int, *, corners: tuple[int, int] = _USUAL) -> Callable[..., None]:
    """The compiled iteration for C channels of K - 1 labels each, and lattices of simplices with so many corners."""
    if num_channels <= MOST_SPECIAL and corners == _USUAL:
        return _pass(num_channels, num_labels, corners)
    return _pass(0, 0, (0, 0))


@compiled
def _exp(values_RP: np.ndarray, row: int, largest_P: np.ndarray, bits_P: np.ndarray, num_pixels: int) -> None:
    """Replace a row's values, which are at most the largest ones, by exp(value - largest)."""
    powers_P = bits_P.view(np.float32)
    for pixel in range(num_pixels):
        x = max(values_RP[row, pixel] - largest_P[pixel], _LOWEST)
        n = np.rint(x * _LOG2_E)
        r = x - n * _LN2_HIGH - n * _LN2_LOW
        y = ((((_E0 * r + _E1) * r + _E2) * r + _E3) * r + _E4) * r + _E5
        values_RP[row, pixel] = y * (r * r) + r + np.float32(1)
        bits_P[pixel] = (np.int32(n) + np.int32(_EXPONENT_BIAS)) << np.int32(_FRACTION_BITS)
    for pixel in range(num_pixels):
        values_RP[row, pixel] *= powers_P[pixel]


@compiled
def _softmax(
    values_RP: np.ndarray, first: int, last: int, largest_P: np.ndarray, bits_P: np.ndarray, num_pixels: int
) -> None:
    """Make probabilities of the logits in rows first, ..., last - 1, and of the logit 0 in row `last`."""
    for pixel in range(num_pixels):
        largest_P[pixel] = 0
        values_RP[last, pixel] = 0
    for row in range(first, last):
        for pixel in range(num_pixels):
            largest_P[pixel] = max(largest_P[pixel], values_RP[row, pixel])
    for row in range(first, last + 1):
        _exp(values_RP, row, largest_P, bits_P, num_pixels)
    norm_P = largest_P
    for pixel in range(num_pixels):
        norm_P[pixel] = values_RP[last, pixel]
    for row in range(first, last):
        for pixel in range(num_pixels):
            norm_P[pixel] += values_RP[row, pixel]
    for row in range(first, last + 1):
        for pixel in range(num_pixels):
            values_RP[row, pixel] /= norm_P[pixel]


@compiled
def _add_energies(
    values_RP: np.ndarray,
    first: int,
    relative_JN: np.ndarray,
    total_N: np.ndarray,
    shared_P: np.ndarray,
    begin: int,
    num_pixels: int,
) -> None:
    """Make logits of a unary's messages, in rows first, ...: z_j = U_K - U_j + m_j + (sum_i m_i - total)."""
    for pixel in range(num_pixels):
        shared_P[pixel] = -total_N[begin + pixel]
    for label in range(len(relative_JN)):
        for pixel in range(num_pixels):
            shared_P[pixel] += values_RP[first + label, pixel]
    for label in range(len(relative_JN)):
        for pixel in range(num_pixels):
            values_RP[first + label, pixel] += shared_P[pixel] + relative_JN[label, begin + pixel]


@inlined
def _slice(
    values: np.ndarray, vertices: np.ndarray, weights: np.ndarray, pixel: int, sizes: _Sizes, messages: np.ndarray
) -> None:
    """messages_c = sum over the pixel's corners of weight times value. Four or two channels are one vector."""
    num_channels, corners = sizes
    in_fours, in_twos = num_channels // 4 * 4, num_channels // 2 * 2
    for channel in range(0, in_fours, 4):
        a, b, c, d = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        for corner in range(corners):
            weight, vertex = weights[pixel, corner], vertices[pixel, corner]
            a += weight * values[vertex, channel]
            b += weight * values[vertex, channel + 1]
            c += weight * values[vertex, channel + 2]
            d += weight * values[vertex, channel + 3]
        messages[channel], messages[channel + 1], messages[channel + 2], messages[channel + 3] = a, b, c, d
    for channel in range(in_fours, in_twos, 2):
        a, b = np.float32(0), np.float32(0)
        for corner in range(corners):
            weight, vertex = weights[pixel, corner], vertices[pixel, corner]
            a += weight * values[vertex, channel]
            b += weight * values[vertex, channel + 1]
        messages[channel], messages[channel + 1] = a, b
    for channel in range(in_twos, num_channels):
        a = np.float32(0)
        for corner in range(corners):
            a += weights[pixel, corner] * values[vertices[pixel, corner], channel]
        messages[channel] = a


@inlined
def _splat(
    values: np.ndarray, vertices: np.ndarray, weights: np.ndarray, pixel: int, sizes: _Sizes, q: np.ndarray
) -> None:
    """Add weight times q to the values of the pixel's corners. Four or two channels are one vector."""
    num_channels, corners = sizes
    in_fours, in_twos = num_channels // 4 * 4, num_channels // 2 * 2
    for channel in range(0, in_fours, 4):
        a, b, c, d = q[channel], q[channel + 1], q[channel + 2], q[channel + 3]
        for corner in range(corners):
            weight, vertex = weights[pixel, corner], vertices[pixel, corner]
            first, second = values[vertex, channel] + weight * a, values[vertex, channel + 1] + weight * b
            third, fourth = values[vertex, channel + 2] + weight * c, values[vertex, channel + 3] + weight * d
            values[vertex, channel], values[vertex, channel + 1] = first, second
            values[vertex, channel + 2], values[vertex, channel + 3] = third, fourth
    for channel in range(in_fours, in_twos, 2):
        a, b = q[channel], q[channel + 1]
        for corner in range(corners):
            weight, vertex = weights[pixel, corner], vertices[pixel, corner]
            first, second = values[vertex, channel] + weight * a, values[vertex, channel + 1] + weight * b
            values[vertex, channel], values[vertex, channel + 1] = first, second
    for channel in range(in_twos, num_channels):
        for corner in range(corners):
            values[vertices[pixel, corner], channel] += weights[pixel, corner] * q[channel]


@cache
def _pass(fixed_channels: int, fixed_labels: int, fixed_corners: tuple[int, int]) -> Callable[..., None]:
    """One iteration over all pixels, for constant numbers of channels, labels and corners; 0 for any number."""

    @compiled
    def one_pass(
        relative_BJN: np.ndarray, total_N: np.ndarray, a: _Kernel, b: _Kernel, last_step: bool, q_BKN: np.ndarray
    ) -> None:
        num_channels = fixed_channels or a[3].shape[1]
        others = (fixed_labels or q_BKN.shape[1]) - 1
        vertices_a, weights_a, scale_a, filtered_a, splatted_a = a
        vertices_b, weights_b, scale_b, filtered_b, splatted_b = b
        corners_a, corners_b = fixed_corners[0] or vertices_a.shape[1], fixed_corners[1] or vertices_b.shape[1]
        q, second = np.empty(num_channels, np.float32), np.empty(num_channels, np.float32)
        values_RP = np.empty((num_channels // others * (others + 1), _BLOCK), np.float32)
        largest_P, bits_P = np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.int32)
        for begin in range(0, len(total_N), _BLOCK):
            num_pixels = min(_BLOCK, len(total_N) - begin)
            for pixel in range(num_pixels):
                _slice(filtered_a, vertices_a, weights_a, begin + pixel, (num_channels, corners_a), q)
                _slice(filtered_b, vertices_b, weights_b, begin + pixel, (num_channels, corners_b), second)
                for channel in range(num_channels):
                    row = channel // others + channel
                    values_RP[row, pixel] = q[channel] * scale_a + second[channel] * scale_b
            for unary in range(num_channels // others):
                first = unary * (others + 1)
                _add_energies(values_RP, first, relative_BJN[unary], total_N, largest_P, begin, num_pixels)
                _softmax(values_RP, first, first + others, largest_P, bits_P, num_pixels)
                if last_step:
                    q_BKN[unary, :, begin : begin + num_pixels] = values_RP[first : first + others + 1, :num_pixels]
            for pixel in range(num_pixels if not last_step else 0):
                for channel in range(num_channels):
                    q[channel] = values_RP[channel // others + channel, pixel]
                _splat(splatted_a, vertices_a, weights_a, begin + pixel, (num_channels, corners_a), q)
                _splat(splatted_b, vertices_b, weights_b, begin + pixel, (num_channels, corners_b), q)

    result: Callable[..., None] = one_pass
    return result
