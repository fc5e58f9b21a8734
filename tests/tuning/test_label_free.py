from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tests.tuning.sweep_files import RECIPE
from tests.wsss.layers import instance_of
from tuning.label_free import main, measure, setting_lines, threshold_table
from wsss.pipeline.recipe import RecipeError, load_recipe
from wsss.report.tables import records
from wsss.stages.evaluate import Evaluate
from wsss.stages.evaluation.label_free import ThresholdScore
from wsss.stages.make_cams import MakeCams

TOY = Path(__file__).parents[2] / "tuning" / "recipes" / "toy.toml"


def run(folder: Path, *words: str) -> int:
    (folder / "base.toml").write_text(RECIPE)
    return main([str(folder / "base.toml"), *words, "--set", f"runtime.runs={folder / 'runs'}"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluate_pseudo_labels"], "evaluate_pseudo_labels is not an evaluate of score maps"),
        (["evaluate_walk", "--split", "train"], "--split train: evaluate_walk.splits measures val"),
        (["evaluate_walk"], "is not done yet; run the recipe up to it first"),
        (["evaluate_wlak"], "did you mean evaluate_walk"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert run(tmp_path, *words) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_counts_by_theta_are_refused(tmp_path: Path) -> None:
    samples = load_recipe(TOY).instances[0]
    cams = instance_of(MakeCams(method="stochastic"), tmp_path, samples=samples)
    metric = instance_of(Evaluate(rule="ficklenet"), tmp_path, samples=samples, records=cams)
    with pytest.raises(RecipeError, match=r"evaluate.rule = 'ficklenet' counts by theta, not by a threshold of scores"):
        measure(metric, "val")


def test_the_table_tells_apart_what_used_masks() -> None:
    scores = [
        ThresholdScore(method="two-fold", scope="fold", masks=True, thresholds=(0.25, 0.5), mean_iou=0.625),
        ThresholdScore(method="otsu", scope="image", masks=False, thresholds=(0.125, 0.25, 0.5), mean_iou=0.5),
    ]
    rows = records(threshold_table(scores, title="maps"))
    assert [(row["method"], row["masks"], row["mean_iou"]) for row in rows] == [
        ("two-fold", True, 0.625),
        ("otsu", False, 0.5),
    ]
    assert rows[1]["thresholds"] == "0.125, 0.250, 0.500"


def test_settings_name_the_instance_and_the_classes_without_a_threshold(tmp_path: Path) -> None:
    recipe = load_recipe(TOY, [f"runtime.runs={tmp_path}"])
    metric = recipe.instance("evaluate_walk")
    names = metric.taxonomy.names
    by_class = {number: 0.25 * (number - 1) for number in range(1, len(names))}
    given = {"method": "otsu", "scope": "class", "masks": False, "thresholds": (), "mean_iou": 0.5}
    scores = [ThresholdScore(**given, by_class=by_class)]  # type: ignore[arg-type]
    table, last = "\n".join([*setting_lines(scores, recipe, metric)][:-1]), [*setting_lines(scores, recipe, metric)][-1]
    values = dict(zip(names, (1e-07, 0.25, 0.5, 0.75, 1), strict=False))
    assert table.startswith("[stages.make_pseudo_labels.class_thresholds]  # otsu; for the recipe's file\n")
    read = tomllib.loads(table)["stages"]["make_pseudo_labels"]["class_thresholds"]
    assert read == {name: values[name] for name in names[:-1]}
    assert last == f"no threshold of their own, since they win no pixel; background_threshold holds: {names[-1]}"
    lines = list(setting_lines(scores, recipe, recipe.instance("evaluate_cam")))
    assert lines[0] == "no make_pseudo_labels of toy reads make_cams, so no class_thresholds are printed"
