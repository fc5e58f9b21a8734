"""The leaderboard: the evaluated runs in MLflow and, for reference, the official table of LID 2020."""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from cluster.tracking.mlflow_store import UPSTREAM
from cluster.tracking.tracker import FINGERPRINT, INSTANCE, KIND, PARENT_RUN, PIPELINE, RECIPE, SUPERVISION, SWEEP
from shards.wording import counted
from tuning.lid_2020 import BOARD, IMAGES
from tuning.lineage import NoLineageError, read_lineage
from tuning.tracked_runs import (
    CHANGED,
    KEPT,
    LISTED,
    NUM_IMAGES,
    SPLITS,
    StoredRun,
    UnreadableError,
    recorded_table,
    stored_runs,
)
from wsss.argument_parser import suggestion
from wsss.report.run_files import DIGITS, in_words, read_description
from wsss.report.tables import Cell, Column, Shown, Table, percent, records, table_of

__all__ = ["METRICS", "Row", "UnreadableError", "leaderboard", "leaderboard_table", "recorded_table"]

METRICS = {
    "mean_iou": "mean IoU",
    "mean_accuracy": "mean accuracy",
    "pixel_accuracy": "pixel accuracy",
    "mean_iou_all_classes": "mean IoU, absent as 0",
    "mean_iou_foreground": "mean IoU, no background",
}
"""The three metrics of LID's leaderboard, of which the first one determines the order; then two other means, because
LID's script is not public, so it is not known which classes its mean is taken over."""
SHOWN_SETTINGS = 6
"""Changed settings of a row on a terminal; CSV and JSON have all."""
PUBLISHED = "published"
"""The mark of a row of LID 2020's official table, in the column `instance`."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One evaluation: an instance of `evaluate` in the latest pipeline that contains it."""

    run_id: str
    recipe: str
    instance: str
    pipeline: str
    """Fingerprint of the whole pipeline."""
    fingerprint: str
    """Fingerprint of the evaluation, which identifies everything that its metrics depend on."""
    sweep: str
    metrics: Mapping[str, float]
    """`mean_iou` and, if measured, `mean_accuracy` and `pixel_accuracy`; each in [0, 1]."""
    image_set: str
    """The split of the metrics, the last one that was evaluated, and the list that chose its images, if any."""
    labels_given: bool
    """True if image-level labels of the evaluated images were used, as for pseudo labels; they are not available in a
    competition."""
    supervision: str
    """Labels used in training: image, semi or full, with `+ boxes` if boxes were used; empty for results of older
    versions."""
    finished: float
    """Unix time in seconds."""
    num_images: int | None = None
    """Images that were measured; None if not known."""
    changed: Mapping[str, Any] = field(default_factory=dict)
    """Settings behind the evaluation that differ from its recipe's file; empty also if they are not known."""

    @property
    def name(self) -> str:
        """The name that `compare` accepts."""
        return f"{self.recipe}:{self.instance}"


def leaderboard(runs: Path, *, uri: str = "", everything: bool = False) -> list[Row]:
    """Every evaluation in MLflow, by mean IoU; without `everything`, only those for which no labels were given.

    A result that is part of several pipelines of a recipe is one row. Raises `UnreadableError`.
    """
    stored = stored_runs(runs, uri=uri, kinds=("pipeline", "evaluate"), metrics=(*METRICS, "labels_given"))
    chosen = [row for row in _rows(stored, runs) if everything or not row.labels_given]
    return sorted(chosen, key=lambda row: (-row.metrics["mean_iou"], row.finished))


def _rows(stored: Sequence[StoredRun], runs: Path) -> list[Row]:
    """The evaluations, one per recipe, instance and fingerprint: the latest."""
    evaluations = {run.run_id: run for run in stored if run.tags[KIND] == "evaluate"}
    own: dict[str, list[str]] = {}
    for run in evaluations.values():
        own.setdefault(run.tags.get(PARENT_RUN, ""), []).append(run.run_id)
    latest: dict[tuple[str, str, str], Row] = {}
    pipelines = [run for run in stored if run.tags[KIND] == "pipeline"]  # the earliest first
    # A result that a run and a sweep have is the run's: a trial must not give it its settings.
    for pipeline in sorted(pipelines, key=lambda run: SWEEP not in run.tags):
        kept = [run_id for tag, run_id in pipeline.tags.items() if tag.startswith(f"{KEPT}.")]
        found = [evaluations[one] for one in (*own.get(pipeline.run_id, ()), *kept) if one in evaluations]
        # A run that is still being written is not a result.
        finished = [run for run in found if run.status == "FINISHED" and "mean_iou" in run.metrics]
        changed = _changed(pipeline, runs) if finished else {}
        for run in finished:
            row = _row(run, pipeline, _read_by(run, pipeline, changed, runs))
            latest[row.recipe, row.instance, row.fingerprint] = row
    return list(latest.values())


def _changed(pipeline: StoredRun, runs: Path) -> Mapping[str, Any]:
    """The settings that differ from the recipe's file: from the folder of runs, else from MLflow."""
    tags = pipeline.tags
    described = read_description(runs / tags[RECIPE] / f"results-{tags[PIPELINE][:DIGITS]}.json")
    found = described.get("changed_settings")
    if isinstance(found, dict):
        return found
    if CHANGED in tags:
        parts = re.split(r", (?=[^\s=]+ = )", tags[CHANGED])
        return {name: _parsed(text) for name, mark, text in (part.partition(" = ") for part in parts) if mark}
    return {name: _parsed(text) for name, text in pipeline.params.items()} if SWEEP in tags else {}


def _read_by(run: StoredRun, pipeline: StoredRun, changed: Mapping[str, Any], runs: Path) -> Mapping[str, Any]:
    """Those of a pipeline's changed settings on which an evaluation depends; all of them if that is not known.

    A pipeline has others too: those of later stages, or the threshold that a sweep applies to counts.
    """
    if not changed:
        return changed
    try:
        behind = {one.name for one in read_lineage(result_folder(runs, run.tags[FINGERPRINT])).all().values()}
    except NoLineageError:
        named = {tag.removeprefix(f"{UPSTREAM}.") for tag in pipeline.tags if tag.startswith(f"{UPSTREAM}.")}
        if not named:
            return changed
        behind = named
    kept = {"recipe", "defaults", *behind}
    return {name: value for name, value in changed.items() if name.partition(".")[0] in kept}


def result_folder(runs: Path, fingerprint: str) -> Path:
    """The folder of an evaluation in a folder of runs."""
    return runs.absolute() / "store" / f"evaluate-{fingerprint[:16]}"


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _row(run: StoredRun, pipeline: StoredRun, changed: Mapping[str, Any]) -> Row:
    tags = run.tags
    instance = tags[INSTANCE]
    splits = json.loads(run.params.get(SPLITS) or run.params.get(f"{instance}.{SPLITS}", '[""]'))
    # The run's metrics without a split's name are those of the last split that had masks.
    split = next((one for one in reversed(splits) if run.metrics.get(f"{one}{NUM_IMAGES}")), splits[-1])
    num_images = run.metrics.get(f"{split}{NUM_IMAGES}")
    return Row(
        run_id=run.run_id,
        recipe=pipeline.tags.get(RECIPE, tags[RECIPE]),
        instance=instance,
        pipeline=pipeline.tags[PIPELINE],
        fingerprint=tags[FINGERPRINT],
        sweep=pipeline.tags.get(SWEEP, ""),
        metrics={name: run.metrics[name] for name in METRICS if name in run.metrics},
        image_set=split + _listed(run.params),
        num_images=None if num_images is None else int(num_images),
        labels_given=bool(run.metrics.get("labels_given", 0.0)),
        supervision=tags.get(SUPERVISION, ""),
        finished=run.ended,
        changed=changed,
    )


def _listed(params: Mapping[str, str]) -> str:
    """Which images of the split an evaluation measured, if a list chose them."""
    path, use = (params.get(name, "") for name in LISTED)
    return f", {'without' if use == 'except' else 'only'} {Path(path).name}" if path else ""


_COLUMNS = (
    Column("", "place", right=True, role="name"),
    Column("recipe", "recipe", role="name"),
    Column("instance", "instance"),
    *(Column(f"{title} %", name, right=True) for name, title in METRICS.items()),
    Column("images", "split"),
    Column("sweep", "sweep", wraps=True),
    Column("labels given", "labels_given"),
    Column("trained with", "supervision", wraps=True),
    Column("pipeline", "pipeline"),
    Column("run", "run"),
    Column("finished", "finished"),
    Column("changed settings", "changed_settings", wraps=True, role="note"),
)
_KEYS = tuple(column.key for column in _COLUMNS)


def leaderboard_table(
    rows: Sequence[Row],
    *,
    sort: str = "mean_iou",
    where: Sequence[str] = (),
    published: bool = False,
    hidden: int = 0,
    further: Sequence[str] = (),
) -> Table:
    """The leaderboard as a table; scores in percent.

    `sort`: a column's name in CSV, best or latest or first in the alphabet first; with `-` in front, reversed.
    `where`: conditions such as `mean_iou>=0.5` or `recipe=toy*`, all of which hold for a row that is shown.
    `published`: also the rows of LID 2020's official table. `hidden`: evaluations with given labels, which are
    not in `rows`. `further`: lines below the table. Raises ValueError for a column that does not exist.
    """
    cells = [(place, *_cells(row)) for place, row in enumerate(rows, start=1)]
    cells += [(None, *_published_cells(place)) for place in range(len(BOARD))] if published else []
    table = table_of("Leaderboard", _COLUMNS, cells)
    tests = [_condition(text) for text in where]
    reverse, sort = sort.startswith("-"), _known(sort.removeprefix("-"), option="--sort")
    kept = [
        (row, values)
        for row, values in zip(table.rows, records(table), strict=True)
        if all(test(values) for test in tests)
    ]
    known = [one for one in kept if one[1][sort] not in (None, "")]
    numbers = all(isinstance(values[sort], int | float) for _, values in known) or sort == "finished"
    descending = numbers and sort != "place"
    known.sort(key=lambda one: one[1][sort], reverse=descending != reverse)
    kept = known + [one for one in kept if one[1][sort] in (None, "")]
    notes: tuple[str, ...] = ()
    if not rows:
        notes = ("no evaluated runs yet: wsss run RECIPE makes one",)
        if hidden:
            notes = (f"no evaluation without given labels yet; --all shows {counted(hidden, 'evaluation')} with them",)
    if rows and not kept:
        notes = (f"no row fulfils {' and '.join(where)}",)
    return table_of("Leaderboard", _COLUMNS, [row for row, _ in kept], notes=(*notes, *further))


def _cells(row: Row) -> tuple[Cell, ...]:
    return (
        row.recipe,
        row.instance,
        *(percent(row.metrics.get(name), digits=2) for name in METRICS),
        row.image_set,
        row.sweep,
        row.labels_given,
        row.supervision or None,
        Shown(row.pipeline, row.pipeline[:8]),
        Shown(row.run_id, row.run_id[:8]),
        _minute(row.finished),
        Shown(dict(row.changed), _some(row.changed)),
    )


def _some(changed: Mapping[str, Any]) -> str:
    """The first of the changed settings as text, and the number of the others."""
    shown, more = dict(list(changed.items())[:SHOWN_SETTINGS]), len(changed) - SHOWN_SETTINGS
    return (in_words(shown) + (f" and {more} more" if more > 0 else "")) if changed else ""


def _published_cells(place: int) -> tuple[Cell, ...]:
    entry = BOARD[place]
    scores = [percent(getattr(entry, name, None), digits=2) for name in METRICS]
    about = Shown(None, f"place {place + 1} of LID 2020")
    return (entry.team, PUBLISHED, *scores, IMAGES, "", False, "image", None, None, None, about)


def _minute(seconds: float) -> Shown:
    """A local date and time; with the time zone in CSV and JSON."""
    finished = datetime.fromtimestamp(seconds).astimezone()
    return Shown(finished.isoformat(timespec="seconds"), f"{finished:%Y-%m-%d %H:%M}")


_CONDITION = re.compile(r"\s*(\w+)\s*(>=|<=|!=|=|>|<)\s*(.*?)\s*", re.DOTALL)
_COMPARED: dict[str, Callable[[Any, Any], bool]] = {
    ">=": lambda a, b: a >= b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    "<": lambda a, b: a < b,
}


def _condition(text: str) -> Callable[[Mapping[str, Any]], bool]:
    """The test that `--where TEXT` describes."""
    if (found := _CONDITION.fullmatch(text)) is None:
        raise ValueError(
            f"--where {text!r} is not a condition; write COLUMN, then one of = != >= <= > <, then a value, "
            "such as 'mean_iou>=0.5' or 'recipe=toy*'"
        )
    key, operator, wanted = _known(found[1], option="--where"), found[2], found[3]

    def holds(values: Mapping[str, Any]) -> bool:
        value = values[key]
        if operator in ("=", "!="):
            return fnmatch.fnmatchcase(_words(value), wanted) == (operator == "=")
        if value in (None, ""):
            return False
        return _COMPARED[operator](*_comparable(value, wanted, text))

    return holds


def _words(value: Any) -> str:
    """A value as text to compare with: yes and no, and settings as `name = value`."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return in_words(value) if value else ""
    return "" if value is None else str(value)


def _comparable(value: Any, wanted: str, text: str) -> tuple[Any, Any]:
    if not isinstance(value, int | float):
        return _words(value), wanted
    try:
        return float(value), float(wanted)
    except ValueError:
        raise ValueError(f"--where {text!r}: {wanted!r} is not a number; scores are between 0 and 1") from None


def _known(key: str, *, option: str) -> str:
    if key not in _KEYS:
        raise ValueError(f"{option}: there is no column {key!r}{suggestion(key, _KEYS)}")
    return key
