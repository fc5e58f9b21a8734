from __future__ import annotations

from pathlib import Path

import pytest

from tests.tuning.sweep_files import loaded
from tuning.best_recipe import best_recipe
from wsss.pipeline.recipe import dotted_settings, load_recipe

SPACE = """
[fixed]
make_scores.splits = ["val"]
evaluate_walk.splits = ["val"]
make_pseudo_labels.splits = ["val"]
evaluate_pseudo_labels.splits = ["val"]
make_seeds.refine = "none"
[space]
make_scores.beta = { choices = [5.0, 10.0] }
[cases.views]
one = { make_cams.scales = [1.0], make_seeds.foreground_threshold = 0.2 }
two = { make_cams.scales = [0.5, 1.0], make_seeds.foreground_threshold = 0.4 }
"""


def test_the_recipe_has_the_best_setting_and_makes_every_split(tmp_path: Path) -> None:
    sweep = loaded(tmp_path, SPACE, overrides=("make_scores.radius=4", f"runtime.runs={tmp_path / 'runs'}"))
    values = {"make_scores.beta": 5.0, "views": "two"}
    text = best_recipe(sweep, sweep.space.apply(values), notes=["wsss run best.toml"])
    assert text.startswith("# wsss run best.toml\n")
    assert "Not taken over" in text and str(tmp_path) not in text
    (tmp_path / "best.toml").write_text(text)
    best, base = load_recipe(tmp_path / "best.toml"), load_recipe(sweep.recipe_path)
    assert best.settings.name == "base_search"
    changed = {
        "make_scores.beta": 5.0,
        "make_scores.radius": 4,
        "make_cams.scales": [0.5, 1.0],
        "make_seeds.foreground_threshold": 0.4,
        "make_seeds.refine": "none",
    }
    for instance in base.instances:
        own = dotted_settings(best.instance(instance.name))
        wanted = {name: changed.get(name, value) for name, value in dotted_settings(instance).items()}
        assert {name: list(v) if isinstance(v, tuple) else v for name, v in own.items()} == {
            name: list(v) if isinstance(v, tuple) else v for name, v in wanted.items()
        }


def test_a_variable_of_the_environment_stays_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSSS_TEST_TITLE", "labels")
    sweep = loaded(tmp_path, "[space]\nmake_scores.beta = { choices = [5.0, 10.0] }")
    path = tmp_path / "base.toml"
    path.write_text(path.read_text() + 'title = "$WSSS_TEST_TITLE"\n')
    assert 'title = "$WSSS_TEST_TITLE"' in best_recipe(sweep, ["make_scores.beta=5.0"])
