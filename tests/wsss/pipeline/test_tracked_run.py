"""What a run record says of the network behind a result."""

from __future__ import annotations

from pathlib import Path

from wsss.pipeline.recipe import load_recipe
from wsss.pipeline.tracked_run import network_behind

TOY = Path(__file__).parents[3] / "tuning" / "recipes" / "toy.toml"


def test_a_prediction_is_the_segmenters_also_with_a_prior_of_the_classifier(tmp_path: Path) -> None:
    recipe = load_recipe(TOY, [f"runtime.runs={tmp_path}", "predict.prior_weight=0.5"])
    predict, segmenter = recipe.instance("predict"), recipe.instance("train_segmenter")
    assert predict.inputs["classifier"].stage.kind == "train_classifier"
    for name in ("predict", "evaluate", "submit"):
        assert network_behind(recipe.instance(name)) == segmenter.fingerprint, name
    assert network_behind(recipe.instance("make_cams")) == recipe.instance("train_classifier").fingerprint
    assert network_behind(recipe.instance("make_scores")) == recipe.instance("train_affinity").fingerprint
    assert network_behind(recipe.instance("build_shards")) == ""
