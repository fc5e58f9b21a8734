"""A training with targets that change from step to step goes on, after it was killed, as if nothing had happened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

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

LINEAR = {"objective": "self_correction", "full_share": 0.25, "full_per_batch": 1, "checkpoint_every": 1}


class DyingSet:
    """Ends its process once, at the first example of the second epoch."""

    def __init__(self, examples: TrainingSet, marker: Path) -> None:
        self._examples, self._marker = examples, marker

    def __len__(self) -> int:
        return len(self._examples)

    def order(self, epoch: int) -> np.ndarray:
        return self._examples.order(epoch)

    def num_draws(self, epoch: int) -> int:
        return self._examples.num_draws(epoch)

    def name_of(self, index: int) -> str:
        return self._examples.name_of(index)

    def example(self, draw: Draw) -> dict[str, Any]:
        if draw.epoch == 1:
            die_once(self._marker)
        return self._examples.example(draw)


@settings
class DyingSegmenter(TrainSegmenter):
    """Dies where a marker is not there."""

    def training_set(self, instance: Instance) -> TrainingSet:
        return DyingSet(super().training_set(instance), instance.path / "died")


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
