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
    from cluster.down import down

    return down(options.file, keep_files=options.keep_files)


def _certificates(options: argparse.Namespace) -> int:
    from cluster.certificates import certificates

    return certificates(options.node, days=options.days)


_ACTIONS: dict[str, Callable[[argparse.Namespace], int]] = {
    "check": _check,
    "down": _down,
    "certificates": _certificates,
}
