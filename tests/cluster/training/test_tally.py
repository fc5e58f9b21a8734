"""What a task counts in a step, over micro-batches and ranks, and what of it a checkpoint holds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cluster.local import LocalRuntime
from cluster.training.fit_files import RankError
from cluster.training.tally import StepTally
from tests.cluster.tiny import TinyFit, instance_of
from wsss.contract.runtime import RuntimeSettings
from wsss.tasks.task import TaskOutput


def output(tally: list[int] | None) -> TaskOutput:
    return TaskOutput({}, {}, tally=None if tally is None else torch.tensor(tally))


def test_micro_batches_add_up_without_the_dummy() -> None:
    tally = StepTally()
    for values, present in (([1, 2], True), ([10, 20], True), ([100, 200], False)):
        tally.add(output(values), present=present)
    found = tally.over_ranks(1)
    assert found is not None and found.tolist() == [11, 22]


def test_a_rank_with_a_dummy_alone_has_a_sum_for_the_others() -> None:
    tally = StepTally()
    tally.add(output([3, 4]), present=False)
    found = tally.over_ranks(1)
    assert found is not None and found.tolist() == [0, 0]


def test_a_task_that_counts_nothing_has_none() -> None:
    tally = StepTally()
    tally.add(output(None), present=True)
    assert tally.over_ranks(1) is None


@pytest.mark.slow
def test_two_ranks_count_each_example_once_and_resume_with_their_counts(tmp_path: Path) -> None:
    """Batches of 4, 4 and 1: in the last one the second rank has only a dummy. A rank dies after four steps."""
    settings = {"batch_size": 4, "num_epochs": 2, "learning_rate": 0.05, "checkpoint_every": 1, "world_size": 2}
    stage = TinyFit(**settings, tally=True, die=True)  # type: ignore[arg-type]
    runtime = LocalRuntime(RuntimeSettings(runs=tmp_path))
    for attempt in range(2):
        try:
            runtime.fit(instance_of(stage, tmp_path), stage, lambda done, total, state: None)
        except RankError:
            assert attempt == 0
    for rank in range(2):
        lines = (tmp_path / f"counted-{rank}.txt").read_text().splitlines()
        assert lines == ["[9.0, nan] [True, False]", "[9.0, 18.0] [True, False]"]
    last = load_file(tmp_path / "checkpoints" / "step-00000006.safetensors")
    assert last["module/epochs"].tolist() == [9.0, 18.0] and last["module/odd"].tolist() == [True, False]
    assert int(last["module/counted"]) == 18
