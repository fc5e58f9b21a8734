"""Trainings whose GPU has no memory for a micro-batch: a task that raises torch's error above a number of examples."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cluster.failures.rank_failures import is_final
from cluster.local import LocalRuntime
from cluster.training.fit_files import RankError
from cluster.training.micro_batches import read_limit, smaller_micro_batches
from tests.cluster.tiny import TinyFit, instance_of
from wsss.contract.failure import OutOfGpuMemoryError, SmallerBatchError
from wsss.contract.fit import WEIGHTS
from wsss.contract.runtime import RuntimeSettings
from wsss.contract.stage import Outcome

FROZEN = {"batch_size": 4, "num_epochs": 2, "learning_rate": 0.05, "frozen": True}


def train(path: Path, stage: TinyFit) -> Outcome:
    path.mkdir(exist_ok=True)
    runtime = LocalRuntime(RuntimeSettings(runs=path))
    return runtime.fit(instance_of(stage, path), stage, lambda done, total, state: None)


def losses(outcome: Outcome) -> list[object]:
    return [row["loss"] for row in outcome.tables["history"]]


def steps(path: Path) -> list[int]:
    return [int(line) for line in (path / "steps.txt").read_text().split()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    path = tmp_path_factory.mktemp("whole")
    return path, train(path, TinyFit(**FROZEN))


@pytest.mark.slow
def test_the_training_goes_on_with_smaller_micro_batches_of_the_same_batch(
    whole: tuple[Path, Outcome], tmp_path: Path
) -> None:
    outcome = train(tmp_path, TinyFit(**FROZEN, fits=1, short_from=4))
    assert losses(outcome) == pytest.approx(losses(whole[1]), abs=1e-6)
    torch.testing.assert_close(load_file(tmp_path / WEIGHTS), load_file(whole[0] / WEIGHTS), rtol=1e-5, atol=1e-6)
    # Step 4 fails with 4 examples and again with 2. Each time the training resumes from the checkpoint of step 3.
    assert steps(tmp_path) == [0, 1, 2, 3, 4, 3, 4, 3, 4, 5]
    assert outcome.metrics["micro_batch"] == 1.0 and "micro_batch" not in whole[1].metrics
    (line,) = outcome.notes
    assert "too small for micro-batches of 4 examples: they had 1, the batch is the same" in line
    assert "with tiny.gradient_accumulation_steps = 4 this is not found out by trying" in line


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [0, 2])
def test_one_rank_without_memory_makes_all_take_smaller_micro_batches(
    zero_stage: int, whole: tuple[Path, Outcome], tmp_path: Path
) -> None:
    stage = TinyFit(**FROZEN, world_size=2, zero_stage=zero_stage, fits=1, short_rank=1, checkpoint_every=2)
    outcome = train(tmp_path, stage)
    assert losses(outcome) == pytest.approx(losses(whole[1]), abs=1e-6)
    torch.testing.assert_close(load_file(tmp_path / WEIGHTS), load_file(whole[0] / WEIGHTS), rtol=1e-5, atol=1e-6)
    assert read_limit(tmp_path) == 1 and outcome.metrics["micro_batch"] == 1.0


@pytest.mark.slow
def test_a_single_example_that_does_not_fit_names_the_settings(tmp_path: Path) -> None:
    # `fits` counts examples, so no number of it refuses a single one: the batch has one example of two.
    with pytest.raises(RankError, match="memory is too small for a single example") as caught:
        train(tmp_path, TinyFit(batch_size=2, fits=-1))
    assert "tiny.precision = fp32" in str(caught.value) and "CUDA out of memory" in str(caught.value)
    assert caught.value.failure.final and caught.value.failure.cause == "out of memory"


def test_halves_are_kept_for_the_next_start(tmp_path: Path) -> None:
    instance = instance_of(TinyFit(), tmp_path)
    assert read_limit(tmp_path) is None
    error = smaller_micro_batches(instance, torch.OutOfMemoryError("no memory"), size=7)
    assert isinstance(error, SmallerBatchError) and not is_final(error)
    assert "too small for micro-batches of 7 examples; the training goes on with 3 (no memory)" in str(error)
    assert read_limit(tmp_path) == 3
    with pytest.raises(OutOfGpuMemoryError) as caught:
        smaller_micro_batches(instance, torch.OutOfMemoryError("no memory"), size=1)
    assert is_final(caught.value) and read_limit(tmp_path) == 3


def test_a_damaged_note_is_none(tmp_path: Path) -> None:
    (tmp_path / "micro_batch.json").write_text("{")
    assert read_limit(tmp_path) is None
