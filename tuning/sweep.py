"""Search settings with Ray Tune and Optuna; every trial is a recipe, and shares with the others what it can.

What no trial changes is run once, before the first. After that fingerprints do the sharing: a trial runs the stages
that no earlier run made with the same settings. So a sweep that was stopped and is started again suggests the same
settings, finds them done, and goes on where it was.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import optuna
import ray
from ray import tune
from ray.tune.search.optuna import OptunaSearch
from rich.console import Console

from cluster.ray_session import connect
from cluster.tracking import MlflowTracker, open_command
from tuning.leaderboard import percent
from tuning.search_space import Range, SearchSpace, Sweep, load_sweep
from tuning.sweep_result import SweepResult, Trial, choose, read_folds
from tuning.sweep_trial import DRIVER_MEMORY, SCORE, WORST, TrialResult, open_runtime, trainable
from wsss.pipeline import RunSummary, run_recipe
from wsss.progress import Reporter
from wsss.runtime import PipelineRecord

_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # With Tune's own handler Ctrl-C would wait for the trial that is at work.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # Its results are ours to keep; a state of the experiment that nobody restores need not be saved often.
    "TUNE_GLOBAL_CHECKPOINT_S": "600",
}


def run_sweep(path: Path, *, overrides: Iterable[str], place: str, console: Console) -> int:
    """Run a sweep file and tell what won; returns 0, or 1 where a trial failed.

    `place`: `ray` (this machine), `local` (stages in the trial's own process, Ray for Tune alone), or an address.
    Raises `RecipeError` for a sweep that cannot be run, RuntimeError where no trial has a result.
    """
    sweep = load_sweep(path, overrides)
    runtime = sweep.base.runtime
    owns_session = connect(None if place in ("ray", "local") else place)
    try:
        tracker = MlflowTracker(uri=runtime.tracking_uri, runs=runtime.runs, console=console)
        base = _run_unchanged(sweep, place=place, tracker=tracker, console=console)
        trials = _run_trials(sweep, place=place, tracker=tracker, console=console)
    finally:
        if owns_session:
            ray.shutdown()
    result = _result(sweep, base, trials)
    artifacts = result.write(sweep.folder)
    out = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    out.print(result.render())
    for line in result.sentences():
        out.print(line, markup=False, soft_wrap=True)
    if result.choice is None:
        raise RuntimeError(f"no trial of {sweep.settings.name} has a result; the first one: {trials[0].reason}")
    _record(sweep, result.choice.best, tracker, artifacts)
    console.print(f"results      {sweep.folder / 'sweep.md'}", soft_wrap=True)
    console.print(f"runs         {open_command(runtime.tracking_uri, runs=runtime.runs)}", soft_wrap=True)
    return 1 if any(trial.state == "failed" for trial in trials) else 0


def _run_unchanged(sweep: Sweep, *, place: str, tracker: MlflowTracker, console: Console) -> RunSummary:
    """Run what all trials share."""
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


def _run_trials(sweep: Sweep, *, place: str, tracker: MlflowTracker, console: Console) -> list[Trial]:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Only book-keeping of this start: what earlier ones finished stands under its fingerprints.
    storage = sweep.folder / "tune"
    shutil.rmtree(storage, ignore_errors=True)
    storage.mkdir(parents=True)
    tuner = tune.Tuner(
        tune.with_resources(trainable(sweep, place=place), {"CPU": 0, "memory": DRIVER_MEMORY}),
        tune_config=tune.TuneConfig(
            search_alg=_search(sweep),
            num_samples=sweep.settings.num_trials,
            max_concurrent_trials=sweep.settings.max_concurrent,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=sweep.settings.name,
            storage_path=str(storage),
            verbose=0,
            callbacks=[_Watch(sweep, tracker, console)],
        ),
    )
    results = tuner.fit()
    return [_trial(sweep, number, one) for number, one in enumerate(results, start=1)]


def _search(sweep: Sweep) -> OptunaSearch:
    """A seeded tree-structured Parzen estimator; the first third of the trials is drawn at random."""
    sampler = optuna.samplers.TPESampler(
        seed=sweep.settings.seed, n_startup_trials=max(1, sweep.settings.num_trials // 3)
    )
    return OptunaSearch(distributions(sweep.space), metric=SCORE, mode="max", sampler=sampler)
