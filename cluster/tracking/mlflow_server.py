"""The MLflow server on the head of a cluster: started once, restarted after a crash, its database copied.

`wsss cluster mlflow --serve FOLDER`, which the cluster files call before `ray start`, starts this module as a process
of its own. It listens on 127.0.0.1 only; see `cluster.tracking.mlflow_folder` for its files.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from filelock import FileLock, Timeout

from cluster.tracking.mlflow_folder import (
    PORT_VARIABLE,
    ServerState,
    back_up,
    database,
    forget_state,
    own_folder,
    read_state,
    restore,
    seconds_since_change,
    server_address,
    server_port,
    write_state,
)
from cluster.tracking.network_folders import network_mount
from cluster.tracking.ports import HOST, accepts, why_not_free
from shards.file_system_errors import FileSystemError

START_SECONDS = 180.0
COPY_SECONDS = 60.0
"""A copy is made when the database has changed and this time has passed since the last copy."""
_QUIET_SECONDS = 5.0
_STRANGER_SECONDS = 10.0
"""After this time another program that answers at the port is reported; our own server may need longer to start."""
_LONGEST_PAUSE = 60.0


def serve(shared: Path) -> str:
    """Start the server in the background, unless it runs already, and wait until it answers; returns its address.

    Raises ValueError if a folder or the port cannot be used, or if the server does not answer.
    """
    address = server_address()
    _make_folders(shared)
    log = own_folder() / "log.txt"
    if _is_running():
        _refuse_other_address(address)
    else:
        _end_orphan()
        _refuse_taken_port()
        words = [sys.executable, "-m", "cluster.tracking.mlflow_server", str(shared.absolute())]
        with log.open("ab") as output:
            subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, cwd=own_folder()
            )
    begun = time.monotonic()
    while not _answers(address):
        if time.monotonic() > begun + _STRANGER_SECONDS and accepts(server_port()):
            _refuse_taken_port()
        if time.monotonic() > begun + START_SECONDS:
            _refuse_taken_port()
            raise ValueError(f"MLflow does not answer at {address} after {START_SECONDS:.0f} s: {_last_lines(log)}")
        time.sleep(0.5)
    return address


def _refuse_other_address(address: str) -> None:
    state = read_state()
    if state is not None and state.address != address:
        raise ValueError(
            f"MLflow runs at {state.address} already, not at {address} ({PORT_VARIABLE}); "
            "end it with `wsss cluster mlflow --stop` first"
        )


def _end_orphan() -> None:
    """End a server whose supervisor was killed; it would keep the port."""
    state = read_state()
    if state is not None and state.listens:
        _signal_group(state.server, signal.SIGKILL)
        end = time.monotonic() + 10
        # A killed process has no sockets to list a moment before the port is free.
        while (state.listens or why_not_free(state.port)) and time.monotonic() < end:
            time.sleep(0.1)
    forget_state()


def _refuse_taken_port() -> None:
    state = read_state()
    if (state is None or not state.listens) and (cause := why_not_free(server_port())):
        raise ValueError(f"{cause}; set {PORT_VARIABLE} to another port, on the head and on the user's machine")


def _make_folders(shared: Path) -> None:
    try:
        shared.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"--serve {shared}: cannot be created ({error.strerror}); name a folder that all nodes share"
        ) from None
    folder = own_folder()
    if (mount := network_mount(folder)) is not None:
        raise ValueError(
            f"{folder} is on a network file system ({mount.kind} at {mount.folder}), where SQLite's locks are not "
            "reliable; set WSSS_MLFLOW_FOLDER to a folder on the head's own disk"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        owner = folder.lstat().st_uid
    except OSError as error:
        raise ValueError(
            f"{folder} cannot be created ({error.strerror}); set WSSS_MLFLOW_FOLDER to another folder"
        ) from None
    if folder.is_symlink() or owner != os.getuid():
        raise ValueError(f"{folder} is a link or belongs to another user; set WSSS_MLFLOW_FOLDER to another folder")


def stop() -> list[str]:
    """End the server of this machine, after a last copy of its database; lines that say what was done."""
    state = read_state()
    _forget_address()
    if state is None or not _is_running():
        return [f"no MLflow server of {own_folder()} runs on this machine"]
    os.kill(state.pid, signal.SIGTERM)
    end = time.monotonic() + 60
    while _is_running() and time.monotonic() < end:
        time.sleep(0.2)
    return [f"stopped MLflow; a copy of its database is {state.copy}", f"stays: {own_folder()}"]


def _forget_address() -> None:
    """Shells and jobs of this machine no longer get the address (cluster/node_environment.sh)."""
    if folder := os.environ.get("RAY_TMPDIR"):
        (Path(folder) / "mlflow_address").unlink(missing_ok=True)


def supervise(shared: Path) -> None:
    """Run the server until SIGTERM, and restart it whenever it ends. Returns at once if another process does that."""
    lock = FileLock(own_folder() / ".server.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return
    state = ServerState(server_address(), str(shared), os.getpid())
    write_state(state)
    restore(state)
    stopped = False

    def end(*_: object) -> None:
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    _keep_running(state, lambda: stopped)
    try:
        back_up(state)
    finally:
        forget_state()
        lock.release()


def _keep_running(state: ServerState, stopped: Callable[[], bool]) -> None:
    pause, copied = 1.0, time.monotonic()
    while not stopped():
        begun = time.monotonic()
        server = _start(state)
        write_state(replace(state, server=server.pid))
        while server.poll() is None and not stopped():
            time.sleep(0.5)
            if time.monotonic() - copied > COPY_SECONDS and seconds_since_change() > _QUIET_SECONDS:
                copied = time.monotonic()
                try:
                    back_up(state)
                except (OSError, FileSystemError, sqlite3.Error) as error:
                    print(f"{time.ctime()}: no copy of the database: {error}", flush=True)
        _end_group(server)
        if stopped():
            return
        pause = 1.0 if time.monotonic() - begun > _LONGEST_PAUSE else min(pause * 2, _LONGEST_PAUSE)
        print(f"{time.ctime()}: the server ended with status {server.returncode}; again in {pause:.0f} s", flush=True)
        _wait(pause, stopped)


def _start(state: ServerState) -> subprocess.Popen[bytes]:
    options = {
        "--host": HOST,
        "--port": str(state.port),
        "--workers": "1",
        "--backend-store-uri": f"sqlite:///{database()}",
        "--artifacts-destination": state.artifacts.as_uri(),
    }
    words = [word for option in options.items() for word in option]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    # Jobs are for evaluating language models; without them the server has 3 processes instead of 13.
    environment |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    command = [sys.executable, "-m", "mlflow", "server", *words]
    return subprocess.Popen(command, env=environment, cwd=own_folder(), start_new_session=True)


def _end_group(server: subprocess.Popen[bytes]) -> None:
    """End the server and its workers, which listen on even if the process that started them is gone."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        _signal_group(server.pid, number)
        with suppress(subprocess.TimeoutExpired):
            server.wait(timeout=10)
            time.sleep(0.2)


def _signal_group(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)


def _wait(seconds: float, stopped: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not stopped():
        time.sleep(0.2)


def _is_running() -> bool:
    """Whether a process of this machine keeps the server running."""
    if not own_folder().exists():
        return False
    try:
        with FileLock(own_folder() / ".server.lock", timeout=0):
            return False
    except Timeout:
        return True


def _answers(address: str) -> bool:
    """Whether the server answers: the one of this machine's supervisor, not any program that listens there."""
    state = read_state()
    if state is None or not state.listens:
        return False
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def _last_lines(log: Path) -> str:
    return " | ".join(log.read_text(errors="replace").splitlines()[-5:])


if __name__ == "__main__":
    supervise(Path(sys.argv[1]))
