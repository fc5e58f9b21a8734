"""The trials of a running sweep, as they begin and end: lines for people, the journal, and records for MLflow."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ray import tune
from rich.console import Console

from shards.wording import counted
from tuning.early_stopping import EPOCH, VALIDATION
from tuning.search_space import Sweep
from tuning.sweep_records import Recorder
from tuning.sweep_result import Trial, read_folds
from tuning.sweep_trial import RESULT, TrialResult, suggestion_of
from tuning.trial_journal import TrialJournal


class Watch(tune.Callback):
    """Prints a line and writes a record for every trial that ends."""

    def __init__(self, sweep: Sweep, journal: TrialJournal, recorder: Recorder, console: Console) -> None:
        self._sweep, self._journal, self._recorder, self._console = sweep, journal, recorder, console
        self._began = time.monotonic()
        self._ended = 0
        self.trials: dict[int, Trial] = {}
        """Number of a trial that ended -> its result."""
        self._numbers: dict[str, int] = {}
        """Tune's id of a trial -> its number, from 1: that of an earlier start of the sweep, or in the order in which
        trials begin. Tune moves a trial to the end of its list when its process died and it begins again."""
        self._earlier = journal.suggestions
        self._configs: dict[int, Mapping[str, Any]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        # Tune pickles its callbacks with its state. A console has locks, which cannot be pickled, and what is loaded
        # from that state only shows results.
        return tune.Callback, ()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called by Tune."""
        number = self._number(trial)
        self._configs[number] = trial.config
        self._journal.begun(number, suggestion_of(trial.config))

    def _number(self, trial: Any) -> int:
        if trial.trial_id not in self._numbers:
            taken, suggestion = set(self._numbers.values()), suggestion_of(trial.config)
            known = (number for number, one in enumerate(self._earlier, 1) if one == suggestion and number not in taken)
            # Trials that run at the same time may begin in another order than before.
            self._numbers[trial.trial_id] = next(known, max(taken | {len(self._earlier)}) + 1)
        return self._numbers[trial.trial_id]

    def results(self) -> list[Trial]:
        """All trials that began, in order; those that did not end have failed."""
        return [
            self.trials.get(number) or trial_of(self._sweep, number, config, None)
            for number, config in sorted(self._configs.items())
        ]

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called by Tune."""
        ended = trial_of(self._sweep, self._number(trial), trial.config, trial.last_result)
        self._ended += 1
        self.trials[ended.number] = ended
        if ended.state == "stopped":
            self._journal.stopped_early(ended.number, stopped_report(trial.last_result))
        self._say(ended)
        if ended.state == "done":
            self._recorder.put(ended)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called by Tune."""
        self._ended += 1
        self._console.print(f"trial {self._number(trial)}: failed, its process ended", highlight=False)

    def _say(self, trial: Trial) -> None:
        total = self._sweep.num_trials
        left = (time.monotonic() - self._began) / self._ended * (total - self._ended)
        found = f"mean IoU {100 * (trial.mean_iou or 0.0):.2f}" if trial.folds else f"{trial.state}: {trial.reason}"
        settings = " ".join(f"{name}={value}" for name, value in trial.values.items())
        self._console.print(
            f"trial {trial.number} of {total}: {found}, {counted(len(trial.executed), 'stage')} executed, "
            f"{len(trial.reused)} reused, about {left:.0f} s left; {settings}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def trial_of(sweep: Sweep, number: int, config: Mapping[str, Any], report: Mapping[str, Any] | None) -> Trial:
    """A trial, from its report to Tune and the confusion matrices that evaluate wrote."""
    values = sweep.space.values(suggestion_of(config))
    if report and RESULT not in report and VALIDATION in report:
        report = stopped_report(report)
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
        seconds=result.seconds,
        folds=folds,
    )


def stopped_report(last: Mapping[str, Any]) -> dict[str, Any]:
    """The report of a trial that was stopped early, from its last one."""
    epoch, score = int(last[EPOCH]), float(last[VALIDATION])
    reason = f"stopped after epoch {epoch}: its validation score {score:.4g} was not among the best at that epoch"
    return {EPOCH: epoch, VALIDATION: score, RESULT: asdict(TrialResult(state="stopped", reason=reason))}
