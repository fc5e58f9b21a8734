"""The same pipelines in every kind of store: SQLite, PostgreSQL, and a server that asks for user and password."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from cluster.tracking.mlflow_store import find_runs
from cluster.tracking.outbox import Outbox
from cluster.tracking.tracker import MlflowTracker, connect
from tests.cluster.tracking.servers import mlflow_server, postgres
from tests.cluster.tracking.test_run_writer import DATA, FIRST, SCORED, SECOND, STAGE, START, TRAINED
from tests.wsss.use.made_models import segmenter
from tuning.leaderboard import leaderboard
from wsss.contract.curve import CURVE, append_point
from wsss.contract.runtime import Ending, SubmissionRecord

pytestmark = [pytest.mark.extended, pytest.mark.slow]

ADMIN = {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": "only for this test"}
SECRET = "for this test only, and no secret"


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", *ADMIN):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def with_users(tmp_path: Path) -> Iterator[str]:
    """A server that knows one user."""
    folder = tmp_path / "server"
    folder.mkdir()
    users = folder / "users.ini"
    users.write_text(
        "[mlflow]\ndefault_permission = READ\n"
        f"database_uri = sqlite:///{folder / 'users.db'}\n"
        f"admin_username = admin\nadmin_password = {ADMIN['MLFLOW_TRACKING_PASSWORD']}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    environment = {"MLFLOW_AUTH_CONFIG_PATH": str(users), "MLFLOW_FLASK_SERVER_SECRET_KEY": SECRET}
    store = f"sqlite:///{folder / 'mlflow.db'}"
    with mlflow_server(store, folder, "--app-name", "basic-auth", environment=environment) as address:
        yield address


@pytest.fixture(params=["sqlite", "postgres", "server with users"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'mlflow.db'}"
    elif request.param == "postgres":
        folder = tmp_path / "postgres"
        folder.mkdir()
        with postgres(folder) as address:
            yield address
    else:
        for name, value in ADMIN.items():
            monkeypatch.setenv(name, value)
        yield request.getfixturevalue("with_users")


def tracker_for(uri: str, runs: Path) -> tuple[MlflowTracker, io.StringIO]:
    output = io.StringIO()
    return MlflowTracker(uri=uri, runs=runs, console=Console(file=output, width=1000)), output


def test_a_store_holds_two_pipelines_their_model_curve_and_submission(store: str, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    folder = runs / STAGE.path
    segmenter(folder / "weights.safetensors")
    trained = replace(TRAINED, trains="segmenter", weights={"last": "weights.safetensors"})
    archive = runs / "toy" / "submit.zip"
    archive.parent.mkdir(parents=True)
    archive.write_bytes(b"zip")
    submission = SubmissionRecord(
        "submit", "5" * 64, {"train.lr": 0.1}, {}, {"train": "a" * 64}, {"LID/val_mean_iou": 0.5}, "mean IoU 50.0",
        "in order", "", {"submit.zip": str(archive)}, [DATA],
    )  # fmt: skip
    for pipeline in (FIRST, SECOND):
        tracker, output = tracker_for(store, runs)
        tracker.pipeline_started(pipeline, START)
        tracker.stage_started(pipeline, STAGE)
        for step in range(1, 9) if pipeline is FIRST else ():
            append_point(folder / CURVE, step=step, values={"train/loss": 1 / step})
            if step == 4:
                tracker.curve_grew(pipeline, STAGE)
        tracker.stage_finished(pipeline, trained)
        tracker.stage_finished(pipeline, SCORED)
        tracker.submission_made(pipeline, submission)
        tracker.pipeline_finished(pipeline, {"LID/val_mean_iou": 0.5}, {})
        assert output.getvalue() == "" and not Outbox(runs / "outbox").waiting()
    client = connect(store)
    experiment = client.get_experiment_by_name("wsss")
    assert experiment is not None
    found = {run.info.run_name: run for run in find_runs(client, experiment=experiment.experiment_id, tags={})}
    assert sorted(found) == ["evaluate", "submission toy", "toy", "toy (22222222)", "train"]
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    points = client.get_metric_history(found["train"].info.run_id, "train/loss")
    assert sorted((point.step, point.value) for point in points) == [(step, 1 / step) for step in range(1, 9)]
    (version,) = client.search_model_versions("name = 'toy-train'")
    assert version.run_id == found["train"].info.run_id
    (model,) = client.search_logged_models([experiment.experiment_id])
    assert {metric.key for metric in model.metrics} >= {"train.loss", "val.mean_iou"}
    files = {file.path for file in client.list_logged_model_artifacts(model.model_id)}
    assert {"MLmodel", "artifacts", "input_example.json"} <= files
    assert not [path for path in files if path.endswith((".pkl", ".pickle"))]
    assert [file.path for file in client.list_artifacts(found["submission toy"].info.run_id)] == ["submit.zip"]
    (row,) = leaderboard(runs, uri=store)
    assert (row.recipe, row.pipeline, row.image_set, row.metrics["mean_iou"]) == ("toy", "2" * 64, "val", 0.5)


@pytest.mark.parametrize("given", [{}, ADMIN | {"MLFLOW_TRACKING_PASSWORD": "wrong"}, {"MLFLOW_TRACKING_TOKEN": "x"}])
def test_a_server_that_refuses_stops_nothing_and_says_what_to_set(
    with_users: str, given: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    tracker, output = tracker_for(with_users, tmp_path / "runs")
    tracker.pipeline_started(FIRST, START)
    tracker.ended(FIRST, Ending("KILLED", "stopped"))
    (line,) = output.getvalue().splitlines()
    assert "the server refuses the user or the token; set MLFLOW_TRACKING_USERNAME" in line
    assert len(Outbox(tmp_path / "runs" / "outbox").waiting()) == 2
    for name in given:
        monkeypatch.delenv(name)
    for name, value in ADMIN.items():
        monkeypatch.setenv(name, value)
    tracker_for(with_users, tmp_path / "runs")
    assert not Outbox(tmp_path / "runs" / "outbox").waiting()
