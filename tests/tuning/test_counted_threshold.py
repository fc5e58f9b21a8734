"""Counts by theta are not those of a background threshold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.wsss.layers import instance_of
from tuning.counted_threshold import labels_of
from wsss.pipeline.recipe import RecipeError, load_recipe
from wsss.stages.evaluate import Evaluate
from wsss.stages.make_cams import MakeCams
from wsss.stages.make_pseudo_labels import MakePseudoLabels

TOY = Path(__file__).parents[2] / "tuning" / "recipes" / "toy.toml"
THRESHOLD = "make_pseudo_labels.background_threshold"


def test_a_background_threshold_is_not_searched_on_counts_by_theta(tmp_path: Path) -> None:
    samples = load_recipe(TOY).instances[0]
    cams = instance_of(MakeCams(method="stochastic"), tmp_path, samples=samples)
    labels = instance_of(MakePseudoLabels(refine="none"), tmp_path, samples=samples, scores=cams)
    metric = instance_of(Evaluate(), tmp_path, samples=samples, records=cams)
    recipe = replace(load_recipe(TOY), instances=(samples, cams, labels, metric))
    assert labels_of(metric, recipe, [THRESHOLD]) == "make_pseudo_labels"
    for setting, why in (
        ({"image_threshold": "otsu"}, "image_threshold = 'otsu': every image has a threshold of its own"),
        ({"class_thresholds": {samples.taxonomy.names[0]: 0.25}}, "class_thresholds = .*thresholds of their own"),
    ):
        own = replace(labels, stage=MakePseudoLabels(refine="none", **setting))  # type: ignore[arg-type]
        with pytest.raises(RecipeError, match=why):
            labels_of(metric, replace(recipe, instances=(samples, cams, own, metric)), [THRESHOLD])
    by_theta = replace(metric, stage=Evaluate(rule="ficklenet"))
    with pytest.raises(RecipeError, match=r"evaluate.rule = 'ficklenet' counts by theta, but make_pseudo_labels.back"):
        labels_of(by_theta, recipe, [THRESHOLD])
