from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from timm.layers import BatchNormAct2d
from torch import nn

from cluster.local import LocalRuntime
from cluster.training.fit_files import RankError
from cluster.training.sync_norm import SynchronisedBatchNorm, TorchSynchronisedBatchNorm, synchronise_norms
from tests.cluster.tiny import TinyFit, instance_of
from wsss.contract.fit import BEST, LAST, WEIGHTS
from wsss.contract.runtime import RuntimeSettings
from wsss.contract.stage import Outcome
from wsss.models.norm import freeze_batch_norm

pytestmark = pytest.mark.slow

SETTINGS = {"batch_size": 4, "num_epochs": 2, "learning_rate": 0.05, "checkpoint_every": 1}


def train(path: Path, stage: TinyFit) -> Outcome:
    path.mkdir(exist_ok=True)
    runtime = LocalRuntime(RuntimeSettings(runs=path))
    return runtime.fit(instance_of(stage, path), stage, lambda done, total, state: None)


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    path = tmp_path_factory.mktemp("two_ranks")
    return path, train(path, TinyFit(**SETTINGS, world_size=2))


def losses(outcome: Outcome) -> list[object]:
    return [row["loss"] for row in outcome.tables["history"]]


def test_two_ranks_train_as_one_does(two_ranks: tuple[Path, Outcome], tmp_path: Path) -> None:
    one = train(tmp_path, TinyFit(**SETTINGS, world_size=1))
    path, two = two_ranks
    assert len(losses(one)) == 2
    assert losses(two) == pytest.approx(losses(one), abs=1e-6)
    ones, twos = load_file(tmp_path / WEIGHTS), load_file(path / WEIGHTS)
    assert ones.keys() == twos.keys() == TinyFit().model(None, pretrained=False).state_dict().keys()  # type: ignore[arg-type]
    for name, value in ones.items():
        torch.testing.assert_close(twos[name], value, rtol=1e-5, atol=1e-6, msg=name)
    assert ones["1.num_batches_tracked"] == 6
    assert one.metrics["tiny.parameters"] == two.metrics["tiny.parameters"] == 125.0


def test_killed_and_resumed_gives_the_same_bytes(two_ranks: tuple[Path, Outcome], tmp_path: Path) -> None:
    stage = TinyFit(**SETTINGS, world_size=2, die=True)
    with pytest.raises(RankError, match="tiny: training failed"):
        train(tmp_path, stage)
    assert not (tmp_path / WEIGHTS).exists()
    assert json.loads((tmp_path / "checkpoints" / "latest.json").read_bytes())["step"] == 4
    outcome = train(tmp_path, stage)
    assert losses(outcome) == losses(two_ranks[1])
    assert (tmp_path / WEIGHTS).read_bytes() == (two_ranks[0] / WEIGHTS).read_bytes()


@pytest.mark.extended
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_another_world_size_resumes_a_checkpoint(
    before: int, after: int, two_ranks: tuple[Path, Outcome], tmp_path: Path
) -> None:
    """After resuming, sums are grouped differently: results are equal within a tolerance, not bit by bit."""
    with pytest.raises(RankError, match="tiny: training failed"):
        train(tmp_path, TinyFit(**SETTINGS, world_size=before, die=True))
    assert json.loads((tmp_path / "checkpoints" / "latest.json").read_bytes())["step"] == 4
    outcome = train(tmp_path, TinyFit(**SETTINGS, world_size=after))
    assert losses(outcome) == pytest.approx(losses(two_ranks[1]), abs=1e-6)
    torch.testing.assert_close(load_file(tmp_path / WEIGHTS), load_file(two_ranks[0] / WEIGHTS), rtol=1e-5, atol=1e-6)


def test_gradient_accumulation_trains_as_whole_batches_do(two_ranks: tuple[Path, Outcome], tmp_path: Path) -> None:
    """Examples mask different shares, so the mean of the micro-batches' means would be another loss."""
    frozen = {**SETTINGS, "frozen": True}
    (tmp_path / "whole").mkdir()
    whole = train(tmp_path / "whole", TinyFit(**frozen))
    for name, settings in {
        "two": {"gradient_accumulation_steps": 2},
        "ranks": {"gradient_accumulation_steps": 2, "world_size": 2},
    }.items():
        accumulated = train(tmp_path / name, TinyFit(**frozen, **settings))
        assert losses(accumulated) == pytest.approx(losses(whole), abs=1e-6)
        torch.testing.assert_close(
            load_file(tmp_path / name / WEIGHTS), load_file(tmp_path / "whole" / WEIGHTS), rtol=1e-5, atol=1e-6
        )


@pytest.mark.extended
@pytest.mark.parametrize("settings", [{"zero_stage": 1}, {"zero_stage": 3}])
def test_zero_stages_train_alike(settings: dict[str, Any], two_ranks: tuple[Path, Outcome], tmp_path: Path) -> None:
    outcome = train(tmp_path, TinyFit(**SETTINGS, world_size=2, **settings))
    assert losses(outcome) == pytest.approx(losses(two_ranks[1]), abs=1e-6)
    torch.testing.assert_close(load_file(tmp_path / WEIGHTS), load_file(two_ranks[0] / WEIGHTS), rtol=1e-5, atol=1e-6)


@pytest.mark.extended
def test_weights_partitioned_over_ranks_are_validated_and_saved(tmp_path: Path) -> None:
    """ZeRO 3 with a layer that is partitioned over the ranks: rank 0 validates while the other waits."""
    outcomes, weights = [], []
    for name, zero_stage in (("whole", 0), ("shared", 3)):
        settings = {**SETTINGS, "learning_rate": 1e-4, "num_epochs": 1, "validate_every": 1, "wide": True}
        stage = TinyFit(**settings, world_size=2, zero_stage=zero_stage)  # type: ignore[arg-type]
        outcomes.append(train(tmp_path / name, stage))
        weights.append(load_file(tmp_path / name / WEIGHTS))
    assert outcomes[1].metrics["tiny.parameters"] == outcomes[0].metrics["tiny.parameters"] > 400_000
    assert losses(outcomes[1]) == pytest.approx(losses(outcomes[0]), rel=1e-4)
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-4, atol=1e-5)


@pytest.mark.extended
def test_clipped_gradients_and_autocast(two_ranks: tuple[Path, Outcome], tmp_path: Path) -> None:
    """Three steps of plain SGD move all weights together by at most 3 x learning rate x clipping norm."""
    settings = {
        "learning_rate": 0.05,
        "batch_size": 4,
        "num_epochs": 1,
        "poly_power": 0,
        "momentum": 0,
        "weight_decay": 0,
    }
    stage = TinyFit(**settings, gradient_clipping=1e-3)  # type: ignore[arg-type]
    train(tmp_path / "clipped", stage)
    torch.manual_seed(3)
    start = stage.model(None, pretrained=False)  # type: ignore[arg-type]
    end = load_file(tmp_path / "clipped" / WEIGHTS)
    moved = sum(float((end[name] - value).square().sum()) for name, value in start.named_parameters()) ** 0.5
    assert 1e-5 < moved <= 3 * 0.05 * 1e-3 * 1.01
    low = losses(train(tmp_path / "bf16", TinyFit(**SETTINGS, precision="bf16")))
    assert low == pytest.approx(losses(two_ranks[1]), rel=0.02) and low != losses(two_ranks[1])


@pytest.mark.extended
@pytest.mark.parametrize("keep", ["last", "best"])
def test_best_and_last_weights(keep: str, tmp_path: Path) -> None:
    """Nine examples in batches of four: epochs end at steps 3, 6 and 9, and the second validation is the best."""
    killed = keep == "best"
    stage = TinyFit(**{**SETTINGS, "num_epochs": 3}, world_size=2, validate_every=1, keep=keep, die=killed)  # type: ignore[arg-type]
    if killed:
        with pytest.raises(RankError):
            train(tmp_path, stage)
    outcome = train(tmp_path, stage)
    assert (tmp_path / "validations.txt").read_text().count("\n") == 3
    assert [row["val.seen"] for row in outcome.tables["history"]] == [3, 6, 9]
    assert outcome.metrics["best_step"] == 6
    found = {
        name: load_file(tmp_path / name)["1.num_batches_tracked"]
        for name in (WEIGHTS, LAST, BEST)
        if (tmp_path / name).exists()
    }
    assert found == ({WEIGHTS: 9, BEST: 6} if keep == "last" else {WEIGHTS: 6, LAST: 9})
    assert not list((tmp_path / "checkpoints").glob("best-*9.safetensors"))
    assert outcome.tables["ranks"] == [{"first_step": 1, "last_step": 9, "world_size": 2}]


@pytest.mark.slow
@pytest.mark.parametrize("step", [3, 6])
def test_an_epoch_is_not_repeated_if_its_validation_was_killed(step: int, tmp_path: Path) -> None:
    """Also after the last epoch, at step 6. The epoch's mean loss is of all its steps."""
    stage = {**SETTINGS, "num_epochs": 2, "validate_every": 1}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    wanted = train(whole, TinyFit(**stage))  # type: ignore[arg-type]
    with pytest.raises(RankError):
        train(killed, TinyFit(**stage, die_validating=step, fits=99))  # type: ignore[arg-type]
    found = train(killed, TinyFit(**stage, die_validating=step, fits=99))  # type: ignore[arg-type]
    begun = [int(line) for line in (killed / "steps.txt").read_text().split()]
    assert begun == [0, 1, 2, 3, 4, 5], "no step is done again"
    assert (killed / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
    times = ("images_per_second",)
    rows = [
        [{k: v for k, v in row.items() if k not in times} for row in one.tables["history"]] for one in (wanted, found)
    ]
    assert rows[0] == rows[1]


def test_non_finite_loss_names_the_examples_of_all_ranks(tmp_path: Path) -> None:
    with pytest.raises(RankError, match=r"TrainingDivergedError: the loss is nan at step \d") as caught:
        train(tmp_path, TinyFit(**SETTINGS, world_size=2, poison=5))
    message = str(caught.value)
    assert "k5" in message and "learning_rate" in message
    assert not (tmp_path / WEIGHTS).exists()
    noted = (tmp_path / "diverged.txt").read_text().splitlines()
    assert len(noted) == 5 and all(key in message for key in noted[1:])
    pointer = tmp_path / "checkpoints" / "latest.json"
    step = json.loads(pointer.read_bytes())["step"] if pointer.exists() else None
    expected = "there is no checkpoint yet" if step is None else f"the checkpoint of step {step} is in"
    assert expected in message


def test_non_finite_weights_never_replace_a_checkpoint(tmp_path: Path) -> None:
    """The loss of the step that makes them non-finite is finite."""
    last = int(TinyFit(**SETTINGS).training_set(instance_of(TinyFit(), tmp_path)).order(1)[-1])
    stage = TinyFit(**{**SETTINGS, "num_epochs": 2}, world_size=2, spoil=last)  # type: ignore[arg-type]
    with pytest.raises(RankError, match=r"weights are not finite after step \d.*learning_rate") as caught:
        train(tmp_path, stage)
    step = int(str(caught.value).split("after step ")[1][0])
    pointer = tmp_path / "checkpoints" / "latest.json"
    assert (json.loads(pointer.read_bytes())["step"] if pointer.exists() else 0) == step - 1
    assert not (tmp_path / WEIGHTS).exists()


def test_buffers_are_equal_on_all_ranks_after_a_checkpoint(tmp_path: Path) -> None:
    """Ranks have different running statistics; saving makes them equal, so that every later step starts equal."""
    train(tmp_path, TinyFit(**SETTINGS, world_size=2, synchronise=False, note_buffers=True))
    noted = [(tmp_path / f"buffers-{rank}.txt").read_text().splitlines() for rank in (0, 1)]
    assert len(noted[0]) == 6 and noted[0] == noted[1] and len(set(noted[0])) == 6


@pytest.mark.parametrize("layer", [SynchronisedBatchNorm, TorchSynchronisedBatchNorm])
def test_norm_alone_equals_torchs_and_leaves_frozen_layers(layer: Any) -> None:
    """The second layer is torch's own, which synchronises only on GPUs; here its results without ranks are tested."""

    def make() -> nn.Sequential:
        fused = BatchNormAct2d(3, act_layer=nn.ReLU)
        return nn.Sequential(nn.BatchNorm2d(3), nn.Sequential(nn.BatchNorm2d(3)), fused)

    torch.manual_seed(0)
    reference, ours = make(), make()
    for network in (reference, ours):
        freeze_batch_norm(network[1])
    layers = synchronise_norms(ours, layer=layer)
    assert [type(made) for made in layers] == [layer, layer]
    assert ours[0] is layers[0] and ours[2] is layers[1]
    x_BDHW = torch.randn(2, 3, 5, 7) * 3 + 1
    torch.testing.assert_close(ours(x_BDHW), reference(x_BDHW), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.state_dict(), reference.state_dict(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.eval()(x_BDHW), reference.eval()(x_BDHW))
