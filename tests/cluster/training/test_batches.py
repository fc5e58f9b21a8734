from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cluster.training.batches import RankBatches
from tests.cluster.tiny import TinyFit, TinySet


def keys(world_size: int, accumulation: int, *, first: int = 0) -> list[list[str]]:
    """The keys of every step over all ranks, sorted, without those of dummy micro-batches."""
    stage = TinyFit(batch_size=4, num_epochs=2, world_size=world_size, gradient_accumulation_steps=accumulation)
    steps: dict[int, list[str]] = {}
    for rank in range(world_size):
        batches = RankBatches(
            TinySet(stage, Path("unused")), stage, rank=rank, world_size=world_size, device=torch.device("cpu")
        )
        assert batches.epoch_ends == [3, 6]
        for number, step in enumerate(batches.after(first)):
            # A last batch of one example has one micro-batch, on all ranks.
            assert len(step) == (1 if (first + number) % 3 == 2 else accumulation)
            steps.setdefault(number, []).extend(key for each in step if each.present for key in each.batch["key"])
    return [sorted(step) for _, step in sorted(steps.items())]


@pytest.mark.parametrize(("world_size", "accumulation"), [(1, 2), (1, 4), (2, 1), (2, 2), (4, 1)])
def test_ranks_and_micro_batches_make_up_the_same_batches(world_size: int, accumulation: int) -> None:
    whole = keys(1, 1)
    assert [len(step) for step in whole] == [4, 4, 1, 4, 4, 1]
    assert sorted(key for step in whole[:3] for key in step) == [f"k{n}" for n in range(9)]
    assert keys(world_size, accumulation) == whole
    assert keys(world_size, accumulation, first=4) == whole[4:]
