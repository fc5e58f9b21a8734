"""A training with targets that change from step to step goes on, after it was killed, as if nothing had happened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save_file

from cluster.local import LocalRuntime
from cluster.training.fit_files import RankError
from tests.cluster.tiny import die_once
from tests.wsss.layers import instance_of
from tests.wsss.stages.segmenter.test_mask_supervision import SETTINGS, data
from wsss.contract.fit import Draw, TrainingSet, weights_path
from wsss.contract.runtime import RuntimeSettings
from wsss.contract.settings import settings
from wsss.contract.stage import Instance
from wsss.stages.train_ancillary import TrainAncillary
from wsss.stages.train_segmenter import TrainSegmenter

TEACHER: dict[str, Any] = {
    "objective": "mean_teacher",
    "num_epochs": 5,
    "min_confidence": 0.2,
    "correct_labels": True,
    "correction_slope": 0.01,
    "correction_confidence": 0.0,
    "checkpoint_every": 2,
}
LINEAR = {"objective": "self_correction", "full_share": 0.25, "full_per_batch": 1, "checkpoint_every": 1}


class DyingSet:
    """Ends its process once, at the first example of an epoch."""

    def __init__(self, examples: TrainingSet, marker: Path, *, epoch: int) -> None:
        self._examples, self._marker, self._epoch = examples, marker, epoch

    def __len__(self) -> int:
        return len(self._examples)

    def order(self, epoch: int) -> np.ndarray:
        return self._examples.order(epoch)

    def num_draws(self, epoch: int) -> int:
        return self._examples.num_draws(epoch)

    def name_of(self, index: int) -> str:
        return self._examples.name_of(index)

    def example(self, draw: Draw) -> dict[str, Any]:
        if draw.epoch == self._epoch:
            die_once(self._marker)
        return self._examples.example(draw)


@settings
class DyingSegmenter(TrainSegmenter):
    """Dies where a marker is not there."""

    dies_in: int = 1
    """The epoch, counted from 0."""

    def training_set(self, instance: Instance) -> TrainingSet:
        return DyingSet(super().training_set(instance), instance.path / "died", epoch=self.dies_in)


@pytest.mark.slow
def test_a_killed_training_goes_on_with_the_ancillary_models_weight_of_its_step(tmp_path: Path) -> None:
    of, _ = data(tmp_path)
    ancillary = instance_of(TrainAncillary(**SETTINGS, full_share=0.25), tmp_path, samples=of)
    ancillary.path.mkdir()
    torch.manual_seed(0)
    network = ancillary.stage.model(ancillary, pretrained=False)  # type: ignore[attr-defined]
    save_file(network.state_dict(), weights_path(ancillary))
    runtime, trained = LocalRuntime(RuntimeSettings(runs=tmp_path)), []
    for folder in ("whole", "killed"):
        stage = DyingSegmenter(**SETTINGS, **LINEAR)
        instance = instance_of(stage, tmp_path / folder, samples=of, ancillary=ancillary)
        instance.path.mkdir(parents=True)
        if folder == "killed":
            with pytest.raises(RankError):
                runtime.fit(instance, stage, lambda *_: None)
            assert json.loads((instance.path / "checkpoints" / "latest.json").read_text())["step"] == 3
        (instance.path / "died").touch()
        runtime.fit(instance, stage, lambda *_: None)
        trained.append(weights_path(instance).read_bytes())
    assert trained[0] == trained[1]


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [1, pytest.param(2, marks=pytest.mark.extended)])
def test_a_killed_training_goes_on_with_its_teacher_and_the_classes_it_corrects(
    tmp_path: Path, world_size: int
) -> None:
    """Killed in the fifth of five epochs of three steps: classes are corrected from the fourth on."""
    of, labels = data(tmp_path)
    runtime, states = LocalRuntime(RuntimeSettings(runs=tmp_path)), []
    for folder in ("whole", "killed"):
        stage = DyingSegmenter(**{**SETTINGS, **TEACHER, "world_size": world_size, "dies_in": 4})
        instance = instance_of(stage, tmp_path / folder, samples=of, pseudo_labels=labels)
        stage.check(instance)
        instance.path.mkdir(parents=True)
        if folder == "killed":
            with pytest.raises(RankError):
                runtime.fit(instance, stage, lambda *_: None)
            assert json.loads((instance.path / "checkpoints" / "latest.json").read_text())["step"] == 12
        (instance.path / "died").touch()
        outcome = runtime.fit(instance, stage, lambda *_: None)
        history: Any = outcome.tables["history"]
        assert [row["corrected"] > 0 for row in history] == [False] * 3 + [True] * 2
        states.append((instance.path / "checkpoints" / "step-00000015.safetensors").read_bytes())
    assert states[0] == states[1]
    state = load(states[0])
    assert state["module/early_learning.corrected"].any() and int(state["module/early_learning.num_done"]) == 5
    assert "module/teacher.network.network.segmentation_head.0.weight" in state
