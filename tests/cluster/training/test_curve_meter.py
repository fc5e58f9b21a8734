"""What a rank measures for the curve of its training."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from cluster.training import curve_meter
from cluster.training.curve_meter import CurveMeter, gradient_norm
from cluster.training.rank_process import RankPlace
from wsss.contract.curve import read_points
from wsss.contract.stage import Instance
from wsss.stages.train_classifier import TrainClassifier


class Engine:
    """What the meter asks DeepSpeed's engine for."""

    def get_lr(self) -> list[float]:
        return [0.25, 2.5]

    def get_global_grad_norm(self) -> float:
        return 7.0


def meter(
    folder: Path, *, rank: int = 0, local: int = 0, num_steps: int = 6, step: int = 0, zero_stage: int = 0
) -> CurveMeter:
    place = RankPlace(rank, 2, local, 1, 0, address=None)
    stage = TrainClassifier(zero_stage=zero_stage)  # type: ignore[arg-type]
    instance = Instance(name="train", stage=stage, seed=0, inputs={}, fingerprint="", path=folder)
    return CurveMeter(instance, place, step=step, num_steps=num_steps)


@pytest.mark.parametrize("zero_stage", [0, 2])
def test_a_point_is_the_mean_of_its_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zero_stage: int) -> None:
    monkeypatch.setattr(curve_meter, "LONGEST", 2)
    measured = meter(tmp_path, num_steps=5, zero_stage=zero_stage)
    task = torch.nn.Linear(2, 1)
    task.weight.grad = torch.tensor([[0.3, 0.4]])
    for step, loss in enumerate([1.0, 2.0, 6.0, 4.0, 8.0], start=1):
        assert measured.is_due(step) == (step in (3, 5))
        measured.see_gradient(task, step=step, last=True)
        measured.add(step, {"loss": loss}, images=4.0, engine=Engine())
    first, last = read_points(tmp_path / "curve.jsonl")
    assert (first.step, last.step) == (3, 5)
    assert first.values["train/loss"] == pytest.approx(3.0) and last.values["train/loss"] == pytest.approx(6.0)
    assert first.values["train/learning_rate"] == 0.25
    # With ZeRO a rank has only its part of the gradient, and DeepSpeed's own norm is taken.
    assert last.values["train/gradient_norm"] == pytest.approx(7.0 if zero_stage else 0.5)


def test_waiting_for_data_is_a_share_of_the_time(tmp_path: Path) -> None:
    measured = meter(tmp_path)

    def slow() -> Iterator[str]:
        time.sleep(0.15)
        yield "examples"

    assert measured.awaited(slow()) == "examples"
    time.sleep(0.05)
    measured.add(1, {"loss": 1.0}, images=10.0, engine=Engine())
    (point,) = read_points(tmp_path / "curve.jsonl")
    assert 0.4 < point.values["train/data_wait_share"] < 0.99
    assert 10 < point.values["train/images_per_second"] < 50


def test_rank_0_writes_the_curve_and_the_first_rank_of_a_node_its_state(tmp_path: Path) -> None:
    for rank, local in ((0, 0), (1, 1), (2, 0)):
        folder = tmp_path / str(rank)
        folder.mkdir()
        measured = meter(folder, rank=rank, local=local)
        measured.add(1, {"loss": 1.0}, images=1.0, engine=Engine())
        measured.add_validation(1, {"val.mean_iou": 0.5})
        assert (folder / "curve.jsonl").exists() == (rank == 0)
        assert bool(list(folder.glob("system-*.jsonl"))) == (local == 0)
    assert read_points(tmp_path / "0" / "curve.jsonl")[1].values == {"validation/mean_iou": 0.5}
    (system,) = (tmp_path / "2").glob("system-*.jsonl")
    (point,) = read_points(system)
    assert all(name.startswith("system/") for name in point.values)
    assert 0 < next(v for name, v in point.values.items() if name.endswith("memory_usage_percentage")) < 100


def test_points_after_the_checkpoint_are_removed(tmp_path: Path) -> None:
    measured = meter(tmp_path)
    for step in (1, 2, 3):
        measured.add(step, {"loss": 1.0}, images=1.0, engine=Engine())
    meter(tmp_path, step=2)
    assert [point.step for point in read_points(tmp_path / "curve.jsonl")] == [1, 2]


def test_the_norm_is_that_of_all_gradients_together() -> None:
    first, second, third = (torch.nn.Parameter(torch.zeros(size)) for size in (2, 3, 1))
    first.grad, second.grad = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 12.0, 0.0])
    assert gradient_norm(iter([first, second, third])) == pytest.approx(13.0)
    assert gradient_norm(iter([third])) == 0.0
