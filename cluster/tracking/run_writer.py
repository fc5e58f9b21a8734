"""Turns events into MLflow runs. An event may come again after it was written partly, so each step checks what exists.

A pipeline is a run, its stage instances are runs nested in it, a sweep is a run that contains its pipelines, and a
submission is a run of its own:

| run | `wsss.kind` | identified by |
|---|---|---|
| sweep | `sweep` | `wsss.sweep` |
| pipeline | `pipeline` | `wsss.recipe`, `wsss.pipeline` (the fingerprint), `wsss.sweep` |
| stage instance | the stage's kind | `wsss.instance`, `wsss.fingerprint` |
| submission | `submission` | `wsss.recipe`, `wsss.fingerprint` |

A stage instance has one run, whoever resumes it. It is nested in the pipeline that computed it; other pipelines have a
tag `wsss.kept.INSTANCE` with its id.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.tracking.curve_writer import write_curves
from cluster.tracking.mlflow_store import (
    COMMIT,
    FINGERPRINT,
    INSTANCE,
    KEPT,
    KIND,
    LONGEST_PARAM,
    LOST,
    PARENT_RUN,
    PIPELINE,
    REASON,
    RECIPE,
    SUPERVISION,
    SWEEP,
    UPSTREAM,
    find_experiment,
    find_runs,
    require_active,
)
from cluster.tracking.mlflow_values import as_table, key, milliseconds, run_name, without_repeats
from cluster.tracking.model_writer import ModelWriter
from cluster.tracking.moved_database import ARTIFACTS
from cluster.tracking.outbox import Event, RejectedError
from cluster.tracking.pipeline_writer import write_start, write_submission
from cluster.tracking.run_content import RunContent
from cluster.tracking.sweep_writer import write_outcome
from shards.records import RunRecord
from wsss.contract.kept_files import found_files
from wsss.contract.runtime import Ending, PipelineRecord, PipelineStart, StageStart, SubmissionRecord, SweepOutcome

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from rich.console import Console


class RunWriter:
    """Writes the events of one folder of runs into one store."""

    def __init__(self, client: MlflowClient, *, runs: Path, console: Console) -> None:
        self._client, self._runs = client, runs
        self.experiment = find_experiment(client, runs / ARTIFACTS)
        self._content = RunContent(client, runs=runs, console=console)
        self._models = ModelWriter(client, experiment=self.experiment, runs=runs, content=self._content)

    def deliver(self, event: Event) -> None:
        """Raises `RejectedError` if MLflow can never accept the event."""
        from mlflow.exceptions import MlflowException

        try:
            self._write(event)
        except MlflowException as error:
            if error.error_code != "INVALID_PARAMETER_VALUE":
                raise
            # MLflow also returns this code for deleted objects, which can be restored or are created again next time.
            require_active(self._client, self._client.get_experiment(self.experiment))
            if "must be in the 'active' state" in str(error):
                raise
            raise RejectedError(str(error)) from error

    def _write(self, event: Event) -> None:
        if "sweep" in event:
            run = self._sweep_run(event["sweep"], event["opened"])
            if "outcome" in event:
                write_outcome(self._content, run, SweepOutcome(**event["outcome"]), when=event["time"])
            else:
                self._end_sweep(run, event["status"], event.get("reason", ""), when=event["time"])
            return
        pipeline, when = PipelineRecord(**event["pipeline"]), event["time"]
        parent = self._pipeline_run(pipeline, opened=event["opened"], start=event.get("start"))
        if "start" in event:
            write_start(self._content, parent, PipelineStart(**event["start"]), pipeline=pipeline)
        elif "stage" in event:
            self._start_stage(parent, StageStart(**event["stage"]))
        elif "curve" in event:
            self._write_curve(StageStart(**event["curve"]))
        elif "record" in event:
            self._write_stage(parent, RunRecord(**event["record"]), reported=when)
        elif "ending" in event:
            self._end(parent, event["ending"], when=when)
        elif "submission" in event:
            self._write_submission(parent, SubmissionRecord(**event["submission"]), pipeline, when=when)
        else:
            self._finish_pipeline(parent, event)

    def _find(self, tags: Mapping[str, str]) -> list[Run]:
        return find_runs(self._client, experiment=self.experiment, tags=tags)

    def _create(self, name: str, tags: Mapping[str, str], *, start: float) -> Run:
        tags = {tag: value for tag, value in tags.items() if value}
        return self._client.create_run(self.experiment, start_time=milliseconds(start), tags=tags, run_name=name)

    def _pipeline_run(self, pipeline: PipelineRecord, *, opened: float, start: Mapping[str, object] | None) -> Run:
        """The pipeline's run, nested in its sweep's run if it has one."""
        identity = {KIND: "pipeline", RECIPE: pipeline.recipe, PIPELINE: pipeline.fingerprint, SWEEP: pipeline.parent}
        if found := self._find(identity):
            return found[0]
        if pipeline.parent:
            identity[PARENT_RUN] = self._sweep_run(pipeline.parent, opened).info.run_id
        changed = PipelineStart(**start).changed if start is not None else pipeline.settings  # type: ignore[arg-type]
        name = run_name(pipeline.recipe, changed)
        if any(run.info.run_name == name for run in self._find({KIND: "pipeline", RECIPE: pipeline.recipe})):
            name = f"{name} ({pipeline.fingerprint[:8]})"  # another file of the same recipe, or other data
        behind = {key(f"{UPSTREAM}.{instance}"): found for instance, found in pipeline.lineage.items()}
        return self._create(name, identity | behind, start=opened)

    def _sweep_run(self, name: str, opened: float) -> Run:
        tags = {KIND: "sweep", SWEEP: name}
        return (self._find(tags) or [self._create(name, tags, start=opened)])[0]

    def _end_sweep(self, run: Run, status: str, reason: str, *, when: float) -> None:
        if status == "RUNNING":
            self._client.update_run(run.info.run_id, status="RUNNING")
            return
        self._terminate(run, status, reason, when=when)

    def _stage_run(self, instance: str, fingerprint: str) -> Run | None:
        """The run of an instance, whichever pipeline computed it: the finished one if there are several."""
        found = self._find({INSTANCE: instance, FINGERPRINT: fingerprint})
        return next((run for run in found if run.info.status == "FINISHED"), found[0] if found else None)

    def _start_stage(self, parent: Run, stage: StageStart) -> None:
        run = self._stage_run(stage.instance, stage.fingerprint)
        if run is None:
            tags = {PARENT_RUN: parent.info.run_id, INSTANCE: stage.instance, FINGERPRINT: stage.fingerprint}
            tags |= {KIND: stage.kind, RECIPE: parent.data.tags.get(RECIPE, "")}
            run = self._create(stage.instance, tags, start=stage.started)
        elif run.info.status != "FINISHED":
            self._client.update_run(run.info.run_id, status="RUNNING")
        self._client.update_run(parent.info.run_id, status="RUNNING")
        self._link(parent, stage.instance, run)

    def _link(self, parent: Run, instance: str, run: Run) -> None:
        """Tag the pipeline's run with the id of a run that is nested in another one."""
        tag = key(f"{KEPT}.{instance}")
        if run.data.tags.get(PARENT_RUN) != parent.info.run_id and parent.data.tags.get(tag) != run.info.run_id:
            self._client.set_tag(parent.info.run_id, tag, run.info.run_id)

    def _write_curve(self, stage: StageStart) -> None:
        run = self._stage_run(stage.instance, stage.fingerprint)
        if run is not None:
            write_curves(self._content, run, self._runs / stage.path)

    def _write_stage(self, parent: Run, record: RunRecord, *, reported: float) -> None:
        run = self._stage_run(record.instance, record.fingerprint)
        if run is None or run.info.status != "FINISHED":
            run = self._fill_stage(parent, run, record, finished=record.finished or reported)
        self._link(parent, record.instance, run)
        named = {f"{record.instance}.{name}": value for name, value in without_repeats(record.metrics).items()}
        new = {name: value for name, value in named.items() if parent.data.metrics.get(key(name)) != value}
        self._content.metrics(parent.info.run_id, new, when=record.finished or reported)

    def _fill_stage(self, parent: Run, run: Run | None, record: RunRecord, *, finished: float) -> Run:
        tags = _stage_tags(record)
        if run is None:
            identity = {PARENT_RUN: parent.info.run_id, INSTANCE: record.instance, FINGERPRINT: record.fingerprint}
            run = self._create(record.instance, identity | tags, start=finished - record.seconds)
        else:
            self._content.tags(run.info.run_id, tags)
        run_id, prefix = run.info.run_id, f"{record.instance}."
        own = {name.removeprefix(prefix): value for name, value in record.settings.items()}
        self._content.params(run, own)
        self._content.inputs(run, record.data)
        model = self._models.write(run, record) or self._models.of(record.model)
        measured = record.data[-1] if record.data else None
        metrics = record.metrics | record.loss_metrics()
        self._content.metrics(run_id, metrics, when=finished, model=model, measured=measured)
        for name, rows in record.tables.items():
            self._client.log_dict(run_id, as_table(rows), f"{name}.json")
        if record.tables:
            # With this tag the UI shows the files as tables, as it does for `mlflow.log_table`, which only appends.
            listed = [{"path": f"{name}.json", "type": "table"} for name in record.tables]
            self._client.set_tag(run_id, "mlflow.loggedArtifacts", json.dumps(listed))
        self._content.artifacts(run_id, record.artifacts)
        if record.trains:
            write_curves(self._content, run, self._runs / "store" / f"{record.kind}-{record.fingerprint[:16]}")
        self._terminate(run, "FINISHED", "", when=finished)
        return run

    def _end(self, parent: Run, ending: Mapping[str, object], *, when: float) -> None:
        end = Ending(**ending)  # type: ignore[arg-type]
        if end.stage is None:
            self._terminate(parent, end.status, end.reason, when=when)
            return
        stage = StageStart(**end.stage)  # type: ignore[arg-type]
        run = self._stage_run(stage.instance, stage.fingerprint)
        if run is not None and run.info.status != "FINISHED":
            write_curves(self._content, run, self._runs / stage.path)
            self._terminate(run, end.status, end.reason, when=when)

    def _write_submission(
        self, parent: Run, submission: SubmissionRecord, pipeline: PipelineRecord, *, when: float
    ) -> None:
        submission = replace(submission, files=found_files(submission.files, folder=self._runs))
        identity = {KIND: "submission", RECIPE: pipeline.recipe, FINGERPRINT: submission.fingerprint}
        found = self._find(identity)
        name = run_name(f"submission {pipeline.recipe}", submission.changed)
        run = found[0] if found else self._create(name, identity, start=when)
        write_submission(self._content, run, submission, parent=parent)
        self._terminate(run, "FINISHED", "", when=when)

    def _finish_pipeline(self, run: Run, event: Event) -> None:
        run_id, when = run.info.run_id, event["time"]
        new = {name: value for name, value in event["metrics"].items() if run.data.metrics.get(key(name)) != value}
        self._content.params(run, event["pipeline"].get("settings", {}))  # events of older versions have no settings
        self._content.metrics(run_id, new, when=when)
        self._content.artifacts(run_id, event["artifacts"])
        if new or run.info.status != "FINISHED":
            self._terminate(run, "FINISHED", "", when=when)

    def _terminate(self, run: Run, status: str, reason: str, *, when: float) -> None:
        if reason:
            self._client.set_tag(run.info.run_id, REASON, reason[:LONGEST_PARAM])
        elif REASON in run.data.tags:
            self._client.delete_tag(run.info.run_id, REASON)
        self._client.set_terminated(run.info.run_id, status=status, end_time=milliseconds(when))


def _stage_tags(record: RunRecord) -> dict[str, str]:
    tags = {KIND: record.kind, RECIPE: record.recipe, COMMIT: record.git_commit}
    optional = {SUPERVISION: record.supervision, LOST: "\n".join(record.lost)[:LONGEST_PARAM]}
    tags |= {name: text for name, text in optional.items() if text}
    if re.fullmatch(r"[0-9a-f]{7,40}(-dirty)?", record.git_commit):
        tags["mlflow.source.git.commit"] = record.git_commit.removesuffix("-dirty")
    return tags | {key(f"{UPSTREAM}.{name}"): fingerprint for name, fingerprint in record.upstream.items()}
