"""Optuna under Ray Tune, without trying the same setting twice."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from ray.tune.search.optuna import OptunaSearch

from tuning.dimensions import Dimension, Range
from tuning.search_space import SearchSpace, Sweep
from tuning.sweep_settings import DIRECTIONS

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

    def __init__(
        self,
        space: SearchSpace,
        *,
        objectives: Sequence[str],
        seed: int,
        num_random: int,
        earlier: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Use a seeded tree-structured Parzen estimator, with the first `num_random` settings drawn at random.

        `earlier`: suggestions of an earlier start of this search, which are made again, in their order, before others.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=num_random)
        metric: Any = objectives[0] if len(objectives) == 1 else list(objectives)
        modes = [DIRECTIONS[name] for name in objectives]
        super().__init__(
            distributions(space), metric=metric, mode=modes[0] if len(modes) == 1 else modes, sampler=sampler
        )
        self._space_of_values, self._objectives = space, tuple(objectives)
        self._earlier = [dict(one) for one in earlier]
        self._tried: dict[str, str] = {}
        self._draw_of: dict[str, str] = {}
        self._reports: dict[str, dict[str, Any]] = {}

    @classmethod
    def of(cls, sweep: Sweep, *, earlier: Sequence[Mapping[str, Any]] = ()) -> DistinctSearch:
        """The search that a sweep file asks for."""
        chosen = sweep.settings
        return cls(
            sweep.space, objectives=chosen.objectives, seed=chosen.seed, num_random=sweep.num_random, earlier=earlier
        )

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The next setting; one that was tried before only if `MAX_DRAWS` draws give no other."""
        wanted = self._earlier.pop(0) if self._earlier else None
        for number in range(MAX_DRAWS):
            draw = f"{trial_id}.{number}"
            suggestion: dict[str, Any] | None = super().suggest(draw)
            if wanted is not None and self._key(suggestion) != self._key(wanted):
                super().on_trial_complete(draw, error=True)
                # Optuna suggests what is enqueued before it draws again.
                self._ot_study.enqueue_trial(wanted)
                draw = f"{trial_id}.earlier"
                suggestion = super().suggest(draw)
            before = self._tried.setdefault(self._key(suggestion), trial_id)
            if before == trial_id or wanted is not None or number == MAX_DRAWS - 1:
                break
            known = self._reports.get(before)
            super().on_trial_complete(draw, result=known, error=known is None)
        self._draw_of[trial_id] = draw
        return suggestion

    def _key(self, suggestion: Mapping[str, Any] | None) -> str:
        """Equal for suggestions that are the same setting, in spite of rounding errors."""
        return json.dumps(self._space_of_values.values(suggestion or {}), sort_keys=True)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Called by Tune, also with the validations of a running training, which say nothing of the objectives."""
        if all(name in result for name in self._objectives):
            super().on_trial_result(self._draw_of[trial_id], result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Called by Tune."""
        if result is not None:
            self._reports[trial_id] = result
        super().on_trial_complete(self._draw_of[trial_id], result=result, error=error)
