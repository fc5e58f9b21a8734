"""Unreadable examples are replaced (equally for any world size), recorded, counted, and limited."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.local import LocalRuntime
from cluster.training.batches import RankBatches
from cluster.training.faults import TooManyFaultsError, readable_example
from cluster.training.fit_files import RankError
from tests.cluster.tiny import TinyFit, TinySet, instance_of
from wsss.contract.fit import Draw, weights_path
from wsss.contract.runtime import RuntimeSettings


def torn(*bad: int, **settings: Any) -> TinySet:
    return TinySet(TinyFit(torn=bad, **settings), Path("unused"))


def test_the_next_readable_example_is_used() -> None:
    examples = torn(3, 4, 8)
    for index, taken in ((2, 2), (3, 5), (4, 5), (8, 0)):
        found = readable_example(examples, Draw(index, 1))
        assert found["key"] == f"k{taken}"
        assert found["fault"] == ("" if taken == index else f"train-000000: k{index}: it is torn at {index % 2}")


def test_no_readable_example_is_an_error() -> None:
    with pytest.raises(TooManyFaultsError, match=r"none of 9 examples in a row .* k5: it is torn at 1"):
        readable_example(torn(*range(9)), Draw(5, 0))


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_any_world_size_sees_the_same_examples_and_reports_each_fault_once(world_size: int) -> None:
    stage = TinyFit(batch_size=4, num_epochs=1, world_size=world_size)
    seen, faults = [], []
    for rank in range(world_size):
        device = torch.device("cpu")
        batches = RankBatches(torn(1, 6), stage, rank=rank, world_size=world_size, device=device)
        for step in batches.after(0):
            for micro_batch in step:
                if micro_batch.present:
                    seen += micro_batch.batch["key"]
                    faults += micro_batch.faults
                assert "fault" not in micro_batch.batch
    assert sorted(seen) == sorted(["k0", "k2", "k2", "k3", "k4", "k5", "k7", "k7", "k8"])
    assert sorted(faults) == [f"train-000000: k{n}: it is torn at {n % 2}" for n in (1, 6)]


@pytest.mark.parametrize(("share", "number", "allowed"), [(0.0, 9, 0), (0.01, 9, 1), (0.34, 9, 3), (1.0, 9, 9)])
def test_allowed_faults_of_an_epoch(share: float, number: int, allowed: int) -> None:
    stage = TinyFit(batch_size=4, num_epochs=1, max_unreadable=share)
    batches = RankBatches(torn(), stage, rank=0, world_size=1, device=torch.device("cpu"))
    assert batches.allowed_faults(0) == allowed


def trained(path: Path, **settings: Any) -> Any:
    stage = TinyFit(batch_size=4, num_epochs=2, world_size=2, torn=(1, 6), **settings)
    instance = instance_of(stage, path)
    path.mkdir(exist_ok=True)
    return LocalRuntime(RuntimeSettings(runs=path)).fit(instance, stage, lambda *_: None)


@pytest.mark.slow
def test_faults_are_recorded_and_counted_in_every_epoch(tmp_path: Path) -> None:
    outcome = trained(tmp_path, max_unreadable=0.25)
    assert [row["unreadable"] for row in outcome.tables["history"]] == [2, 2]
    lines = [line for path in sorted(tmp_path.glob("faults.rank-*.txt")) for line in path.read_text().splitlines()]
    assert len(lines) == 4 and len(list(tmp_path.glob("faults.rank-*.txt"))) >= 1
    assert all("epoch" in line and "train-000000: k" in line and "it is torn at" in line for line in lines)


def test_too_many_stop_the_training_and_are_counted_by_cause(tmp_path: Path) -> None:
    with pytest.raises(
        RankError,
        match=r"2 examples of epoch 1 cannot be read, .* allows 1: 1 x it is torn at [01] \(the first: train-000000: k",
    ):
        trained(tmp_path, max_unreadable=0.01)
    assert not weights_path(instance_of(TinyFit(), tmp_path)).exists()
