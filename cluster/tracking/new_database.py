"""Creates a SQLite database for MLflow atomically.

Creating its tables takes seconds. If that is interrupted, by a full disk or a signal, MLflow cannot use the file.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from filelock import FileLock
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError


def create_atomically(uri: str, create: Callable[[str], object]) -> None:
    """If `uri` names a SQLite file that does not exist yet, create it under a temporary name and rename it.

    `create` is called with the temporary file's URI, and must create all tables.
    """
    path = _file_of(uri)
    if path is None or path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # A unique name, because MLflow caches the databases that it has opened by URI.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    with FileLock(path.with_name(f".{path.name}.lock")):
        if path.exists():  # another process has created it meanwhile
            return
        try:
            create(make_url(uri).set(database=str(temporary)).render_as_string(hide_password=False))
            temporary.replace(path)
        finally:
            for leftover in (temporary, temporary.with_name(f"{temporary.name}-journal")):
                with suppress(OSError):
                    leftover.unlink(missing_ok=True)


def _file_of(uri: str) -> Path | None:
    try:
        url = make_url(uri)
    except ArgumentError:
        return None
    is_file = url.get_backend_name() == "sqlite" and url.database and not url.database.startswith((":memory:", "file:"))
    return Path(str(url.database)) if is_file else None
