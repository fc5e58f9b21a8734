from __future__ import annotations

from pathlib import Path

from wsss.recipe import load_recipe
from wsss.show import unread_given

CHAIN = """
[recipe]
name = "small"

[defaults]
poly_power = 2.0

[stages.build_shards]
source = "toy"
counts = {{ train = 5, val = 2 }}

[stages.train_classifier]
pretrained = "none"

[stages.make_cams]

[stages.make_seeds]

[stages.train_affinity]
pretrained = "none"

[stages.make_scores]

[stages.make_pseudo_labels]

[stages.train_segmenter]
pretrained = "none"
{given}
"""


def _told(tmp_path: Path, given: str, *overrides: str) -> list[str]:
    path = tmp_path / "small.toml"
    path.write_text(CHAIN.format(given=given))
    return unread_given(load_recipe(path, [f"runtime.runs={tmp_path / 'runs'}", *overrides]))


def test_what_is_given_and_not_read_is_told_with_what_would_read_it(tmp_path: Path) -> None:
    (line,) = _told(tmp_path, 'self_correction = "linear"')
    assert line == (
        "train_segmenter.self_correction = 'linear' (small.toml) is read only with objective = 'self_correction'"
    )
    (line,) = _told(tmp_path, "", "train_segmenter.step_epochs=2")
    assert line == "train_segmenter.step_epochs = 2 (--set) is read only with schedule = 'step'"


def test_what_is_read_off_by_its_own_value_or_a_default_of_many_is_not_told(tmp_path: Path) -> None:
    given = 'schedule = "step"\nstep_epochs = 2\nema_decay = 0.0'
    assert _told(tmp_path, given) == []
