"""`wsss cluster mlflow FILE` with a `ray dashboard` of its own, which opens the port, or says why it cannot."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.tracking import mlflow_tunnel
from cluster.tracking.mlflow_tunnel import open_tunnel

ROOT = Path(__file__).parents[3]
FILE = """\
cluster_name: test
provider: {type: local, head_ip: 10.0.0.1, worker_ips: [10.0.0.2]}
auth: {ssh_user: somebody}
"""
SERVER = """\
import sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer
time.sleep(1)
class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(VERSION)
HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Answer).serve_forever()
"""
NO_HEAD = (
    "Error: Failed to forward dashboard\\n 1. The remote port\\nThe exception is: Head node of cluster (x) not found!"
)


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number: int = free.getsockname()[1]
    return number


def fake_ray(tmp_path: Path, program: str) -> dict[str, str]:
    """An environment in which `python -m ray.scripts.scripts` is this program."""
    package = tmp_path / "path" / "ray" / "scripts"
    package.mkdir(parents=True)
    for folder in (package.parent, package):
        (folder / "__init__.py").touch()
    (package / "scripts.py").write_text(program)
    return {**os.environ, "PYTHONPATH": f"{tmp_path / 'path'}:{ROOT}"}


def started(tmp_path: Path, program: str, port: int) -> subprocess.Popen[str]:
    file = tmp_path / "cluster.yaml"
    file.write_text(FILE)
    call = "from pathlib import Path; from cluster.tracking.mlflow_tunnel import *; import sys\n"
    call += f"try: sys.exit(open_tunnel(Path({str(file)!r}), port={port}))\n"
    call += "except ValueError as error: print('refused:', error); sys.exit(2)"
    words = [sys.executable, "-c", call]
    return subprocess.Popen(
        words, env=fake_ray(tmp_path, program), stdout=subprocess.PIPE, text=True, start_new_session=True
    )


def test_the_address_is_printed_once_mlflow_answers(tmp_path: Path, port: int) -> None:
    with started(tmp_path, SERVER.replace("VERSION", "b'3.17.2'"), port) as tunnel:
        assert tunnel.stdout is not None
        assert tunnel.stdout.readline() == f"MLflow is at http://127.0.0.1:{port} until Ctrl-C\n"
        socket.create_connection(("127.0.0.1", port)).close()
        time.sleep(0.2)
        os.killpg(tunnel.pid, signal.SIGINT)
        assert tunnel.wait(timeout=30) == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


@pytest.mark.parametrize(
    ("program", "cause"),
    [
        (
            f"print({NO_HEAD!r}.replace('\\\\n', chr(10))); raise SystemExit(1)",
            "this machine knows of no running head; ",
        ),
        ("print('ssh: connect to host 10.0.0.1 port 22: No route to host'); raise SystemExit(1)", "No route to host"),
        ("print('The exception is: no credentials'); raise SystemExit(1)", "no tunnel to MLflow: no credentials"),
    ],
    ids=["no head", "ssh", "other"],
)
def test_a_tunnel_that_cannot_be_opened_is_not_announced(program: str, cause: str, tmp_path: Path, port: int) -> None:
    with started(tmp_path, program, port) as tunnel:
        text = tunnel.communicate(timeout=30)[0]
    assert tunnel.returncode == 2 and text.startswith("refused: no tunnel to MLflow: ") and cause in text
    assert "until Ctrl-C" not in text and "Failed to forward dashboard" not in text


def test_a_program_that_is_not_mlflow_is_not_announced(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment = fake_ray(tmp_path, SERVER.replace("VERSION", "b'<html>'"))
    monkeypatch.setenv("PYTHONPATH", environment["PYTHONPATH"])
    monkeypatch.setattr(mlflow_tunnel, "ANSWER_SECONDS", 0.5)
    with pytest.raises(ValueError, match="the tunnel is open, but no MLflow answers at port 5000 of the head"):
        open_tunnel(tmp_path / "cluster.yaml", port=port)
    assert capsys.readouterr().out == ""


def test_a_port_that_is_taken_or_none_is_refused_before_ray_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("subprocess.Popen", None)
    file = tmp_path / "cluster.yaml"
    with pytest.raises(ValueError, match=r"--port = '70000' is no port; allowed are whole numbers from 1 to 65535"):
        open_tunnel(file, port=70000)
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        with pytest.raises(
            ValueError, match=f"port {taken} is taken by another program .*name another one with --port"
        ):
            open_tunnel(file, port=taken)
    monkeypatch.setenv("WSSS_MLFLOW_PORT", "abc")
    with pytest.raises(ValueError, match="WSSS_MLFLOW_PORT = 'abc' is no port"):
        open_tunnel(file, port=5000)
