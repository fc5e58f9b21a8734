"""How much of the differences between the trials each setting explains (fANOVA), as shares that add up to one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import optuna

from tuning.dimensions import Range
from tuning.distinct_search import distributions
from tuning.search_space import SearchSpace
from tuning.sweep_result import Trial

FEWEST_TRIALS = 4
"""Of fewer results nothing can be said."""


def importance(space: SearchSpace, trials: Sequence[Trial], *, seed: int) -> Mapping[str, float]:
    """Setting, or name of cases -> its share, largest first; empty if there are too few results, or all are equal.

    Source: Hutter et al. 2014, "An Efficient Approach for Assessing Hyperparameter Importance", as implemented by
    Optuna: the variance of the mean IoU, predicted by a random forest, that a setting explains by itself.
    """
    finished = [trial for trial in trials if trial.mean_iou is not None]
    given = distributions(space)
    varied = {
        name: one for name, one in given.items() if len({json.dumps(trial.values[name]) for trial in finished}) > 1
    }
    if len(finished) < FEWEST_TRIALS or len({trial.mean_iou for trial in finished}) < 2 or not varied:
        return {}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    for trial in finished:
        params = {
            name: trial.values[name] if isinstance(space.dimensions[name], Range) else json.dumps(trial.values[name])
            for name in given
        }
        study.add_trial(optuna.trial.create_trial(params=params, distributions=given, value=trial.mean_iou))
    found = optuna.importance.get_param_importances(
        study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=seed), params=list(varied)
    )
    return {name: float(share) for name, share in sorted(found.items(), key=lambda one: -one[1])}
