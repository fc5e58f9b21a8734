"""Where the MLflow server of a cluster keeps its files: a database on the head's own disk, a copy in the shared folder.

SQLite needs locks that network file systems do not give reliably, so the database is not in the shared folder. When a
run ends, and a minute after any other change, a copy of it is written there; a new head starts from that copy.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
import uuid
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock

from cluster.tracking.network_folders import network_mount
from cluster.tracking.ports import HOST, checked_port, listens
from shards.file_system_errors import FileSystemError
from shards.files import write_bytes

PORT_VARIABLE = "WSSS_MLFLOW_PORT"


def server_port() -> int:
    """The port of the server on the head: 5000, or `WSSS_MLFLOW_PORT`, which is to be the same on the user's machine.

    Raises ValueError if the variable does not name a port.
    """
    return checked_port(os.environ.get(PORT_VARIABLE) or "5000", name=PORT_VARIABLE)


def server_address() -> str:
    """The address of the server for jobs on the head. It is not reachable over the network."""
    return f"http://{HOST}:{server_port()}"


def own_folder() -> Path:
    """The server's folder on this machine's own disk: `WSSS_MLFLOW_FOLDER`, else in the home folder, unless that is on
    a network file system."""
    if given := os.environ.get("WSSS_MLFLOW_FOLDER"):
        return Path(given)
    at_home = Path.home() / ".wsss" / "mlflow"
    return at_home if network_mount(at_home) is None else Path(f"/var/tmp/wsss-mlflow-{os.getuid()}")


@dataclass(frozen=True)
class ServerState:
    """A server of this machine, as it is noted in `own_folder()`."""

    address: str
    shared: str
    """The folder that all nodes share: artifacts, and the copy of the database."""
    pid: int
    """The process that restarts the server."""
    server: int = 0
    """The process group of the server itself; 0 before its first start."""

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    @property
    def listens(self) -> bool:
        """Whether the program that listens at the address is this server: another one may have taken its port."""
        return self.server > 0 and listens(self.port, group=self.server)

    @property
    def artifacts(self) -> Path:
        return Path(self.shared) / "artifacts"

    @property
    def copy(self) -> Path:
        return Path(self.shared) / "mlflow.db"


def database() -> Path:
    return own_folder() / "mlflow.db"


def read_state() -> ServerState | None:
    """The noted server; None if there was none on this machine."""
    try:
        return ServerState(**json.loads((own_folder() / "server.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None


def forget_state() -> None:
    (own_folder() / "server.json").unlink(missing_ok=True)


def write_state(state: ServerState) -> None:
    write_bytes(own_folder() / "server.json", json.dumps(asdict(state)).encode())


def refuse_stranger(address: str) -> None:
    """Raise ConnectionError if this is the address of this machine's server, but the server does not listen there.

    While it is away, for instance between a crash and its next start, another program may have taken its port.
    """
    state = read_state()
    if state is not None and state.address == address.rstrip("/") and not state.listens:
        raise ConnectionError(f"this machine's MLflow server does not run; its log is {own_folder() / 'log.txt'}")


def back_up(state: ServerState) -> bool:
    """Copy the database into the shared folder if it has changed since the last copy; True if it was copied.

    The copy is made on the local disk by SQLite, which may be writing at the same time, then moved as a whole.
    """
    if not database().exists():
        return False
    with FileLock(own_folder() / ".copy.lock"):
        changed = _changed()
        marker = own_folder() / "copied.txt"
        if marker.exists() and marker.read_text() == changed and state.copy.exists():
            return False
        temporary = own_folder() / f".copy-{uuid.uuid4().hex}.tmp"
        try:
            with closing(sqlite3.connect(database())) as source, closing(sqlite3.connect(temporary)) as target:
                source.backup(target)
            write_bytes(state.copy, temporary.read_bytes(), what="the copy of MLflow's database")
        finally:
            temporary.unlink(missing_ok=True)
        marker.write_text(changed)
    return True


def restore(state: ServerState) -> bool:
    """Start from the copy in the shared folder if this machine has no database; True if it was used.

    Raises ValueError if the copy is damaged: an empty database must not replace it.
    """
    if database().exists() or not state.copy.exists():
        return False
    if not state.copy.stat().st_size:  # for SQLite this is a database without tables
        raise ValueError(f"{state.copy} is damaged (it is empty); repair it, or move it away to start without records")
    temporary = own_folder() / f".restored-{os.getpid()}.tmp"
    temporary.write_bytes(state.copy.read_bytes())
    try:
        with closing(sqlite3.connect(temporary)) as copied:
            problem = copied.execute("PRAGMA quick_check").fetchone()[0]
    except sqlite3.DatabaseError as error:
        problem = str(error)
    if problem != "ok":
        temporary.unlink()
        raise ValueError(f"{state.copy} is damaged ({problem}); repair it, or move it away to start without records")
    temporary.replace(database())
    return True


def back_up_after_run(address: str, *, say: Callable[[str], object]) -> None:
    """Called when a run ends: copies the database if the run was recorded by this machine's server."""
    state = read_state()
    if state is None or state.address != address.rstrip("/"):
        return
    try:
        back_up(state)
    except (OSError, FileSystemError, sqlite3.Error) as error:
        say(f"the copy of MLflow's database in {state.shared} was not renewed: {error}")


def seconds_since_change() -> float:
    """Seconds since the database was last written to."""
    times = [0.0]
    for path in _files():
        with suppress(OSError):
            times.append(path.stat().st_mtime)
    return max(0.0, time.time() - max(times))


def _changed() -> str:
    """Changes with every write to the database."""
    return " ".join(f"{path.stat().st_mtime_ns}:{path.stat().st_size}" for path in _files() if path.exists())


def _files() -> list[Path]:
    return [database(), database().with_name("mlflow.db-wal")]
