"""Reads evaluations and their tables from MLflow. No other module of `tuning` reads MLflow.

A database is read with four SQL statements, however many runs it holds: MLflow's own client builds an object for every
tag, parameter and metric of a run, which takes 2.3 ms of CPU per evaluation, and its number of statements grows with
the runs. A server is read through the client.
"""

from __future__ import annotations

import json
import shlex
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.tracking.tracker import EXPERIMENT, KIND, SWEEP, DeletedExperimentError, connect
from cluster.tracking.tracking_address import sqlite_file, tracking_uri
from cluster.tracking.undelivered import doctor_command

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from sqlalchemy import Connection

_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_PAGE = 5000
"""Runs per request to a server; fewer requests than pages of MLflow's default, 1000."""
SPLITS = "splits"
"""The setting of an evaluation that names its splits; its parameter is `splits`, in older runs `INSTANCE.splits`."""
LISTED = ("image_list", "list_use")
"""The settings of an evaluation that name a list of its images."""
NUM_IMAGES = ".images"
"""The end of a metric of an evaluation: `SPLIT.images`, the number of measured images."""
KEPT, CHANGED = "wsss.kept", "wsss.changed_settings"
"""Tags of a pipeline's run: `wsss.kept.INSTANCE`, the run of a stage that an earlier pipeline computed; and the
settings that differ from the recipe's file, in words."""


class UnreadableError(RuntimeError):
    """The tracking store cannot be read; the message says which one and why."""


@dataclass(frozen=True, kw_only=True)
class StoredRun:
    """A run as MLflow holds it, with the latest value of its metrics."""

    run_id: str
    status: str
    started: float
    """Unix time in seconds."""
    ended: float
    """Unix time in seconds; the start time if the run has not ended."""
    tags: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    """Splits and list of images of an evaluation; all parameters of a sweep's pipeline without the tag `CHANGED`."""


def stored_runs(runs: Path, *, uri: str, kinds: Iterable[str], metrics: Iterable[str]) -> list[StoredRun]:
    """The runs of these kinds (`wsss.kind`) in order of their start, with these metrics and the numbers of images.

    Raises `UnreadableError`.

    No store yet: no runs; nothing is created.
    """
    address = tracking_uri(uri, runs=runs)
    file = sqlite_file(address)
    if file is not None and not file.exists():
        if not file.parent.exists():
            raise UnreadableError(f"there is no folder {file.parent}; wsss run creates it, --runs names another")
        return []
    read = _from_database if _is_database(address) else _from_server
    try:
        return read(address, tuple(kinds), tuple(metrics))
    except DeletedExperimentError as error:
        raise UnreadableError(str(error)) from error
    except Exception as error:  # every kind of store has its own errors
        raise _unreadable(address, error, runs=runs) from error


def recorded_table(run_id: str, name: str, *, runs: Path, uri: str = "") -> list[dict[str, Any]] | None:
    """The rows of a table that a stage recorded, or None if it recorded no table of that name."""
    address = tracking_uri(uri, runs=runs)
    try:
        client = connect(address)
        if f"{name}.json" not in {file.path for file in client.list_artifacts(run_id)}:
            return None
        with tempfile.TemporaryDirectory() as folder:
            content = json.loads(Path(client.download_artifacts(run_id, f"{name}.json", folder)).read_bytes())
    except Exception as error:
        raise _unreadable(address, error, runs=runs) from error
    return [dict(zip(content["columns"], values, strict=True)) for values in content["data"]]


def _is_database(address: str) -> bool:
    return address.partition(":")[0].partition("+")[0] in _DATABASES


def _from_database(address: str, kinds: tuple[str, ...], metrics: tuple[str, ...]) -> list[StoredRun]:
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    file = sqlite_file(address)
    options = {} if file is None else {"creator": _opener(file)}
    engine = create_engine(address, poolclass=NullPool, **options)
    with engine.connect() as connection:
        found = _select_runs(connection, address, kinds)
        _add_values(connection, found, metrics)
    return list(found.values())


def _opener(file: Path) -> Any:
    """Opens a SQLite file by its path, whatever characters that has, for reading only."""
    import sqlite3

    return lambda: sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)


def _select_runs(connection: Connection, address: str, kinds: tuple[str, ...]) -> dict[str, StoredRun]:
    from sqlalchemy import bindparam, text

    experiment = connection.execute(
        text("SELECT experiment_id, lifecycle_stage FROM experiments WHERE name = :name"), {"name": EXPERIMENT}
    ).first()
    if experiment is None:
        return {}
    _require_active(address, str(experiment[0]), experiment[1])
    chosen = text(
        "SELECT runs.run_uuid, runs.status, runs.start_time, runs.end_time FROM runs JOIN tags ON "
        "tags.run_uuid = runs.run_uuid AND tags.key = :kind WHERE runs.experiment_id = :experiment AND "
        "runs.lifecycle_stage = 'active' AND tags.value IN :kinds ORDER BY runs.start_time, runs.run_uuid"
    ).bindparams(bindparam("kinds", expanding=True))
    rows = connection.execute(chosen, {"kind": KIND, "experiment": experiment[0], "kinds": kinds})
    return {
        run_id: StoredRun(run_id=run_id, status=status, started=start / 1000, ended=(end or start) / 1000)
        for run_id, status, start, end in rows
    }


def _add_values(connection: Connection, found: Mapping[str, StoredRun], metrics: tuple[str, ...]) -> None:
    """Tags, metrics and parameters, with one statement each."""
    from sqlalchemy import bindparam, text

    for run_id, key, value in connection.execute(text("SELECT run_uuid, key, value FROM tags")):
        if run_id in found:
            found[run_id].tags[key] = value
    named = text(
        "SELECT run_uuid, key, value FROM latest_metrics WHERE (key IN :names OR key LIKE :images) AND NOT is_nan"
    )
    values = {"names": metrics, "images": f"%{NUM_IMAGES}"}
    rows = connection.execute(named.bindparams(bindparam("names", expanding=True)), values)
    for run_id, key, value in rows:
        if run_id in found:
            found[run_id].metrics[key] = value
    wanted = text(
        "SELECT run_uuid, key, value FROM params WHERE key IN :own OR key LIKE :splits OR run_uuid IN "
        "(SELECT run_uuid FROM tags WHERE key = :sweep) AND run_uuid NOT IN "
        "(SELECT run_uuid FROM tags WHERE key = :changed)"
    ).bindparams(bindparam("own", expanding=True))
    names = {"own": (SPLITS, *LISTED), "splits": f"%.{SPLITS}", "sweep": SWEEP, "changed": CHANGED}
    for run_id, key, value in connection.execute(wanted, names):
        if run_id in found:
            found[run_id].params[key] = value


def _from_server(address: str, kinds: tuple[str, ...], metrics: tuple[str, ...]) -> list[StoredRun]:
    client = connect(address)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return []
    _require_active(address, str(experiment.experiment_id), experiment.lifecycle_stage)
    found = [run for kind in kinds for run in _search(client, str(experiment.experiment_id), kind, metrics)]
    return sorted(found, key=lambda run: (run.started, run.run_id))


def _search(client: MlflowClient, experiment: str, kind: str, metrics: tuple[str, ...]) -> Iterator[StoredRun]:
    token: str | None = None
    while token is None or token:
        page = client.search_runs(
            [experiment],
            f"tags.`{KIND}` = '{kind}'",
            max_results=_PAGE,
            order_by=["attributes.start_time ASC"],
            page_token=token,
        )
        for run in page:
            tags, params = run.data.tags, run.data.params
            yield StoredRun(
                run_id=run.info.run_id,
                status=run.info.status,
                started=run.info.start_time / 1000,
                ended=(run.info.end_time or run.info.start_time) / 1000,
                tags=dict(tags),
                metrics={
                    key: one for key, one in run.data.metrics.items() if key in metrics or key.endswith(NUM_IMAGES)
                },
                params={key: value for key, value in params.items() if _is_read(key, tags)},
            )
        token = page.token or ""


def _is_read(key: str, tags: Mapping[str, str]) -> bool:
    """Whether a parameter of a run with these tags is in `StoredRun.params`."""
    return key in (SPLITS, *LISTED) or key.endswith(f".{SPLITS}") or (SWEEP in tags and CHANGED not in tags)


def _require_active(address: str, experiment: str, stage: str) -> None:
    if stage != "active":
        raise DeletedExperimentError(address, experiment)


def _unreadable(address: str, error: Exception, *, runs: Path) -> UnreadableError:
    reason = _first_line(getattr(error, "orig", None) or error)
    if not _is_database(address):
        return UnreadableError(
            f"MLflow at {address} cannot be read: {reason}; start its server, or give another address with "
            "--tracking-uri, runtime.tracking_uri or MLFLOW_TRACKING_URI"
        )
    if any(words in str(error) for words in ("no such", "does not exist", "doesn't exist")):
        return UnreadableError(
            f"the database at {address} is not one of this version of MLflow ({reason}); mlflow db upgrade "
            f"{shlex.quote(address)} upgrades an older one; a newer one needs the MLflow that wrote it; "
            f"{doctor_command(runs)} says which it is"
        )
    return UnreadableError(
        f"the database at {address} cannot be read: {reason}; {doctor_command(runs)} examines it; or give another "
        "address with --tracking-uri, runtime.tracking_uri or MLFLOW_TRACKING_URI"
    )


def _first_line(error: object) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
