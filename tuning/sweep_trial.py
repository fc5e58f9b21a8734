"""The code of one trial of a sweep that runs inside Ray.

Tune starts a trial as an actor in a placement group without CPUs, and everything that the trial starts would be placed
there too. So the trial passes its recipe to a task outside of that group, on the nodes in turn. The task reserves no
CPU itself: it only waits for the actors and training ranks that it starts, and these need the CPUs. If a node is lost,
Tune begins its trials again, and they find what was finished. With `--on local` the trial runs its stages itself,
unless it has to watch a training.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import ray
from ray import tune

from cluster.session.same_code import CodeIdentity, OtherCodeError, own_identity, require_same
from shards.files import write_bytes
from tuning.early_stopping import POLL_SECONDS, report_validations
from tuning.sweep_settings import MEAN_IOU, SECONDS
from tuning.trial_journal import key_of
from wsss.contract.failure import ignore_restart
from wsss.contract.runtime import Tracker

if TYPE_CHECKING:
    # Imported where it is used below: the actor that only waits needs no torch.
    from pathlib import Path

    from shards.records import RunRecord
    from tuning.search_space import Sweep
    from wsss.contract.counts import Counts
    from wsss.contract.failure import OnRestart
    from wsss.contract.fit import Fit
    from wsss.contract.runtime import Progress, Runtime, RuntimeSettings
    from wsss.contract.stage import Instance, Map, Outcome, Reduce
    from wsss.pipeline.recipe import Recipe

WORST = 0.0
"""Reported to the search for a trial without a result: the lowest possible mean IoU."""
SCORE = MEAN_IOU
RESULT = "result"
"""Keys of the report of a trial to Tune."""
COMBINATION = "of the grid"
"""Key of a grid's suggestion in Tune's configuration; no setting and no cases can have this name."""
DRIVER_MEMORY = 64 * 2**20
"""Bytes reserved for a waiting trial: Tune requires some resource, and it must not be one that the work needs."""


STATES = ("done", "pruned", "failed", "stopped")


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """How a trial ended."""

    state: str
    """Of `STATES`: `done`, `pruned` if its settings do not fit together, `failed` if a stage failed, `stopped` if it
    was worse than others after some epochs of a training."""
    reason: str = ""
    executed: tuple[str, ...] = ()
    reused: tuple[str, ...] = ()
    seconds: float = 0.0
    """Seconds of the stages that depend on the searched settings, as recorded when they were executed."""


def trainable(sweep: Sweep, *, place: str, stopped: Mapping[str, Mapping[str, Any]] | None = None) -> Any:
    """The function `trial` with what it needs, for Tune.

    `stopped`: the last reports of trials that an earlier start of the sweep stopped early, by `key_of` a suggestion.
    """
    # Other nodes have neither the files nor the environment of this one; they share only the folder of runs.
    copy = sweep.folder / "recipe.toml"
    write_bytes(copy, sweep.recipe_path.read_bytes())
    known = ray.put(replace(sweep, recipe_path=copy))
    return tune.with_parameters(
        trial,
        # In a list, so that Tune passes the reference on instead of the sweep behind it.
        known=[known],
        place=place,
        environment=sweep.environment,
        driver=own_identity(),
        stopped=dict(stopped or {}),
    )


def trial(
    config: dict[str, Any],
    *,
    known: list[Any],
    place: str,
    environment: Mapping[str, str],
    driver: CodeIdentity,
    stopped: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """What Tune runs for a suggestion. Its name is part of Tune's folder: `Tuner.restore(FOLDER, trainable=trial)`."""
    suggestion = suggestion_of(config)
    if (before := stopped.get(key_of(suggestion))) is not None:
        return dict(before)
    if place == "local" and not (sweep := ray.get(known[0])).settings.stop_by:
        return run_trial(sweep, suggestion, place, environment, driver)
    task = ray.remote(run_trial).options(num_cpus=0, max_retries=0, scheduling_strategy="SPREAD")
    running = task.remote(known[0], suggestion, place, environment, driver)
    sweep = ray.get(known[0])
    folder, reported = _watched_training(sweep, suggestion), 0
    try:
        while folder is not None and not ray.wait([running], timeout=POLL_SECONDS)[0]:
            reported = report_validations(folder, reported=reported)
        report: dict[str, Any] = ray.get(running)
    except BaseException:
        ray.cancel(running, force=False)  # Tune stopped this trial: its training must not go on
        raise
    if folder is not None and report[RESULT]["state"] == "done":
        reported = report_validations(folder, reported=reported)
    return report


def _watched_training(sweep: Sweep, suggestion: Mapping[str, Any]) -> Path | None:
    """The folder of the training by which trials are stopped; None if there is none, or if the trial has its result
    already: beside other trials than before it might be stopped now."""
    from wsss.pipeline.recipe import RecipeError

    if not sweep.settings.stop_by:
        return None
    try:
        recipe = sweep.trial_recipe(sweep.trial_overrides(sweep.space.values(suggestion)))
    except RecipeError:
        return None  # it will be pruned
    if recipe.instance(sweep.settings.metric).is_done():
        return None
    return recipe.instance(sweep.settings.stop_by).path


def suggestion_of(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The suggestion in Tune's configuration of a trial: the configuration itself, or for a grid one entry of it."""
    suggestion: Mapping[str, Any] = config.get(COMBINATION, config)
    return suggestion


def run_trial(
    sweep: Sweep,
    suggestion: Mapping[str, Any],
    place: str,
    environment: Mapping[str, str],
    driver: CodeIdentity | None = None,
) -> dict[str, Any]:
    """Run the recipe with the suggested values; results that exist are reused.

    `driver`: the code of the sweep's own process, which this process must run too.
    """
    try:
        require_same(own_identity(), who="a trial", driver=driver)
    except OtherCodeError as error:
        return _report(TrialResult(state="failed", reason=str(error)))
    from wsss.pipeline.error_file import error_line
    from wsss.pipeline.progress import Reporter
    from wsss.pipeline.recipe import RecipeError
    from wsss.pipeline.run import run_recipe

    os.environ.update(environment)
    values = sweep.space.values(suggestion)
    try:
        recipe = sweep.trial_recipe(sweep.trial_overrides(values))
    except RecipeError as error:
        return _report(TrialResult(state="pruned", reason=str(error)))
    if (found := _read_off(sweep, recipe, values)) is not None:
        return found
    runtime = open_runtime(recipe, place=place, max_concurrent=sweep.settings.max_concurrent)
    try:
        summary = run_recipe(recipe, runtime=runtime, tracker=Unrecorded(), reporter=Reporter(quiet=True))
    except Exception as error:  # one failed trial must not end the others; the sweep reports it
        return _report(TrialResult(state="failed", reason=error_line(error) or f"{type(error).__name__}: {error}"))
    finally:
        runtime.close()
    metric = sweep.settings.metric
    if metric in summary.skipped:
        return _report(TrialResult(state="failed", reason=f"{metric} was skipped: {summary.skipped[metric]}"))
    result = TrialResult(
        state="done",
        executed=tuple(summary.executed),
        reused=tuple(summary.reused),
        seconds=round(sum(record.seconds for name, record in summary.records.items() if name in sweep.changed), 2),
    )
    return _report(result, score=_score(sweep, recipe, values, summary.records[metric]))


def _read_off(sweep: Sweep, recipe: Recipe, values: Mapping[str, Any]) -> dict[str, Any] | None:
    """The report of a threshold whose counts are there: no stage has to be looked at. None for other trials."""
    metric = recipe.instance(sweep.settings.metric)
    if not sweep.labels or not metric.is_done() or (record := metric.run_record()) is None:
        return None
    done = {one.name: one.run_record() for one in recipe.instances if one.name in sweep.changed}
    seconds = round(sum(one.seconds for one in done.values() if one is not None), 2)
    reused = tuple(one.name for one in recipe.instances)
    return _report(
        TrialResult(state="done", reused=reused, seconds=seconds), score=_score(sweep, recipe, values, record)
    )


def _score(sweep: Sweep, recipe: Recipe, values: Mapping[str, Any], record: RunRecord) -> float:
    """Mean IoU of a finished trial: as measured, or from the counts at the trial's threshold."""
    split, threshold = sweep.settings.split, sweep.threshold(values)
    if threshold is None:
        return record.metrics[f"{split}.{SCORE}"]
    from tuning.sweep_result import mean_iou, read_folds

    return mean_iou(read_folds(recipe.instance(sweep.settings.metric).path, split=split, threshold=threshold))


def _report(result: TrialResult, *, score: float = WORST) -> dict[str, Any]:
    return {SCORE: score, SECONDS: result.seconds, RESULT: asdict(result)}


def open_runtime(recipe: Recipe, *, place: str, max_concurrent: int = 1) -> Runtime:
    """The runtime for the stages of a sweep: `local` is the calling process, anything else the open Ray session."""
    if place == "local":
        from cluster.local import LocalRuntime

        return LocalRuntime(recipe.runtime)
    from cluster.ray_runtime import RayRuntime

    address = None if place == "ray" else place
    if max_concurrent == 1:
        return RayRuntime(recipe.runtime, address=address)
    return SharingRuntime(RayRuntime(_share(recipe.runtime, max_concurrent), address=address))


def _share(settings: RuntimeSettings, max_concurrent: int) -> RuntimeSettings:
    """Settings with an equal share of the CPUs for each trial, if the recipe does not set the number of actors."""
    if settings.num_actors or settings.actor_gpus:
        return settings
    room = int(ray.cluster_resources().get("CPU", 1.0))
    return replace(settings, num_actors=max(1, room // max_concurrent))


class SharingRuntime:
    """Releases all CPUs after every stage.

    A trial that waits for a stage of another trial must not hold resources which that trial needs.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def check(self, instances: Sequence[Instance]) -> None:
        """Refuse what cannot run here."""
        self._runtime.check(instances)

    def fit(
        self, instance: Instance, stage: Fit, progress: Progress, *, on_restart: OnRestart = ignore_restart
    ) -> Outcome:
        """Train, then release all resources."""
        try:
            return self._runtime.fit(instance, stage, progress, on_restart=on_restart)
        finally:
            self.close()

    def map(
        self, instance: Instance, stage: Map, progress: Progress, *, on_restart: OnRestart = ignore_restart
    ) -> None:
        """Process the shards, then release all resources."""
        try:
            self._runtime.map(instance, stage, progress, on_restart=on_restart)
        finally:
            self.close()

    def reduce(
        self, instance: Instance, stage: Reduce, progress: Progress, *, on_restart: OnRestart = ignore_restart
    ) -> Counts:
        """Count the shards, then release all resources."""
        try:
            return self._runtime.reduce(instance, stage, progress, on_restart=on_restart)
        finally:
            self.close()

    def release(self) -> None:
        """Release idle processes."""
        self._runtime.release()

    def close(self) -> None:
        """Release all processes."""
        self._runtime.close()


class Unrecorded(Tracker):
    """A tracker that records nothing: trials run in many processes, and only the sweep's process writes to MLflow."""
