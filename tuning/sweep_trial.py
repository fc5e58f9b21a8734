"""The code of one trial of a sweep that runs inside Ray.

Tune starts a trial as an actor in a placement group without CPUs, and everything that the trial starts would be placed
there too. So the trial passes its recipe to a task outside of that group. The task reserves no CPU itself: it only
waits for the actors and training ranks that it starts, and these need the CPUs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster.session.same_code import CodeIdentity, OtherCodeError, own_identity, require_same
from shards.files import write_bytes
from wsss.contract.failure import ignore_restart
from wsss.contract.runtime import Tracker

if TYPE_CHECKING:
    # Imported where it is used below: the actor that only waits needs no torch.
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
SCORE = "mean_iou"
RESULT = "result"
"""Keys of the report of a trial to Tune."""
COMBINATION = "of the grid"
"""Key of a grid's suggestion in Tune's configuration; no setting and no cases can have this name."""
DRIVER_MEMORY = 64 * 2**20
"""Bytes reserved for a waiting trial: Tune requires some resource, and it must not be one that the work needs."""


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """How a trial ended."""

    state: str
    """`done`, `pruned` if its settings do not fit together, `failed` if a stage failed."""
    reason: str = ""
    executed: tuple[str, ...] = ()
    reused: tuple[str, ...] = ()
    seconds: float = 0.0


def trainable(sweep: Sweep, *, place: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The function that Tune calls with a suggestion."""
    task = ray.remote(run_trial).options(
        num_cpus=0, scheduling_strategy=PlacementGroupSchedulingStrategy(placement_group=None)
    )
    # Other nodes have neither the files nor the environment of this one; they share only the folder of runs.
    copy = sweep.folder / "recipe.toml"
    write_bytes(copy, sweep.recipe_path.read_bytes())
    known, environment, driver = ray.put(replace(sweep, recipe_path=copy)), sweep.environment, own_identity()

    def trial(config: dict[str, Any]) -> dict[str, Any]:
        report: dict[str, Any] = ray.get(task.remote(known, suggestion_of(config), place, environment, driver))
        return report

    return trial


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
        seconds=sum(summary.records[name].seconds for name in summary.executed),
    )
    return _report(result, score=_score(sweep, recipe, values, summary.records[metric]))


def _score(sweep: Sweep, recipe: Recipe, values: Mapping[str, Any], record: RunRecord) -> float:
    """Mean IoU of a finished trial: as measured, or from the counts at the trial's threshold."""
    split, threshold = sweep.settings.split, sweep.threshold(values)
    if threshold is None:
        return record.metrics[f"{split}.{SCORE}"]
    from tuning.sweep_result import mean_iou, read_folds

    return mean_iou(read_folds(recipe.instance(sweep.settings.metric).path, split=split, threshold=threshold))


def _report(result: TrialResult, *, score: float = WORST) -> dict[str, Any]:
    return {SCORE: score, RESULT: asdict(result)}


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
