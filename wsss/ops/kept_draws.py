"""Bernoulli draws from a counter: which units are kept, as a function of a key, a sample's number and a position.

The same bits on every device: integers that are compared with an integer. On CPUs a compiled loop draws them, elsewhere
torch, on the device where they are used; nothing is copied to it.

A counter of Philox 4x32-10 is (position, number of the sample, 0, 0). Its four words are cut into fields of as few bits
as the drop rate needs: a field of b bits decides with probability m / 2^b exactly, so a rate of 0.5 takes one bit (128
draws a counter), 0.75 two, and a rate that is no multiple of 1/256, as 0.9, sixteen (8 draws a counter).

Shapes: S samples, F planes (fields of the four words, lowest bits first), Q counters of a sample. A sample's draws are
its planes one after the other, so that neither device has to interleave them.

Source: Salmon et al., SC 2011 (Philox).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from wsss.ops import compiled_philox
from wsss.ops.philox import WORD, philox_4x32

_FIELD_BITS = (1, 2, 4, 8, 16)
_LARGEST_CHUNK = 1 << 27
"""Draws that are in memory at once on a GPU."""


@dataclass(frozen=True)
class DrawKey:
    """The key of a stream of samples."""

    words: tuple[int, int]
    """Two numbers from 0 to 2^32 - 1."""

    @classmethod
    def of(cls, text: str) -> DrawKey:
        """The key of a name: the first 64 bits of its SHA-256."""
        digest = hashlib.sha256(text.encode()).digest()
        return cls((int.from_bytes(digest[:4], "big"), int.from_bytes(digest[4:8], "big")))

    @classmethod
    def drawn(cls, generator: torch.Generator) -> DrawKey:
        """A key drawn from a generator on the CPU."""
        first, second = torch.randint(WORD + 1, (2,), generator=generator, dtype=torch.int64).tolist()
        return cls((first, second))


def draw_kept(
    num_units: int,
    *,
    drop_rate: float,
    key: DrawKey,
    first: int = 0,
    num_samples: int = 1,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Bernoulli(1 - drop_rate) draws of the samples number `first` and following, bool [num_samples, num_units].

    Samples 0 to 2 and then 3 to 6 are the same as samples 0 to 6. `drop_rate` is rounded to a multiple of 1/65536, and
    exact if it is one.

    Raises: ValueError for more than 2^32 samples, or more draws of a sample than 2^32 counters give.
    """
    bits, least = field_of(drop_rate)
    num_counters = -(-num_units // (4 * (32 // bits)))
    if first + num_samples > WORD + 1 or num_counters > WORD + 1:
        raise ValueError(
            f"{first + num_samples} samples of {num_units} units; allowed: up to 2^32 samples, of up to 2^32 counters"
        )
    draw = {"key": key.words, "first": first, "num_samples": num_samples, "bits": bits, "least": least}
    if torch.device(device).type == "cpu":
        kept_SFQ = torch.from_numpy(compiled_philox.kept_planes(num_counters, **draw))  # type: ignore[arg-type]
    else:
        kept_SFQ = kept_planes(num_counters, **draw, device=device)  # type: ignore[arg-type]
    return kept_SFQ.flatten(1)[:, :num_units]


def field_of(drop_rate: float) -> tuple[int, int]:
    """(b, m): a field of b bits is dropped if it is below m. The fewest bits for which m = drop_rate 2^b is whole."""
    of_16 = min(round(drop_rate * (1 << 16)), (1 << 16) - 1)
    bits = next(bits for bits in _FIELD_BITS if of_16 % (1 << (16 - bits)) == 0)
    return bits, of_16 >> (16 - bits)


def kept_planes(
    num_counters: int,
    *,
    key: tuple[int, int],
    first: int,
    num_samples: int,
    bits: int,
    least: int,
    device: torch.device | str,
) -> Tensor:
    """bool[S, F, Q]: whether each field is at least `least`, in torch on any device."""
    position_1Q = torch.arange(num_counters, device=device)[None]
    sample_S1 = torch.arange(first, first + num_samples, device=device)[:, None]
    nothing_11 = torch.zeros((1, 1), dtype=torch.int64, device=device)
    words = philox_4x32((position_1Q, sample_S1, nothing_11, nothing_11), key=key)
    fields = 32 // bits
    kept_SFQ = torch.empty((num_samples, 4 * fields, num_counters), dtype=torch.bool, device=device)
    for number, word_SQ in enumerate(words):
        for field in range(fields):
            torch.ge((word_SQ >> (field * bits)) & ((1 << bits) - 1), least, out=kept_SFQ[:, number * fields + field])
    return kept_SFQ


def chunk_size(num_units: int, *, on_cpu: int, device: torch.device) -> int:
    """Samples to draw together: few on a CPU, whose cache should hold them; on a GPU so many that starting its kernels
    does not take longer than they do, within half a gigabyte of float32."""
    return on_cpu if device.type == "cpu" else max(1, _LARGEST_CHUNK // max(num_units, 1))
