"""Writes run records to MLflow. No other module writes to MLflow.

A pipeline is a run, its stage instances are runs nested in it, and a sweep is a run that contains its pipelines:

| run | `wsss.kind` | identified by |
|---|---|---|
| sweep | `sweep` | `wsss.sweep` |
| pipeline | `pipeline` | `wsss.recipe`, `wsss.pipeline` (the fingerprint), `wsss.sweep` |
| stage instance | the stage's kind | `mlflow.parentRunId`, `wsss.instance`, `wsss.fingerprint` |
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from cluster.tracking.mlflow_folder import back_up_after_run, refuse_stranger
from cluster.tracking.moved_database import ARTIFACTS, follow_moved_runs
from cluster.tracking.new_database import create_atomically
from cluster.tracking.outbox import Event, Outbox, RejectedError
from cluster.tracking.tracking_address import restore_command, tracking_uri, without_stray_folders
from shards.file_system_errors import FileSystemError
from shards.records import RunRecord
from wsss.contract.kept_files import found_files, relative_files
from wsss.contract.runtime import PipelineRecord

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

EXPERIMENT = "wsss"
KIND, RECIPE, PIPELINE, SWEEP = "wsss.kind", "wsss.recipe", "wsss.pipeline", "wsss.sweep"
INSTANCE, FINGERPRINT, COMMIT, UPSTREAM = "wsss.instance", "wsss.fingerprint", "wsss.git_commit", "wsss.upstream"
SUPERVISION, LOST = "wsss.supervision", "wsss.lost"
PARENT_RUN = "mlflow.parentRunId"
PARAMS_PER_BATCH = 100
METRICS_PER_BATCH = 1000
LONGEST_PARAM = 6000
"""MLflow's limits."""
FIRST_PAUSE, LONGEST_PAUSE = 30.0, 600.0
"""Seconds to wait after a failed attempt; doubled after every failure."""
DATABASE_ATTEMPTS = 4
"""Attempts at opening a database, about a second in all."""
_SERVED = ("http://", "https://", "databricks")
"""URIs of servers, which define where artifacts are stored; other URIs are databases that this process opens."""

_DEFAULT_ENVIRONMENT = {
    # An unreachable server must delay a stage by seconds, not by the minutes of MLflow's defaults. The outbox retries
    # instead: MLflow would repeat a request that did arrive, and create a second run.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


def connect(uri: str) -> MlflowClient:
    """A client with short timeouts and little logging. Variables that the user has set are kept."""
    for name, value in _DEFAULT_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    for noisy in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    if not uri.startswith(_SERVED):
        from mlflow.store.db import utils as database

        # MLflow offers no setting for this: its ten attempts at an unreachable database would delay a stage by 100 s.
        database.MAX_RETRY_COUNT = DATABASE_ATTEMPTS
        create_atomically(uri, lambda new: MlflowClient(tracking_uri=new).search_experiments(max_results=1))
        follow_moved_runs(uri)
    with without_stray_folders(uri):
        return MlflowClient(tracking_uri=uri)


def find_runs(client: MlflowClient, *, experiment: str, tags: Mapping[str, str]) -> list[Run]:
    """All runs with these tags, ordered by start time; an empty value also matches a tag that is not set."""
    filters = [f"tags.`{name}` = '{value}'" for name, value in tags.items() if re.fullmatch(r"[\w.-]+", value)]
    found: list[Run] = []
    token: str | None = None
    while token is None or token:
        page = client.search_runs(
            [experiment], " and ".join(filters), order_by=["attributes.start_time ASC"], page_token=token
        )
        found += page
        token = page.token or ""
    return [run for run in found if all(run.data.tags.get(name, "") == value for name, value in tags.items())]


class DeletedExperimentError(RuntimeError):
    """The experiment was deleted, for example in MLflow's UI; the message contains the command that restores it."""

    def __init__(self, uri: str, experiment: str) -> None:
        command = restore_command(uri, experiment=experiment)
        super().__init__(f"its experiment {EXPERIMENT!r} was deleted; restore it with: {command}")


class MlflowTracker:
    """Reports finished stages to MLflow. What cannot be delivered waits in `runs/outbox` and is sent later, once.

    Delivery is tried when a stage finishes (after a failure only once a pause is over), when a pipeline finishes, on
    `flush`, and when a tracker is created, for records that an earlier process could not deliver.
    """

    def __init__(self, *, uri: str, runs: Path, console: Console) -> None:
        runs = runs.absolute()
        self._uri = tracking_uri(uri, runs=runs, writing=True)
        self._runs = runs
        self._console = console
        self._opened = time.time()
        self._outbox = Outbox(runs / "outbox")
        self._writer: _Writer | None = None
        self._pause = 0.0
        self._paused_until = 0.0
        if (left := len(self._outbox.waiting())) and self.flush():
            self._say(f"{left} records of earlier runs are now in MLflow")

    def stage_finished(self, pipeline: PipelineRecord, record: RunRecord) -> None:
        """Report one stage instance. If MLflow already has its finished run, nothing is changed."""
        artifacts = relative_files(record.artifacts, folder=self._runs)
        self._report(pipeline, {"record": asdict(record) | {"artifacts": artifacts}})
        if time.monotonic() >= self._paused_until:
            self.flush()

    def pipeline_finished(self, pipeline: PipelineRecord, metrics: dict[str, float], artifacts: dict[str, str]) -> None:
        """Report the end of a pipeline, with the metrics and artifacts of the whole pipeline."""
        plain = {name: float(value) for name, value in metrics.items()}
        self._report(pipeline, {"metrics": plain, "artifacts": relative_files(artifacts, folder=self._runs)})
        if self.flush():
            back_up_after_run(self._uri, say=self._say)

    def flush(self) -> bool:
        """Try to deliver all waiting records; True if none is left."""
        if not self._outbox.waiting():
            return True
        try:
            refuse_stranger(self._uri)
            if self._writer is None:
                self._writer = _Writer(connect(self._uri), runs=self._runs, console=self._console)
            delivered, rejected = self._outbox.deliver(self._writer.deliver)
        except Exception as error:  # no error of the tracking may stop the pipeline
            self._wait(error)
            return False
        for reason in rejected:
            self._say(
                f"MLflow rejected a record, now in {self._outbox.folder / 'rejected'} (to try again, move it "
                f"back to {self._outbox.folder}): {reason}"
            )
        if self._pause:
            self._say(f"MLflow can be reached again: {delivered} records delivered")
        self._pause = self._paused_until = 0.0
        return True

    def _report(self, pipeline: PipelineRecord, event: Event) -> None:
        try:
            self._outbox.put({"time": time.time(), "opened": self._opened, "pipeline": asdict(pipeline)} | event)
        except (OSError, FileSystemError) as error:
            self._say(f"a record for MLflow will be written by the next run of this recipe: {error}")

    def _wait(self, error: Exception) -> None:
        self._writer = None
        if not self._pause:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            if not isinstance(error, DeletedExperimentError):
                reason = reason[:300]
            self._say(
                f"MLflow at {self._uri} cannot be written to ({reason}); the run continues. "
                f"Records waiting in {self._outbox.folder}: {len(self._outbox.waiting())}"
            )
        self._pause = min(self._pause * 2 or FIRST_PAUSE, LONGEST_PAUSE)
        self._paused_until = time.monotonic() + self._pause

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class _Writer:
    """Turns events into runs. An event may come again after it was written partly, so each step checks what exists."""

    def __init__(self, client: MlflowClient, *, runs: Path, console: Console) -> None:
        self._client = client
        self._console = console
        self._runs = runs
        self._experiment = self._find_experiment(runs / ARTIFACTS)

    def deliver(self, event: Event) -> None:
        """Raises `RejectedError` if MLflow can never accept the event."""
        from mlflow.exceptions import MlflowException

        pipeline = PipelineRecord(**event["pipeline"])
        try:
            parent = self._pipeline_run(pipeline, opened=event["opened"])
            if "record" in event:
                self._write_stage(parent, RunRecord(**event["record"]), reported=event["time"])
            else:
                self._finish_pipeline(parent, event)
        except MlflowException as error:
            if error.error_code != "INVALID_PARAMETER_VALUE":
                raise
            # MLflow also returns this code for deleted objects, which can be restored or are created again next time.
            self._require_active(self._client.get_experiment(self._experiment))
            if "must be in the 'active' state" in str(error):
                raise
            raise RejectedError(str(error)) from error

    def _require_active(self, experiment: Experiment) -> None:
        if experiment.lifecycle_stage != "active":
            raise DeletedExperimentError(self._client.tracking_uri, experiment.experiment_id)

    def _find_experiment(self, artifacts: Path) -> str:
        from mlflow.exceptions import MlflowException

        experiment = self._client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            # As a URI, because MLflow would decode `%41` and the like in a path.
            location = None if self._client.tracking_uri.startswith(_SERVED) else artifacts.as_uri()
            try:
                return str(self._client.create_experiment(EXPERIMENT, location))
            except MlflowException as error:
                experiment = self._client.get_experiment_by_name(EXPERIMENT)
                if error.error_code != "RESOURCE_ALREADY_EXISTS" or experiment is None:
                    raise
        self._require_active(experiment)
        return str(experiment.experiment_id)

    def _find(self, tags: Mapping[str, str]) -> list[Run]:
        return find_runs(self._client, experiment=self._experiment, tags=tags)

    def _create(self, name: str, tags: Mapping[str, str], *, start: float) -> Run:
        tags = {tag: value for tag, value in tags.items() if value}
        return self._client.create_run(self._experiment, start_time=_milliseconds(start), tags=tags, run_name=name)

    def _pipeline_run(self, pipeline: PipelineRecord, *, opened: float) -> Run:
        """The pipeline's run, nested in its sweep's run if it has one."""
        identity = {KIND: "pipeline", RECIPE: pipeline.recipe, PIPELINE: pipeline.fingerprint, SWEEP: pipeline.parent}
        if found := self._find(identity):
            return found[0]
        if pipeline.parent:
            sweep_tags = {KIND: "sweep", SWEEP: pipeline.parent}
            sweeps = self._find(sweep_tags) or [self._create(pipeline.parent, sweep_tags, start=opened)]
            identity[PARENT_RUN] = sweeps[0].info.run_id
        return self._create(f"{pipeline.recipe} {pipeline.fingerprint[:8]}", identity, start=opened)

    def _write_stage(self, parent: Run, record: RunRecord, *, reported: float) -> None:
        identity = {PARENT_RUN: parent.info.run_id, INSTANCE: record.instance, FINGERPRINT: record.fingerprint}
        found = self._find(identity)
        if any(run.info.status == "FINISHED" for run in found):
            return
        finished = record.finished or reported
        tags = _stage_tags(record)
        run = found[0] if found else self._create(record.instance, identity | tags, start=finished - record.seconds)
        run_id = run.info.run_id
        self._log_params(run_id, record.settings)
        self._log_metrics(run_id, record.metrics | record.loss_metrics(), when=finished)
        for name, rows in record.tables.items():
            self._client.log_dict(run_id, _as_table(rows), f"{name}.json")
        if record.tables:
            # With this tag the UI shows the files as tables, as it does for `mlflow.log_table`, which only appends.
            listed = [{"path": f"{name}.json", "type": "table"} for name in record.tables]
            self._client.set_tag(run_id, "mlflow.loggedArtifacts", json.dumps(listed))
        self._log_artifacts(run_id, record.artifacts)
        self._client.set_terminated(run_id, end_time=_milliseconds(finished))

    def _finish_pipeline(self, run: Run, event: Event) -> None:
        run_id, when = run.info.run_id, event["time"]
        new = {name: value for name, value in event["metrics"].items() if run.data.metrics.get(_key(name)) != value}
        self._log_params(run_id, event["pipeline"].get("settings", {}))  # events of older versions have no settings
        self._log_metrics(run_id, new, when=when)
        self._log_artifacts(run_id, event["artifacts"])
        if new or run.info.status != "FINISHED":
            self._client.set_terminated(run_id, end_time=_milliseconds(when))
            if PARENT_RUN in run.data.tags:
                # The end of a sweep is not reported, so its end time is that of its latest pipeline.
                self._client.set_terminated(run.data.tags[PARENT_RUN], end_time=_milliseconds(when))

    def _log_params(self, run_id: str, settings: Mapping[str, object]) -> None:
        from mlflow.entities import Param

        params = [Param(_key(name), _param_value(value)) for name, value in settings.items()]
        for batch in _batches(params, PARAMS_PER_BATCH):
            self._client.log_batch(run_id, params=batch)

    def _log_metrics(self, run_id: str, metrics: Mapping[str, float], *, when: float) -> None:
        from mlflow.entities import Metric

        finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
        points = [Metric(_key(name), float(value), _milliseconds(when), 0) for name, value in finite.items()]
        for batch in _batches(points, METRICS_PER_BATCH):
            self._client.log_batch(run_id, metrics=batch)

    def _log_artifacts(self, run_id: str, artifacts: Mapping[str, str]) -> None:
        for name, path in found_files(artifacts, folder=self._runs).items():
            try:
                if not Path(path).exists():
                    raise FileNotFoundError("the file no longer exists")
                self._client.log_artifact(run_id, path)
            except (FileNotFoundError, PermissionError) as error:
                # Retrying would not help: the file was removed, or this machine may not write to the artifact store.
                text = f"the artifact {name} ({path}) was not stored in MLflow: {error}"
                self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def _stage_tags(record: RunRecord) -> dict[str, str]:
    tags = {KIND: record.kind, RECIPE: record.recipe, COMMIT: record.git_commit}
    optional = {SUPERVISION: record.supervision, LOST: "\n".join(record.lost)[:LONGEST_PARAM]}
    tags |= {name: text for name, text in optional.items() if text}
    if re.fullmatch(r"[0-9a-f]{7,40}(-dirty)?", record.git_commit):
        tags["mlflow.source.git.commit"] = record.git_commit.removesuffix("-dirty")
    return tags | {_key(f"{UPSTREAM}.{name}"): fingerprint for name, fingerprint in record.upstream.items()}


def _as_table(rows: Sequence[Mapping[str, object]]) -> dict[str, list[Any]]:
    """Rows in the format of MLflow's table files; NaN becomes null, since JSON has no NaN."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return {"columns": columns, "data": [[_no_nan(row.get(column)) for column in columns] for row in rows]}


def _no_nan(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _param_value(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= LONGEST_PARAM else text[: LONGEST_PARAM - 1] + "…"


def _key(name: str) -> str:
    """A name that MLflow accepts: letters, digits and `_ / . - : space`."""
    return re.sub(r"[^\w/.\- :]", "_", name)


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))
