"""The option `--on`: where a recipe runs. The check does not import Ray, since that takes seconds."""

from __future__ import annotations

import re

_CLUSTER = re.compile(r"auto|(ray://)?[^\s/:]+:\d+|(ray://)?\[[0-9a-fA-F:]+\]:\d+")


def check_address(address: str) -> None:
    """Raise ValueError if `address` does not have the form of a Ray cluster's address."""
    if not _CLUSTER.fullmatch(address):
        raise ValueError(
            f"--on {address}: allowed are ray (this machine), local (without Ray), auto (on a node of a cluster), "
            "HOST:PORT and ray://HOST:PORT"
        )


def check_place(place: str) -> None:
    """Raise ValueError if `place` is not a valid value of `--on`."""
    if place not in ("ray", "local"):
        check_address(place)


def connecting_line(place: str) -> str:
    """The message to print before Ray is imported and started; together they may take up to a minute."""
    return "starting Ray on this machine …" if place in ("ray", "local") else f"connecting to Ray at {place} …"
