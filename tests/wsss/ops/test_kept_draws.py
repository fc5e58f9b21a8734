from __future__ import annotations

import pytest
import torch

from wsss.ops import compiled_philox
from wsss.ops.kept_draws import DrawKey, chunk_size, draw_kept, field_of, kept_planes
from wsss.ops.philox import philox_4x32

KEY = DrawKey((0xFEDCBA98, 5))


@pytest.mark.parametrize(
    ("drop_rate", "expected"),
    [
        (0.0, (1, 0)),
        (0.5, (1, 1)),
        (0.75, (2, 3)),
        (0.3125, (4, 5)),
        (3 / 256, (8, 3)),
        (0.9, (16, 58982)),
        (1 - 1e-9, (16, 65535)),
    ],
)
def test_a_rate_takes_as_few_bits_as_it_needs(drop_rate: float, expected: tuple[int, int]) -> None:
    assert field_of(drop_rate) == expected


def by_loops(num_units: int, *, drop_rate: float, sample: int) -> list[bool]:
    """The definition, one counter after another."""
    bits, least = field_of(drop_rate)
    num_counters = -(-num_units // (4 * (32 // bits)))
    kept = [False] * (num_counters * 4 * (32 // bits))
    for position in range(num_counters):
        counter = tuple(torch.tensor([n]) for n in (position, sample, 0, 0))
        for number, word in enumerate(philox_4x32(counter, key=KEY.words)):  # type: ignore[arg-type]
            for field in range(32 // bits):
                drawn = int(word) // 2 ** (field * bits) % 2**bits
                kept[(number * (32 // bits) + field) * num_counters + position] = drawn >= least
    return kept[:num_units]


@pytest.mark.parametrize("drop_rate", [0.5, 0.75, 0.3125, 0.9])
def test_equals_the_definition_in_loops(drop_rate: float) -> None:
    kept = draw_kept(211, drop_rate=drop_rate, key=KEY, first=6, num_samples=2)
    assert kept.dtype == torch.bool and kept.shape == (2, 211)
    assert kept.tolist() == [by_loops(211, drop_rate=drop_rate, sample=sample) for sample in (6, 7)]


@pytest.mark.parametrize("drop_rate", [0.0, 0.5, 0.75, 0.3125, 3 / 256, 0.9, 1 - 1e-9])
@pytest.mark.parametrize("num_counters", [1, 1023, 1024, 2053])
def test_compiled_loop_and_torch_draw_the_same(drop_rate: float, num_counters: int) -> None:
    bits, least = field_of(drop_rate)
    draw = {"key": KEY.words, "first": (1 << 32) - 3, "num_samples": 3, "bits": bits, "least": least}
    compiled = torch.from_numpy(compiled_philox.kept_planes(num_counters, **draw))
    assert torch.equal(compiled, kept_planes(num_counters, **draw, device="cpu"))


def test_rates_are_kept() -> None:
    for drop_rate in (0.5, 0.75, 0.9):
        kept = draw_kept(100_003, drop_rate=drop_rate, key=KEY, num_samples=3).double()
        deviation = (drop_rate * (1 - drop_rate) / kept.numel()) ** 0.5
        assert abs(float(kept.mean()) - (1 - drop_rate)) < 5 * deviation
        # Neither neighbours nor samples are correlated.
        centred = kept - (1 - drop_rate)
        for other in (centred.roll(1, dims=1), centred.roll(1, dims=0)):
            assert abs(float((centred * other).mean())) < 5 * drop_rate * (1 - drop_rate) / kept.numel() ** 0.5


def test_everything_is_kept_at_rate_zero() -> None:
    assert bool(draw_kept(1009, drop_rate=0.0, key=KEY).all())


def test_keys_of_names_and_of_generators() -> None:
    one, other = DrawKey.of("17 val_00003"), DrawKey.of("17 val_00004")
    assert one == DrawKey.of("17 val_00003") != other
    # The first 16 digits that sha256sum prints for it.
    assert DrawKey.of("abc").words == (0xBA7816BF, 0x8F01CFEA)
    drawn = [DrawKey.drawn(torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    masks = [draw_kept(997, drop_rate=0.5, key=key) for key in (one, other, *drawn[1:])]
    assert len({tuple(mask[0].tolist()) for mask in masks}) == 4


def test_more_samples_than_counters_are_refused() -> None:
    with pytest.raises(ValueError, match=r"4294967297 samples of 5 units; allowed: up to 2\^32 samples"):
        draw_kept(5, drop_rate=0.5, key=KEY, first=1 << 32)


def test_a_gpu_draws_many_samples_together_and_no_more_than_fit() -> None:
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert chunk_size(81 * 41 * 41, on_cpu=8, device=cpu) == 8
    assert chunk_size(81 * 41 * 41, on_cpu=8, device=gpu) > 200
    assert chunk_size(1 << 40, on_cpu=8, device=gpu) == 1
