"""The MLflow store: how it is opened, its experiment and its limits, the names of the tags, and how runs are found."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.tracking.moved_database import follow_moved_runs
from cluster.tracking.new_database import create_atomically
from cluster.tracking.tracking_address import restore_command, without_stray_folders

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

EXPERIMENT = "wsss"
KIND, RECIPE, PIPELINE, SWEEP = "wsss.kind", "wsss.recipe", "wsss.pipeline", "wsss.sweep"
INSTANCE, FINGERPRINT, COMMIT, UPSTREAM = "wsss.instance", "wsss.fingerprint", "wsss.git_commit", "wsss.upstream"
SUPERVISION, LOST = "wsss.supervision", "wsss.lost"
CHANGED, COMMAND, REASON = "wsss.changed_settings", "wsss.command", "wsss.reason"
KEPT = "wsss.kept"
"""On a pipeline's run: `wsss.kept.INSTANCE` is the id of the run of an instance that another pipeline computed."""
BEST = "wsss.best"
"""On a sweep's run: `wsss.best.SETTING` is a value of the best trial; a tag, since a resumed sweep may find another."""
PIPELINE_RUN, ARCHIVE, VERDICT = "wsss.pipeline_run", "wsss.archive", "wsss.verdict"
NOTE = "mlflow.note.content"
PARENT_RUN = "mlflow.parentRunId"
PARAMS_PER_BATCH = 100
METRICS_PER_BATCH = 1000
LONGEST_PARAM = 6000
"""MLflow's limits."""
DATABASE_ATTEMPTS = 4
"""Attempts at opening a database, about a second in all."""
SERVED = ("http://", "https://", "databricks")
"""URIs of servers, which define where artifacts are stored; other URIs are databases that this process opens."""

_EXPERIMENT_TAGS = {
    # The value that MLflow's pages write for the view of runs; without it they may open the one of language models.
    "mlflow.experimentKind": "custom_model_development",
    NOTE: (
        "Runs of `wsss`: weakly supervised segmentation.\n\n"
        "- **Pipelines** (`tags.wsss.kind = 'pipeline'`) hold all settings and the metrics of every stage by its name. "
        "Their stages are nested in them, with curves of the trainings; a stage that an earlier pipeline computed is a "
        "tag `wsss.kept.NAME` with the id of its run.\n"
        "- **Submissions** (`tags.wsss.kind = 'submission'`) hold the archive, its check and the IoU of every class. "
        "Select two and press *Compare*.\n"
        "- **Sweeps** (`tags.wsss.kind = 'sweep'`) hold the best settings, their score, the tables and the best "
        "recipe, and contain a pipeline for every trial."
    ),
}

_DEFAULT_ENVIRONMENT = {
    # An unreachable server must delay a stage by seconds, not by the minutes of MLflow's defaults. The outbox retries
    # instead: MLflow would repeat a request that did arrive, and create a second run.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


def import_early() -> threading.Thread:
    """Import MLflow in a thread, which takes a second or more, while this process waits for others: for Ray's start."""
    thread = threading.Thread(target=_client_class, name="import-mlflow")
    thread.start()
    return thread


def _client_class() -> type[MlflowClient]:
    for name, value in _DEFAULT_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    return MlflowClient


def connect(uri: str) -> MlflowClient:
    """A client with short timeouts and little logging. Variables that the user has set are kept."""
    client = _client_class()

    for noisy in ("alembic", "mlflow.store.db.utils", "mlflow.pyfunc", "mlflow.utils.environment"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    if not uri.startswith(SERVED):
        from mlflow.store.db import utils as database

        # MLflow offers no setting for this: its ten attempts at an unreachable database would delay a stage by 100 s.
        database.MAX_RETRY_COUNT = DATABASE_ATTEMPTS
        create_atomically(uri, lambda new: client(tracking_uri=new).search_experiments(max_results=1))
        follow_moved_runs(uri)
    with without_stray_folders(uri):
        return client(tracking_uri=uri)


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


def find_experiment(client: MlflowClient, artifacts: Path) -> str:
    """The id of the experiment, created if there is none; it opens on its runs, and says where to look.

    Raises `DeletedExperimentError`.
    """
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        # As a URI, because MLflow would decode `%41` and the like in a path.
        location = None if client.tracking_uri.startswith(SERVED) else artifacts.as_uri()
        try:
            return str(client.create_experiment(EXPERIMENT, location, tags=_EXPERIMENT_TAGS))
        except MlflowException as error:
            experiment = client.get_experiment_by_name(EXPERIMENT)
            if error.error_code != "RESOURCE_ALREADY_EXISTS" or experiment is None:
                raise
    require_active(client, experiment)
    for name, value in _EXPERIMENT_TAGS.items():
        if name not in experiment.tags:  # what a user has written stays
            client.set_experiment_tag(experiment.experiment_id, name, value)
    return str(experiment.experiment_id)


def require_active(client: MlflowClient, experiment: Experiment) -> None:
    """Raise `DeletedExperimentError` unless the experiment can be written to."""
    if experiment.lifecycle_stage != "active":
        raise DeletedExperimentError(client.tracking_uri, experiment.experiment_id)
