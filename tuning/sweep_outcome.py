"""What is computed once all trials of a sweep have ended: the choice, its interval, importance, and the best recipe."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from shards.label_type import BYTE, label_type
from tuning.best_recipe import best_recipe
from tuning.importance import importance
from tuning.label_free import measure
from tuning.search_space import Sweep
from tuning.sweep_result import SweepResult, Trial, TwoFoldChoice, choose
from wsss.contract.stage import Instance
from wsss.pipeline.run import RunSummary
from wsss.stages.evaluate import Evaluate

if TYPE_CHECKING:
    from wsss.stages.evaluation.label_free import ThresholdScore

BEST_RECIPE, IMPORTANCE = "best.toml", "importance.png"


def result_of(sweep: Sweep, base: RunSummary, trials: list[Trial]) -> SweepResult:
    """The results of a sweep. The images of the chosen trials are counted again, for the interval."""
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
        objectives=sweep.settings.objectives,
        interval=_interval(sweep, choice) if choice else None,
        importance=importance(sweep.space, trials, seed=sweep.settings.seed),
        label_free=tuple(_label_free(sweep, choice.best)) if choice and sweep.labels else (),
    )


def _metric_of(sweep: Sweep, trial: Trial) -> Instance:
    return sweep.trial_recipe(sweep.trial_overrides(trial.values)).instance(sweep.settings.metric)


def _interval(sweep: Sweep, choice: TwoFoldChoice) -> tuple[float, float]:
    """Each fold is scored by the trial that was chosen on the other one."""
    from wsss.stages.evaluation.chosen_interval import chosen_interval

    scored_by = tuple(reversed(choice.chosen))
    return chosen_interval(
        [_without_boundaries(_metric_of(sweep, trial)) for trial in scored_by],
        split=sweep.settings.split,
        thresholds=[sweep.threshold(trial.values) for trial in scored_by],
        seed=sweep.base.settings.seed,
    )


def _without_boundaries(metric: Instance) -> Instance:
    assert isinstance(metric.stage, Evaluate)
    return replace(metric, stage=replace(metric.stage, boundary_width=0.0))


def _label_free(sweep: Sweep, best: Trial) -> list[ThresholdScore]:
    """Empty for more classes than thresholds without masks are measured for."""
    metric = _metric_of(sweep, best)
    return measure(metric, sweep.settings.split) if label_type(len(metric.taxonomy)) == BYTE else []


def further_files(sweep: Sweep, result: SweepResult) -> dict[str, bytes]:
    """The files beside the table: the best setting as a recipe, and the importance of the settings as a picture."""
    if result.choice is None:
        return {}
    files = {BEST_RECIPE: _recipe_text(sweep, result, result.choice).encode()}
    if result.importance:
        from wsss.pictures.plots import draw_importance

        done = [trial for trial in result.trials if trial.mean_iou is not None]
        files[IMPORTANCE] = draw_importance(
            result.importance,
            values={name: [_shown(trial.values[name]) for trial in done] for name in result.importance},
            mean_iou=[trial.mean_iou or 0.0 for trial in done],
            title=f"{result.name}: {result.metric} on {result.split}, {len(done)} trials",
        )
    return files


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _recipe_text(sweep: Sweep, result: SweepResult, choice: TwoFoldChoice) -> str:
    notes = [
        f"wsss run {BEST_RECIPE}",
        f"The best setting of the sweep {result.name} over {result.recipe}: trial {choice.best.number} of "
        f"{len(result.trials)}, {result.metric} {100 * (choice.best.mean_iou or 0.0):.2f} on {result.split}",
        f"(two-fold {100 * choice.mean_iou:.2f}).",
    ]
    return best_recipe(sweep, result.best_overrides, notes=notes)
