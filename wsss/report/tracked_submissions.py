"""What is recorded of a submission, and the three numbers of the LID challenge's board for a whole pipeline."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

from shards.records import RunRecord
from wsss.contract.runtime import SubmissionRecord
from wsss.contract.stage import Instance
from wsss.pipeline.changed_settings import changed_settings, lineage, resolved_settings
from wsss.pipeline.recipe import Recipe
from wsss.pipeline.run import RunSummary
from wsss.pipeline.tracked_run import layer_read
from wsss.report.run_files import FileName
from wsss.report.submission_check import faults_of
from wsss.report.submissions import ZIP, Score, compare_scores
from wsss.stages.evaluate import Evaluate
from wsss.stages.evaluation.check_submission import fault_lines
from wsss.stages.submit import Submit

BOARD = ("mean_iou", "mean_accuracy", "pixel_accuracy")
_SECTION = "LID"
"""Capitals come first where MLflow sorts by name."""
_CLASSES = "class_iou"
_LONGEST_VERDICT = 20
"""Lines of a verdict that are recorded."""


def board_scores(recipe: Recipe, known: Mapping[str, RunRecord]) -> dict[str, float]:
    """The board's numbers of the best measured result of the last kind that needs no labels; empty if there is none.

    A pipeline may measure several results. Those that were made with the images' labels (pseudo labels) cannot be
    submitted, so they count only where nothing else was measured.
    """
    measured = [
        (instance, record)
        for instance in recipe.instances
        if isinstance(instance.stage, Evaluate) and (record := known.get(instance.name)) is not None
    ]
    without = [(one, record) for one, record in measured if not record.metrics.get("labels_given", 0.0)]
    scored = [(one, record) for one, record in without or measured if "mean_iou" in record.metrics]
    if not scored:
        return {}
    instance, record = scored[-1]
    assert isinstance(instance.stage, Evaluate)
    return _of_split(record, instance.stage.splits[-1])


def submission_records(
    recipe: Recipe, summary: RunSummary, known: Mapping[str, RunRecord]
) -> Iterator[SubmissionRecord]:
    """A record for every submission that this run made or found done."""
    for name, record in summary.records.items():
        if ZIP in record.artifacts and name in known:
            yield _submission(recipe, recipe.instance(name), known)


def _submission(recipe: Recipe, submit: Instance, known: Mapping[str, RunRecord]) -> SubmissionRecord:
    own, record = compare_scores(recipe, submit, known).own, known[submit.name]
    archive = recipe.results / f"{FileName(submit.name, submit.fingerprint).stem}.zip"
    files = [archive, archive.with_suffix(".json")]
    return SubmissionRecord(
        instance=submit.name,
        fingerprint=submit.fingerprint,
        settings=resolved_settings(recipe, submit),
        changed=changed_settings(recipe, submit),
        lineage=lineage(submit),
        metrics={} if own is None else _scores(known[own.measured_by], own),
        score="not measured by any evaluate instance" if own is None else str(own),
        verdict=_verdict(submit, record),
        git_commit=record.git_commit,
        files={path.name: str(path) for path in files},
        data=[layer_read(submit.samples, "evaluation")],
    )


def _scores(record: RunRecord, own: Score) -> dict[str, float]:
    rows = record.tables.get(f"per_class.{own.split}", [])
    classes = {f"{_CLASSES}/{row['class']}": float(str(row["iou"])) for row in rows if row.get("iou") is not None}
    finite = {name: value for name, value in classes.items() if math.isfinite(value)}
    return _of_split(record, own.split) | finite


def _of_split(record: RunRecord, split: str) -> dict[str, float]:
    found = {name: record.metrics.get(f"{split}.{name}") for name in BOARD}
    return {f"{_SECTION}/{split}_{name}": value for name, value in found.items() if value is not None}


def _verdict(submit: Instance, record: RunRecord) -> str:
    assert isinstance(submit.stage, Submit)
    faults = faults_of(
        Path(record.artifacts[ZIP]),
        num_classes=len(submit.taxonomy),
        samples=submit.samples.path,
        split=submit.stage.split,
        layout=submit.stage.format,
    )
    return "\n".join(islice(fault_lines(faults), _LONGEST_VERDICT))
