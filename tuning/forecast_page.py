"""The output of `wsss sweep --dry-run`: the settings by cost, the trials, and the total."""

from __future__ import annotations

import json

from shards.wording import counted
from tuning.search_space import Sweep
from tuning.sweep_forecast import CHEAP_SHARE, Execution, Forecast, PlannedTrial, total_seconds
from wsss.report.tables import Cell, Column, Page, Shown, Table, table_of


def forecast_page(sweep: Sweep, plan: Forecast) -> Page:
    """The forecast as tables."""
    name, trials = sweep.settings.name, plan.trials
    concurrent = sweep.settings.max_concurrent
    how = "one after the other" if concurrent == 1 else f"up to {concurrent} at the same time"
    heading = (f"{name}: {counted(len(trials), 'trial')} of {sweep.base.settings.name}, {how}; nothing is run",)
    return Page(
        heading=heading,
        tables={"settings": _settings_table(sweep, plan), "trials": _trials_table(sweep, plan)},
        main="trials",
    )


def _settings_table(sweep: Sweep, plan: Forecast) -> Table:
    columns = [
        Column("setting", "setting", role="name"),
        Column("cost", "cost"),
        Column("about", "seconds", right=True),
        Column("a new value executes", "executes", wraps=True, role="note"),
    ]
    order = sorted(plan.settings, key=lambda one: -total_seconds(one.executes))
    rows: list[list[Cell]] = [
        [one.name, "cheap" if one.cheap else "expensive", _about(one.executes), _names(one.executes, sweep)]
        for one in order
    ]
    notes = (
        f"cheap: less than {100 * CHEAP_SHARE:.0f} % of the time of the most expensive setting; if a time is not "
        "known: trains nothing",
    )
    return table_of("what another value of each setting costs", columns, rows, notes=notes)


def _trials_table(sweep: Sweep, plan: Forecast) -> Table:
    settings = list(sweep.space.dimensions)
    columns = [
        Column("trial", "trial", right=True, role="name"),
        *(Column(name, name, right=True, wraps=True) for name in settings),
        Column("about", "seconds", right=True),
        Column("executes", "executes", wraps=True, role="note"),
    ]
    rows: list[list[Cell]] = [["before", *[None] * len(settings), _about(plan.shared), _names(plan.shared, None)]]
    for trial in plan.trials:
        values = [Shown(trial.values[name], json.dumps(trial.values[name])) for name in settings]
        rows.append([_number(trial), *values, _about(trial.executes), trial.pruned or _names(trial.executes, sweep)])
    return table_of("what each trial executes", columns, rows, notes=tuple(_notes(sweep, plan)))


def _number(trial: PlannedTrial) -> Cell:
    return Shown(trial.number, f"{trial.number}{'' if trial.certain else '*'}")


def _names(executes: tuple[Execution, ...], sweep: Sweep | None) -> str:
    """`sweep`: of a trial, which may only read counts."""
    if executes:
        return ", ".join(one.name for one in executes)
    if sweep is not None and sweep.labels:
        return f"nothing: the counts of {sweep.settings.metric} are read"
    return "nothing: all is done"


def _about(executes: tuple[Execution, ...]) -> Cell:
    seconds, unknown = total_seconds(executes), any(one.time.seconds is None for one in executes)
    if unknown:
        return Shown(None, f"over {duration(seconds)}" if seconds else "not known")
    return Shown(seconds, duration(seconds))


def duration(seconds: float) -> str:
    """Seconds as text: `50 s`, `12 min`, `3.5 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _notes(sweep: Sweep, plan: Forecast) -> list[str]:
    executions = plan.executions
    trained = sum(one.trains for one in executions)
    about = _about(executions)
    assert isinstance(about, Shown)
    time = "a time that is not known" if about.text == "not known" else about.text
    lines = [
        f"in all {'about ' if about.value is not None else ''}{time} of stages, {len(executions)} executions, "
        f"{trained} of them trainings; Ray Tune and MLflow add about a second a trial"
    ]
    if sweep.settings.max_concurrent > 1:
        lines.append("trials at the same time share the machine: the time is that of one after the other")
    if any(not trial.certain for trial in plan.trials):
        lines.append("* an estimate: the search chooses these settings by the results of earlier trials")
    if pruned := [trial.number for trial in plan.trials if trial.pruned]:
        listed = ", ".join(map(str, pruned))
        lines.append(f"settings that do not fit together, so that nothing runs: trials {listed}")
    sources = sorted({one.time.source for one in executions})
    for source in sources:
        names = dict.fromkeys(one.name for one in executions if one.time.source == source)
        lines.append(f"time of {', '.join(names)}: {source}")
    return lines
