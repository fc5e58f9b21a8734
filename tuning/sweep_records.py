"""Records of a sweep's trials for MLflow, written beside the running trials: none waits for a database."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from cluster.tracking.tracker import MlflowTracker
from shards.records import RunRecord
from tuning.counted_threshold import THRESHOLD
from tuning.search_space import Sweep
from tuning.sweep_result import SweepResult, Trial
from tuning.sweep_trial import SCORE, STATES, WORST
from wsss.contract.runtime import PipelineRecord, SweepOutcome
from wsss.pipeline.recipe import Recipe


class Recorder:
    """Records trials in the order in which they end, in one thread; nothing else may use the tracker meanwhile.

    At the end of the block all of them are recorded. If it ends by an error or a signal, only the one at work is: the
    next start of the sweep records the others.
    """

    def __init__(self, sweep: Sweep, tracker: MlflowTracker) -> None:
        self._sweep, self._tracker = sweep, tracker
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="records")
        self._records: list[Future[None]] = []
        self._known: set[str] = set()

    def put(self, trial: Trial) -> None:
        """Record a trial with a result, soon."""
        self._records.append(self._thread.submit(self._record, trial))

    def _record(self, trial: Trial) -> None:
        record(self._sweep, trial, self._tracker, {}, known=self._known)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=True, cancel_futures=error is not None)
        if error is None:
            for one in self._records:
                one.result()


def record(
    sweep: Sweep, trial: Trial, tracker: MlflowTracker, artifacts: dict[str, str], *, known: set[str] | None = None
) -> None:
    """Record a trial's scores and its own stages; the stages that all trials share have a run of their own.

    `known`: fingerprints of stages that an earlier trial of this sweep has recorded, to which this trial's are added.
    None if only the trial itself is recorded.
    """
    overrides = sweep.trial_overrides(trial.values)
    recipe = sweep.trial_recipe(overrides)
    own = [] if known is None else _own_records(sweep, recipe, known)
    pipeline = PipelineRecord(
        recipe.settings.name,
        sweep.trial_fingerprint(overrides),
        sweep.settings.name,
        settings=trial.values,
        lineage={instance.name: instance.fingerprint for instance in recipe.instances},
        started=min((done.finished - done.seconds for done in own), default=time.time()),
    )
    for done in own:
        tracker.stage_finished(pipeline, done)
    scores = {f"fold{fold}.{SCORE}": value for fold, value in enumerate(trial.fold_iou)}
    if (threshold := sweep.threshold(trial.values)) is not None:  # no recorded stage has this setting
        scores[THRESHOLD] = threshold
    tracker.pipeline_finished(pipeline, {SCORE: trial.mean_iou or WORST, **scores}, artifacts)


def _own_records(sweep: Sweep, recipe: Recipe, known: set[str]) -> list[RunRecord]:
    """Records of the stages that are neither shared by all trials nor recorded with an earlier one; then they are
    known. An instance that only some trials read is not shared."""
    shared = {instance.fingerprint for instance in sweep.unchanged().instances}
    found = []
    for instance in recipe.instances:
        if instance.fingerprint not in shared | known and (done := instance.run_record()) is not None:
            found.append(done)
            known.add(instance.fingerprint)
    return found


def outcome_of(sweep: Sweep, result: SweepResult, files: Mapping[str, str]) -> SweepOutcome:
    """What the run of the sweep itself holds: the best trial's settings, the scores, and the files."""
    choice, states = result.choice, [trial.state for trial in result.trials]
    metrics = {f"trials.{state}": float(states.count(state)) for state in STATES}
    metrics |= {"trials": float(len(states)), "stages.executed": float(result.executed)}
    metrics |= {f"importance.{name}": share for name, share in result.importance.items()}
    if choice is not None:
        metrics |= {f"best.{SCORE}": choice.best.mean_iou or WORST, f"two_fold.{SCORE}": choice.mean_iou}
        metrics["best.trial"] = float(choice.best.number)
        metrics |= {f"best.fold{fold}.{SCORE}": value for fold, value in enumerate(choice.best.fold_iou)}
    if result.interval is not None:
        metrics |= {
            f"two_fold.{SCORE}.{end}": value for end, value in zip(("low", "high"), result.interval, strict=True)
        }
    about = {
        "settings": ", ".join(sweep.space.dimensions),
        "recipe": result.recipe,
        "metric": f"mean IoU of {result.metric} on {result.split}",
        "result": "; ".join(result.sentences()),
    }
    best = sweep.space.given(choice.best.values) if choice is not None else {}
    return SweepOutcome(about=about, metrics=metrics, best=best, files=files)
