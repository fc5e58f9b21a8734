"""Optuna under Ray Tune, without trying the same setting twice."""

from __future__ import annotations

import json
from typing import Any

import optuna
from ray.tune.search.optuna import OptunaSearch

from tuning.dimensions import Dimension, Range
from tuning.search_space import SearchSpace

MAX_DRAWS = 50
"""Maximum number of draws to find a setting that was not tried before."""


def distributions(space: SearchSpace) -> dict[str, Any]:
    """The space as Optuna's distributions; a choice or a case is given as JSON, since a setting may be a list."""
    return {name: _distribution(one) for name, one in space.dimensions.items()}


def _distribution(one: Dimension) -> Any:
    if not isinstance(one, Range):
        return optuna.distributions.CategoricalDistribution([json.dumps(choice) for choice in one.all_values])
    if one.whole:
        return optuna.distributions.IntDistribution(int(one.low), int(one.high), log=one.log, step=int(one.step or 1))
    return optuna.distributions.FloatDistribution(float(one.low), float(one.high), log=one.log, step=one.step)


class DistinctSearch(OptunaSearch):
    """Draws again if a setting was tried before, and reports the known result to the sampler once more."""

    def __init__(self, space: SearchSpace, *, metric: str, seed: int, num_random: int) -> None:
        """Use a seeded tree-structured Parzen estimator, with the first `num_random` settings drawn at random."""
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=num_random)
        super().__init__(distributions(space), metric=metric, mode="max", sampler=sampler)
        self._tried: dict[str, str] = {}
        self._draw_of: dict[str, str] = {}
        self._reports: dict[str, dict[str, Any]] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The next setting; one that was tried before only if `MAX_DRAWS` draws give no other."""
        for number in range(MAX_DRAWS):
            draw = f"{trial_id}.{number}"
            suggestion: dict[str, Any] | None = super().suggest(draw)
            before = self._tried.setdefault(json.dumps(suggestion, sort_keys=True), trial_id)
            if before == trial_id or number == MAX_DRAWS - 1:
                break
            known = self._reports.get(before)
            super().on_trial_complete(draw, result=known, error=known is None)
        self._draw_of[trial_id] = draw
        return suggestion

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Called by Tune."""
        super().on_trial_result(self._draw_of[trial_id], result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Called by Tune."""
        if result is not None:
            self._reports[trial_id] = result
        super().on_trial_complete(self._draw_of[trial_id], result=result, error=error)
