"""The leaderboard: the evaluated runs in MLflow, best first."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.tracking.tracker import (
    EXPERIMENT,
    FINGERPRINT,
    INSTANCE,
    KEPT,
    KIND,
    PARENT_RUN,
    PIPELINE,
    RECIPE,
    SUPERVISION,
    SWEEP,
    DeletedExperimentError,
    connect,
    find_runs,
)
from cluster.tracking.tracking_address import sqlite_file, tracking_uri
from wsss.report.tables import Cell, Column, Shown, Table, percent, table_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

METRICS = {
    "mean_iou": "mean IoU",
    "mean_accuracy": "mean accuracy",
    "pixel_accuracy": "pixel accuracy",
    "mean_iou_all_classes": "mean IoU, absent as 0",
    "mean_iou_foreground": "mean IoU, no background",
}
"""The three metrics of LID's leaderboard, of which the first one determines the order; then two other means, because
LID's script is not public, so it is not known which classes its mean is taken over."""


class UnreadableError(RuntimeError):
    """The tracking store cannot be read; the message says which one and why."""


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
    """The split of the metrics: the last one that was evaluated."""
    labels_given: bool
    """True if image-level labels of the evaluated images were used, as for pseudo labels; they are not available in a
    competition."""
    supervision: str
    """Labels used in training: image, semi or full, with `+ boxes` if boxes were used; empty for results of older
    versions."""
    finished: float
    """Unix time in seconds."""

    @property
    def name(self) -> str:
        """The name that `compare` accepts."""
        return f"{self.recipe}:{self.instance}"


def leaderboard(runs: Path, *, uri: str = "", everything: bool = False) -> list[Row]:
    """Every evaluation in MLflow, by mean IoU; without `everything`, only those for which no labels were given.

    A result that is part of several pipelines of a recipe is one row. Raises `UnreadableError`.
    """
    with _Store(runs, uri=uri) as store:
        rows = store.rows()
    chosen = [row for row in rows if everything or not row.labels_given]
    return sorted(chosen, key=lambda row: (-row.metrics["mean_iou"], row.finished))


def recorded_table(run_id: str, name: str, *, runs: Path, uri: str = "") -> list[dict[str, Any]] | None:
    """The rows of a table that a stage recorded, or None if it recorded no table of that name."""
    with _Store(runs, uri=uri) as store:
        return store.table(run_id, name)


def leaderboard_table(rows: Sequence[Row]) -> Table:
    """The leaderboard as a table; scores in percent."""
    columns = (
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
    )
    cells: list[tuple[Cell, ...]] = [
        (
            place,
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
        )
        for place, row in enumerate(rows, start=1)
    ]
    notes = () if rows else ("no evaluated runs yet: wsss run RECIPE makes one",)
    return table_of("Leaderboard", columns, cells, notes=notes)


def _minute(seconds: float) -> Shown:
    """A local date and time; with the time zone in CSV and JSON."""
    finished = datetime.fromtimestamp(seconds).astimezone()
    return Shown(finished.isoformat(timespec="seconds"), f"{finished:%Y-%m-%d %H:%M}")


class _Store:
    """Reads MLflow. Every exception that MLflow raises becomes an `UnreadableError`."""

    def __init__(self, runs: Path, *, uri: str) -> None:
        self._uri = tracking_uri(uri, runs=runs)
        self._client: MlflowClient | None = None
        self._experiment = ""

    def __enter__(self) -> _Store:
        # Opening a SQLite file that does not exist would create it.
        file = sqlite_file(self._uri)
        if file is not None and not file.exists():
            if not file.parent.exists():
                raise UnreadableError(f"there is no folder {file.parent}; wsss run creates it, --runs names another")
            return self
        try:
            client = connect(self._uri)
            experiment = client.get_experiment_by_name(EXPERIMENT)
        except Exception as error:  # every kind of store has its own errors
            raise self._unreadable(error) from error
        if experiment is not None and experiment.lifecycle_stage != "active":
            raise UnreadableError(str(DeletedExperimentError(self._uri, experiment.experiment_id)))
        if experiment is not None:
            self._client, self._experiment = client, str(experiment.experiment_id)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, UnreadableError):
            raise self._unreadable(error) from error

    def rows(self) -> list[Row]:
        """The evaluations, one per recipe, instance and fingerprint: the latest."""
        if self._client is None:
            return []
        pipelines = {run.info.run_id: run.data.tags for run in self._find({KIND: "pipeline"})}
        latest: dict[tuple[str, str, str], Row] = {}
        evaluations = {run.info.run_id: run for run in self._find({KIND: "evaluate"})}
        own: dict[str, list[str]] = {}
        for run_id, run in evaluations.items():
            own.setdefault(run.data.tags.get(PARENT_RUN, ""), []).append(run_id)
        for pipeline_id, pipeline in pipelines.items():  # the earliest first
            kept = [run_id for tag, run_id in pipeline.items() if tag.startswith(f"{KEPT}.")]
            for run_id in (*own.get(pipeline_id, []), *kept):
                run = evaluations.get(run_id)
                # A run that is still being written, or whose pipeline was deleted by hand, is not a result.
                if run is not None and run.info.status == "FINISHED" and "mean_iou" in run.data.metrics:
                    row = _row(run, pipeline)
                    latest[row.recipe, row.instance, row.fingerprint] = row
        return list(latest.values())

    def table(self, run_id: str, name: str) -> list[dict[str, Any]] | None:
        """A table artifact as rows."""
        if self._client is None or f"{name}.json" not in {file.path for file in self._client.list_artifacts(run_id)}:
            return None
        with tempfile.TemporaryDirectory() as folder:
            content = json.loads(Path(self._client.download_artifacts(run_id, f"{name}.json", folder)).read_bytes())
        return [dict(zip(content["columns"], values, strict=True)) for values in content["data"]]

    def _find(self, tags: Mapping[str, str]) -> list[Run]:
        assert self._client is not None
        return find_runs(self._client, experiment=self._experiment, tags=tags)

    def _unreadable(self, error: Exception) -> UnreadableError:
        return UnreadableError(
            f"MLflow at {self._uri} cannot be read: {error}; start its server, or give another address with "
            "runtime.tracking_uri or MLFLOW_TRACKING_URI"
        )


def _row(run: Run, pipeline: Mapping[str, str]) -> Row:
    tags, params = run.data.tags, run.data.params
    instance = tags[INSTANCE]
    return Row(
        run_id=run.info.run_id,
        recipe=pipeline.get(RECIPE, tags[RECIPE]),
        instance=instance,
        pipeline=pipeline[PIPELINE],
        fingerprint=tags[FINGERPRINT],
        sweep=pipeline.get(SWEEP, ""),
        metrics={name: run.data.metrics[name] for name in METRICS if name in run.data.metrics},
        image_set=json.loads(params.get("splits") or params.get(f"{instance}.splits", '[""]'))[-1],
        labels_given=bool(run.data.metrics.get("labels_given", 0.0)),
        supervision=tags.get(SUPERVISION, ""),
        finished=(run.info.end_time or run.info.start_time) / 1000,
    )
