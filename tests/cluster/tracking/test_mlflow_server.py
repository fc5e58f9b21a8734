"""`wsss cluster mlflow --serve` and `--stop`; a program that answers like MLflow is not taken for the server."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from cluster.command import run
from cluster.tracking import mlflow_server
from cluster.tracking.mlflow_folder import ServerState, read_state, refuse_stranger, write_state
from cluster.tracking.mlflow_server import serve, stop
from wsss.argument_parser import Parser
from wsss.cluster_arguments import add_cluster


class Stranger(BaseHTTPRequestHandler):
    """Answers 200 to everything."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"OK")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def stranger() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), Stranger) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WSSS_MLFLOW_FOLDER", str(tmp_path / "own"))
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    return tmp_path


@pytest.fixture
def free_port(monkeypatch: pytest.MonkeyPatch) -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    monkeypatch.setenv("WSSS_MLFLOW_PORT", str(port))
    return port


def test_a_program_that_answers_at_the_port_is_refused(
    folder: Path, stranger: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WSSS_MLFLOW_PORT", str(stranger))
    message = rf"port {stranger} is taken by another program .*; set WSSS_MLFLOW_PORT to another port"
    with pytest.raises(ValueError, match=message):
        serve(folder / "shared")
    assert read_state() is None, "nothing was started"


def test_a_program_that_took_the_port_of_a_running_supervisor_is_refused(
    folder: Path, stranger: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server crashed, and cannot start again."""
    monkeypatch.setenv("WSSS_MLFLOW_PORT", str(stranger))
    monkeypatch.setattr(mlflow_server, "_is_running", lambda: True)
    monkeypatch.setattr(mlflow_server, "_STRANGER_SECONDS", 0.0)
    write_state(ServerState(f"http://127.0.0.1:{stranger}", str(folder), os.getpid(), server=1 << 30))
    with pytest.raises(ValueError, match=f"port {stranger} is taken by another program"):
        serve(folder / "shared")


def test_records_are_not_sent_to_a_program_that_took_the_port(folder: Path, stranger: int) -> None:
    address = f"http://127.0.0.1:{stranger}"
    refuse_stranger(address)  # no server of this machine is noted: the address is the user's own
    write_state(ServerState(address, str(folder), 1, server=1 << 30))
    with pytest.raises(ConnectionError, match="this machine's MLflow server does not run; its log is "):
        refuse_stranger(f"{address}/")
    refuse_stranger("http://127.0.0.1:1")
    write_state(ServerState(address, str(folder), 1, server=os.getpgid(0)))
    refuse_stranger(address)


def test_a_second_port_for_a_running_server_is_refused(
    folder: Path, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_server, "_is_running", lambda: True)
    write_state(ServerState("http://127.0.0.1:4999", str(folder), 1))
    with pytest.raises(ValueError, match=r"runs at http://127.0.0.1:4999 already, .* `wsss cluster mlflow --stop`"):
        serve(folder / "shared")


def test_a_variable_that_is_no_port_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSSS_MLFLOW_PORT", "abc")
    with pytest.raises(ValueError, match="WSSS_MLFLOW_PORT = 'abc' is no port"):
        serve(folder / "shared")


def test_stop_without_a_server_says_so_and_forgets_the_address(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Shells of the node read the address from this file."""
    (folder / "mlflow_address").write_text("http://127.0.0.1:5000")
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    parser = Parser()
    add_cluster(parser.add_subparsers(), lambda commands, name, *_: commands.add_parser(name))
    assert run(parser.parse_args(["cluster", "mlflow", "--stop"])) == 0
    assert capsys.readouterr().out == f"no MLflow server of {folder / 'own'} runs on this machine\n"
    assert not (folder / "mlflow_address").exists()


@pytest.mark.slow
@pytest.mark.extended
def test_the_server_of_a_killed_supervisor_is_ended_and_started_again(folder: Path, free_port: int) -> None:
    address = serve(folder / "shared")
    try:
        first = read_state()
        assert first is not None and first.listens
        refuse_stranger(address)
        os.kill(first.pid, signal.SIGKILL)
        assert first.listens, "it is an orphan that still answers"
        assert serve(folder / "shared") == address
        second = read_state()
        assert second is not None and second.listens and second.server != first.server and not first.listens
        with urllib.request.urlopen(f"{address}/version", timeout=10) as answer:
            assert answer.status == 200
        assert subprocess.run(["kill", "-0", str(second.pid)], check=False).returncode == 0
    finally:
        lines = stop()
    assert lines[0].startswith("stopped MLflow") and read_state() is None
