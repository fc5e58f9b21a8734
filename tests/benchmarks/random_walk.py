"""The random walk against squaring the dense transition matrix, as IRNet's public code does.

64 x 64 nodes, two classes, radius 5, beta 10, 2^8 steps, one thread. Building the rival's dense matrix is not timed;
our time covers everything from the boundary map to the scores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from tests.peak_memory import peak_bytes
from wsss.ops.random_walk import edge_affinity, random_walk, transition

RADIUS, BETA, NUM_STEPS_LOG2 = 5, 10.0, 8
ERROR_BAR = 5e-4
"""Relative to the maximum. Most of it is the rival's error: squaring in float32 lets the column sums drift (1.6e-4
here); ours is within 1e-6 of float64 (tests/parity/test_irn.py)."""
SECONDS_BAR = 0.2
GIB_BAR = 1.0


def make_inputs(h: int, w: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(h * w)
    return torch.rand(2, h, w, generator=generator), torch.rand(h, w, generator=generator) ** 4


def walk(scores_Khw: Tensor, edge_hw: Tensor) -> Tensor:
    return random_walk(scores_Khw, edge_hw=edge_hw, radius=RADIUS, beta=BETA, num_steps_log2=NUM_STEPS_LOG2)


def dense_walk(scores_Khw: Tensor, edge_hw: Tensor, dense_NN: Tensor) -> Tensor:
    power_NN = dense_NN
    for _ in range(NUM_STEPS_LOG2):
        power_NN = power_NN @ power_NN
    return ((scores_Khw * (1 - edge_hw)).flatten(1) @ power_NN).view_as(scores_Khw)


def timed(call: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """CPU seconds of this thread, which does all the work: the wall time of an idle machine, also on a busy one."""
    start = time.thread_time()
    result = call()
    return time.thread_time() - start, result


def peak_gib() -> float:
    return peak_bytes() / 2**30


def compare(repetitions: int) -> tuple[float, float, float]:
    """Median seconds of ours and of the rival, and the largest error relative to the maximum."""
    scores_Khw, edge_hw = make_inputs(64, 64)
    dense_NN = (
        transition(edge_affinity(1 - edge_hw, radius=RADIUS, beta=BETA), radius=RADIUS)
        .to_dense()
        .t()
        .float()
        .contiguous()
    )
    walk(scores_Khw, edge_hw)
    dense_NN @ dense_NN
    ours, rivals, error = [], [], 0.0
    for _ in range(repetitions):
        seconds, ours_Khw = timed(lambda: walk(scores_Khw, edge_hw))
        ours.append(seconds)
        seconds, rival_Khw = timed(lambda: dense_walk(scores_Khw, edge_hw, dense_NN))
        rivals.append(seconds)
        error = max(error, ((ours_Khw - rival_Khw).abs().max() / rival_Khw.max()).item())
    return statistics.median(ours), statistics.median(rivals), error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=3, help="alternating runs; the dense one takes about 15 s")
    repetitions = parser.parse_args().repetitions
    torch.set_num_threads(1)
    # Weak affinities underflow when the dense matrix is squared, which would slow the rival down several times.
    torch.set_flush_denormal(True)

    walk(*make_inputs(16, 12))
    before = peak_gib()
    walk(*make_inputs(256, 192))
    added_gib = peak_gib() - before

    photo = make_inputs(94, 125)
    walk(*photo)
    photo_seconds = statistics.median(timed(lambda: walk(*photo))[0] for _ in range(9))

    ours, rival, error = compare(repetitions)
    print(f"64x64 nodes: {ours:.4f} s, dense squaring {rival:.2f} s; 94x125 nodes: {photo_seconds:.3f} s")
    checks = {
        "seconds at 94x125 nodes": {"value": photo_seconds, "bar": SECONDS_BAR, "ok": photo_seconds < SECONDS_BAR},
        "GiB added by 256x192 nodes": {"value": added_gib, "bar": GIB_BAR, "ok": added_gib < GIB_BAR},
    }
    result = {
        "name": "random_walk",
        "ratio": rival / ours,
        "agreement": error < ERROR_BAR,
        "error": error,
        "seconds": ours,
        "checks": checks,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
