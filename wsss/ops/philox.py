"""Philox 4x32-10: random words that are a function of a key and a counter, in integer arithmetic of torch.

There is no state, so every word can be computed on its own, in any order and on any device: integers are the same
everywhere. `wsss.ops.compiled_philox` computes the same words on CPUs in one pass.

Source: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011, section 3.3; constants
and known answers are those of the authors' Random123 library.
"""

from __future__ import annotations

import torch
from torch import Tensor

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
"""Added to the two words of the key after every round (Weyl sequence)."""
NUM_ROUNDS = 10
WORD = 0xFFFFFFFF
"""The bits of a word."""

Words = tuple[Tensor, Tensor, Tensor, Tensor]


def philox_4x32(counter: Words, *, key: tuple[int, int]) -> Words:
    """The four random words of each counter: a bijection of 128 bits for every key.

    With the words x0 to x3 of a counter and k0, k1 of the key, a round is

        x0, x1, x2, x3 = high(M1 x2) ^ x1 ^ k0,  low(M1 x2),  high(M0 x0) ^ x3 ^ k1,  low(M0 x0).

    Shapes: int64 tensors of one device with values 0 to 2^32 - 1, whose shapes broadcast against each other; results
    int64 of that range. Words that do not vary along an axis are not computed along it until rounds have mixed them.

    Source: Salmon et al., SC 2011, section 3.3.  Differs: as published; a product of two words wraps around in int64,
    which leaves its 64 bits as they are, and low words are cut to 32 bits only where they are read.
    """
    x0, x1, x2, x3 = counter
    k0, k1 = key
    for _ in range(NUM_ROUNDS):
        product0, product1 = x0 * MULTIPLIERS[0], x2 * MULTIPLIERS[1]
        x0 = ((product1 >> 32) ^ (x1 ^ k0)) & WORD
        x2 = ((product0 >> 32) ^ (x3 ^ k1)) & WORD
        x1, x3 = product1, product0
        k0, k1 = (k0 + KEY_STEPS[0]) & WORD, (k1 + KEY_STEPS[1]) & WORD
    first, second, third, fourth = torch.broadcast_tensors(x0, x1 & WORD, x2, x3 & WORD)
    return first, second, third, fourth
