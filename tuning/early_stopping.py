"""Trials over trainings that end early: ASHA compares them by the validation of one training, epoch by epoch.

A trial reports to Tune what the training's checkpoints say about its validation. If Tune stops the trial, its process
ends, and its training stays where its last checkpoint is. The same setting in a later sweep continues from there.

Source: Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning" (ASHA), in Ray Tune's implementation.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from tuning.dimensions import Cases
from wsss.contract.fit import Fit
from wsss.contract.folds import base_name

if TYPE_CHECKING:
    # A sweep file is read without Ray.
    from pathlib import Path

    from ray.tune.schedulers import ASHAScheduler

    from tuning.search_space import Sweep

EPOCH, VALIDATION = "epoch", "validation"
"""Keys of the reports of a running training to Tune."""
POLL_SECONDS = 1.0
_SCORES = ("val.mean_iou", "val.mean_average_precision")
"""Validation scores in the history of a training; segmenters have the first one, classifiers the second."""


def scheduler_of(sweep: Sweep) -> ASHAScheduler | None:
    """Tune's scheduler for `sweep.stop_by`; None if every trial runs to its end."""
    chosen = sweep.settings
    if not chosen.stop_by:
        return None
    stage = sweep.base.instance(chosen.stop_by).stage
    assert isinstance(stage, Fit)
    longest = max(int(value) for value in [stage.num_epochs, *_searched_epochs(sweep)])
    from ray.tune.schedulers import ASHAScheduler

    return ASHAScheduler(
        time_attr=EPOCH,
        metric=VALIDATION,
        mode="max",
        max_t=longest + 1,  # the last epoch is no reason to stop: the stages after the training follow
        grace_period=min(chosen.grace_epochs, longest),
        reduction_factor=chosen.reduction_factor,
    )


def _searched_epochs(sweep: Sweep) -> Iterator[Any]:
    stop_by = sweep.settings.stop_by
    name = f"{base_name(stop_by, sweep.base.instance(stop_by).stage)}.num_epochs"
    for key, one in sweep.space.dimensions.items():
        if isinstance(one, Cases):
            yield from (case[name] for case in one.cases.values() if name in case)
        elif key == name:
            yield from one.ends


def report_validations(folder: Path, *, reported: int) -> int:
    """Report to Tune the validations of a training's epochs after `reported`; returns the last epoch reported."""
    from ray import tune

    for epoch, score in validations(folder):
        if epoch > reported:
            reported = epoch
            tune.report({EPOCH: epoch, VALIDATION: score})
    return reported


def validations(folder: Path) -> list[tuple[int, float]]:
    """(epoch, score) of every validation of a training so far, from its checkpoints or its results."""
    for path in (folder / "outcome.json", folder / "checkpoints" / "latest.json"):
        try:
            content = json.loads(path.read_bytes())
            history = content["tables"]["history"] if "tables" in content else content["history"]
            return [(int(row["epoch"]), score) for row in history if (score := _score(row)) is not None]
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return []


def _score(row: Mapping[str, Any]) -> float | None:
    return next((float(row[name]) for name in _SCORES if name in row), None)
