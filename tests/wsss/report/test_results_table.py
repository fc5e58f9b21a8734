from __future__ import annotations

from pathlib import Path

import pytest

from shards.records import RunRecord
from wsss.pipeline.recipe import Recipe, load_recipe
from wsss.report.layout import fit
from wsss.report.results_table import Row, classifier_table, result_rows, results_page, results_table
from wsss.report.tables import markdown, plain
from wsss.report.tables import records as values_of

RECIPE = """
[recipe]
name = "report"
[stages.build_shards]
source = "toy"
counts = { train = 4, val = 2 }
[stages.train_classifier]
pretrained = "none"
[stages.make_cams]
[stages.make_seeds]
[stages.make_scores]
propagation = "none"
[stages.make_pseudo_labels]
[stages.train_segmenter]
pretrained = "none"
[stages.predict]
[stages.evaluate_cam]
kind = "evaluate"
title = "CAM"
inputs = { records = "make_cams" }
[stages.evaluate_seeds]
kind = "evaluate"
inputs = { records = "make_seeds" }
splits = ["train", "val"]
[stages.evaluate_pseudo_labels]
kind = "evaluate"
inputs = { records = "make_pseudo_labels" }
[stages.evaluate]
title = "segmentation"
inputs = { records = "predict" }
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    path = tmp_path / "report.toml"
    path.write_text(RECIPE)
    return load_recipe(path)


def record(instance: str, **metrics: float) -> RunRecord:
    named = {name.replace("__", "."): value for name, value in metrics.items()}
    return RunRecord(
        recipe="report",
        instance=instance,
        kind="evaluate",
        fingerprint="",
        settings={},
        upstream={},
        git_commit="",
        metrics=named,
    )


def records() -> dict[str, RunRecord]:
    made = [
        record("evaluate_cam", labels_given=1, val__mean_iou=0.4, val__threshold_a=0.2, val__threshold_b=0.25),
        record("evaluate_seeds", labels_given=1, train__coverage=0.5, train__precision=0.9, val__coverage=0.25),
        record("evaluate_pseudo_labels", labels_given=1, val__mean_iou=0.5, val__missing=2),
        record("evaluate", labels_given=0, val__mean_iou=0.35, val__mean_accuracy=0.45, val__pixel_accuracy=0.6),
    ]
    return {made_of.instance: made_of for made_of in made}


def test_a_row_for_every_evaluation_and_split(recipe: Recipe) -> None:
    rows = result_rows(recipe, records())
    assert [(row.title, row.split, row.labels_given, row.mean_iou, row.note) for row in rows] == [
        ("CAM", "val", True, 0.4, "thresholds 0.200 and 0.250, two-fold"),
        ("evaluate_seeds", "train", True, None, "50.0% of the pixels are seeds, 90.0% of them correct"),
        ("evaluate_seeds", "val", True, None, "25.0% of the pixels are seeds, 0.0% of them correct"),
        ("evaluate_pseudo_labels", "val", True, 0.5, "2 images missing"),
        ("segmentation", "val", False, 0.35, "70% of the pseudo labels' mean IoU"),
    ]


def test_which_classes_a_mean_is_taken_over_is_stated(recipe: Recipe) -> None:
    found = record(
        "evaluate",
        labels_given=0,
        val__mean_iou=0.35,
        val__boundary_iou=0.2,
        val__mean_iou_present=0.41,
        val__mean_iou_all_classes=0.3,
        val__mean_iou_foreground=0.28,
        val__absent_classes=3,
        val__skipped_classes=2,
    )
    (row,) = result_rows(recipe, {"evaluate": found})
    assert row.note == (
        "boundary IoU 20.0; 2 classes never predicted (mean IoU over the classes of the ground truth 41.0); "
        "3 classes absent"
    )
    shown = values_of(results_table([row], title=""))[0]
    assert (shown["mean_iou_all_classes"], shown["mean_iou_foreground"]) == (0.3, 0.28)


def test_only_what_is_done_is_reported(recipe: Recipe) -> None:
    assert result_rows(recipe, {}) == []
    (row,) = result_rows(recipe, {"evaluate": records()["evaluate"]})
    assert row.note == "", "without pseudo labels there is nothing to compare with"


def test_table_and_markdown_hold_the_same(recipe: Recipe) -> None:
    rows = result_rows(recipe, records())
    table = results_table(rows, title="report")
    shown, written = plain(table), markdown(table)
    assert "| segmentation | val | no | 35.0 |  |  | 45.0 | 60.0 | 70% of the pseudo labels' mean IoU |" in written
    for word in ("segmentation", "35.0", "45.0", "60.0", "evaluate_seeds", "2 images missing"):
        assert word in shown
    assert len(written.splitlines()) == 2 + len(rows)
    empty = results_table([Row(title="t", split="s", labels_given=True)], title="")
    assert markdown(empty).splitlines()[-1] == "| t | s | yes |  |  |  |  |  |  |"
    assert values_of(table)[-1] == {
        "step": "segmentation",
        "split": "val",
        "labels_given": False,
        "mean_iou": 0.35,
        "mean_iou_low": None,
        "mean_iou_high": None,
        "mean_iou_all_classes": None,
        "mean_iou_foreground": None,
        "mean_accuracy": 0.45,
        "pixel_accuracy": 0.6,
        "note": "70% of the pseudo labels' mean IoU",
    }


def test_the_interval_stands_beside_the_mean_iou(recipe: Recipe) -> None:
    known = records()
    known["evaluate"].metrics.update({"val.mean_iou_low": 0.321, "val.mean_iou_high": 0.3789})
    rows = result_rows(recipe, known)
    table = results_table(rows, title="report")
    assert "| segmentation | val | no | 35.0 (32.1 to 37.9) |  |  | 45.0 | 60.0 |" in markdown(table)
    for width in (30, 80, 100):
        shown = "\n".join(fit(table, width))
        assert "35.0 (32.1 to 37.9)" in shown, "figures are never broken over lines"
        assert all(word in shown for row in rows for word in f"{row.title} {row.note}".split())
    assert max(map(len, fit(table, 80))) <= 80


def test_subsets_of_the_views_have_rows_of_their_own(recipe: Recipe) -> None:
    known = records()
    known["evaluate"].metrics.update({"val.mean_iou.all": 0.35, "val.mean_iou.none": 0.3, "val.mean_iou.flip": 0.25})
    rows = result_rows(recipe, known)[-4:]
    assert [(row.title, row.split, row.labels_given, row.mean_iou, row.note) for row in rows] == [
        ("segmentation", "val", False, 0.35, "70% of the pseudo labels' mean IoU"),
        ("segmentation, one view", "val", False, 0.3, ""),
        (
            "segmentation, one scale, mirrored too", "val", False, 0.25,
            "5.0 points worse than one view",
        ),
        ("segmentation, all views", "val", False, 0.35, ""),
    ]  # fmt: skip


def test_a_variant_that_does_not_help_says_so(tmp_path: Path) -> None:
    path = tmp_path / "views.toml"
    more = '[stages.evaluate_views]\nkind = "evaluate"\ntitle = "views"\ninputs = { records = "predict" }\n'
    path.write_text(RECIPE + more)
    worse, better = (record("evaluate_views", labels_given=0, val__mean_iou=iou) for iou in (0.31, 0.4))
    notes = [result_rows(load_recipe(path), records() | {"evaluate_views": r})[-1].note for r in (worse, better)]
    assert notes == [
        "62% of the pseudo labels' mean IoU; 4.0 points worse than segmentation",
        "80% of the pseudo labels' mean IoU",
    ]


def test_a_segmentation_is_compared_with_the_labels_that_it_learned(tmp_path: Path) -> None:
    path = tmp_path / "rounds.toml"
    path.write_text(
        RECIPE
        + """
[stages.stricter]
kind = "make_pseudo_labels"
background_threshold = 0.4

[stages.evaluate_stricter]
kind = "evaluate"
inputs = { records = "stricter" }

[stages.learned_stricter]
kind = "train_segmenter"
inputs = { pseudo_labels = "stricter" }
pretrained = "none"

[stages.predict_stricter]
kind = "predict"
inputs = { segmenter = "learned_stricter" }

[stages.evaluate_2]
kind = "evaluate"
title = "second"
inputs = { records = "predict_stricter" }
"""
    )
    known = records() | {
        "evaluate_stricter": record("evaluate_stricter", labels_given=1, val__mean_iou=0.7),
        "evaluate_2": record("evaluate_2", labels_given=0, val__mean_iou=0.35),
    }
    notes = {row.title: row.note for row in result_rows(load_recipe(path), known)}
    assert notes["segmentation"] == "70% of the pseudo labels' mean IoU"
    assert notes["second"] == "50% of the pseudo labels' mean IoU"


def test_classifiers_side_by_side(recipe: Recipe) -> None:
    metrics = {"val__mean_average_precision": 0.5, "val__f1_macro": 0.25, "val__f1_micro": 0.75}
    trained = record("train_classifier", **metrics)
    names = recipe.instance("train_classifier").taxonomy.names
    rows: list[dict[str, object]] = [{"class": name, "f1": place / 10} for place, name in enumerate(names)]
    rows[2]["f1"] = None
    trained.tables["per_class"] = rows
    table = classifier_table(recipe, {"train_classifier": trained, "make_cams": record("make_cams")})
    assert table is not None
    assert [column.title for column in table.columns] == [
        "classifier", "mean AP", "F1 macro", "F1 micro", *(f"F1 {name}" for name in names),
    ]  # fmt: skip
    assert markdown(table).splitlines()[1:] == [
        "| --- |" + " ---: |" * 8,
        "| train_classifier | 50.0 | 25.0 | 75.0 | 0.0 | 10.0 |  | 30.0 | 40.0 |",
    ]
    assert classifier_table(recipe, {"make_cams": record("make_cams")}) is None


def test_results_of_a_recipe_that_never_ran_say_what_is_not_measured(recipe: Recipe) -> None:
    page = results_page(recipe)
    assert page.tables["results"].rows == () and "classifiers" not in page.tables
    assert page.heading[0].startswith(
        "not measured yet: evaluate_cam, evaluate_seeds, evaluate_pseudo_labels, evaluate;"
    )


def test_a_split_that_was_not_measured_says_why(recipe: Recipe) -> None:
    found = record("evaluate", labels_given=0, val__images=0, val__unmasked=12)
    (row,) = result_rows(recipe, {"evaluate": found})
    assert (row.mean_iou, row.note) == (None, "not measured: no mask for 12 images")


def test_words_of_the_user_are_shown_as_they_are_written() -> None:
    title = "[red]x[/] :cat: a|b $m$ *c* under_score [/b]"
    table = results_table([Row(title=title, split="val", labels_given=False)], title=title)
    assert plain(table).count(title) == 2
    assert fit(table, 160)[2].startswith(title)
    (line,) = [line for line in markdown(table).splitlines() if "val" in line]
    assert line == r"| \[red\]x\[/\] :cat: a\|b \$m\$ \*c\* under_score \[/b\] | val | no |  |  |  |  |  |  |"


@pytest.mark.parametrize(
    ("highest", "note"),
    [
        ([0.2, 0.31, 0.4], "no probability reaches 0.5 (highest 0.40), hence F1 = 0; mean AP needs no threshold"),
        ([0.2, 0.9, 0.5], "2 of 3 classes never reach 0.5, hence their F1 = 0: square, triangle"),
        ([0.6, 0.9, 0.51], ""),
    ],
)
def test_an_f1_of_0_is_explained_by_probabilities_that_stay_low(
    recipe: Recipe, highest: list[float], note: str
) -> None:
    metrics = {"val__mean_average_precision": 0.5, "val__f1_macro": 0.0, "val__f1_micro": 0.0}
    trained = record("train_classifier", **metrics)
    names = ["square", "disc", "triangle"]
    trained.tables["per_class"] = [
        {"class": name, "f1": 0.0, "images": 3, "highest_probability": value}
        for name, value in zip(names, highest, strict=True)
    ] + [{"class": "absent", "f1": None, "images": 0, "highest_probability": 0.1}]
    table = classifier_table(recipe, {"train_classifier": trained})
    assert table is not None
    noted = [column.role for column in table.columns].count("note")
    assert noted == bool(note), "a column of notes only where there is something to say"
    if note:
        assert table.rows[0][-1] == note and note in markdown(table) and note in plain(table)


def test_rows_of_other_images_are_not_compared(tmp_path: Path) -> None:
    """The labels of a part of the training images, then of the others: worse by the images, not by the labels."""
    path = tmp_path / "parts.toml"
    part = (
        'kind = "evaluate"\ninputs = { records = "make_pseudo_labels" }\nsplits = ["train"]\nimage_list = "part.txt"\n'
    )
    path.write_text(f'{RECIPE}[stages.part]\n{part}[stages.others]\n{part}list_use = "except"\n')
    (tmp_path / "part.txt").write_text("train_00000\n")
    made = [
        record("part", labels_given=1, train__mean_iou=0.6, train__excluded=3),
        record("others", labels_given=1, train__mean_iou=0.5, train__excluded=1),
    ]
    recipe = load_recipe(path, [f"{name}.image_list={tmp_path / 'part.txt'}" for name in ("part", "others")])
    rows = result_rows(recipe, {one.instance: one for one in made})
    assert [row.note for row in rows] == ["3 images excluded by image_list", "1 image excluded by image_list"]
