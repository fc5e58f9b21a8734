"""Finds the result that a name on the command line means: an evaluation, label maps of a run, or a submission's zip."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cluster.tracking.undelivered import undelivered
from shards.records import RunRecord
from tuning.leaderboard import Row, leaderboard, result_folder
from tuning.lineage import Ancestor, NoLineageError, read_lineage
from wsss.argument_parser import suggestion
from wsss.contract.stage import RUN_RECORD

SHORTEST_ID = 6
"""Digits of an id that are enough to name a result."""
_LABEL_MAPS = ("predict", "make_pseudo_labels", "keep_reliable_labels", "make_instance_labels", "submit")
"""Kinds of stages whose label maps can be compared without an evaluation."""


class CompareError(ValueError):
    """The results cannot be compared; the message says why and what can be done."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """A finished instance in the folder of runs, or a submission's zip."""

    recipe: str
    instance: str
    fingerprint: str
    """Of the instance; empty for a zip."""
    folder: Path
    """The instance's folder, or the zip."""
    record: RunRecord | None
    """None for a zip."""
    lineage: Ancestor | None
    """None for a zip."""
    row: Row | None = None
    """Its row of the leaderboard, for an evaluation."""

    @property
    def name(self) -> str:
        return f"{self.recipe}:{self.instance}" if self.recipe else self.instance

    @property
    def is_evaluation(self) -> bool:
        return self.record is not None and self.record.kind == "evaluate"

    @property
    def label(self) -> str:
        """Its name, with the first digits of an id."""
        shown = self.row.run_id[:8] if self.row is not None else self.fingerprint[:8]
        return f"{self.name} ({shown})" if shown else self.name


def choose_row(name: str, rows: list[Row], notes: list[str]) -> Row | None:
    """The row of the leaderboard that a name means, or None; adds a note if it fits several."""
    first, _, instance = name.partition(":")
    fitting = [row for row in rows if name in (row.run_id, row.name, row.recipe)]
    if not fitting and len(first) >= SHORTEST_ID:
        fitting = [row for row in rows if row.run_id.startswith(name)]
        fitting = fitting or [row for row in rows if row.pipeline.startswith(first) and instance in ("", row.instance)]
    if not fitting:
        return None
    without_labels = [row for row in fitting if not row.labels_given] or fitting
    of_runs = [row for row in without_labels if not row.sweep]
    latest = max(of_runs or without_labels, key=lambda row: row.finished)
    if len(fitting) > 1:
        trials = " that is no trial of a sweep" if of_runs and any(row.sweep for row in fitting) else ""
        notes.append(
            f"{name} fits {len(fitting)} evaluations; the latest{trials} is used, {latest.name} ({latest.run_id[:8]})"
        )
    return latest


def find_results(names: list[str], *, runs: Path, uri: str, notes: list[str]) -> list[Result]:
    """The results that the names mean. Raises `CompareError` for an unknown one, or the same one twice.

    A name is what the leaderboard prints: a recipe, recipe:instance, the id of a pipeline or of a run, or its
    beginning; recipe:instance of any label maps of a run; or the path of a submission's zip.
    """
    rows = leaderboard(runs, uri=uri, everything=True) if any(not _is_zip(name) for name in names) else []
    found = [_find(name, runs=runs, uri=uri, rows=rows, notes=notes) for name in names]
    if any(not _is_zip(name) for name in names):
        notes += undelivered(runs, uri=uri)
    for place, one in enumerate(found):
        for name, other in zip(names, found[:place], strict=False):
            if one.folder == other.folder:
                raise CompareError(f"{name} and {names[place]} are the same result ({one.label})")
    return found


def _is_zip(name: str) -> bool:
    return name.endswith(".zip")


def _find(name: str, *, runs: Path, uri: str, rows: list[Row], notes: list[str]) -> Result:
    if _is_zip(name):
        path = Path(name)
        if not path.is_file():
            raise CompareError(f"there is no file {path}; wsss run with a recipe that has a submit instance makes one")
        return Result(recipe="", instance=name, fingerprint="", folder=path, record=None, lineage=None)
    if (row := choose_row(name, rows, notes)) is not None:
        return _opened(result_folder(runs, row.fingerprint), row=row, runs=runs)
    matching = [folder for folder, record in label_maps_of(runs) if _fits(name, record)]
    if not matching:
        raise unknown_name(name, rows, runs=runs, uri=uri)
    matching = _of_runs(matching, rows, runs)
    results = [_opened(folder, row=None, runs=runs) for folder in matching]
    latest = max(results, key=lambda one: 0.0 if one.record is None else one.record.finished)
    if len(results) > 1:
        notes.append(f"{name} fits {len(results)} results; the latest is used, {latest.label}")
    return latest


def _of_runs(folders: list[Path], rows: list[Row], runs: Path) -> list[Path]:
    """Of several label maps those that an evaluated run has, not only the trials of a sweep; all if there are none."""
    if len(folders) < 2:
        return folders
    behind: set[str] = set()
    for row in rows:
        if not row.sweep:
            with suppress(NoLineageError):
                behind |= read_lineage(result_folder(runs, row.fingerprint)).all().keys()
    chosen = [folder for folder in folders if (known := read_record(folder)) and known.fingerprint in behind]
    return chosen or folders


def unknown_name(name: str, rows: list[Row], *, runs: Path, uri: str) -> CompareError:
    """The error for a name that nothing has."""
    if Path(name).is_file():
        return CompareError(f"{name} is a file, but no zip; a submission is the zip that submit writes")
    finished = (read_record(path.parent) for path in (runs.absolute() / "store").glob(f"*/{RUN_RECORD}"))
    others = (one for one in finished if one is not None and one.kind not in _LABEL_MAPS)
    if found := next((one for one in others if _fits(name, one)), None):
        why = "labels with undecided pixels" if found.kind == "make_agreed_labels" else "no label maps"
        return CompareError(
            f"{name} ({found.kind}) has {why}, which are not compared; name an evaluation of it, or label maps "
            f"({', '.join(_LABEL_MAPS)})"
        )
    known = sorted({row.name for row in rows})
    meant = suggestion(name, known) if known else "; there are: none yet"
    waiting = "".join(f"; {sentence}" for sentence in undelivered(runs, uri=uri))
    return CompareError(
        f"no evaluation is called {name!r}; name one by RECIPE, RECIPE:INSTANCE (also of label maps), the id of its "
        f"run or pipeline, or the path of a submission's zip{meant.replace('there are ', 'there are: ')}{waiting}"
    )


def _fits(name: str, record: RunRecord) -> bool:
    named = name == f"{record.recipe}:{record.instance}"
    return named or (len(name) >= SHORTEST_ID and record.fingerprint.startswith(name))


def label_maps_of(runs: Path) -> Iterator[tuple[Path, RunRecord]]:
    """The folders of finished label maps in a folder of runs."""
    for kind in _LABEL_MAPS:
        for path in sorted((runs.absolute() / "store").glob(f"{kind}-*/{RUN_RECORD}")):
            if (record := read_record(path.parent)) is not None:
                yield path.parent, record


def read_record(folder: Path) -> RunRecord | None:
    """The run record of a finished instance; None if it is not there, or not readable."""
    try:
        known = RunRecord.__dataclass_fields__
        found = json.loads((folder / RUN_RECORD).read_bytes())
        return RunRecord(**{name: value for name, value in found.items() if name in known})
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def _opened(folder: Path, *, row: Row | None, runs: Path) -> Result:
    record = read_record(folder)
    if record is None:
        what = f"{row.name} (run {row.run_id[:8]})" if row is not None else folder.name
        raise CompareError(
            f"the result of {what} is gone from {runs}: there is no {folder / RUN_RECORD}; run its recipe again, or "
            "name the folder of runs that has it with --runs; wsss compare --recorded compares what MLflow recorded"
        )
    lineage = read_lineage(folder)
    recipe, instance = (row.recipe, row.instance) if row is not None else (record.recipe, record.instance)
    return Result(
        recipe=recipe,
        instance=instance,
        fingerprint=record.fingerprint,
        folder=folder,
        record=record,
        lineage=lineage,
        row=row,
    )
