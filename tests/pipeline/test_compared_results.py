"""Results of a real run: read from its layers, they score what its evaluations recorded."""

from __future__ import annotations

import pytest

from tests.pipeline.conftest import Finished
from tuning.comparison import compare_results
from tuning.leaderboard import Row
from wsss.stages.evaluate import Evaluate

SCORES = {"mean IoU": "mean_iou", "mean accuracy": "mean_accuracy", "pixel accuracy": "pixel_accuracy"}


def rows_of_run(finished: Finished) -> list[Row]:
    found = []
    for instance in finished.recipe.instances:
        record = instance.run_record()
        if isinstance(instance.stage, Evaluate) and record is not None and "mean_iou" in record.metrics:
            found.append(
                Row(
                    run_id=instance.fingerprint[:32], recipe="tiny", instance=instance.name, pipeline="p" * 64,
                    fingerprint=instance.fingerprint, sweep="", metrics=record.metrics, image_set="val",
                    labels_given=bool(record.metrics["labels_given"]), supervision="", finished=0.0,
                )
            )  # fmt: skip
    return found


def test_label_maps_of_every_kind_score_what_was_recorded(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of_run(finished)
    monkeypatch.setattr("tuning.named_results.leaderboard", lambda *args, **options: rows)
    names = [row.name for row in rows]
    kinds = {finished.recipe.instance(row.instance).inputs["records"].stage.kind for row in rows}
    assert {"make_cams", "make_pseudo_labels", "predict"} <= kinds
    found = compare_results(names, runs=finished.recipe.runtime.runs)
    for row, comparison in zip(rows[1:], found.comparisons, strict=True):
        scores = {one.name: (one.a, one.b) for one in comparison.overall}
        for name, key in SCORES.items():
            assert scores[name] == pytest.approx((rows[0].metrics[key], row.metrics[key])), (row.name, name)
