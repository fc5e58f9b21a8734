from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from cluster.training.optimizer import lr_multiplier, make_optimizer
from tests.cluster.tiny import TinyFit, TinyTask
from wsss.contract.settings import hashed_values

ENDS = [3, 6, 10]


def test_polynomial_decay_of_the_learning_rate() -> None:
    stage = TinyFit(poly_power=0.5, num_epochs=3)
    found = [lr_multiplier(stage, step, epoch_ends=ENDS) for step in range(11)]
    assert found == pytest.approx([(1 - step / 10) ** 0.5 for step in range(11)])


def test_step_decay_every_second_epoch_after_a_warm_up() -> None:
    stage = TinyFit(schedule="step", step_epochs=2, step_factor=0.2, num_epochs=3, warmup_steps=2)
    found = [lr_multiplier(stage, step, epoch_ends=ENDS) for step in range(10)]
    assert found == pytest.approx([0.5, 1, 1, 1, 1, 1, 0.2, 0.2, 0.2, 0.2])


def test_the_third_places_four_groups(tmp_path: Path) -> None:
    """NoPeopleAllowed: 1e-4 for pretrained weights, 2e-4 for their biases, 1e-3 and 2e-3 for new parameters."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1))

    class WithHead(TinyTask):
        def new_parameters(self) -> Iterator[nn.Parameter]:
            yield from network[1].parameters()

    stage = TinyFit(
        optimizer="adam", learning_rate=1e-4, head_lr_multiplier=10, bias_lr_multiplier=2, weight_decay=1e-5
    )
    optimizer = make_optimizer(WithHead(network, stage, tmp_path), stage)
    assert isinstance(optimizer, torch.optim.Adam)
    found = {
        tuple(parameter.shape): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert found == {
        (4, 3, 3, 3): (1e-4, 1e-5),
        (4,): (2e-4, 0.0),
        (2, 4, 1, 1): (pytest.approx(1e-3), 1e-5),
        (2,): (pytest.approx(2e-3), 0.0),
    }


def test_weight_decay_that_is_not_given_depends_on_the_optimizer(tmp_path: Path) -> None:
    """Adam has none, as in FickleNet; what is given is used with any."""
    network = nn.Conv2d(3, 4, 3)

    def decay_of(stage: TinyFit) -> float:
        groups = make_optimizer(TinyTask(network, stage, tmp_path), stage).param_groups
        return max(float(group["weight_decay"]) for group in groups)

    decays = {name: decay_of(TinyFit(optimizer=name)) for name in ("sgd", "adam", "adamw")}
    assert decays == {"sgd": 1e-4, "adam": 0.0, "adamw": 1e-4}
    assert {decay_of(TinyFit(optimizer=name, weight_decay=0.5)) for name in ("sgd", "adam", "adamw")} == {0.5}
    assert decay_of(TinyFit(optimizer="sgd", weight_decay=0.0)) == 0.0
    for name, decay in decays.items():
        given = hashed_values(TinyFit(optimizer=name, weight_decay=decay))
        assert hashed_values(TinyFit(optimizer=name)) == given and given["weight_decay"] == decay
