"""Artifacts of a folder of runs that was moved: MLflow stores their absolute addresses in its database."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from cluster.tracking.tracking_address import sqlite_file

ARTIFACTS = "mlartifacts"
DATABASE = "mlflow.db"
_STORE = "store"
_BUSY_SECONDS = 20.0
_LOCATIONS = (
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Tables and columns with addresses of artifacts."""


def follow_moved_runs(uri: str) -> None:
    """If `uri` is the database of a folder of runs that was moved or copied, let its artifacts be found in the folder.

    Other databases, and artifacts that are stored elsewhere, are left alone. MLflow has no call for this.
    """
    file = sqlite_file(uri)
    if file is None or file.name != DATABASE or not file.is_file() or not _is_folder_of_runs(file.parent):
        return
    here = file.parent.absolute() / ARTIFACTS
    with closing(sqlite3.connect(file, timeout=_BUSY_SECONDS)) as database, database:
        try:
            written = database.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
        except sqlite3.OperationalError:  # MLflow has not made its tables yet
            return
        for (location,) in written:
            if _has_moved(str(location), here, database):
                _replace(database, str(location), here.as_uri())


def _is_folder_of_runs(folder: Path) -> bool:
    return (folder / ARTIFACTS).is_dir() or (folder / _STORE).is_dir()


def _has_moved(location: str, here: Path, database: sqlite3.Connection) -> bool:
    before = _path_of(location)
    if before is None or before.name != ARTIFACTS or before == here:
        return False
    if not before.exists():
        return True
    if here.exists() and before.samefile(here):  # the folder has two names
        return False
    uris = database.execute("SELECT artifact_uri FROM runs").fetchall()
    tails = [str(uri).removeprefix(location).strip("/") for (uri,) in uris if str(uri).startswith(f"{location}/")]
    return any((here / tail).exists() for tail in tails)


def _path_of(location: str) -> Path | None:
    """The path of a file URI, or of a plain absolute path."""
    parts = urlsplit(location)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return Path(location) if not parts.scheme and location.startswith("/") else None


def _replace(database: sqlite3.Connection, before: str, now: str) -> None:
    database.execute("UPDATE experiments SET artifact_location = ? WHERE artifact_location = ?", (now, before))
    for table, column in _LOCATIONS:
        database.execute(
            f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
            (now, len(before) + 1, len(before) + 1, f"{before}/"),
        )
