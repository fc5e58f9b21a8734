"""The option `--on`: where a recipe runs. The check does not import Ray, since that takes seconds."""

from __future__ import annotations

import re

_CLUSTER = re.compile(r"auto|(?:ray://)?(?:[^\s/:]+|\[[0-9a-fA-F:]+\]):(\d+)")
_ALLOWED = "auto (on a node of a cluster), HOST:PORT and ray://HOST:PORT"


def check_address(address: str, *, option: str = "--on") -> None:
    """Raise ValueError if `address`, the value of an option, does not have the form of a Ray cluster's address."""
    found = _CLUSTER.fullmatch(address)
    if found is None:
        here = "ray (this machine), local (without Ray), " if option == "--on" else ""
        raise ValueError(f"{option} {address}: allowed are {here}{_ALLOWED}")
    if found[1] and not 1 <= int(found[1]) <= 65535:
        raise ValueError(f"{option} {address}: {found[1]} is no port; allowed are 1 to 65535 (the head's is 6379)")


def check_place(place: str) -> None:
    """Raise ValueError if `place` is not a valid value of `--on`."""
    if place not in ("ray", "local"):
        check_address(place)


def connecting_line(place: str) -> str:
    """The message to print before Ray is imported and started; together they may take up to a minute."""
    if place == "local":  # only of a sweep
        return "starting Ray Tune, which suggests the trials; their stages run without Ray …"
    return "starting Ray on this machine …" if place == "ray" else f"connecting to Ray at {place} …"
