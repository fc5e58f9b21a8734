"""The actions of `wsss cluster`; each is imported on use, since Ray takes seconds to import."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def run(options: argparse.Namespace) -> int:
    """Run the action that was parsed; returns the exit status."""
    return _ACTIONS[options.action](options)


def _check(options: argparse.Namespace) -> int:
    from cluster.check.command import check

    return check(options.file, running=options.running, here=options.here, runs=options.runs)


def _down(options: argparse.Namespace) -> int:
    from cluster.nodes.down import down

    return down(options.file, keep_files=options.keep_files)


def _certificates(options: argparse.Namespace) -> int:
    from cluster.nodes.certificates import certificates

    return certificates(options.node, days=options.days)


def _mlflow(options: argparse.Namespace) -> int:
    if options.serve is None and not options.stop:
        from cluster.check.usable import usable_cluster_file
        from cluster.tracking.mlflow_tunnel import open_tunnel

        return open_tunnel(usable_cluster_file(options.file).path, port=options.port)
    from cluster.tracking.mlflow_server import serve, stop

    if options.stop:
        print("".join(f"{line}\n" for line in stop()), end="")
    else:
        print(serve(options.serve))
    return 0


_ACTIONS: dict[str, Callable[[argparse.Namespace], int]] = {
    "check": _check,
    "down": _down,
    "certificates": _certificates,
    "mlflow": _mlflow,
}
