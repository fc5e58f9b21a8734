from __future__ import annotations

from pathlib import Path

import wsss
from wsss.pipeline.recipe import load_recipe
from wsss.report.show_recipe import inactive_given

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


def test_what_is_read_off_by_its_own_value_or_a_default_of_many_is_not_reported(tmp_path: Path) -> None:
    given = 'schedule = "step"\nstep_epochs = 2\nema_decay = 0.0'
    assert _reported(tmp_path, given, "defaults.step_factor=0.5") == []
