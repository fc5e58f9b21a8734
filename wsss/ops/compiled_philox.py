"""The draws of `wsss.ops.kept_draws` as one compiled loop: words and comparisons in one pass over the CPU's cache.

Shapes: S samples, F planes, Q counters of a sample.
"""

from __future__ import annotations

import numpy as np

from wsss.ops.compiled import compiled, inlined
from wsss.ops.philox import KEY_STEPS, MULTIPLIERS, NUM_ROUNDS, WORD

_M0, _M1 = np.uint64(MULTIPLIERS[0]), np.uint64(MULTIPLIERS[1])
_STEP0, _STEP1 = np.uint64(KEY_STEPS[0]), np.uint64(KEY_STEPS[1])
_WORD, _HALF = np.uint64(WORD), np.uint64(32)
_BLOCK = 1024
"""Counters whose words are computed together: they stay in the CPU's first cache until they are compared."""


def kept_planes(
    num_counters: int, *, key: tuple[int, int], first: int, num_samples: int, bits: int, least: int
) -> np.ndarray:
    """bool[S, F, Q]: the same as `wsss.ops.kept_draws.kept_planes`, and its arguments."""
    kept_SFQ = np.empty((num_samples, 4 * (32 // bits), num_counters), np.bool_)
    words = (np.uint64(key[0]), np.uint64(key[1]))
    _fill(kept_SFQ, words, np.uint64(first), np.uint32(bits), np.uint32(least))
    return kept_SFQ


@inlined
def _philox(
    counter: np.uint64, sample: np.uint64, key: tuple[np.uint64, np.uint64], words: np.ndarray, place: int
) -> None:
    """`wsss.ops.philox.philox_4x32` of one counter, written to u32[4, _BLOCK]."""
    x0, x1, x2, x3 = counter, sample, np.uint64(0), np.uint64(0)
    k0, k1 = key
    for _ in range(NUM_ROUNDS):
        product0, product1 = x0 * _M0, x2 * _M1
        x0 = ((product1 >> _HALF) ^ x1 ^ k0) & _WORD
        x2 = ((product0 >> _HALF) ^ x3 ^ k1) & _WORD
        x1, x3 = product1 & _WORD, product0 & _WORD
        k0, k1 = (k0 + _STEP0) & _WORD, (k1 + _STEP1) & _WORD
    words[0, place], words[1, place] = np.uint32(x0), np.uint32(x1)
    words[2, place], words[3, place] = np.uint32(x2), np.uint32(x3)


@compiled
def _fill(
    kept_SFQ: np.ndarray, key: tuple[np.uint64, np.uint64], first: np.uint64, bits: np.uint32, least: np.uint32
) -> None:
    num_samples, _, num_counters = kept_SFQ.shape
    words = np.empty((4, _BLOCK), np.uint32)
    fields = np.uint32(32) // bits
    lowest = np.uint32((np.uint64(1) << np.uint64(bits)) - np.uint64(1))
    for sample in range(num_samples):
        for begin in range(0, num_counters, _BLOCK):
            number = min(_BLOCK, num_counters - begin)
            for place in range(number):
                _philox(np.uint64(begin + place), first + np.uint64(sample), key, words, place)
            for word in range(4):
                for field in range(fields):
                    shift = np.uint32(field * bits)
                    plane = kept_SFQ[sample, word * fields + field, begin : begin + number]
                    for place in range(number):
                        plane[place] = ((words[word, place] >> shift) & lowest) >= least
