"""Ports, Ray, MLflow and DeepSpeed's operators."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from cluster.doctor.examined import Examined
from cluster.session.shadowing import check_working_folder
from cluster.session.socket_folders import ray_folder
from cluster.tracking.database_version import version_of
from cluster.tracking.tracking_address import sqlite_file, tracking_uri
from cluster.tracking.undelivered import waiting_records

PORTS = {8265: "Ray's dashboard", 6379: "a head that `ray start --head` starts", 5000: "the page of MLflow"}
_SECONDS = 5.0


def examine_ports(ports: dict[int, str] | None = None) -> Iterator[Examined]:
    """Whether this machine lets programs listen on 127.0.0.1, and which of the usual ports are taken."""
    try:
        with socket.create_server(("127.0.0.1", 0)):
            pass
    except OSError as error:
        yield Examined("fault", "ports", f"no program may listen on 127.0.0.1 ({error.strerror})", "ip link set lo up")
        return
    taken = {port: use for port, use in (ports or PORTS).items() if _is_taken(port)}
    for port, use in taken.items():
        yield Examined("note", "ports", f"{port} is in use: {use}, or another program", f"ss -ltnp 'sport = :{port}'")
    if not taken:
        yield Examined("ok", "ports", f"free: {', '.join(map(str, ports or PORTS))}")


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def examine_ray(working_folder: Path) -> Iterator[Examined]:
    """What keeps Ray from starting here, without starting it."""
    try:
        check_working_folder(working_folder)
        _, message = ray_folder()
    except (ValueError, RuntimeError) as error:
        yield Examined("fault", "Ray", str(error))
        return
    if message:
        yield Examined("note", "Ray", message)
    if address := os.environ.get("RAY_ADDRESS"):
        found = f"RAY_ADDRESS = {address} is set: `ray` commands ask that cluster"
        yield Examined("note", "Ray", found, "unset RAY_ADDRESS")
    elif not message:
        yield Examined("ok", "Ray", "nothing here keeps it from starting; --start tries it")


def examine_mlflow(runs: Path) -> Iterator[Examined]:
    """The store that runs would be recorded in: a server that answers, or a database of this version."""
    for sentence in waiting_records(runs):
        yield Examined("note", "MLflow", sentence)
    uri = tracking_uri("", runs=runs)
    file = sqlite_file(uri)
    if file is not None:
        yield _database(file, uri)
    elif uri.startswith(("http://", "https://")):
        yield _server(uri)
    else:
        yield Examined("ok", "MLflow", f"records go to {uri.partition('://')[0]} (not asked)")


def _server(uri: str) -> Examined:
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=_SECONDS) as answer:
            return Examined("ok", "MLflow", f"the server {uri} answers ({answer.status})")
    except urllib.error.HTTPError as error:
        cure = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" if error.code in (401, 403) else ""
        return Examined("fault", "MLflow", f"the server {uri} answers {error.code} {error.reason}", cure)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        found = f"the server {uri} does not answer ({reason}); records wait in runs/outbox until it does"
        return Examined("note", "MLflow", found, "start it, or unset MLFLOW_TRACKING_URI")


def _database(file: Path, uri: str) -> Examined:
    if not file.is_file():
        return Examined("ok", "MLflow", f"the first run makes its database {file}")
    try:
        version = version_of(file)
    except (sqlite3.Error, ValueError) as error:
        return Examined("fault", "MLflow", f"{file} is no database of MLflow ({error})", f"mv {file} {file}.old")
    if version == "same":
        return Examined("ok", "MLflow", f"the database {file} has this version's form")
    if version == "earlier":
        return Examined(
            "fault",
            "MLflow",
            f"{file} is of an earlier MLflow",
            f"mlflow db upgrade {shlex.quote(uri)}   # copy it first",
        )
    return Examined("fault", "MLflow", f"{file} is of a later MLflow than is installed", "pip install --upgrade mlflow")


def examine_deepspeed() -> Iterator[Examined]:
    """DeepSpeed's compiled operators, from its list of what was built: none is needed here."""
    spec = find_spec("deepspeed")
    if spec is None or spec.origin is None:
        return  # reported with the packages
    try:
        text = (Path(spec.origin).parent / "git_version_info_installed.py").read_text()
    except OSError:
        text = ""
    built = sorted(re.findall(r"'(\w+)': True", text.partition("installed_ops=")[2].partition("}")[0]))
    compiler = shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++")
    operators = f"operators built: {', '.join(built)}" if built else "no operators are built, and none is needed"
    found = f"{operators}: trainings use torch's optimizers"
    if not compiler:
        found += "; there is no C++ compiler, which only settings of your own that need operators would use"
    yield Examined("ok", "DeepSpeed", found)
