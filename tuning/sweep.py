"""Search settings with Ray Tune and Optuna, or try a whole grid; every trial runs a recipe and reuses results.

Stages that no trial changes run once, before the first trial. After that, results are reused by fingerprint: a trial
runs only the stages that no earlier run executed with the same settings. A sweep that was stopped and is started again
suggests the same settings, finds their results, and resumes where it was.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ray import tune
from rich.console import Console
from rich.text import Text

from cluster.session.ray_processes import end_session
from cluster.session.ray_session import connect
from cluster.tracking.tracker import MlflowTracker
from cluster.tracking.tracking_address import open_command
from tuning.counted_threshold import THRESHOLD
from tuning.distinct_search import DistinctSearch
from tuning.search_space import Sweep
from tuning.sweep_result import SweepResult, Trial, choose, read_folds
from tuning.sweep_trial import (
    COMBINATION,
    DRIVER_MEMORY,
    RESULT,
    SCORE,
    WORST,
    TrialResult,
    open_runtime,
    suggestion_of,
    trainable,
)
from wsss.contract.runtime import PipelineRecord
from wsss.pipeline.progress import Reporter
from wsss.pipeline.recipe import RecipeError
from wsss.pipeline.run import RunSummary, run_recipe
from wsss.report.printing import print_table

_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Tune's newer output prints its banner even with verbose=0.
    "RAY_AIR_NEW_OUTPUT": "0",
    # With Tune's own handler, Ctrl-C would wait for the running trial.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # We store the results ourselves; Tune's state is never restored, so it need not be saved often.
    "TUNE_GLOBAL_CHECKPOINT_S": "600",
}


def run_sweep(sweep: Sweep, *, place: str, console: Console) -> int:
    """Run a sweep and print the best setting; returns 0, or 1 if a trial failed.

    `place`: `ray` (this machine), `local` (stages in the trial's own process, Ray only for Tune), or an address.
    Raises RuntimeError if no trial has a result.
    """
    runtime = sweep.base.runtime
    owns_session = connect(None if place in ("ray", "local") else place)
    try:
        tracker = MlflowTracker(uri=runtime.tracking_uri, runs=runtime.runs, console=console)
        base = _run_unchanged(sweep, place=place, tracker=tracker, console=console)
        _check_metric(sweep)
        trials = _run_trials(sweep, place=place, tracker=tracker, console=console)
    finally:
        if owns_session:
            end_session()
    result = _result(sweep, base, trials)
    kept = result.keep_earlier(sweep.folder)
    artifacts = result.write(sweep.folder)
    print_table(replace(result.table(), notes=tuple(result.sentences())))
    if result.choice is None:
        raise RuntimeError(f"no trial of {sweep.settings.name} has a result; trial 1: {trials[0].reason}")
    _record(sweep, result.choice.best, tracker, artifacts)
    if kept is not None:
        console.print(Text(f"kept         {kept}, of an earlier sweep with other settings or results"), soft_wrap=True)
    console.print(Text(f"results      {sweep.folder / 'sweep.md'}"), soft_wrap=True)
    command = open_command(runtime.tracking_uri, runs=runtime.runs)
    console.print(Text(f"runs         {command}"), soft_wrap=True)
    return 1 if any(trial.state == "failed" for trial in trials) else 0


def _run_unchanged(sweep: Sweep, *, place: str, tracker: MlflowTracker, console: Console) -> RunSummary:
    """Run the stages that all trials share."""
    recipe = sweep.unchanged()
    if not recipe.instances:
        return RunSummary()
    runtime = open_runtime(recipe, place=place)
    try:
        return run_recipe(
            recipe, runtime=runtime, tracker=tracker, reporter=Reporter(console), parent=sweep.settings.name
        )
    finally:
        runtime.close()


def _check_metric(sweep: Sweep) -> None:
    """Raise `RecipeError` before any trial if the metric cannot measure anything on the data."""
    metric = sweep.base.instance(sweep.settings.metric)
    if metric.samples.is_done() and (reason := metric.stage.skip_reason(metric)):
        raise RecipeError(f"sweep.metric = {metric.name!r}: {reason}; add masks to the data set, or use another split")


def _run_trials(sweep: Sweep, *, place: str, tracker: MlflowTracker, console: Console) -> list[Trial]:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    # Only Tune's own state of this start: finished results of earlier starts are stored by fingerprint.
    storage = sweep.folder / "tune"
    shutil.rmtree(storage, ignore_errors=True)
    storage.mkdir(parents=True)
    space, config = _suggestions(sweep)
    tuner = tune.Tuner(
        tune.with_resources(trainable(sweep, place=place), {"CPU": 0, "memory": DRIVER_MEMORY}),
        param_space=space,
        tune_config=replace(config, max_concurrent_trials=sweep.settings.max_concurrent, reuse_actors=True),
        run_config=tune.RunConfig(
            name=sweep.settings.name,
            storage_path=str(storage),
            verbose=0,
            callbacks=[_Watch(sweep, tracker, console)],
        ),
    )
    results = tuner.fit()
    trials = [_trial(sweep, number, one.config or {}, one.metrics) for number, one in enumerate(results, start=1)]
    if all(trial.state != "failed" for trial in trials):  # of a failed one, it has what its process printed
        shutil.rmtree(storage, ignore_errors=True)
    return trials


def _suggestions(sweep: Sweep) -> tuple[dict[str, Any] | None, tune.TuneConfig]:
    """The source of Tune's trials: Optuna, or the list of a grid's combinations."""
    if sweep.settings.method == "grid":
        # A grid is one dimension of Tune, because Tune orders several dimensions by name.
        return {COMBINATION: tune.grid_search(sweep.space.combinations())}, tune.TuneConfig(num_samples=1)
    search = DistinctSearch.of(sweep)
    return None, tune.TuneConfig(search_alg=search, num_samples=sweep.num_trials)


class _Watch(tune.Callback):
    """Prints a line and writes a record for every trial that ends."""

    def __init__(self, sweep: Sweep, tracker: MlflowTracker, console: Console) -> None:
        self._sweep, self._tracker, self._console = sweep, tracker, console
        self._began = time.monotonic()
        self._ended = 0

    def __reduce__(self) -> tuple[Any, ...]:
        # Tune pickles its callbacks to restore a search. We never restore one, and a console has locks, which cannot be
        # pickled.
        return tune.Callback, ()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called by Tune."""
        ended = _trial(self._sweep, trials.index(trial) + 1, trial.config, trial.last_result)
        self._ended += 1
        self._say(ended)
        if ended.state == "done":
            _record(self._sweep, ended, self._tracker, {})

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called by Tune."""
        self._ended += 1
        self._console.print(f"trial {trials.index(trial) + 1}: failed, its process ended", highlight=False)

    def _say(self, trial: Trial) -> None:
        total = self._sweep.num_trials
        left = (time.monotonic() - self._began) / self._ended * (total - self._ended)
        found = f"mean IoU {100 * (trial.mean_iou or 0.0):.2f}" if trial.folds else f"{trial.state}: {trial.reason}"
        settings = " ".join(f"{name}={value}" for name, value in trial.values.items())
        self._console.print(
            f"trial {trial.number} of {total}: {found}, {len(trial.executed)} stages executed, {len(trial.reused)} "
            f"reused, about {left:.0f} s left; {settings}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def _trial(sweep: Sweep, number: int, config: Mapping[str, Any], report: Mapping[str, Any] | None) -> Trial:
    """A trial, from its report to Tune and the confusion matrices that evaluate wrote."""
    values = sweep.space.values(suggestion_of(config))
    if not report or RESULT not in report:
        return Trial(number=number, values=values, state="failed", reason="its process ended")
    result = TrialResult(**report[RESULT])
    folds: tuple[Any, ...] = ()
    if result.state == "done":
        metric = sweep.trial_recipe(sweep.trial_overrides(values)).instance(sweep.settings.metric)
        folds = read_folds(metric.path, split=sweep.settings.split, threshold=sweep.threshold(values))
    return Trial(
        number=number,
        values=values,
        state=result.state,
        reason=result.reason,
        executed=tuple(result.executed),
        reused=tuple(result.reused),
        folds=folds,
    )


def _record(sweep: Sweep, trial: Trial, tracker: MlflowTracker, artifacts: dict[str, str]) -> None:
    """Record a trial's own stages and its scores; the stages that all trials share have a run of their own."""
    overrides = sweep.trial_overrides(trial.values)
    recipe = sweep.trial_recipe(overrides)
    pipeline = PipelineRecord(
        recipe.settings.name, sweep.trial_fingerprint(overrides), sweep.settings.name, settings=trial.values
    )
    # An instance that only some trials read is not part of the shared run.
    shared = {instance.fingerprint for instance in sweep.unchanged().instances}
    for instance in recipe.instances:
        record = instance.run_record()
        if instance.fingerprint not in shared and record is not None:
            tracker.stage_finished(pipeline, record)
    scores = {f"fold{fold}.{SCORE}": value for fold, value in enumerate(trial.fold_iou)}
    if (threshold := sweep.threshold(trial.values)) is not None:  # no recorded stage has this setting
        scores[THRESHOLD] = threshold
    tracker.pipeline_finished(pipeline, {SCORE: trial.mean_iou or WORST, **scores}, artifacts)


def _result(sweep: Sweep, base: RunSummary, trials: list[Trial]) -> SweepResult:
    choice = choose(trials)
    return SweepResult(
        name=sweep.settings.name,
        recipe=sweep.base.settings.name,
        metric=sweep.settings.metric,
        split=sweep.settings.split,
        trials=tuple(trials),
        base_executed=tuple(base.executed),
        base_reused=tuple(base.reused),
        choice=choice,
        best_overrides=tuple(sweep.space.apply(choice.best.values)) if choice else (),
        labels=sweep.labels,
        grid=sweep.settings.method == "grid",
    )
