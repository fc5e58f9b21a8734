"""Says which records of a folder of runs are not in MLflow, so that nobody looks there for a run in vain."""

from __future__ import annotations

import shlex
import sqlite3
from pathlib import Path

from cluster.tracking.database_version import version_of
from cluster.tracking.outbox import Outbox
from cluster.tracking.tracking_address import sqlite_file, tracking_uri
from shards.wording import counted


def doctor_command(runs: Path) -> str:
    """The command that examines the store of a folder of runs and says how to mend it."""
    return f"wsss doctor --runs {shlex.quote(str(runs))}"


def undelivered(runs: Path, *, uri: str = "") -> list[str]:
    """Sentences about records that MLflow does not have, and about a database that takes none; empty if all is well."""
    found = waiting_records(runs)
    if other := _other_version(tracking_uri(uri, runs=runs)):
        found.append(f"{other}; {doctor_command(runs)} says how to mend it")
    return found


def waiting_records(runs: Path) -> list[str]:
    """Sentences about records that wait to be sent to MLflow, and about those that it rejected."""
    found = []
    outbox = Outbox(runs / "outbox")
    if waiting := len(outbox.waiting()):
        found.append(
            f"not in MLflow yet: {counted(waiting, 'record')} of runs in {outbox.folder}; the next wsss run or wsss "
            "sweep with this folder of runs delivers them, or says why not"
        )
    if rejected := len(list((outbox.folder / "rejected").glob("*.json"))):
        found.append(
            f"never in MLflow: {counted(rejected, 'record')} in {outbox.folder / 'rejected'}, which it rejected"
        )
    return found


def _other_version(address: str) -> str:
    file = sqlite_file(address)
    if file is None or not file.is_file():
        return ""
    try:
        version = version_of(file)
    except (sqlite3.Error, ValueError, OSError):
        return ""  # whoever reads it says so
    if version == "same":
        return ""
    return f"no run can be recorded: the database {file} is of {'an' if version == 'earlier' else 'a'} {version} MLflow"
