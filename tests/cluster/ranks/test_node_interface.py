"""Ranks use the interface whose address Ray knows, also where /etc/hosts names 127.0.1.1, as Debian writes it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.ranks.node_interface import (
    VARIABLES,
    NoInterfaceError,
    interface_addresses,
    interface_of,
    use_interface_of,
)

ROOT = Path(__file__).parents[3]
ADDRESSES = {"127.0.0.1": "lo", "10.0.0.7": "ens5", "fe80::1%ens5": "ens5", "fd00::2": "ens6"}


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in VARIABLES:
        monkeypatch.setenv(variable, "")  # so that monkeypatch restores what the functions set


@pytest.mark.parametrize(
    ("address", "name"), [("10.0.0.7", "ens5"), ("127.0.0.1", "lo"), ("[fd00::2]", "ens6"), ("fd00:0::2", "ens6")]
)
def test_interface_of_an_address(address: str, name: str) -> None:
    assert interface_of(address, addresses=ADDRESSES) == name


def test_an_address_of_no_interface_is_an_error_that_lists_them() -> None:
    with pytest.raises(
        NoInterfaceError, match=r"knows this node as 203\.0\.113\.9, but .*10\.0\.0\.7 \(ens5\).*--node-ip-address"
    ):
        interface_of("203.0.113.9", addresses=ADDRESSES)


def test_own_interfaces_are_found_and_what_the_user_has_set_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    loopback = interface_addresses()["127.0.0.1"]
    assert use_interface_of("127.0.0.1") == {"GLOO_SOCKET_IFNAME": loopback, "NCCL_SOCKET_IFNAME": f"={loopback}"}
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "ib0")
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "ib0")
    assert use_interface_of("203.0.113.9") == {"GLOO_SOCKET_IFNAME": "ib0", "NCCL_SOCKET_IFNAME": "ib0"}


HOSTS = {"10.77.9.1": "wsssa", "10.77.9.2": "wsssb"}


@pytest.fixture
def two_hosts() -> Iterator[None]:
    """Two network namespaces, joined by a cable."""
    commands = [
        "ip netns add wsssa",
        "ip netns add wsssb",
        "ip link add wsssa0 netns wsssa type veth peer name wsssb0 netns wsssb",
        *(f"ip -n {name} addr add {address}/24 dev {name}0" for address, name in HOSTS.items()),
        *(f"ip -n {name} link set {device} up" for name in HOSTS.values() for device in ("lo", f"{name}0")),
    ]
    try:
        for command in commands:
            try:
                subprocess.run(command.split(), check=True, capture_output=True, text=True)
            except (OSError, subprocess.CalledProcessError) as error:
                reason = getattr(error, "stderr", "") or str(error)
                pytest.skip(f"NOT RUN: network namespaces cannot be made here ({reason.strip()})")
        yield
    finally:
        for name in HOSTS.values():
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def ranks(folder: Path, *, prepared: bool) -> list[str]:
    """What two ranks print, each on a host of its own whose /etc/hosts is as Debian's installer writes it."""
    started = []
    for rank, (address, name) in enumerate(HOSTS.items()):
        hosts = folder / name
        hosts.write_text(f"127.0.0.1 localhost\n127.0.1.1 {name}\n")
        words = [str(rank), address, next(iter(HOSTS)), "yes" if prepared else "no"]
        inside = ["sh", "-c", f'mount --bind {hosts} /etc/hosts && hostname {name} && exec "$@"', "sh"]
        command = ["ip", "netns", "exec", name, "unshare", "--mount", "--uts", *inside]
        command += [sys.executable, "-m", "tests.cluster.gloo_rank", *words]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        environment = {k: v for k, v in os.environ.items() if k not in VARIABLES} | {"PYTHONPATH": str(ROOT)}
        started.append(subprocess.Popen(command, cwd=ROOT, env=environment, **pipes))  # type: ignore[call-overload]
    return [process.communicate(timeout=120)[0] for process in started]


@pytest.mark.extended
@pytest.mark.usefixtures("two_hosts")
def test_ranks_on_two_hosts_meet_where_their_names_mean_127_0_1_1(tmp_path: Path) -> None:
    control = ranks(tmp_path, prepared=False)
    assert not any("sum" in printed for printed in control), "without the interface, each rank names itself 127.0.1.1"
    assert all("sum 3" in printed for printed in ranks(tmp_path, prepared=True))
