"""The subcommands of `wsss cluster`; `cluster.command` implements them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from wsss.argument_parser import Parser

Add = Callable[..., Parser]
"""Adds a subcommand: its parent, name, line in the list, description, and examples."""


def add_cluster(commands: argparse._SubParsersAction[Parser], add: Add) -> None:
    """`wsss cluster` and its actions."""
    cluster = add(commands, "cluster", "check, end and secure a Ray cluster", "Check, end and secure a Ray cluster.")
    actions = cluster.add_subparsers(dest="action", metavar="ACTION", title="actions")
    _add_check(actions, add)
    _add_down(actions, add)
    _add_certificates(actions, add)
    _add_mlflow(actions, add)


def _add_check(actions: argparse._SubParsersAction[Parser], add: Add) -> None:
    check = add(
        actions,
        "check",
        "what would stop a cluster",
        "Check a cluster file, in the folder where `ray up` will be called; or all nodes\n"
        "of a running cluster; or this machine. Status 1 if anything is wrong.",
        "wsss cluster check ray_cluster.yaml",
        "wsss cluster check --running auto --runs runs",
        "wsss cluster check --here --runs runs",
    )
    check.add_argument("file", nargs="?", type=Path, metavar="FILE", help="a cluster file of `ray up`")
    check.add_argument(
        "--running",
        metavar="PLACE",
        help="ask the nodes of a cluster: auto (on a node of it), HOST:PORT or ray://HOST:PORT",
    )
    check.add_argument("--here", action="store_true", help="check this machine, as the nodes do before they start Ray")
    check.add_argument("--runs", type=Path, metavar="FOLDER", help="the shared folder of runs: check it too")


def _add_down(actions: argparse._SubParsersAction[Parser], add: Add) -> None:
    down = add(
        actions,
        "down",
        "stop a cluster of own machines",
        "Stop Ray on all machines of a cluster file (`ray down` stops the head alone),\n"
        "remove the token, the head's copy of the private key and the session folders,\n"
        "and list what stays. Machines of a cloud are ended by `ray down`.",
        "wsss cluster down cluster/onprem.yaml",
    )
    down.add_argument("file", type=Path, metavar="FILE", help="a cluster file with the provider local")
    down.add_argument("--keep-files", action="store_true", help="stop Ray only; token, key and logs stay")


def _add_certificates(actions: argparse._SubParsersAction[Parser], add: Add) -> None:
    certificates = add(
        actions,
        "certificates",
        "TLS between the nodes",
        "Make the certificate authority of a cluster in ~/.ray/tls, which is copied to\n"
        "all nodes; they then talk to each other by TLS. With --node, make a certificate\n"
        "for the addresses of this machine; the nodes do that by themselves.",
        "wsss cluster certificates",
    )
    certificates.add_argument("--node", type=Path, metavar="FOLDER", help="where the certificate of this machine goes")
    certificates.add_argument("--days", type=int, default=365, metavar="N", help="how long it is valid (default: 365)")


def _add_mlflow(actions: argparse._SubParsersAction[Parser], add: Add) -> None:
    mlflow = add(
        actions,
        "mlflow",
        "the MLflow of a cluster's head",
        "Keep a tunnel to the MLflow server on the head of a cluster open, until Ctrl-C.\n"
        "The cluster files start that server with --serve.",
        "wsss cluster mlflow ray_cluster.yaml",
    )
    what = mlflow.add_mutually_exclusive_group(required=True)
    what.add_argument("file", nargs="?", type=Path, metavar="FILE", help="the cluster file of `ray up`")
    what.add_argument(
        "--serve",
        type=Path,
        metavar="FOLDER",
        help="on the head: start the server in the background and print its address; artifacts and copies of its "
        "database go to this folder, which all nodes share",
    )
    what.add_argument("--stop", action="store_true", help="on the head: end the server, after a last copy")
    mlflow.add_argument("--port", type=int, default=5000, metavar="N", help="port on this machine (default: 5000)")
