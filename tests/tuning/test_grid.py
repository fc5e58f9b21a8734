"""Grids, settings that change together, and the shipped table that is made of both."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from tests.tuning.recipes.lid_data import draw_lid
from tests.tuning.sweep_files import COUNTED, SWEEP, THRESHOLD, loaded
from tuning.dimensions import Cases
from tuning.search_space import Sweep, load_sweep
from wsss.pipeline.recipe import RecipeError, load_recipe

SWEEPS = Path(__file__).parents[2] / "tuning" / "sweeps"
GRID = SWEEP + 'method = "grid"\n'
VIEWS = """
[cases.views]
one = { make_cams.scales = [1.0], make_cams.flip = false }
many = { make_cams.flip = true, make_cams.scales = [0.5, 1.0] }
"""


def test_a_grid_has_every_combination_once_the_last_dimension_fastest(tmp_path: Path) -> None:
    space = (
        f"[space]\n{THRESHOLD} = {{ low = 0.1, high = 0.3, step = 0.1 }}\nmake_scores.radius = {{ low = 3, high = 4 }}"
    )
    sweep = loaded(tmp_path, space + VIEWS, sweep=GRID)
    found = [sweep.space.values(suggestion) for suggestion in sweep.space.combinations()]
    assert sweep.num_trials == 12 and sweep.settings.num_trials == 12, "a product, not the default of a search"
    wanted = [
        {THRESHOLD: threshold, "make_scores.radius": radius, "views": case}
        for threshold in (0.1, 0.2, 0.3)
        for radius in (3, 4)
        for case in ("one", "many")
    ]
    assert found == wanted
    assert loaded(tmp_path, VIEWS, sweep=GRID).num_trials == 2, "cases without [space] are enough"


def test_cases_set_several_settings_together(tmp_path: Path) -> None:
    sweep = loaded(tmp_path, f"[space]\n{THRESHOLD} = {{ choices = [0.1, 0.3] }}" + VIEWS, sweep=SWEEP)
    assert set(sweep.space.settings) == {THRESHOLD, "make_cams.scales", "make_cams.flip"}
    assert "make_cams" in sweep.changed and "train_classifier" not in sweep.changed
    values = sweep.space.values({THRESHOLD: "0.3", "views": '"one"'})
    assert values == {THRESHOLD: 0.3, "views": "one"}
    cams = sweep.trial_recipe(sweep.trial_overrides(values)).instance("make_cams").stage
    assert (cams.scales, cams.flip) == ((1.0,), False)  # type: ignore[attr-defined]
    other = sweep.trial_recipe(sweep.trial_overrides(values | {"views": "many"})).instance("make_cams").stage
    assert (other.scales, other.flip) == ((0.5, 1.0), True)  # type: ignore[attr-defined]


def test_cases_may_hold_a_threshold_that_is_read_off_counts(tmp_path: Path) -> None:
    cases = f"""
[cases.entry]
ours = {{ {THRESHOLD} = 0.25, make_scores.beta = 5.0 }}
theirs = {{ {THRESHOLD} = 0.5, make_scores.beta = 9.0 }}
"""
    sweep = loaded(tmp_path, cases, sweep=COUNTED)
    assert sweep.labels == "make_pseudo_labels"
    assert [sweep.threshold({"entry": case}) for case in ("ours", "theirs")] == [0.25, 0.5]
    with pytest.raises(RecipeError, match=r"0.3 is not a multiple of 1/256"):
        loaded(tmp_path, cases.replace("0.25", "0.3"), sweep=COUNTED)


def also(lines: str) -> str:
    """These lines, and then the cases."""
    return f"{lines}\n[cases.views]"


ONE = "{ make_cams.scales = [1.0], make_cams.flip = false }"
MANY = "make_cams.flip = true, make_cams.scales = [0.5, 1.0]"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("flip = false", "flap = false", "cases.views: cases 'one' and 'many' must give the same settings"),
        ("make_cams.flip", "make_cams.flap", "cases.views: make_cams.flap: unknown setting 'make_cams.flap'; did you"),
        (
            "make_cams.flip",
            "train_segmenter.crop_size",
            "the metric does not depend on train_segmenter; it depends on build",
        ),
        ("[0.5, 1.0]", '["x"]', "cases.views: make_cams.scales.0: it must be a number (got 'x')"),
        (MANY, "", "cases.views: case 'many' gives no setting; write many = {"),
        ("many = {", f"same = {ONE}\nmany = {{", "cases.views: cases 'one' and 'same' give the same values; leave one"),
        (f"one = {ONE}", "one = 3", "cases.views.one: write one = {"),
        ("[cases.views]", "[cases.'a.b']", "cases.a.b: write [cases.NAME]"),
        ("[cases.views]", "[case.views]", "unknown table [case]; a sweep has [sweep], [fixed], [space] and [cases"),
        (
            "[cases.views]",
            also("[space]\nmake_cams.flip = { choices = [true] }"),
            "[space] and [cases] search it tw",
        ),
        ("[cases.views]", also("[fixed]\nmake_cams.flip = true"), "cases.make_cams.flip: it is also given by [fixed]"),
        ("[cases.views]", also("[space]\nmake_cams.scales = 1"), "space.make_cams.scales: write { low"),
        (
            "[cases.views]",
            also(f"[space]\n{THRESHOLD} = {{ low = 0.1, high = 0.5 }}"),
            "every value: give step, with",
        ),
        (
            "[cases.views]",
            also(f"[space]\n{THRESHOLD} = {{ choices = [0.1, 0.1] }}"),
            "0.1 is listed twice among the choices",
        ),
        ('"grid"', '"grid"\nnum_trials = 8', "sweep.num_trials = 8 is for method = 'search'; a grid tries every"),
        ('"grid"', '"grid"\nseed = 1', "sweep.seed = 1 is for method = 'search'"),
        ('"grid"', '"greed"', "sweep.method: unknown value 'greed'; did you mean grid?"),
    ],
)
def test_cases_and_grids_that_cannot_be_tried(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = (GRID + VIEWS).replace(old, new)
    assert text != GRID + VIEWS
    with pytest.raises(RecipeError, match=re.escape(message)):
        loaded(tmp_path, "", sweep=text)


def results_of(sweep: Sweep) -> tuple[list[tuple[object, ...]], dict[str, int]]:
    """The values of every trial, and how many different results each instance has in all trials together."""
    made: dict[str, set[str]] = {}
    rows = []
    for suggestion in sweep.space.combinations():
        values = sweep.space.values(suggestion)
        rows.append(tuple(values.values()))
        for instance in sweep.trial_recipe(sweep.trial_overrides(values)).instances:
            made.setdefault(instance.name, set()).add(instance.fingerprint)
    return rows, {name: len(found) for name, found in made.items()}


def test_the_table_of_lids_third_place() -> None:
    """Eight rows; every network is trained once, and a trial with other views only predicts again."""
    sweep = load_sweep(SWEEPS / "npa_table.toml")
    rows, made = results_of(sweep)
    assert sorted(rows) == sorted(itertools.product((0.3, 0.5), ("without", "with"), ("off", "on")))
    once = ("build_shards", "train_classifier", "walker_classifier")
    twice = ("make_cams", "make_seeds", "train_affinity", "make_scores")
    wanted = dict.fromkeys(once, 1) | dict.fromkeys(twice, 2)
    wanted |= {"make_pseudo_labels": 4, "train_segmenter": 4, "predict": 8, "evaluate": 8}
    assert made == wanted
    cases = sweep.space.dimensions["augmentation"]
    assert isinstance(cases, Cases)
    assert cases.cases["on"] == {"predict.scales": [0.75, 1.0, 1.25], "predict.flip": True}
    last = sweep.trial_recipe(sweep.trial_overrides(dict(zip(sweep.space.dimensions, rows[-1], strict=True)))).instance(
        "predict"
    )
    assert last.stage.cautions(last) == [], "its views are inside the sizes that the segmenter is trained on"


def test_the_table_of_lids_third_place_on_lid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rows on LID's validation set: with the classifier of person, and with the entry's own views."""
    for variable, value in draw_lid(tmp_path).items():
        monkeypatch.setenv(variable, value)
    sweep = load_sweep(SWEEPS / "npa_lid_table.toml")
    rows, made = results_of(sweep)
    assert sorted(rows) == sorted(itertools.product((0.3, 0.5), ("without", "with"), ("off", "on")))
    wanted = dict.fromkeys(("build_shards", "train_classifier", "person_classifier"), 1)
    wanted |= dict.fromkeys(("make_cams", "make_seeds", "train_affinity", "make_scores"), 2)
    assert made == wanted | {"make_pseudo_labels": 4, "train_segmenter": 4, "predict": 8, "evaluate": 8}
    entry = load_recipe(sweep.recipe_path).instance("evaluate").fingerprint
    trial = {"make_pseudo_labels.background_threshold": 0.3, "person": "without", "augmentation": "on"}
    assert sweep.trial_recipe(sweep.trial_overrides(trial)).instance("evaluate").fingerprint == entry, "as submitted"
