from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from cluster.tracking.outbox import Outbox
from cluster.tracking.undelivered import undelivered


@pytest.fixture(autouse=True)
def _no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_without_waiting_records_nothing_is_said(tmp_path: Path) -> None:
    assert undelivered(tmp_path) == []
    assert list(tmp_path.iterdir()) == [], "a look writes nothing"


def test_waiting_and_rejected_records_are_counted(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox")
    for number in range(3):
        outbox.put({"time": float(number)})
    (tmp_path / "outbox" / "rejected").mkdir()
    (tmp_path / "outbox" / "rejected" / "1.json").write_text("{}")
    waiting, rejected = undelivered(tmp_path)
    assert waiting.startswith(f"not in MLflow yet: 3 records of runs in {tmp_path / 'outbox'}; the next wsss run")
    assert rejected.startswith("never in MLflow: 1 record in ")


def test_a_database_of_another_version_takes_no_run_and_doctor_is_named(tmp_path: Path) -> None:
    runs = tmp_path / "my runs"
    runs.mkdir()
    with closing(sqlite3.connect(runs / "mlflow.db")) as connection, connection:
        connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))")
        connection.execute("INSERT INTO alembic_version VALUES ('ffffffffffff')")
    (said,) = undelivered(runs)
    assert "is of a later MLflow" in said and said.endswith(f"wsss doctor --runs '{runs}' says how to mend it")
