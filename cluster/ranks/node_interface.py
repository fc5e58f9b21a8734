"""The network interface through which training ranks reach each other: the one with the address that Ray knows.

Without it gloo looks up the machine's own name and uses that address. Debian and Ubuntu write `127.0.1.1 <own name>`
into /etc/hosts, so that every rank would tell the others to connect to themselves. NCCL chooses an interface by name.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping

import psutil

VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
"""Read by torch and NCCL when a process group is created."""


class NoInterfaceError(ValueError):
    """No interface of this machine has the address under which Ray knows it."""


def use_interface_of(address: str) -> dict[str, str]:
    """Set the variables of gloo and NCCL to the interface with this address, unless the user has set them.

    Returns the values in use. Raises `NoInterfaceError` if no interface of this machine has the address.
    """
    open_to_us = [variable for variable in VARIABLES if not os.environ.get(variable)]
    if open_to_us:
        name = interface_of(address, addresses=interface_addresses())
        for variable in open_to_us:
            # NCCL takes the value as a prefix of names; "=" asks for this name.
            os.environ[variable] = f"={name}" if variable.startswith("NCCL") else name
    return {variable: os.environ[variable] for variable in VARIABLES}


def interface_of(address: str, *, addresses: Mapping[str, str]) -> str:
    """The interface with an address; `addresses`: address -> interface."""
    known = {_plain(one): name for one, name in addresses.items()}
    if name := known.get(_plain(address)):
        return name
    listed = ", ".join(f"{one} ({name})" for one, name in addresses.items()) or "none"
    raise NoInterfaceError(
        f"Ray knows this node as {address}, but no network interface here has this address: {listed}; start Ray on it "
        "with --node-ip-address=ADDRESS, one of these that the other nodes can reach, or set GLOO_SOCKET_IFNAME and "
        "NCCL_SOCKET_IFNAME to the interface between the nodes"
    )


def interface_addresses() -> dict[str, str]:
    """IP addresses of this machine -> interface."""
    found = {}
    for name, entries in psutil.net_if_addrs().items():
        for entry in entries:
            try:
                found[str(_plain(entry.address))] = name
            except ValueError:  # the address of a network card
                continue
    return found


def _plain(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The address without the interface that IPv6 appends to link-local ones."""
    return ipaddress.ip_address(address.strip("[]").partition("%")[0])
