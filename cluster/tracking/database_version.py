"""Whether a SQLite database of MLflow has the form of the installed version, without importing MLflow."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

_BUSY_SECONDS = 5.0


def version_of(file: Path) -> Literal["same", "earlier", "later"]:
    """The version of MLflow that a database is of, compared with the installed one; `same` if that is not known.

    Raises `sqlite3.Error` or ValueError if it is no database of MLflow.
    """
    uri = f"{file.absolute().as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, timeout=_BUSY_SECONDS)) as connection:
        ((revision,),) = connection.execute("SELECT version_num FROM alembic_version").fetchall()
    known, newest = schema_revisions()
    if revision == newest or not known:
        return "same"
    return "earlier" if revision in known else "later"


def schema_revisions() -> tuple[frozenset[str], str]:
    """The forms of the database that the installed MLflow knows, and the newest, from its files of migrations."""
    spec = find_spec("mlflow")
    if spec is None or spec.origin is None:
        return frozenset(), ""
    revisions: set[str] = set()
    replaced: set[str] = set()
    for path in (Path(spec.origin).parent / "store" / "db_migrations" / "versions").glob("*.py"):
        text = path.read_text()
        revisions |= set(re.findall(r"^revision\s*=\s*[\"'](\w+)[\"']", text, re.MULTILINE))
        replaced |= set(re.findall(r"^down_revision\s*=\s*[\"'](\w+)[\"']", text, re.MULTILINE))
    newest = revisions - replaced
    return frozenset(revisions), next(iter(newest)) if len(newest) == 1 else ""
