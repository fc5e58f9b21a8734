"""What a sweep would execute, trial by trial, and about how long it would take: `wsss sweep --dry-run`.

The combinations of a grid are known. Of a search, the random first half is known too: its draws come from the seed
alone, unless trials run at the same time. The settings of the second half depend on results; here the search is told
that all trials are equally good, so what these trials execute is an estimate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tuning.distinct_search import DistinctSearch
from tuning.recorded_times import RecordedTimes, StageTime
from tuning.search_space import Sweep
from wsss.contract.fit import Fit
from wsss.contract.stage import Instance
from wsss.pipeline.recipe import Recipe, RecipeError

CHEAP_SHARE = 0.25
"""A setting is cheap if a new value takes less than this share of the time of the most expensive setting."""


@dataclass(frozen=True, kw_only=True)
class Execution:
    """One stage instance that would be executed."""

    name: str
    time: StageTime
    trains: bool


@dataclass(frozen=True, kw_only=True)
class PlannedTrial:
    """One trial of the forecast."""

    number: int
    values: Mapping[str, Any]
    executes: tuple[Execution, ...]
    certain: bool
    """False if a search may choose other settings once it has results."""
    pruned: str = ""
    """Why it does not run, if its settings do not fit together."""


@dataclass(frozen=True, kw_only=True)
class SettingCost:
    """What another value of one searched setting makes necessary, with all other settings unchanged."""

    name: str
    executes: tuple[Execution, ...]
    cheap: bool


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a sweep would do."""

    shared: tuple[Execution, ...]
    """Executed once, before the trials."""
    settings: tuple[SettingCost, ...]
    trials: tuple[PlannedTrial, ...]

    @property
    def executions(self) -> tuple[Execution, ...]:
        """Everything that would be executed, in order."""
        return (*self.shared, *(one for trial in self.trials for one in trial.executes))


def total_seconds(executions: tuple[Execution, ...]) -> float:
    """The sum of the known times."""
    return sum(one.time.seconds or 0.0 for one in executions)


def forecast(sweep: Sweep) -> Forecast:
    """The forecast of a sweep; nothing is run and nothing is written."""
    times = RecordedTimes(sweep.base.runtime.runs)
    done: set[str] = set()
    shared = _executed(sweep.unchanged(), times, done)
    trials = []
    for number, (values, certain) in enumerate(_suggested(sweep), start=1):
        executes: tuple[Execution, ...] = ()
        pruned = ""
        try:
            executes = _executed(sweep.trial_recipe(sweep.trial_overrides(values)), times, done)
        except RecipeError as error:
            pruned = str(error)
        trials.append(PlannedTrial(number=number, values=values, executes=executes, certain=certain, pruned=pruned))
    return Forecast(shared=shared, settings=setting_costs(sweep, times), trials=tuple(trials))


def _executed(recipe: Recipe, times: RecordedTimes, done: set[str]) -> tuple[Execution, ...]:
    """The instances that would run now; their fingerprints are added to `done`."""
    found = []
    for instance in recipe.instances:
        if instance.fingerprint in done:
            continue
        done.add(instance.fingerprint)
        if not instance.is_done():
            found.append(_execution(instance, recipe, times))
    return tuple(found)


def _execution(instance: Instance, recipe: Recipe, times: RecordedTimes) -> Execution:
    return Execution(name=instance.name, time=times.of(instance, recipe), trains=isinstance(instance.stage, Fit))


def _suggested(sweep: Sweep) -> Iterator[tuple[dict[str, Any], bool]]:
    """The values of every trial, and whether they are certain."""
    space = sweep.space
    if sweep.settings.method == "grid":
        for suggestion in space.combinations():
            yield space.values(suggestion), True
        return
    search = DistinctSearch.of(sweep)
    for number in range(sweep.num_trials):
        drawn = search.suggest(str(number))
        assert drawn is not None
        yield space.values(drawn), sweep.settings.max_concurrent == 1 and number < sweep.num_random
        search.on_trial_complete(str(number), result=dict.fromkeys(sweep.settings.objectives, 0.0))


def setting_costs(sweep: Sweep, times: RecordedTimes) -> tuple[SettingCost, ...]:
    """For every line of [space] and [cases], what a new value of it alone executes."""
    costs = {}
    for name in sweep.space.dimensions:
        affected = sweep.changed_by(name)
        costs[name] = tuple(_execution(one, sweep.base, times) for one in sweep.base.instances if one.name in affected)
    most = max(total_seconds(executes) for executes in costs.values())
    known = all(one.time.seconds is not None for executes in costs.values() for one in executes)
    return tuple(
        SettingCost(name=name, executes=executes, cheap=_is_cheap(executes, most=most if known else None))
        for name, executes in costs.items()
    )


def _is_cheap(executes: tuple[Execution, ...], *, most: float | None) -> bool:
    """By time; by whether anything is trained, if times are missing."""
    if most is None:
        return not any(one.trains for one in executes)
    return total_seconds(executes) < CHEAP_SHARE * most or not executes
