from __future__ import annotations

import pytest
import torch

from wsss.ops.philox import philox_4x32

# counter, key, words: the lines "philox4x32 10" of the file kat_vectors of Random123.
KNOWN_ANSWERS = (
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
)


def numbers(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN_ANSWERS)
def test_published_known_answers(counter: str, key: str, words: str) -> None:
    c0, c1, c2, c3 = (torch.tensor([number]) for number in numbers(counter))
    k0, k1 = numbers(key)
    assert [int(word) for word in philox_4x32((c0, c1, c2, c3), key=(k0, k1))] == numbers(words)


def test_counters_of_several_axes_are_those_one_by_one() -> None:
    """A word that does not vary along an axis gives what it gives alone."""
    position, sample = torch.arange(5)[None], torch.arange((1 << 32) - 3, 1 << 32)[:, None]
    third, fourth = torch.tensor([[7]]), torch.tensor([[0]])
    together = philox_4x32((position, sample, third, fourth), key=(11, 13))
    for row in range(3):
        for column in range(5):
            alone = philox_4x32((position[:, column], sample[row], third[0], fourth[0]), key=(11, 13))
            assert [int(word[row, column]) for word in together] == [int(word) for word in alone]


def test_words_are_of_32_bits_and_differ() -> None:
    words = torch.stack(philox_4x32((torch.arange(997), *(torch.zeros(1, dtype=torch.int64),) * 3), key=(1, 2)))
    assert words.dtype == torch.int64 and int(words.min()) >= 0 and int(words.max()) < 1 << 32
    assert len(words.unique()) == words.numel()
    bits = torch.stack([(words >> bit) & 1 for bit in range(32)]).double()
    assert float((bits.mean((1, 2)) - 0.5).abs().max()) < 5 * 0.5 / words.numel() ** 0.5
