"""The option `--on`: where a recipe runs. Checked without importing Ray, which takes seconds."""

from __future__ import annotations

import re

_CLUSTER = re.compile(r"auto|(ray://)?[^\s/:]+:\d+|(ray://)?\[[0-9a-fA-F:]+\]:\d+")


def check_address(address: str) -> None:
    """Raise ValueError where this cannot be the address of a Ray cluster."""
    if not _CLUSTER.fullmatch(address):
        raise ValueError(
            f"--on {address}: allowed are ray (this machine), local (without Ray), auto (on a node of a cluster), "
            "HOST:PORT and ray://HOST:PORT"
        )


def check_place(place: str) -> None:
    """Raise ValueError for a value that `--on` does not take."""
    if place not in ("ray", "local"):
        check_address(place)


def connecting_line(place: str) -> str:
    """What to say before Ray is imported and a session starts, which may take up to a minute together."""
    return "starting Ray on this machine …" if place in ("ray", "local") else f"connecting to Ray at {place} …"
