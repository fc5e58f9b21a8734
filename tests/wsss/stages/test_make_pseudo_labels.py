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
