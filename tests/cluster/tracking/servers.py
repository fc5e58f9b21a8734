"""Real stores for tests: a PostgreSQL server and an MLflow server with users, on loopback, as processes of the test."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.conftest import NOT_RUN

START_SECONDS = 120.0


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def mlflow_server(store: str, folder: Path, *words: str, environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """The address of an MLflow server over a store; artifacts go through it."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", store, "--artifacts-destination", (folder / "artifacts").as_uri(), *words]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    with (folder / "server.txt").open("wb") as log:
        server = subprocess.Popen(
            command, cwd=folder, env=clean | quiet | dict(environment or {}), stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    try:
        end = time.monotonic() + START_SECONDS
        while not _answers(address):
            assert server.poll() is None and time.monotonic() < end, (folder / "server.txt").read_text()[-2000:]
            time.sleep(0.3)
        yield address
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """The address of an empty PostgreSQL database. PostgreSQL refuses to run as root, so another user runs it then."""
    pytest.importorskip("psycopg", reason=f"{NOT_RUN}psycopg is not installed")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not found:
        pytest.skip(f"{NOT_RUN}PostgreSQL is not installed (apt-get install postgresql)")
    user = "postgres" if os.getuid() == 0 else None
    data, port = folder / "data", free_port()
    if user:
        shutil.chown(folder, user)
        for parent in folder.parents[:4]:  # pytest makes its folders readable for one user only
            with suppress(OSError):
                parent.chmod(parent.stat().st_mode | 0o011)
    begin = [str(found[-1] / "initdb"), "-D", str(data), "-U", "wsss", "--auth=trust", "--encoding=UTF8"]
    subprocess.run(begin, user=user, cwd=folder, check=True, stdout=subprocess.DEVNULL, timeout=120)
    command = [str(found[-1] / "postgres"), "-D", str(data), "-p", str(port), "-h", "127.0.0.1", "-k", str(folder)]
    server = subprocess.Popen(command, user=user, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + START_SECONDS
        ready = [str(found[-1] / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
        while subprocess.run(ready, check=False).returncode:
            assert server.poll() is None and time.monotonic() < end, "PostgreSQL does not start"
            time.sleep(0.2)
        yield f"postgresql://wsss@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(30)
