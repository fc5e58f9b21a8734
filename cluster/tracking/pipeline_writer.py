"""What the run of a pipeline holds from its start, and what the run of a submission holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.tracking.mlflow_store import (
    ARCHIVE,
    CHANGED,
    COMMAND,
    COMMIT,
    KEPT,
    LONGEST_PARAM,
    NOTE,
    PIPELINE_RUN,
    REASON,
    UPSTREAM,
    VERDICT,
)
from cluster.tracking.mlflow_values import in_words, key
from cluster.tracking.run_content import RunContent
from wsss.contract.runtime import PipelineRecord, PipelineStart, SubmissionRecord

if TYPE_CHECKING:
    from mlflow.entities import Run

_LONGEST_SHOWN = 2000


def write_start(content: RunContent, run: Run, start: PipelineStart, *, pipeline: PipelineRecord) -> None:
    """Write what is known when a pipeline starts; a pipeline that continues is running again."""
    run_id = run.info.run_id
    changed = in_words(start.changed)
    content.tags(run_id, _source(start.command, start.user, start.git_commit) | {CHANGED: changed[:LONGEST_PARAM]})
    if NOTE not in run.data.tags:  # what a user has written stays
        content.tags(run_id, {NOTE: _description(pipeline, start, changed)})
    content.params(run, start.resolved)
    content.inputs(run, start.data)
    for name, text in start.files.items():
        if text:
            content.client.log_text(run_id, text, name)
    if REASON in run.data.tags:
        content.client.delete_tag(run_id, REASON)
    content.client.update_run(run_id, status="RUNNING")


def write_submission(content: RunContent, run: Run, submission: SubmissionRecord, *, parent: Run) -> None:
    """Write a submission: settings, lineage, scores, the archive and the verdict of its check."""
    run_id = run.info.run_id
    lineage = {key(f"{UPSTREAM}.{name}"): fingerprint for name, fingerprint in submission.lineage.items()}
    tags = {
        VERDICT: submission.verdict[:LONGEST_PARAM],
        ARCHIVE: next(iter(submission.files), ""),
        PIPELINE_RUN: parent.info.run_id,
        CHANGED: in_words(submission.changed)[:LONGEST_PARAM],
        NOTE: _about(submission, parent),
    }
    of_parent = parent.data.tags
    tags |= _source(of_parent.get(COMMAND, ""), of_parent.get("mlflow.user", ""), submission.git_commit)
    content.tags(run_id, lineage | tags)
    content.params(run, submission.settings)
    new = {name: value for name, value in submission.metrics.items() if run.data.metrics.get(key(name)) != value}
    content.metrics(run_id, new, when=_now(run))
    content.inputs(run, submission.data)
    stored = {file.path for file in content.client.list_artifacts(run_id)}
    content.artifacts(run_id, {name: path for name, path in submission.files.items() if name not in stored})


def _now(run: Run) -> float:
    return (run.info.start_time or 0) / 1000


def _source(command: str, user: str, commit: str) -> dict[str, str]:
    tags = {"mlflow.user": user, "mlflow.source.name": command, "mlflow.source.type": "LOCAL" if command else ""}
    plain = commit.removesuffix("-dirty")
    is_commit = 7 <= len(plain) <= 40 and set(plain) <= set("0123456789abcdef")
    return tags | {COMMAND: command, COMMIT: commit, "mlflow.source.git.commit": plain if is_commit else ""}


def _description(pipeline: PipelineRecord, start: PipelineStart, changed: str) -> str:
    lines = [
        f"Recipe **{pipeline.recipe}**, pipeline `{pipeline.fingerprint[:8]}`.",
        f"- Changed settings: {f'`{changed[:_LONGEST_SHOWN]}`' if changed else 'none, the recipe file as it is'}",
        f"- Command: `{start.command}`",
        *(f"- Data set: {one['name']} `{one['digest'][:16]}`" for one in start.data),
        f"- A stage that an earlier pipeline computed is a tag `{KEPT}.NAME` with the id of its run.",
        "- `resolved_recipe.toml` (Artifacts) runs this pipeline again.",
    ]
    return "\n".join(lines)


def _about(submission: SubmissionRecord, parent: Run) -> str:
    lines = [
        f"Submission of pipeline [{parent.info.run_name}]"
        f"(#/experiments/{parent.info.experiment_id}/runs/{parent.info.run_id}), instance {submission.instance}.",
        f"- Score: {submission.score}",
        f"- Check of the archive: {submission.verdict}",
        f"- Archive: {', '.join(submission.files)} (Artifacts)",
        "- Select two submissions and press *Compare*: settings that differ, and the IoU of every class.",
    ]
    return "\n".join(lines)
