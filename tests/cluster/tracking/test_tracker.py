"""The tracker against real stores: a SQLite file, and a server that cannot be reached at first."""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.store.db import utils as database
from rich.console import Console

from cluster.tracking.outbox import Outbox, RejectedError
from cluster.tracking.tracker import DATABASE_ATTEMPTS, MlflowTracker, connect, find_runs
from cluster.tracking.tracker import PIPELINE as PIPELINE_TAG
from cluster.tracking.tracking_address import open_command, sqlite_address, tracking_uri
from shards.records import RunRecord
from wsss.contract.runtime import PipelineRecord

PIPELINE = PipelineRecord("toy", "f" * 64)
CAMS = RunRecord(
    recipe="toy",
    instance="make_cams",
    kind="make_cams",
    fingerprint="c" * 64,
    settings={
        **{f"make_cams.setting_{i}": i for i in range(230)},
        "make_cams.scales": [0.5, 1.0],
        "make_cams.flip": True,
        "make_cams.note": "x" * 9000,
    },
    upstream={"train_classifier": "a" * 64},
    git_commit="0123abc-dirty",
    metrics={"records.cam": 7.0, "undefined": float("nan"), "per-class/cat's": 0.25},
    seconds=12.5,
    finished=1_700_000_000.25,
)
SCORED = RunRecord(
    recipe="toy",
    instance="evaluate",
    kind="evaluate",
    fingerprint="e" * 64,
    settings={"evaluate.splits": ["val"]},
    upstream={"make_cams": "c" * 64},
    git_commit="unknown",
    metrics={"mean_iou": 0.5},
    tables={"per_class": [{"class": "cat", "iou": 0.5}, {"class": "dog", "iou": float("nan"), "class_id": 2}]},
    finished=1_700_000_100.0,
)


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def runs(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose database already has its tables, because creating them takes seconds."""
    schema = tmp_path_factory.getbasetemp() / "mlflow-schema.db"
    if not schema.exists():
        connect(f"sqlite:///{schema}").get_experiment_by_name("wsss")
    folder = tmp_path / "runs"
    folder.mkdir()
    shutil.copy(schema, folder / "mlflow.db")
    return folder


def make_tracker(runs: Path, *, uri: str = "") -> tuple[MlflowTracker, io.StringIO]:
    output = io.StringIO()
    return MlflowTracker(uri=uri, runs=runs, console=Console(file=output, width=1000)), output


def all_runs(uri: str) -> list[Run]:
    client = connect(uri)
    experiment = client.get_experiment_by_name("wsss")
    return [] if experiment is None else find_runs(client, experiment=experiment.experiment_id, tags={})


def stored(runs: Path) -> dict[str, Run]:
    """Name -> run, after checking that no name occurs twice."""
    found = all_runs(f"sqlite:///{runs / 'mlflow.db'}")
    by_name = {run.info.run_name: run for run in found}
    assert len(by_name) == len(found), f"a run exists twice: {sorted(run.info.run_name for run in found)}"
    return by_name


def test_stages_are_runs_nested_in_their_pipelines_run(runs: Path) -> None:
    tracker, output = make_tracker(runs)
    tracker.stage_finished(PIPELINE, CAMS)
    tracker.stage_finished(PIPELINE, SCORED)
    assert output.getvalue() == ""
    assert not list((runs / "outbox").glob("*.json"))
    by_name = stored(runs)
    assert set(by_name) == {"toy", "make_cams", "evaluate"}
    parent, child = by_name["toy"], by_name["make_cams"]
    assert parent.info.status == "RUNNING"
    tags = parent.data.tags
    assert (tags["wsss.recipe"], tags["wsss.pipeline"], tags["wsss.kind"]) == ("toy", "f" * 64, "pipeline")
    assert "mlflow.parentRunId" not in tags
    for run in (child, by_name["evaluate"]):
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert child.info.status == "FINISHED"
    assert child.info.end_time == 1_700_000_000_250
    assert child.info.start_time == 1_700_000_000_250 - 12_500


def test_a_stages_run_holds_settings_metrics_and_lineage(runs: Path) -> None:
    make_tracker(runs)[0].stage_finished(PIPELINE, CAMS)
    run = stored(runs)["make_cams"]
    params, tags = run.data.params, run.data.tags
    # Without the instance's name, so that those of two instances stand in one row where they are compared.
    assert set(params) == {name.removeprefix("make_cams.") for name in CAMS.settings}
    assert params["setting_229"] == "229"
    assert params["scales"] == "[0.5, 1.0]"
    assert params["flip"] == "true"
    assert params["note"] == "x" * 5999 + "…"
    assert run.data.metrics == {"records.cam": 7.0, "per-class/cat_s": 0.25, "restarts": 0.0}
    assert tags["wsss.git_commit"] == "0123abc-dirty"
    assert tags["mlflow.source.git.commit"] == "0123abc"
    assert tags["wsss.upstream.train_classifier"] == "a" * 64
    assert (tags["wsss.instance"], tags["wsss.fingerprint"]) == ("make_cams", "c" * 64)


def test_a_version_is_not_logged_as_a_commit(runs: Path) -> None:
    make_tracker(runs)[0].stage_finished(PIPELINE, replace(CAMS, git_commit="version 0.1.0"))
    tags = stored(runs)["make_cams"].data.tags
    assert tags["wsss.git_commit"] == "version 0.1.0" and "mlflow.source.git.commit" not in tags


def test_tables_and_files_become_artifacts_under_runs(runs: Path, tmp_path: Path) -> None:
    picture = tmp_path / "sheet.png"
    picture.write_bytes(b"not really a picture")
    tracker, output = make_tracker(runs)
    tracker.stage_finished(PIPELINE, replace(SCORED, artifacts={"sheet": str(picture), "gone": str(tmp_path / "gone")}))
    run = stored(runs)["evaluate"]
    folder = Path(run.info.artifact_uri.removeprefix("file://"))
    assert folder.is_relative_to(runs / "mlartifacts")
    assert json.loads((folder / "per_class.json").read_bytes()) == {
        "columns": ["class", "iou", "class_id"],
        "data": [["cat", 0.5, None], ["dog", None, 2]],
    }
    assert json.loads(run.data.tags["mlflow.loggedArtifacts"]) == [{"path": "per_class.json", "type": "table"}]
    assert (folder / "sheet.png").read_bytes() == b"not really a picture"
    assert "the artifact gone (" in output.getvalue()


def test_a_moved_folder_of_runs_keeps_its_artifacts(runs: Path, tmp_path: Path) -> None:
    """Waiting records and MLflow's database are found at the new path, and nothing is recorded twice."""
    picture = runs / "store" / "evaluate" / "sheet.png"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"picture")
    scored = replace(SCORED, artifacts={"sheet": str(picture)})
    tracker, _ = make_tracker(runs)
    tracker.stage_finished(PIPELINE, scored)
    tracker._paused_until = time.monotonic() + 60
    tracker.stage_finished(PIPELINE, replace(scored, instance="later", fingerprint="f" * 64))
    (waiting,) = Outbox(runs / "outbox").waiting()
    assert str(tmp_path) not in waiting.read_text()
    moved = tmp_path / "moved %41 folder"
    runs.rename(moved)
    tracker, output = make_tracker(moved)
    found = {run.info.run_name: run for run in all_runs(tracking_uri("", runs=moved))}
    assert set(found) == {"toy", "evaluate", "later"} and "not stored" not in output.getvalue()
    client = connect(tracking_uri("", runs=moved))
    for name in ("evaluate", "later"):
        assert {file.path for file in client.list_artifacts(found[name].info.run_id)} == {"per_class.json", "sheet.png"}
        folder = Path(client.download_artifacts(found[name].info.run_id, ""))
        assert folder.is_relative_to(moved) and (folder / "sheet.png").read_bytes() == b"picture"


def test_artifacts_of_other_databases_are_left_alone(runs: Path, tmp_path: Path) -> None:
    """A database that is no folder of runs', and a folder that was copied before it had artifacts."""
    make_tracker(runs)[0].stage_finished(PIPELINE, SCORED)
    before = stored(runs)["evaluate"].info.artifact_uri
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(runs / "mlflow.db", elsewhere / "mlflow.db")
    uri = tracking_uri("", runs=elsewhere)
    connect(uri)
    with closing(sqlite3.connect(elsewhere / "mlflow.db")) as database:
        assert (before,) in database.execute("SELECT artifact_uri FROM runs").fetchall()
        (elsewhere / "mlartifacts").mkdir()
        connect(uri)
        assert (before,) in database.execute("SELECT artifact_uri FROM runs").fetchall(), "the original still exists"
        shutil.rmtree(runs)
        connect(uri)
        assert (before,) not in database.execute("SELECT artifact_uri FROM runs").fetchall()


def test_the_end_of_a_pipeline_is_recorded_on_its_run(runs: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.md"
    table.write_text("| class | IoU |")
    tracker, _ = make_tracker(runs)
    tracker.stage_finished(PIPELINE, SCORED)
    tracker.pipeline_finished(PIPELINE, {"mean_iou": 0.5}, {"table": str(table)})
    run = stored(runs)["toy"]
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {"mean_iou": 0.5, "evaluate.mean_iou": 0.5}
    assert (Path(run.info.artifact_uri.removeprefix("file://")) / "table.md").read_text() == "| class | IoU |"


def test_a_second_run_of_the_same_recipe_adds_nothing(runs: Path) -> None:
    for _ in range(2):
        tracker, _output = make_tracker(runs)
        tracker.stage_finished(PIPELINE, CAMS)
        tracker.stage_finished(PIPELINE, SCORED)
        tracker.pipeline_finished(PIPELINE, {"mean_iou": 0.5}, {})
    by_name = stored(runs)
    assert set(by_name) == {"toy", "make_cams", "evaluate"}
    client = connect(f"sqlite:///{runs / 'mlflow.db'}")
    for name in ("toy", "evaluate"):
        assert len(client.get_metric_history(by_name[name].info.run_id, "mean_iou")) == 1


def test_instances_with_equal_fingerprints_are_two_runs_and_a_changed_pipeline_is_another(runs: Path) -> None:
    tracker, _ = make_tracker(runs)
    tracker.stage_finished(PIPELINE, CAMS)
    tracker.stage_finished(PIPELINE, replace(CAMS, instance="person_cams"))
    tracker.stage_finished(replace(PIPELINE, fingerprint="9" * 64), replace(SCORED, fingerprint="8" * 64))
    by_name = stored(runs)
    assert set(by_name) == {"toy", "make_cams", "person_cams", "toy (99999999)", "evaluate"}
    assert by_name["evaluate"].data.tags["mlflow.parentRunId"] == by_name["toy (99999999)"].info.run_id


def test_an_interrupted_delivery_is_completed_not_repeated(runs: Path) -> None:
    tracker, _ = make_tracker(runs)
    client = connect(f"sqlite:///{runs / 'mlflow.db'}")
    tracker.stage_finished(PIPELINE, CAMS)
    parent = stored(runs)["toy"].info.run_id
    identity = {"wsss.instance": "evaluate", "wsss.fingerprint": "e" * 64, "mlflow.parentRunId": parent}
    experiment = client.get_experiment_by_name("wsss").experiment_id
    half = client.create_run(experiment, tags=identity, run_name="evaluate").info.run_id
    client.log_param(half, "splits", '["val"]')
    tracker.stage_finished(PIPELINE, SCORED)
    run = stored(runs)["evaluate"]
    assert (run.info.run_id, run.info.status) == (half, "FINISHED")
    assert run.data.metrics == {"mean_iou": 0.5, "restarts": 0.0}


def test_pipelines_of_a_sweep_are_nested_in_one_run(runs: Path) -> None:
    tracker, _ = make_tracker(runs)
    for digit in "12":
        trial = PipelineRecord("toy", digit * 64, "sweep of 'θ'")
        tracker.stage_finished(trial, replace(SCORED, instance=f"evaluate_{digit}", fingerprint=digit * 64))
        tracker.pipeline_finished(trial, {}, {})
    tracker.stage_finished(replace(PIPELINE, fingerprint="1" * 64), replace(SCORED, fingerprint="7" * 64))
    found = all_runs(f"sqlite:///{runs / 'mlflow.db'}")
    sweeps = [run for run in found if run.data.tags["wsss.kind"] == "sweep"]
    assert [run.info.run_name for run in sweeps] == ["sweep of 'θ'"]
    pipelines = [run for run in found if run.data.tags["wsss.kind"] == "pipeline"]
    parents = [run.data.tags.get("mlflow.parentRunId") for run in pipelines]
    assert sorted(parents, key=str) == sorted([sweeps[0].info.run_id] * 2 + [None], key=str)


def test_trackers_of_concurrent_trials_make_each_run_once(runs: Path) -> None:
    def trial(digit: str) -> None:
        tracker, _ = make_tracker(runs)
        pipeline = PipelineRecord("toy", digit * 64, "sweep")
        tracker.stage_finished(pipeline, replace(SCORED, instance=f"evaluate_{digit}", fingerprint=digit * 64))

    threads = [threading.Thread(target=trial, args=(digit,)) for digit in "123"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = stored(runs)
    assert {name for name in found if not name.startswith("toy")} == {"sweep", "evaluate_1", "evaluate_2", "evaluate_3"}
    pipelines = {name: run.data.tags[PIPELINE_TAG] for name, run in found.items() if name.startswith("toy")}
    assert sorted(pipelines.values()) == [digit * 64 for digit in "123"]
    first = pipelines.pop("toy")
    assert pipelines == {f"toy ({digit * 8})": digit * 64 for digit in "123" if digit * 64 != first}


def test_a_record_that_mlflow_rejects_does_not_block_the_next(runs: Path) -> None:
    tracker, output = make_tracker(runs)
    tracker.stage_finished(PIPELINE, replace(CAMS, settings={"x" * 9000: 1}))
    tracker.stage_finished(PIPELINE, SCORED)
    assert "evaluate" in stored(runs)
    assert "MLflow rejected a record" in output.getvalue()
    assert len(list((runs / "outbox" / "rejected").glob("*.json"))) == 1


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def mlflow_server(folder: Path, *, port: int) -> Iterator[None]:
    # The process that `mlflow server` starts, without the slow start of its command line.
    command = [sys.executable, "-W", "ignore", "-m", "uvicorn", "--host", "127.0.0.1", "--port", str(port)]
    command += ["mlflow.server.fastapi_app:app"]
    environment = os.environ | {
        "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{folder / 'mlflow.db'}",
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(folder / "served"),
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
    }
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env=environment, start_new_session=True)
    try:
        for _ in range(600):
            if server.poll() is not None:
                break
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
                break
            except OSError:
                time.sleep(0.1)
        assert server.poll() is None, (folder / "server.log").read_text()
        yield
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(20)


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that trackers connected to."""
    made: list[str] = []

    def counted(uri: str) -> MlflowClient:
        made.append(uri)
        return connect(uri)

    monkeypatch.setattr("cluster.tracking.tracker.connect", counted)
    return made


@pytest.mark.slow
def test_an_outage_stops_nothing_and_everything_arrives_once_afterwards(
    runs: Path, tmp_path: Path, connections: list[str]
) -> None:
    picture = tmp_path / "sheet.png"
    picture.write_bytes(b"not really a picture")
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    own = tmp_path / "own"
    tracker, output = make_tracker(own, uri=uri)
    tracker.stage_finished(PIPELINE, CAMS)
    tracker.stage_finished(PIPELINE, SCORED)
    tracker.pipeline_finished(PIPELINE, {"mean_iou": 0.5}, {"sheet": str(picture)})
    assert connections == [uri, uri], "at the first stage and at the end of the pipeline"
    assert output.getvalue().count("\n") == 1, "one line, however often it fails"
    assert "cannot be written to" in output.getvalue()
    assert len(list((own / "outbox").glob("*.json"))) == 3
    assert not tracker.flush()
    with mlflow_server(runs, port=port):
        other, other_output = make_tracker(own, uri=uri)  # the next run's tracker delivers the records of the first one
        assert other_output.getvalue() == "now in MLflow: 3 records of earlier runs\n"
        other.stage_finished(PIPELINE, SCORED)
        assert tracker.flush()
        found = all_runs(uri)
        assert sorted(run.info.run_name for run in found) == ["evaluate", "make_cams", "toy"]
        assert {run.info.status for run in found} == {"FINISHED"}
        parent = next(run for run in found if run.info.run_name == "toy")
        assert [file.path for file in connect(uri).list_artifacts(parent.info.run_id)] == ["sheet.png"]
    assert not list((own / "outbox").glob("*.json"))


def test_after_a_failure_stages_do_not_try_again_until_the_pause_is_over(
    tmp_path: Path, connections: list[str]
) -> None:
    tracker, output = make_tracker(tmp_path / "runs", uri=f"sqlite:///{tmp_path}")  # a folder is not a database
    tracker.stage_finished(PIPELINE, CAMS)
    assert "cannot be written to" in output.getvalue()
    assert database.MAX_RETRY_COUNT == DATABASE_ATTEMPTS < 10, "MLflow's own ten attempts take 100 s"
    tracker.stage_finished(PIPELINE, SCORED)
    assert len(connections) == 1
    assert len(list((tmp_path / "runs" / "outbox").glob("*.json"))) == 2


def test_the_users_environment_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    connect("http://127.0.0.1:9")
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"
    assert logging.getLogger("alembic").level == logging.ERROR
    assert tracking_uri("", runs=Path("runs")) == "sqlite:///runs/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    assert tracking_uri("", runs=Path("runs")) == "http://tracking:5000"
    assert tracking_uri("sqlite:///given.db", runs=Path("runs")) == "sqlite:///given.db"


def test_the_command_that_opens_the_runs_serves_this_machine_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = tmp_path / "mlflow"
    found.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    command = open_command("", runs=Path("my runs"))
    assert command == "mlflow ui --backend-store-uri 'sqlite:///my runs/mlflow.db' --host 127.0.0.1 --port 5000"
    assert open_command("https://ml.example/x", runs=Path("runs")) == "python -m webbrowser -t https://ml.example/x"
    found.unlink()
    beside = Path(sys.executable).with_name("mlflow")
    monkeypatch.chdir(beside.parent.parent)
    assert open_command("", runs=Path("runs")).startswith("bin/mlflow ui"), "if no environment is activated"
    monkeypatch.chdir(tmp_path)
    assert open_command("", runs=Path("runs")).startswith(f"{beside} ui")


def test_the_outbox_keeps_order_and_keeps_what_could_not_be_sent(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox")
    for number in range(5):
        outbox.put({"number": number})
    sent: list[int] = []

    def send(event: dict[str, int]) -> None:
        if event["number"] == 1:
            raise RejectedError("never")
        if event["number"] == 3:
            raise ConnectionError("not now")
        sent.append(event["number"])

    with pytest.raises(ConnectionError):
        outbox.deliver(send)
    assert sent == [0, 2]
    assert len(outbox.waiting()) == 2
    assert outbox.deliver(lambda event: sent.append(event["number"])) == (2, [])
    assert sent == [0, 2, 3, 4]


@pytest.fixture
def odd_folder(request: pytest.FixtureRequest, tmp_path: Path, runs: Path) -> Path:
    folder = tmp_path / str(request.param)
    shutil.move(runs, folder)
    return folder


@pytest.mark.parametrize(
    "odd_folder",
    ["[old]", "a b", "what?", "100%", "a%41b", "a#b", "a?uri=true&mode=ro", "it's $HOME", "caf\u00e9"],
    indirect=True,
)
def test_runs_folders_of_any_name(odd_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = tmp_path / "sheet.png"
    picture.write_bytes(b"not really a picture")
    before = {path.name for path in tmp_path.iterdir()}
    tracker, output = make_tracker(odd_folder)
    tracker.stage_finished(PIPELINE, replace(SCORED, artifacts={"sheet": str(picture)}))
    assert output.getvalue() == ""
    assert {path.name for path in tmp_path.iterdir()} == before, "no other folder is created"
    assert len(list((odd_folder / "mlartifacts").rglob("sheet.png"))) == 1

    # Run the printed command in a shell, with a script for mlflow that prints the database URI it receives.
    script = tmp_path / "bin" / "mlflow"
    script.parent.mkdir()
    script.write_text('#!/bin/sh\nprintf "%s" "$3"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    command = open_command("", runs=odd_folder)
    given = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout
    assert given == sqlite_address(odd_folder / "mlflow.db") == tracking_uri("", runs=odd_folder)
    assert {run.info.run_name for run in all_runs(given)} == {"toy", "evaluate"}


def test_an_ordinary_path_is_unchanged_in_its_uri() -> None:
    assert sqlite_address(Path("/data/my runs/[old]#1/100%/mlflow.db")) == (
        "sqlite:////data/my runs/[old]#1/100%/mlflow.db"
    )
    assert sqlite_address(Path("/data/what?/a%41/mlflow.db")) == "sqlite:////data/what%3F/a%2541/mlflow.db"


def test_records_wait_while_the_experiment_is_deleted_and_arrive_once_it_is_restored(runs: Path) -> None:
    uri = f"sqlite:///{runs / 'mlflow.db'}"
    tracker, output = make_tracker(runs)
    tracker.stage_finished(PIPELINE, CAMS)
    client = connect(uri)
    experiment = client.get_experiment_by_name("wsss")
    assert experiment is not None
    client.delete_experiment(experiment.experiment_id)

    tracker.stage_finished(PIPELINE, SCORED)  # a tracker that has already written there
    assert "experiments restore --experiment-id " + experiment.experiment_id in output.getvalue()
    assert uri in output.getvalue()
    _, other_output = make_tracker(runs)  # and one that has not written there yet
    assert "experiments restore --experiment-id" in other_output.getvalue()
    assert len(Outbox(runs / "outbox").waiting()) == 1 and not (runs / "outbox" / "rejected").exists()

    client.restore_experiment(experiment.experiment_id)
    assert tracker.flush()
    assert set(stored(runs)) == {"toy", "make_cams", "evaluate"}


def test_records_go_to_a_new_experiment_after_the_old_one_was_renamed(runs: Path) -> None:
    tracker, output = make_tracker(runs)
    tracker.stage_finished(PIPELINE, CAMS)
    client = connect(f"sqlite:///{runs / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("wsss")
    assert experiment is not None
    client.rename_experiment(experiment.experiment_id, "before")
    make_tracker(runs)[0].stage_finished(PIPELINE, SCORED)
    assert set(stored(runs)) == {"toy", "evaluate"} and output.getvalue() == ""


@pytest.mark.extended
@pytest.mark.slow  # SQLite and MLflow retry for 20 seconds
def test_records_wait_while_the_database_is_locked(runs: Path) -> None:
    tracker, output = make_tracker(runs)
    tracker.stage_finished(PIPELINE, CAMS)
    with sqlite3.connect(runs / "mlflow.db") as other:
        other.execute("BEGIN EXCLUSIVE")
        tracker.stage_finished(PIPELINE, SCORED)
        assert len(Outbox(runs / "outbox").waiting()) == 1 and "locked" in output.getvalue()
        other.rollback()
    assert tracker.flush() and not (runs / "outbox" / "rejected").exists()
    assert "evaluate" in stored(runs)
