from __future__ import annotations

from pathlib import Path

import pytest

import wsss
from wsss.pipeline.dry_recipe import dry_recipe
from wsss.pipeline.recipe import RecipeError, load_recipe
from wsss.pipeline.unread_settings import inactive_given
from wsss.report.show_recipe import instance_page, recipe_page

TOY = Path(wsss.__file__).parents[1] / "tuning" / "recipes" / "toy.toml"
SEGMENTER = "[stages.train_segmenter]\n"


def _reported(tmp_path: Path, given: str, *overrides: str) -> list[str]:
    """What is reported about the toy recipe with more in its segmenter's table."""
    path = tmp_path / "small.toml"
    path.write_text(TOY.read_text().replace(SEGMENTER, f"{SEGMENTER}{given}\n"))
    return inactive_given(load_recipe(path, overrides))


def test_what_is_given_and_not_read_is_reported_with_what_would_read_it(tmp_path: Path) -> None:
    (line,) = _reported(tmp_path, 'self_correction = "linear"')
    assert line == (
        "train_segmenter.self_correction = 'linear' (small.toml) is read only with objective = 'self_correction'"
    )
    (line,) = _reported(tmp_path, "", "train_segmenter.step_epochs=2")
    assert line == "train_segmenter.step_epochs = 2 (--set) is read only with schedule = 'step'"


def test_an_input_of_the_file_that_a_setting_on_the_command_line_switches_off_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "small.toml"
    named = TOY.read_text().replace(
        '{ cams = "make_cams" }\nnum', '{ cams = "make_cams", affinity = "train_affinity" }\nnum'
    )
    mistake = r"make_scores.inputs.affinity: not read with the other settings"
    path.write_text(named.replace("num_steps_log2 = 4", 'propagation = "none"'))
    with pytest.raises(RecipeError, match=mistake):
        load_recipe(path)
    path.write_text(named.replace("num_steps_log2 = 4", ""))
    recipe = load_recipe(path, ["make_scores.propagation=none"])
    assert "affinity" not in recipe.instance("make_scores").inputs
    assert inactive_given(recipe) == [
        "make_scores.inputs.affinity (small.toml) is not read with the values that --set gives"
    ]
    with pytest.raises(RecipeError, match=mistake):
        load_recipe(path, ["make_scores.propagation=none", "make_scores.inputs.affinity=train_affinity"])


def test_what_is_read_off_by_its_own_value_or_a_default_of_many_is_not_reported(tmp_path: Path) -> None:
    given = 'schedule = "step"\nstep_epochs = 2\nema_decay = 0.0'
    assert _reported(tmp_path, given, "defaults.step_factor=0.5") == []


def test_without_the_data_the_settings_are_shown_and_what_needs_the_data_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VOC_ROOT", raising=False)
    recipe, absent = dry_recipe(TOY.parent / "voc_animals.toml", [f"runtime.runs={tmp_path}"])
    assert "VOC_ROOT, which is not set" in absent
    chain = recipe_page(recipe, absent=absent).tables["instances"]
    assert [row[3:] for row in chain.rows] == [(None, None)] * len(recipe.instances)
    assert chain.notes[0].startswith("the data are not available, so what is done")
    page = instance_page(recipe, "make_seeds", absent=absent)
    assert page.heading[0] == "make_seeds (make_seeds)" and absent in page.heading[1]
    assert "make_seeds.foreground_threshold" in [row[0] for row in page.tables["settings"].rows]


def test_the_resources_of_single_stages_are_shown_as_they_are_given(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(f"{TOY.read_text()}\n[runtime.train_segmenter]\nrank_cpus = 2\n")
    given = ["runtime.make_cams.num_actors=3", "runtime.make_cams.actor_gpus=0.5"]
    recipe = load_recipe(path, [f"runtime.runs={tmp_path}", *given])
    for page in (recipe_page(recipe), recipe_page(recipe, changed=True), instance_page(recipe, "runtime")):
        rows = {str(row[0]): (getattr(row[1], "text", ""), row[2]) for row in page.tables["settings"].rows}
        found = {name: row for name, row in rows.items() if name.startswith("runtime.") and name.count(".") == 2}
        assert found == {
            "runtime.train_segmenter.rank_cpus": ("2.0", "own.toml"),
            "runtime.make_cams.num_actors": ("3", "--set"),
            "runtime.make_cams.actor_gpus": ("0.5", "--set"),
        }
        assert "runtime.stages" not in rows
