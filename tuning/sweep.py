"""Search settings with Ray Tune and Optuna, or try a whole grid; every trial runs a recipe and reuses results.

Stages that no trial changes run once, before the first trial. After that, results are reused by fingerprint: a trial
runs only the stages that no earlier run executed with the same settings. A sweep that was stopped and is started again
suggests the same settings, finds their results, and resumes where it was.
"""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import replace
from typing import Any

from ray import tune
from ray.tune.logger import JsonLoggerCallback
from rich.console import Console
from rich.text import Text

from cluster.session.ray_processes import end_session
from cluster.session.ray_session import connect
from cluster.tracking.sweep_run import tracked_sweep
from cluster.tracking.tracker import MlflowTracker
from cluster.tracking.tracking_address import open_command
from tuning.distinct_search import DistinctSearch
from tuning.early_stopping import scheduler_of
from tuning.search_space import Sweep
from tuning.sweep_outcome import BEST_RECIPE, further_files, result_of
from tuning.sweep_records import Recorder, outcome_of, record
from tuning.sweep_result import Trial
from tuning.sweep_trial import COMBINATION, DRIVER_MEMORY, open_runtime, trainable
from tuning.sweep_watch import Watch
from tuning.trial_journal import TrialJournal
from wsss.pipeline.instance_lock import locked
from wsss.pipeline.progress import Reporter
from wsss.pipeline.recipe import RecipeError
from wsss.pipeline.run import RunSummary, make_runs_folder, run_recipe
from wsss.report.printing import print_table
from wsss.stages.evaluate import Evaluate

_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Tune's newer output prints its banner even with verbose=0.
    "RAY_AIR_NEW_OUTPUT": "0",
    # With Tune's own handler, Ctrl-C would wait for the running trial.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # Seconds between two copies of Tune's state and results into its folder, which a killed sweep leaves behind.
    "TUNE_GLOBAL_CHECKPOINT_S": "5",
    # The reports of a training that is watched have no mean IoU yet.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
}


RESTARTS = 3
"""How often a trial begins again after its process was lost. A stage that fails ends its trial at once."""


def run_sweep(sweep: Sweep, *, place: str, console: Console) -> int:
    """Run a sweep and print the best setting; returns 0, or 1 if a trial failed.

    `place`: `ray` (this machine), `local` (stages in the trial's own process, Ray only for Tune), or an address.
    Raises RuntimeError if no trial has a result.
    """
    make_runs_folder(sweep.base)
    runtime = sweep.base.runtime
    tracker = MlflowTracker(uri=runtime.tracking_uri, runs=runtime.runs, console=console)

    def waiting(holder: str) -> None:
        Reporter(console).waiting(sweep.settings.name, holder)

    with locked(sweep.folder, waiting=waiting), tracked_sweep(tracker, sweep.settings.name):
        return _run_tracked(sweep, place=place, tracker=tracker, console=console)


def _run_tracked(sweep: Sweep, *, place: str, tracker: MlflowTracker, console: Console) -> int:
    runtime = sweep.base.runtime
    owns_session = connect(None if place in ("ray", "local") else place)
    try:
        base = _run_unchanged(sweep, place=place, tracker=tracker, console=console)
        _check_metric(sweep)
        trials = _run_trials(sweep, place=place, tracker=tracker, console=console)
    finally:
        if owns_session:
            end_session()
    result = result_of(sweep, base, trials)
    kept = result.keep_earlier(sweep.folder)
    artifacts = result.write(sweep.folder, further_files(sweep, result))
    tracker.sweep_finished(sweep.settings.name, outcome_of(sweep, result, artifacts))
    print_table(replace(result.table(), notes=tuple(result.sentences())))
    if result.choice is None:
        raise RuntimeError(f"no trial of {sweep.settings.name} has a result; trial 1: {trials[0].reason}")
    record(sweep, result.choice.best, tracker, artifacts)
    if kept is not None:
        console.print(Text(f"kept         {kept}, of an earlier sweep with other settings or results"), soft_wrap=True)
    console.print(Text(f"results      {sweep.folder / 'sweep.md'}"), soft_wrap=True)
    console.print(Text(f"best recipe  {sweep.folder / BEST_RECIPE}"), soft_wrap=True)
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
    if not metric.samples.is_done():
        return
    assert isinstance(metric.stage, Evaluate)
    if reason := metric.stage.skip_reason(metric) or metric.stage.one_half(metric):
        raise RecipeError(f"sweep.metric = {metric.name!r}: {reason}; add masks to the data set, or use another split")


def _run_trials(sweep: Sweep, *, place: str, tracker: MlflowTracker, console: Console) -> list[Trial]:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    # Tune's state of this start. Finished results of earlier starts are found by fingerprint, their settings in the
    # journal.
    storage, journal = sweep.folder / "tune", TrialJournal(sweep)
    shutil.rmtree(storage, ignore_errors=True)
    storage.mkdir(parents=True)
    space, config = _suggestions(sweep, journal)
    recorder = Recorder(sweep, tracker)
    watch = Watch(sweep, journal, recorder, console)
    tuner = tune.Tuner(
        tune.with_resources(
            trainable(sweep, place=place, stopped=journal.stopped()), {"CPU": 0, "memory": DRIVER_MEMORY}
        ),
        param_space=space,
        tune_config=replace(
            config,
            max_concurrent_trials=sweep.settings.max_concurrent,
            reuse_actors=True,
            scheduler=scheduler_of(sweep),
        ),
        run_config=tune.RunConfig(
            name=sweep.settings.name,
            storage_path=str(storage),
            verbose=0,
            # Without Tune's result.json its own `get_dataframe` finds nothing.
            callbacks=[watch, JsonLoggerCallback()],
            # A trial whose process died, or whose host was lost, begins again; what it finished is found.
            failure_config=tune.FailureConfig(max_failures=RESTARTS),
        ),
    )
    with recorder:
        tuner.fit()
    return watch.results()


def _suggestions(sweep: Sweep, journal: TrialJournal) -> tuple[dict[str, Any] | None, tune.TuneConfig]:
    """The source of Tune's trials: Optuna, or the list of a grid's combinations."""
    if sweep.settings.method == "grid":
        # A grid is one dimension of Tune, because Tune orders several dimensions by name.
        return {COMBINATION: tune.grid_search(sweep.space.combinations())}, tune.TuneConfig(num_samples=1)
    search = DistinctSearch.of(sweep, earlier=journal.suggestions)
    return None, tune.TuneConfig(search_alg=search, num_samples=sweep.num_trials)
