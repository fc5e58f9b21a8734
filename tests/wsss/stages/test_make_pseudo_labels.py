"""make_pseudo_labels: the three scores of the background, by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards.records import PseudoLabel, ScoreRecord
from tests.wsss.layers import instance_of, records_of, sample, samples_of
from wsss.contract.stage import Instance
from wsss.stages.make_pseudo_labels import MakePseudoLabels
from wsss.stages.make_scores import MakeScores

SIZE = (16, 16)
SHARD = "train-000000"


def columns(*values: float) -> np.ndarray:
    """A plane of columns at stride 1, so that nothing is interpolated."""
    return np.repeat(np.array(values), 16 // len(values))[None].repeat(16, axis=0).astype(np.float16)


def prepared(path: Path, plane: np.ndarray | None, *, exponent: float | None, **settings: Any) -> Instance:
    scores = np.stack([columns(0.1, 0.3, 0.6, 0.2), columns(0.0, 0.0, 0.0, 0.9)])
    record = ScoreRecord(key="a", classes=np.array([2, 5], np.int16), scores=scores, background=plane, size=SIZE)
    samples = samples_of(path, {SHARD: [sample("a", None, size=SIZE)]})
    made = records_of(MakeScores(background_exponent=exponent), path, samples, {SHARD: [record]})
    stage = MakePseudoLabels(splits=("train",), refine="none", **settings)
    return instance_of(stage, path, samples=samples, scores=made)


def label(instance: Instance) -> list[int]:
    assert isinstance(instance.stage, MakePseudoLabels)
    instance.stage.check(instance)
    (made,) = instance.stage.worker(instance)(SHARD)
    assert isinstance(made, PseudoLabel)
    assert (made.mask == made.mask[0]).all()
    return made.mask[0, ::4].tolist()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"background_threshold": 0.25}, [0, 2, 2, 5]),
        ({"background_threshold": 0.5}, [0, 0, 2, 5]),
        # (1 - m) = .9, .7, .4, .1
        ({"background": "power", "background_exponent": 1.0}, [0, 0, 2, 5]),
        ({"background": "power", "background_exponent": 4.0}, [0, 2, 2, 5]),
        ({"background": "power", "background_exponent": 32.0}, [2, 2, 2, 5]),
        ({"background": "propagated"}, [2, 0, 0, 5]),
    ],
)
def test_the_background_wins_where_its_score_is_higher(
    tmp_path: Path, settings: dict[str, Any], expected: list[int]
) -> None:
    assert label(prepared(tmp_path, columns(0.05, 0.5, 0.7, 0.2), exponent=16.0, **settings)) == expected


def test_a_background_that_was_not_propagated_is_refused(tmp_path: Path) -> None:
    instance = prepared(tmp_path, None, exponent=None, background="propagated")
    with pytest.raises(ValueError, match=r"background = 'propagated' needs .* set make_scores.background_exponent"):
        instance.stage.check(instance)


def test_a_class_can_have_its_own_threshold(tmp_path: Path) -> None:
    names = prepared(tmp_path, None, exponent=None).taxonomy.names
    second, fifth = names[1], names[4]
    made = prepared(tmp_path, None, exponent=None, background_threshold=0.25, class_thresholds={second: 0.5})
    assert label(made) == [0, 0, 2, 5]
    made = prepared(tmp_path, None, exponent=None, background_threshold=0.25, class_thresholds={fifth: 0.95})
    assert label(made) == [0, 2, 2, 0]
    made = prepared(tmp_path, None, exponent=None, background_threshold=0.95, class_thresholds={second: 0.05})
    assert label(made) == [2, 2, 2, 0]


@pytest.mark.parametrize(("method", "expected"), [("otsu", [0, 0, 2, 5]), ("mixture", [0, 0, 0, 5])])
def test_an_image_can_choose_its_threshold(tmp_path: Path, method: str, expected: list[int]) -> None:
    """The highest scores are .1, .3, .6 and .9 in equal parts. Otsu's criterion is best for two groups of two; a
    mixture has the least cost where the highest score is a group of its own, whose variance is that of a bin."""
    assert label(prepared(tmp_path, None, exponent=None, image_threshold=method)) == expected
    assert label(prepared(tmp_path, None, exponent=None, background_threshold=0.05)) == [2, 2, 2, 5]


def test_thresholds_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"make_pseudo_labels.class_thresholds: unknown class 'zebra'; did you mean"):
        label(prepared(tmp_path, None, exponent=None, class_thresholds={"zebra": 0.5}))
    name = prepared(tmp_path, None, exponent=None).taxonomy.names[0]
    with pytest.raises(ValueError, match=r"class_thresholds and image_threshold = 'otsu' both choose"):
        label(prepared(tmp_path, None, exponent=None, class_thresholds={name: 0.5}, image_threshold="otsu"))
    with pytest.raises(ValueError, match="class_thresholds"):
        MakePseudoLabels(class_thresholds={name: 1.0})
