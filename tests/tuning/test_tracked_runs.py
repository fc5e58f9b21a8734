"""Runs read by SQL are those that MLflow's client reads, with a number of statements that does not grow."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.tracking.tracker import connect
from shards.records import RunRecord
from tests.tuning.mlflow_store import empty_store, tracker_of
from tuning import tracked_runs
from tuning.tracked_runs import UnreadableError, stored_runs
from wsss.contract.runtime import PipelineRecord

KINDS, METRICS = ("pipeline", "evaluate"), ("mean_iou", "labels_given", "never_measured")


def record(digit: int) -> RunRecord:
    return RunRecord(
        recipe="toy",
        instance="evaluate",
        kind="evaluate",
        fingerprint=f"{digit:064x}",
        settings={"evaluate.splits": ["val"], "evaluate.title": "x"},
        upstream={},
        git_commit="unknown",
        metrics={"mean_iou": digit / 100, "labels_given": 0.0, "other": 1.0},
        finished=1_700_000_000.0 + digit,
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = empty_store(tmp_path_factory, "tracked")
    tracker = tracker_of(folder)
    for digit in range(4):
        pipeline = PipelineRecord("toy", f"{digit:064x}", "thresholds" if digit == 1 else "")
        tracker.stage_finished(pipeline, record(digit))
        tracker.pipeline_finished(pipeline, {"x": 1.0}, {})
    return folder


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The SQL statements that are executed."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    found: list[str] = []

    def note(connection: object, cursor: object, statement: str, *others: object) -> None:
        found.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    yield found
    event.remove(Engine, "before_cursor_execute", note)


def test_both_ways_of_reading_give_the_same_runs(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"sqlite:///{runs / 'mlflow.db'}"
    by_sql = stored_runs(runs, uri=uri, kinds=KINDS, metrics=METRICS)
    monkeypatch.setattr(tracked_runs, "_is_database", lambda address: False)
    monkeypatch.setattr(tracked_runs, "_PAGE", 3)
    by_client = stored_runs(runs, uri=uri, kinds=KINDS, metrics=METRICS)
    assert len(by_sql) == 8
    key = lambda run: run.run_id  # noqa: E731
    assert sorted(by_sql, key=key) == sorted(by_client, key=key)
    assert {run.params.get("splits") for run in by_sql if run.metrics} == {'["val"]'}


def test_the_number_of_statements_does_not_grow_with_the_runs(runs: Path, statements: list[str]) -> None:
    stored_runs(runs, uri="", kinds=KINDS, metrics=METRICS)
    before = len(statements)
    tracker = tracker_of(runs)
    for digit in range(10, 16):
        tracker.stage_finished(PipelineRecord("more", f"{digit:064x}"), record(digit))
    statements.clear()
    assert len(stored_runs(runs, uri="", kinds=KINDS, metrics=METRICS)) == 8 + 12
    assert len(statements) == before <= 6


def test_a_database_of_another_version_is_named(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "mlflow.db") as other:
        other.execute("CREATE TABLE experiments (experiment_id INTEGER, name TEXT)")
    with pytest.raises(UnreadableError, match=r"mlflow\.db is not one of this version of MLflow.*db upgrade") as said:
        stored_runs(tmp_path, uri="", kinds=KINDS, metrics=METRICS)
    assert f"wsss doctor --runs {tmp_path}" in str(said.value)


def test_a_damaged_database_names_the_command_that_examines_it(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("no database, but a text that is longer than a header of SQLite would be" * 9)
    with pytest.raises(UnreadableError, match=r"cannot be read: file is not a database; wsss doctor --runs ") as said:
        stored_runs(tmp_path, uri="", kinds=KINDS, metrics=METRICS)
    assert "start its server" not in str(said.value)


def test_a_deleted_experiment_names_the_command_that_restores_it(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = empty_store(tmp_path_factory, "deleted")
    tracker_of(folder).stage_finished(PipelineRecord("toy", "1" * 64), record(1))
    client = connect(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("wsss")
    assert experiment is not None
    client.delete_experiment(experiment.experiment_id)
    with pytest.raises(UnreadableError, match="was deleted; restore it with"):
        stored_runs(folder, uri="", kinds=KINDS, metrics=METRICS)


def test_a_folder_name_with_signs_of_an_address_is_read(runs: Path, tmp_path: Path) -> None:
    odd = tmp_path / "what? %41 here"
    odd.mkdir()
    (odd / "mlflow.db").write_bytes((runs / "mlflow.db").read_bytes())
    assert len(stored_runs(odd, uri="", kinds=KINDS, metrics=METRICS)) >= 8
    assert sorted(path.name for path in tmp_path.iterdir()) == [odd.name]
