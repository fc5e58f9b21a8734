"""Every recipe of a published system, with its own networks on random weights and its own crops: one training step of
each training, and every image through every stage, on VOC 2012 drawn in small.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from shards.reader import read_shard
from shards.records import CamRecord, Missing, Prediction, PseudoLabel, ScoreRecord, SeedRecord
from tests.pipeline.chain import run
from tests.pipeline.drawn_voc import draw_voc
from wsss.contract.fit import Fit
from wsss.contract.stage import Map
from wsss.pipeline.recipe import Recipe, load_recipe
from wsss.pipeline.recipe_files import RECIPES
from wsss.stages.evaluate import Evaluate
from wsss.stages.segmenter.boxed_training import BoxedTraining
from wsss.stages.segmenter.mask_supervision import MixedBatches

pytestmark = pytest.mark.extended

WEAK = {"masked": 2, "others": 0}
SYSTEMS = {
    "irnet_voc": WEAK,
    "ficklenet_voc": WEAK,
    "ficklenet_voc_semi": {"masked": 2, "others": 1},
    "affinitynet_voc": WEAK,
    "dsrg_voc": WEAK,
    "sec_voc": WEAK,
    # Its norms are trained, so that no batch may have one image, also that of half of the masks.
    "self_correcting_voc": {"masked": 4, "others": 1},
}
"""Recipe -> numbers of training images."""
FEWER_MASKS = {"self_correcting_voc": ["train_ancillary.full_share=0.5", "train_correction.full_share=0.75"]}
"""Recipe -> shares of the masks for a part of its trainings, which would take twice as long with all four."""


def one_step_each(recipe: Recipe, *, masked: int, others: int) -> list[str]:
    """The overrides that make an epoch of every training one step."""
    overrides = []
    for instance in recipe.instances:
        stage = instance.stage
        if not isinstance(stage, Fit):
            continue
        images = masked + others
        if isinstance(stage, BoxedTraining):
            images = round(stage.full_share * masked)
        elif isinstance(stage, MixedBatches) and stage.supervision() == "semi":
            images = 2 * others
            overrides.append(f"{instance.name}.full_per_batch={others}")
        overrides += [f"{instance.name}.batch_size={images}", f"{instance.name}.num_epochs=1"]
    return overrides


@pytest.mark.parametrize("name", SYSTEMS)
def test_one_step_and_one_image(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_voc(tmp_path / "voc", **SYSTEMS[name])
    monkeypatch.setenv("VOC_ROOT", str(tmp_path / "voc"))
    path, settings = RECIPES / f"{name}.toml", ["defaults.pretrained=none", f"runtime.runs={tmp_path / 'runs'}"]
    settings += FEWER_MASKS.get(name, [])
    settings += one_step_each(load_recipe(path, settings), **SYSTEMS[name])
    recipe = load_recipe(path, settings)
    summary = run(recipe)
    assert set(summary.records) == {instance.name for instance in recipe.instances} and not summary.skipped

    for instance in recipe.instances:
        if isinstance(instance.stage, Fit):
            (step,) = summary.records[instance.name].tables["history"]
            assert isinstance(step["loss"], float) and math.isfinite(step["loss"]), instance.name
        elif isinstance(instance.stage, Map):
            check_layer(recipe, instance.name)
    for instance in recipe.instances:
        if isinstance(instance.stage, Evaluate):
            images = {"train": SYSTEMS[name]["masked"], "val": 2}
            metrics = summary.records[instance.name].metrics
            assert {split: metrics[f"{split}.images"] for split in instance.stage.splits} == {
                split: images[split] for split in instance.stage.splits
            }


def check_layer(recipe: Recipe, name: str) -> None:
    """Every record is finite and has no class that its image does not show, if labels are given."""
    instance = recipe.instance(name)
    for shard in instance.layer.shards():
        for record in read_shard(instance.layer, shard):
            assert not isinstance(record, Missing), (name, record)
            if isinstance(record, CamRecord):
                assert (record.maps >= 0).all() and record.maps.max() <= 1, name
            elif isinstance(record, ScoreRecord):
                assert (record.scores >= 0).all() and record.scores.max() < 1.1, name
            elif isinstance(record, SeedRecord):
                assert (record.label != 255).sum() > 1, name
            elif isinstance(record, PseudoLabel | Prediction):
                assert record.mask.max() <= 20, name
