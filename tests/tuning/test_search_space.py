from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from tests.pipeline.drawn_voc import draw_voc
from tests.tuning.recipes.lid_data import draw_lid
from tests.tuning.sweep_files import COUNTED, SWEEP, THRESHOLD, loaded, written
from tuning.dimensions import Range
from tuning.search_space import SearchSpace, load_sweep, needed
from tuning.sweep_tables import by_setting
from wsss.pipeline.recipe import RecipeError, load_recipe

SWEEPS = Path(__file__).parents[2] / "tuning" / "sweeps"


def test_apply_writes_overrides_that_the_recipe_reads_back(tmp_path: Path) -> None:
    sweep = loaded(
        tmp_path,
        """
[space]
make_seeds.foreground_threshold = { low = 0.2, high = 0.5, step = 0.1 }
make_seeds.refine = { choices = ["crf", "none"] }
"make_cams.scales" = { choices = [[1.0], [0.5, 1.0]] }
make_scores.radius = { low = 3, high = 9 }
""",
    )
    suggestion = {
        "make_seeds.foreground_threshold": 0.2 + 0.1,
        "make_seeds.refine": '"none"',
        "make_cams.scales": "[0.5, 1.0]",
        "make_scores.radius": 7,
    }
    overrides = sweep.space.apply(sweep.space.values(suggestion))
    assert overrides == [
        "make_seeds.foreground_threshold=0.3",
        'make_seeds.refine="none"',
        "make_cams.scales=[0.5, 1.0]",
        "make_scores.radius=7",
    ]
    recipe = load_recipe(sweep.recipe_path, overrides)
    seeds, scores = recipe.instance("make_seeds").stage, recipe.instance("make_scores").stage
    assert (seeds.foreground_threshold, seeds.refine, scores.radius) == (0.3, "none", 7)  # type: ignore[attr-defined]
    assert recipe.instance("make_cams").stage.scales == (0.5, 1.0)  # type: ignore[attr-defined]


def test_the_recipe_is_a_path_beside_the_sweep_file_or_the_name_of_a_shipped_one(tmp_path: Path) -> None:
    text = (SWEEPS / "background_thresholds.toml").read_text()
    assert 'recipe = "../recipes/toy.toml"' in text
    for given in ("toy", "toy.toml"):
        path = tmp_path / f"{given}-sweep.toml"
        path.write_text(text.replace("../recipes/toy.toml", given))
        assert load_sweep(path).recipe_path == (SWEEPS.parent / "recipes" / "toy.toml").resolve()
    (tmp_path / "toy.toml").write_text((SWEEPS.parent / "recipes" / "toy.toml").read_text())
    assert load_sweep(tmp_path / "toy.toml-sweep.toml").recipe_path == (tmp_path / "toy.toml").resolve()


def test_values_are_tidy_and_stay_in_their_range() -> None:
    assert Range(low=0.1, high=0.5, step=0.1).tidy(0.1 + 0.2) == 0.3
    assert Range(low=0.1, high=0.5).tidy(0.1234567) == 0.1235
    assert Range(low=0.12342, high=0.5).tidy(0.123421) == 0.12342, "rounding must not leave the range"
    tidy = Range(low=1e-5, high=1e-2, log=True).tidy(3.14159e-5)
    assert tidy == 3.142e-5
    assert SearchSpace({"a.b": Range(low=1e-5, high=1e-2, log=True)}).apply({"a.b": tidy}) == ["a.b=3.142e-05"]
    whole = Range(low=2, high=9).tidy(7)
    assert whole == 7 and isinstance(whole, int)


def test_base_is_what_the_metric_reads_and_changed_is_what_the_space_affects(tmp_path: Path) -> None:
    sweep = loaded(tmp_path, "[space]\nmake_scores.beta = { choices = [5.0, 10.0] }")
    names = [instance.name for instance in sweep.base.instances]
    assert "train_segmenter" not in names and "evaluate_walk" not in names
    assert sweep.changed == {"make_scores", "make_pseudo_labels", "evaluate_pseudo_labels"}
    unchanged = ["build_shards", "train_classifier", "make_cams", "make_seeds", "train_affinity"]
    assert [instance.name for instance in sweep.unchanged().instances] == unchanged
    other = sweep.trial_recipe(sweep.trial_overrides({"make_scores.beta": 5.0}))
    for instance in sweep.base.instances:
        same = other.instance(instance.name).fingerprint == instance.fingerprint
        assert same == (instance.name not in sweep.changed), instance.name
    assert [one.name for one in needed(load_recipe(sweep.recipe_path), "make_cams").instances] == unchanged[:3]


def test_to_adds_an_instance(tmp_path: Path) -> None:
    space = "[space]\nmake_scores.beta = { choices = [5.0, 10.0] }"
    sweep = loaded(tmp_path, space, sweep=SWEEP + 'to = "evaluate_walk"\n')
    assert "evaluate_walk" in sweep.changed


def test_fixed_and_the_command_line_apply_to_all_trials(tmp_path: Path) -> None:
    space = f"[fixed]\nmake_scores.radius = 4\n[space]\n{THRESHOLD} = {{ low = 0.1, high = 0.5 }}"
    sweep = loaded(tmp_path, space, overrides=("make_cams.scales=[2.0]", "sweep.num_trials=3", "runtime.runs=there"))
    assert sweep.settings.num_trials == 3
    assert sweep.folder == Path("there/search").absolute()
    recipe = sweep.trial_recipe(sweep.trial_overrides({THRESHOLD: 0.4}))
    assert recipe.instance("make_scores").stage.radius == 4  # type: ignore[attr-defined]
    assert recipe.instance("make_cams").stage.scales == (2.0,)  # type: ignore[attr-defined]
    assert recipe.instance("make_pseudo_labels").stage.background_threshold == 0.4  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "make_pseudo_labels.backgruond_threshold = { low = 0.1, high = 0.5 }",
            "space.make_pseudo_labels.backgruond_threshold: unknown setting 'make_pseudo_labels.backgruond_threshold'; "
            f"did you mean {THRESHOLD}",
        ),
        ("make_sedes.refine = { choices = [1] }", "did you mean make_seeds.refine"),
        (f"{THRESHOLD} = {{ low = 0.5, high = 0.1 }}", f"space.{THRESHOLD}: low = 0.5 must be below high = 0.1"),
        (f"{THRESHOLD} = {{ low = 0.1, high = 1.5 }}", f"space.{THRESHOLD}: it must be less than 1 (got 1.5)"),
        (f"{THRESHOLD} = {{ choices = [0.1, -1.0] }}", f"space.{THRESHOLD}: it must be more than 0 (got -1.0)"),
        (
            f"{THRESHOLD} = {{ low = 0.1, high = 0.5, step = 0.15 }}",
            f"space.{THRESHOLD}: high = 0.5 cannot be reached from low = 0.1",
        ),
        (f"{THRESHOLD} = {{ low = 0.1, high = 0.5, step = 0.1, log = true }}", f"space.{THRESHOLD}: log = true needs"),
        (f"{THRESHOLD} = {{ lo = 0.1, high = 0.5 }}", f"space.{THRESHOLD}.lo: unknown setting 'lo'; did you mean lo"),
        (f"{THRESHOLD} = 0.3", f"space.{THRESHOLD}: write {{ low"),
        (f"{THRESHOLD} = {{ choices = [] }}", f"space.{THRESHOLD}.choices: "),
        (
            "make_scores.radius = { low = 2, high = 9, step = 0.5 }",
            "space.make_scores.radius: step = 0.5 must be",
        ),
        (
            "train_segmenter.num_epochs = { low = 1, high = 3 }",
            "the metric does not depend on train_segmenter; it depends on",
        ),
        ("", "[space] names no setting to search"),
    ],
)
def test_a_space_that_cannot_be_searched(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(message)):
        loaded(tmp_path, f"[space]\n{line}")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            '"evaluate_pseudo_labels"',
            '"measured_seeds"',
            "is not an evaluate instance of label maps or score maps; there are evaluate_walk, evaluate_ps",
        ),
        (
            '"evaluate_pseudo_labels"',
            '"evaluate_pseudo"',
            "sweep.metric: unknown instance 'evaluate_pseudo'; did you mean evaluate_pseudo_labels",
        ),
        ('"base.toml"', '"base.toml"\nto = "predicts"', "sweep.to: unknown instance 'predicts'; did you mean predict"),
        ('"search"', '"base"', "sweep.name = 'base' is also the recipe's name"),
        ('"base.toml"', '"bose.toml"', "the recipe does not exist"),
        ("metric =", "metrics =", "sweep.metrics: unknown setting 'metrics'; did you mean metric"),
        ('"base.toml"', '"base.toml"\nsplit = "train"', "sweep.split = 'train', but evaluate_pseudo_labels.splits"),
        ('"base.toml"', '"base.toml"\nnum_trials = 0', "sweep.num_trials: it must be at least 1"),
    ],
)
def test_a_sweep_that_cannot_be_run(tmp_path: Path, old: str, new: str, message: str) -> None:
    space = f"[space]\n{THRESHOLD} = {{ low = 0.1, high = 0.5 }}"
    with pytest.raises(RecipeError, match=re.escape(message)):
        loaded(tmp_path, space, sweep=SWEEP.replace(old, new, 1))


def test_an_error_of_a_table_shows_nothing_of_pydantic(tmp_path: Path) -> None:
    line = f"{THRESHOLD} = {{ low = 0.1, high = 0.5 }}"
    for sweep, space in (
        (SWEEP + 'objectives = ["seconds"]\n', line),
        (SWEEP, f"{THRESHOLD} = {{ low = 0.5, high = 0.1 }}"),
        (SWEEP, f"{THRESHOLD} = {{ choices = [0.5, 0.5] }}"),
    ):
        with pytest.raises(RecipeError) as said:
            loaded(tmp_path, f"[space]\n{space}", sweep=sweep)
        assert "ArgsKwargs" not in str(said.value) and "(got" not in str(said.value)
    with pytest.raises(RecipeError, match=r"cases\.c: cases 'a' and 'b' give the same values; leave one of them out$"):
        loaded(tmp_path, f"[cases.c]\na = {{ {THRESHOLD} = 0.5 }}\nb = {{ {THRESHOLD} = 0.5 }}")


def test_a_misspelt_threshold_on_counts_is_named(tmp_path: Path) -> None:
    misspelt = "make_pseudo_labels.background_treshold"
    with pytest.raises(RecipeError, match=rf"space\.{misspelt}: .*did you mean {THRESHOLD}"):
        loaded(tmp_path, f"[space]\n{misspelt} = {{ choices = [0.25, 0.5] }}", sweep=COUNTED)
    with pytest.raises(RecipeError, match=rf"cases\.c: {misspelt}: .*did you mean {THRESHOLD}"):
        loaded(tmp_path, f"[cases.c]\na = {{ {misspelt} = 0.25 }}\nb = {{ {misspelt} = 0.5 }}", sweep=COUNTED)


def test_a_recipe_and_a_sweep_are_told_apart(tmp_path: Path) -> None:
    sweep = written(tmp_path, f"[space]\n{THRESHOLD} = {{ low = 0.1, high = 0.5 }}")
    with pytest.raises(RecipeError, match=rf"{sweep} is a sweep, not a recipe; wsss sweep {sweep} runs it"):
        load_recipe(sweep)
    with pytest.raises(RecipeError, match=r"base\.toml is a recipe, not a sweep; wsss run .*base\.toml runs it"):
        load_sweep(tmp_path / "base.toml")


def test_a_threshold_on_counts_needs_no_labels(tmp_path: Path) -> None:
    space = f"[space]\n{THRESHOLD} = {{ low = 0.125, high = 0.5, step = 0.03125 }}\n"
    space += "make_scores.beta = { choices = [5.0, 9.0] }"
    sweep = loaded(tmp_path, space, sweep=COUNTED)
    assert sweep.labels == "make_pseudo_labels"
    names = [instance.name for instance in sweep.base.instances]
    assert "make_pseudo_labels" not in names and names[-1] == "evaluate_walk"
    values = {THRESHOLD: 0.15625, "make_scores.beta": 5.0}
    assert sweep.threshold(values) == 0.15625
    low, high = (sweep.trial_overrides(values | {THRESHOLD: threshold}) for threshold in (0.125, 0.25))
    assert sweep.trial_recipe(low).fingerprint == sweep.trial_recipe(high).fingerprint, "both read the same counts"
    assert sweep.trial_fingerprint(low) != sweep.trial_fingerprint(high), "but are trials of their own"
    assert "make_scores" not in [instance.name for instance in sweep.unchanged().instances]
    assert loaded(tmp_path, f"[space]\n{THRESHOLD} = {{ low = 0.1, high = 0.5 }}").threshold({THRESHOLD: 0.1}) is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('refine = "none"', 'refine = "crf"', "make_pseudo_labels.refine = 'crf': each threshold would run the CRF"),
        ('refine = "none"', 'refine = "none"\nmake_pseudo_labels.background = "power"', "it has no threshold"),
        ("low = 0.125, high = 0.5, step = 0.125", "low = 0.1, high = 0.5, step = 0.2", "0.1 is not a multiple of 1/"),
        ("low = 0.125, high = 0.5, step = 0.125", "choices = [0.25, 0.3]", "allowed are 0.296875 and 0.30078125"),
        (", step = 0.125", "", f"space.{THRESHOLD}: counts exist only for thresholds i/256; give step = 0.00390625"),
        (THRESHOLD, "make_scores.beta", f"which need a threshold; search {THRESHOLD}, or measure label maps"),
        (
            "evaluate_walk",
            "measured_cams",
            "no make_pseudo_labels of this recipe reads make_cams, or measure label maps",
        ),
        (
            "[space]",
            "[space]\nmake_pseudo_labels.crf_iterations = { choices = [1, 5] }",
            "only its background_threshold can",
        ),
    ],
)
def test_a_threshold_that_counts_do_not_have(tmp_path: Path, old: str, new: str, message: str) -> None:
    space = f"[space]\n{THRESHOLD} = {{ low = 0.125, high = 0.5, step = 0.125 }}"
    text = (COUNTED + space).replace(old, new)
    with pytest.raises(RecipeError, match=re.escape(message)):
        loaded(tmp_path, "", sweep=text)


def test_a_setting_is_searched_or_given(tmp_path: Path) -> None:
    space = f"[space]\n{THRESHOLD} = {{ low = 0.1, high = 0.5 }}"
    with pytest.raises(RecipeError, match=f"space.{THRESHOLD}: it is also given by"):
        loaded(tmp_path, space, overrides=(f"{THRESHOLD}=0.2",))


def test_a_sweep_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="the sweep does not exist"):
        load_sweep(tmp_path / "none.toml")


@pytest.mark.parametrize("path", sorted(SWEEPS.glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_sweeps_load_and_have_several_trials(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in draw_lid(tmp_path).items():
        monkeypatch.setenv(variable, value)
    draw_voc(tmp_path, masked=2, others=1)
    (tmp_path / "image_labels.json").write_text("{}")  # read by recipes of VOC
    (tmp_path / "SegmentationClassAug").mkdir()
    monkeypatch.setenv("VOC_ROOT", str(tmp_path))
    sweep = load_sweep(path)
    assert sweep.num_trials >= (12 if sweep.settings.method == "search" else 4)
    sizes = [len(one.all_values) for one in sweep.space.dimensions.values() if not isinstance(one, Range)]
    assert all(size > 1 for size in sizes)


def test_the_sweep_of_self_correction_takes_the_published_numbers_of_masks() -> None:
    tables = tomllib.loads((SWEEPS / "self_correcting_masks.toml").read_text())
    shares = [by_setting(case, "cases") for case in tables["cases"]["masks"].values()]
    masks = [{name: round(share * 1464) for name, share in case.items()} for case in shares]
    half = "train_ancillary_half.full_share"
    assert [case.pop(half) for case in masks] == [100, 200, 400, 732]
    assert [set(case.values()) for case in masks] == [{200}, {400}, {800}, {1464}]


FOLDED = "[fixed]\ntrain_classifier.folds = 2\nbuild_shards.shard_size = 2\n"


def test_a_setting_of_all_folds_has_the_name_of_the_recipe_s_table(tmp_path: Path) -> None:
    sweep = loaded(tmp_path, FOLDED + "[space]\ntrain_classifier.num_epochs = { choices = [1, 2] }\n")
    reached = {"train_classifier_fold1", "train_classifier_fold2", "make_cams", "make_pseudo_labels"}
    assert reached <= sweep.changed and "build_shards" not in sweep.changed
    assert [one.name for one in sweep.unchanged().instances] == ["build_shards"]
    with pytest.raises(RecipeError, match=r"fold1.num_epochs.*did you mean train_classifier.num_epochs"):
        loaded(tmp_path, FOLDED + "[space]\ntrain_classifier_fold1.num_epochs = { choices = [1, 2] }\n")
    with pytest.raises(RecipeError, match=r"space.train_classifier.folds changes which instances .*\[fixed\]"):
        loaded(tmp_path, "[space]\ntrain_classifier.folds = { choices = [1, 2] }\n")
