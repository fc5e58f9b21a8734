"""AffinityNet as published, from images to labels, with its own networks on random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shards.reader import read_shard
from shards.records import PseudoLabel, ScoreRecord, SeedRecord
from tests.pipeline.chain import run
from wsss.pipeline.recipe import load_recipe

pytestmark = pytest.mark.slow

RECIPE = """
[recipe]
name = "affinitynet"
seed = 4
[defaults]
pretrained = "none"
encoder = "vgg16_affinitynet"
output_stride = 8
mean = [0.4810784, 0.4575255, 0.4078745]
std = [0.00392157, 0.00392157, 0.00392157]
batch_size = 4
num_epochs = 1
learning_rate = 0.0001
head_lr_multiplier = 10.0
bias_lr_multiplier = 2.0
frozen_stride = 4
crop_size = 64
resize_long = [64, 64]
[stages.build_shards]
source = "toy"
counts = { train = 12, val = 2 }
size = 64
shard_size = 6
[stages.train_classifier]
dropout = 0.5
loss = "soft_margin"
validation_split = ""
[stages.make_cams]
scales = [1.0, 0.5]
square_root = true
[stages.make_seeds]
splits = ["train"]
rule = "exponents"
foreground_exponent = 4.0
background_exponent = 32.0
crf_bilateral = [80.0, 13.0, 10.0]
crf_iterations = 2
keep_scores = true
[stages.train_affinity]
network = "affinitynet"
levels = "conv4_conv5_fc7"
radius = 4
[stages.make_scores]
splits = ["train"]
beta = 8.0
num_steps_log2 = 3
background_exponent = 16.0
[stages.make_pseudo_labels]
splits = ["train"]
background = "propagated"
refine = "none"
"""


def test_every_stage_makes_its_records(tmp_path: Path) -> None:
    path = tmp_path / "affinitynet.toml"
    path.write_text(RECIPE)
    recipe = load_recipe(path, [f"runtime.runs={tmp_path / 'runs'}"])
    records = run(recipe).records
    (loss,) = (row["loss"] for row in records["train_affinity"].tables["history"])
    assert isinstance(loss, float) and 0 < loss < 10

    shard = "train-000000"
    layers = (recipe.instance(name).layer for name in ("make_seeds", "make_scores", "make_pseudo_labels"))
    for seed, score, label in zip(*(read_shard(layer, shard) for layer in layers), strict=True):
        assert isinstance(seed, SeedRecord) and isinstance(score, ScoreRecord) and isinstance(label, PseudoLabel)
        assert seed.scores is not None and seed.scores.shape == (2, len(score.classes) + 1, *seed.label.shape)
        assert np.isfinite(seed.scores).all() and np.isfinite(score.scores).all()
        assert score.background is not None and np.isfinite(score.background).all()
        assert label.mask.shape == seed.label.shape and set(np.unique(label.mask)) <= {0, *score.classes.tolist()}
