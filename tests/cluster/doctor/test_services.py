from __future__ import annotations

import http.server
import socket
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from cluster.doctor.services import (
    examine_deepspeed,
    examine_mlflow,
    examine_ports,
    examine_ray,
)
from cluster.tracking.database_version import schema_revisions
from cluster.tracking.outbox import Outbox


@pytest.fixture(autouse=True)
def _no_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "RAY_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)


def test_a_port_that_is_taken_is_named() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
        (found,) = examine_ports({port: "the page of MLflow"})
        assert found.state == "note" and str(port) in found.found and str(port) in found.mend
    (free,) = examine_ports({port: "the page of MLflow"})
    assert free.state == "ok"


def test_what_keeps_ray_from_starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [one.state for one in examine_ray(tmp_path)] == ["ok"]
    (tmp_path / "cluster.py").write_text("")
    (hidden,) = examine_ray(tmp_path)
    assert hidden.state == "fault" and "cluster.py would be imported" in hidden.found
    (tmp_path / "cluster.py").unlink()
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    (address,) = examine_ray(tmp_path)
    assert (address.state, address.mend) == ("note", "unset RAY_ADDRESS")


def database(path: Path, revision: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))")
        connection.execute("INSERT INTO alembic_version VALUES (?)", (revision,))


def test_the_form_of_mlflow_s_database(tmp_path: Path) -> None:
    known, newest = schema_revisions()
    assert newest in known and len(known) > 10
    (absent,) = examine_mlflow(tmp_path)
    assert absent.state == "ok" and "the first run makes its database" in absent.found
    for name, revision, state, mend in (
        ("new", newest, "ok", ""),
        ("old", sorted(known - {newest})[0], "fault", "mlflow db upgrade sqlite:///"),
        ("later", "f" * 12, "fault", "pip install --upgrade mlflow"),
    ):
        (tmp_path / name).mkdir()
        database(tmp_path / name / "mlflow.db", revision)
        (found,) = examine_mlflow(tmp_path / name)
        assert found.state == state and found.mend.startswith(mend), name
    (tmp_path / "mlflow.db").write_text("no database, but a text that is longer than a header of SQLite would be" * 9)
    (other,) = examine_mlflow(tmp_path)
    assert other.state == "fault" and "is no database of MLflow" in other.found


def test_records_that_wait_for_mlflow_are_named(tmp_path: Path) -> None:
    Outbox(tmp_path / "outbox").put({"time": 1.0})
    waiting, store = examine_mlflow(tmp_path)
    assert (waiting.state, store.state) == ("note", "ok")
    assert f"1 record of runs in {tmp_path / 'outbox'}" in waiting.found


@contextmanager
def answering(status: int) -> Iterator[str]:
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *arguments: object) -> None: ...

    server = http.server.HTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_servers_of_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for status, state, text in ((200, "ok", "answers (200)"), (401, "fault", "answers 401")):
        with answering(status) as uri:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
            (found,) = examine_mlflow(tmp_path)
        assert (found.state, text in found.found) == (state, True)
    (gone,) = examine_mlflow(tmp_path)
    assert gone.state == "note" and "does not answer" in gone.found


def test_deepspeed_needs_no_operators() -> None:
    (found,) = examine_deepspeed()
    assert found.state == "ok" and "operators" in found.found
