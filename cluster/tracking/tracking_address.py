"""MLflow tracking URIs, including SQLite files in folders of any name, and shell commands printed for the user."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote

from cluster.tracking.mlflow_folder import read_state
from cluster.tracking.network_folders import network_mount

SQLITE = "sqlite:///"
_READ_AS_ADDRESS = re.compile(r"\?|%(?=[0-9A-Fa-f]{2})")
"""Parts of a path that a URI would interpret: the start of a query, and a percent-encoded character."""


def tracking_uri(uri: str, *, runs: Path) -> str:
    """The tracking URI: the one given, else `MLFLOW_TRACKING_URI`, else a SQLite file in `runs`."""
    return _given(uri) or sqlite_address(runs / "mlflow.db")


def why_not_written(uri: str, *, runs: Path) -> str:
    """Why no record is delivered to the default database of this folder of runs; "" if they are.

    On a network file system two drivers could damage a SQLite file. Raises ValueError for one that was named there.
    """
    file = sqlite_file(tracking_uri(uri, runs=runs))
    if file is None or (mount := network_mount(file)) is None:
        return ""
    where = f"a network file system ({mount.kind} at {mount.folder}), where SQLite's locks are not reliable"
    cure = "runtime.tracking_uri or MLFLOW_TRACKING_URI to a server, or to a file on a local disk, such as "
    home = Path.home() if network_mount(Path.home()) is None else Path("/var/tmp")
    cure += f"{SQLITE}{home / 'mlflow.db'}"
    if _given(uri):
        raise ValueError(f"MLflow's database {file} would be on {where}; set {cure}")
    return f"{runs} is on {where}, and no server is named; to deliver them, run once more with {cure}"


def _given(uri: str) -> str:
    return uri or os.environ.get("MLFLOW_TRACKING_URI", "")


def sqlite_address(file: Path) -> str:
    """The URI of a SQLite file: its unchanged path, except that `?` and the `%` of `%41` are percent-encoded."""
    return SQLITE + _READ_AS_ADDRESS.sub(lambda found: f"%{ord(found[0]):02X}", str(file))


def sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite URI; None for any other store."""
    if not uri.startswith(SQLITE) or uri.startswith(SQLITE + "file:"):
        return None
    return Path(unquote(uri.removeprefix(SQLITE).partition("?")[0]))


def open_command(uri: str, *, runs: Path) -> str:
    """The shell command that shows the runs in a browser; a server that it starts listens on this machine only."""
    address = tracking_uri(uri, runs=runs)
    if (server := read_state()) is not None and server.address == address:
        return "wsss cluster mlflow FILE"  # on the user's machine, with the cluster file
    if address.startswith(("http://", "https://")):
        return f"python -m webbrowser -t {shlex.quote(address)}"
    return f"{_mlflow()} ui --backend-store-uri {shlex.quote(address)} --host 127.0.0.1 --port 5000"


def server_of(uri: str, *, runs: Path) -> str:
    """The server whose pages show the runs: the one they are sent to, or the one that `open_command` starts."""
    address = tracking_uri(uri, runs=runs)
    return address if address.startswith(("http://", "https://")) else "http://127.0.0.1:5000"


def runs_page(experiment: str, *, server: str) -> str:
    """The address of the page with the runs of an experiment.

    MLflow's pages remember whether their reader works on language models or on training. The address chooses the
    latter: only in an older version of the pages does the experiment's own tag decide that.
    """
    return f"{server.rstrip('/')}/#/experiments/{experiment}/runs?workflowType=machine_learning"


def restore_command(uri: str, *, experiment: str) -> str:
    """The shell command that restores a deleted experiment."""
    return f"MLFLOW_TRACKING_URI={shlex.quote(uri)} {_mlflow()} experiments restore --experiment-id {experiment}"


def _mlflow() -> str:
    """The command `mlflow`, with the path next to the interpreter if the environment is not activated."""
    beside = Path(sys.executable).with_name("mlflow")
    if shutil.which("mlflow") or not beside.exists():
        return "mlflow"
    return shlex.quote(str(beside.relative_to(Path.cwd()) if beside.is_relative_to(Path.cwd()) else beside))


@contextmanager
def without_stray_folders(uri: str) -> Iterator[None]:
    """Remove empty folders that MLflow creates if a URI has `%3F` for a `?`, because it does not decode the path."""
    folder = Path(uri.removeprefix(SQLITE)).parent
    file = sqlite_file(uri)
    strays = []
    if file is not None and file.parent != folder:
        strays = [one for one in (folder, *folder.parents) if not one.exists()]
    yield
    for stray in strays:
        with suppress(OSError):
            stray.rmdir()
