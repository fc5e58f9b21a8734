"""The moving average of weights: its definition, several ranks, resuming after a kill, validation and saving."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from cluster.local import LocalRuntime
from cluster.training.ema import MovingAverage, make_average
from cluster.training.fit_files import RankError
from tests.cluster.tiny import TinyFit, instance_of
from wsss.contract.fit import BEST, LAST, WEIGHTS
from wsss.contract.runtime import RuntimeSettings
from wsss.contract.settings import hashed_values
from wsss.contract.stage import Outcome

pytestmark = pytest.mark.slow

SETTINGS: dict[str, Any] = {"batch_size": 4, "num_epochs": 2, "learning_rate": 0.05, "checkpoint_every": 1}
AVERAGED: dict[str, Any] = {**SETTINGS, "ema_decay": 0.4}


def train(path: Path, stage: TinyFit) -> Outcome:
    path.mkdir(exist_ok=True)
    runtime = LocalRuntime(RuntimeSettings(runs=path))
    return runtime.fit(instance_of(stage, path), stage, lambda done, total, state: None)


def test_average_by_its_definition() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    average = MovingAverage(network, decay=0.5)
    wanted = {name: value.double() for name, value in network.state_dict().items()}
    for step in range(1, 12):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter))
        network(torch.randn(5, 2))
        average.update(network, step=step)
        decay = min(0.5, (1 + step) / (10 + step))
        for name, value in network.state_dict().items():
            wanted[name] = decay * wanted[name] + (1 - decay) * value.double()
    assert int(average.state["1.num_batches_tracked"]) == 11
    for name, value in average.state.items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), wanted[name], rtol=1e-5, atol=1e-6)
    other = MovingAverage(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)), decay=0.5)
    other.from_bytes(average.to_bytes())
    assert all(torch.equal(value, average.state[name]) for name, value in other.state.items())


def test_there_is_no_average_by_default() -> None:
    network = nn.Linear(2, 3)
    assert make_average(network, TinyFit(), rank=0) is None
    assert make_average(network, TinyFit(ema_decay=0.9), rank=1) is None
    assert make_average(network, TinyFit(ema_decay=0.9), rank=0) is not None
    assert "ema_decay" not in hashed_values(TinyFit()) and "ema_decay" in hashed_values(TinyFit(ema_decay=0.9))


def test_zero_3_is_refused(tmp_path: Path) -> None:
    stage = TinyFit(**AVERAGED, zero_stage=3)
    with pytest.raises(ValueError, match=r"tiny.ema_decay = 0.4 averages complete weights, .* set zero_stage = 2"):
        stage.check(instance_of(stage, tmp_path))


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("two_ranks")
    train(path, TinyFit(**AVERAGED, world_size=2))
    return path


@pytest.mark.extended
def test_two_ranks_average_as_one_does(two_ranks: Path, tmp_path: Path) -> None:
    """The average differs from the weights of a training without it."""
    train(tmp_path / "one", TinyFit(**AVERAGED))
    train(tmp_path / "plain", TinyFit(**SETTINGS))
    one, two = load_file(tmp_path / "one" / WEIGHTS), load_file(two_ranks / WEIGHTS)
    torch.testing.assert_close(two, one, rtol=1e-5, atol=1e-6)
    plain = load_file(tmp_path / "plain" / WEIGHTS)
    assert plain.keys() == one.keys() and (plain["0.weight"] - one["0.weight"]).abs().max() > 1e-3
    assert one["1.num_batches_tracked"] == 6


@pytest.mark.extended
def test_killed_and_resumed_gives_the_same_bytes(two_ranks: Path, tmp_path: Path) -> None:
    stage = TinyFit(**AVERAGED, world_size=2, die=True)
    with pytest.raises(RankError):
        train(tmp_path, stage)
    averages = sorted(file.name for file in tmp_path.glob("checkpoints/average-*"))
    assert averages == ["average-00000003.safetensors", "average-00000004.safetensors"], "of the last two checkpoints"
    train(tmp_path, stage)
    assert (tmp_path / WEIGHTS).read_bytes() == (two_ranks / WEIGHTS).read_bytes()


@pytest.mark.extended
def test_the_average_is_what_is_validated_and_kept(tmp_path: Path) -> None:
    """Training continues from the weights themselves: the losses equal those of a training without an average."""
    settings = {"num_epochs": 3, "validate_every": 1, "keep": "best"}
    stage = TinyFit(**{**AVERAGED, **settings})
    averaged = train(tmp_path / "averaged", stage)
    plain = train(tmp_path / "plain", TinyFit(**{**SETTINGS, **settings}))
    assert [row["loss"] for row in averaged.tables["history"]] == [row["loss"] for row in plain.tables["history"]]
    assert averaged.metrics["best_step"] == plain.metrics["best_step"] == 6
    for name in (WEIGHTS, LAST):
        kept, without = (load_file(tmp_path / folder / name) for folder in ("averaged", "plain"))
        assert (kept["0.weight"] - without["0.weight"]).abs().max() > 1e-3
    assert not (tmp_path / "averaged" / BEST).exists()
