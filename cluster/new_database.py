"""A new SQLite database for MLflow appears whole or not at all.

Making its tables takes seconds. Where that is broken off, by a full disk or a signal, MLflow could never use the file.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from filelock import FileLock
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError


def make_whole(uri: str, make: Callable[[str], object]) -> None:
    """Where `uri` is a SQLite file that is not there yet, have it made beside its place and move it there.

    `make` is called with another address, and leaves all tables there.
    """
    path = _file_of(uri)
    if path is None or path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # Never the same name twice: MLflow keeps what it has opened under an address.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    with FileLock(path.with_name(f".{path.name}.lock")):
        if path.exists():  # another process was faster
            return
        try:
            make(make_url(uri).set(database=str(temporary)).render_as_string(hide_password=False))
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
    named = url.get_backend_name() == "sqlite" and url.database and not url.database.startswith((":memory:", "file:"))
    return Path(str(url.database)) if named else None
