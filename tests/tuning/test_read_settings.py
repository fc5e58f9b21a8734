from __future__ import annotations

from pathlib import Path

import pytest

from tests.tuning.sweep_files import SWEEP, loaded
from wsss.pipeline.recipe import RecipeError


def test_a_setting_that_another_one_makes_unused_is_refused(tmp_path: Path) -> None:
    space = "[fixed]\nmake_seeds.refine = 'none'\n[space]\nmake_seeds.crf_iterations = { low = 1, high = 9 }"
    with pytest.raises(RecipeError) as told:
        loaded(tmp_path, space)
    text = str(told.value)
    assert text.startswith("space.make_seeds.crf_iterations: nothing reads it: it is read only with refine = 'crf'")
    assert "make_seeds.foreground_threshold" in text.partition("search one of")[2]
    assert "crf_iterations" not in text.partition("search one of")[2]


def test_it_is_allowed_if_one_of_the_searched_values_makes_it_used(tmp_path: Path) -> None:
    space = (
        "[space]\nmake_seeds.crf_iterations = { low = 1, high = 9 }\nmake_seeds.refine = { choices = ['none', 'crf'] }"
    )
    assert loaded(tmp_path, space).space.settings == ("make_seeds.crf_iterations", "make_seeds.refine")


def test_a_setting_that_changes_only_speed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"space.train_affinity.world_size: no result depends on it"):
        loaded(tmp_path, "[space]\ntrain_affinity.world_size = { low = 1, high = 2 }")


def test_cases_name_the_setting_that_nothing_reads(tmp_path: Path) -> None:
    space = """
[fixed]
make_seeds.refine = 'none'
[cases.seeds]
few = { make_seeds.foreground_threshold = 0.4, make_seeds.crf_iterations = 2 }
many = { make_seeds.foreground_threshold = 0.2, make_seeds.crf_iterations = 4 }
"""
    with pytest.raises(RecipeError, match=r"cases.seeds: make_seeds.crf_iterations: nothing reads it"):
        loaded(tmp_path, space)


SEARCHED = "[space]\ntrain_classifier.learning_rate = { low = 0.001, high = 0.1 }\n"
SPACE = "[fixed]\ntrain_classifier.validate_every = 1\n" + SEARCHED


@pytest.mark.parametrize(
    ("stop_by", "space", "message"),
    [
        (
            "train_clasifier",
            SPACE,
            "depends on the searched settings; there are train_classifier, ",
        ),
        ("make_cams", SPACE, "is no training that depends on the searched settings"),
        ("train_segmenter", SPACE, "is no training that depends on the searched settings"),
        ("train_affinity", SPACE, "sweep.stop_by = 'train_affinity' has no validation"),
        (
            "train_classifier",
            SPACE.partition("\n[space]")[2].join(["[space]", ""]),
            "set train_classifier.validate_every = 1",
        ),
    ],
)
def test_a_training_that_cannot_tell_trials_apart_is_refused(
    tmp_path: Path, stop_by: str, space: str, message: str
) -> None:
    with pytest.raises(RecipeError) as told:
        loaded(tmp_path, space, sweep=SWEEP + f'stop_by = "{stop_by}"\n')
    assert message in str(told.value)
