"""Checks of a cluster file for own machines (provider `local`): addresses, key, autoscaler."""

from __future__ import annotations

import base64
import ipaddress
import re
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from cluster.check.cluster_file import ClusterFile
from cluster.check.findings import Finding

_SECONDS = 5.0
"""For a machine to accept a connection at its SSH port."""
_SSH = 22
_LINES = 20
_PERSONAL_KEYS = {"id_rsa", "id_ecdsa", "id_ed25519", "id_dsa", "id_ecdsa_sk", "id_ed25519_sk", "identity"}
_PUBLIC_KEYS = ("ssh-", "ecdsa-", "sk-")
_OPENSSH = b"openssh-key-v1\0"
"""The start of a private key in OpenSSH's format; the name of its cipher follows, with its length before it."""


def check(file: ClusterFile) -> Iterator[Finding]:
    """Nothing for another provider."""
    if file.provider != "local":
        return
    provider = file.config["provider"]
    for old in ("head_node", "worker_nodes", "available_node_types"):
        if file.config.get(old):
            yield Finding(file.where(old), "Ray does not accept it for the provider local; remove it")
    if "coordinator_address" not in provider:
        yield from _addresses(file)
    yield from _key(file)
    yield from _autoscaler(file)


def _addresses(file: ClusterFile) -> Iterator[Finding]:
    provider = file.config["provider"]
    head, workers = str(provider.get("head_ip") or ""), [str(worker) for worker in provider.get("worker_ips") or []]
    if not head or not workers:
        missing = "worker_ips" if head else "head_ip"
        yield Finding(file.where("provider", missing), "is missing; name the addresses of the machines")
        return
    most = file.config.get("max_workers")
    if most is not None and most < len(workers):
        yield Finding(
            file.where("max_workers"),
            f"max_workers = {most}, but worker_ips names {len(workers)} machines; remove max_workers to use all",
        )
    for number, worker in enumerate(workers):
        if worker == head:
            yield Finding(
                file.where("provider", "worker_ips", number),
                f"{worker} is the head already; to let it compute too, remove --num-cpus=0 from its start command",
            )
        elif worker in workers[:number]:
            yield Finding(file.where("provider", "worker_ips", number), f"{worker} is named twice; remove one")
    places: list[tuple[str | int, ...]] = [
        ("provider", "head_ip"),
        *(("provider", "worker_ips", number) for number in range(len(workers))),
    ]
    named = list(zip(places, [head, *workers], strict=True))
    if (file.config.get("auth") or {}).get("ssh_proxy_command"):
        return  # the machines are reached through another one, whose address is in that command
    if outside := provider.get("external_head_ip"):
        # `ray up` is called from another network: only this address can be reached from here.
        named = [(("provider", "external_head_ip"), str(outside))]
    yield from _answers(file, [(keys, address) for keys, address in named if not _is_placeholder(address)])


def _is_placeholder(address: str) -> bool:
    return re.fullmatch(r"[A-Z_]+_ADDRESS|@.*@|<.*>", address) is not None


def _answers(file: ClusterFile, named: Sequence[tuple[tuple[str | int, ...], str]]) -> Iterator[Finding]:
    """Each address must be one that other machines can use, and accept connections at its SSH port."""
    with ThreadPoolExecutor(32) as threads:
        causes = threads.map(lambda part: _why_unreachable(part[1]), named)
        for (keys, address), cause in zip(named, causes, strict=True):
            if cause:
                yield Finding(file.where(*keys), f"{address} {cause}")


def _why_unreachable(name: str) -> str:
    try:
        found = socket.getaddrinfo(name.strip("[]"), _SSH, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return "has no address: the name is not known here; write the machine's address"
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if all(ipaddress.ip_address(address).is_loopback for address in addresses):
        return "is this machine's own loopback, which the other machines cannot reach; write its address in the network"
    causes = []
    for address in addresses:  # a name may have several, of which one answers
        if not (cause := _no_ssh(address)):
            return ""
        causes.append(cause)
    return causes[0]


def _no_ssh(address: str) -> str:
    """Why this is no SSH server: it must accept a connection and begin with `SSH-` (RFC 4253, section 4.2)."""
    try:
        connection = socket.create_connection((address, _SSH), timeout=_SECONDS)
    except OSError as error:
        cause = error.strerror or str(error)
        return f"does not answer at port {_SSH} ({cause}); are the address, the machine and its SSH server all right?"
    with connection, suppress(OSError), connection.makefile("rb") as lines:
        for _ in range(_LINES):  # other lines may come before it
            line = lines.readline(256)
            if line.startswith(b"SSH-"):
                return ""
            if not line:
                break
    return f"accepts connections at port {_SSH}, but no SSH server answers there; name a machine with one"


def _key(file: ClusterFile) -> Iterator[Finding]:
    where = file.where("auth", "ssh_private_key")
    given = str((file.config.get("auth") or {}).get("ssh_private_key") or "")
    if not given:
        yield Finding(where, "is missing: the head could not start the workers; name the private key")
        return
    key = Path(given).expanduser()
    if not key.is_file():
        yield Finding(where, f"there is no file {given}; make it: ssh-keygen -t ed25519 -N '' -f {given}")
        return
    if key.stat().st_mode & 0o077:
        yield Finding(where, f"others may read {given}, so that ssh refuses it; chmod 600 {given}")
    text = key.read_text(errors="replace")
    if text.startswith(_PUBLIC_KEYS):
        yield Finding(where, f"{given} is a public key; name the private one, usually the same without .pub")
    elif _has_passphrase(text):
        yield Finding(where, f"{given} has a passphrase, which nobody enters on the head; make a key without one")
    if key.name in _PERSONAL_KEYS:
        yield Finding(
            where,
            f"{given} is copied to the head (~/ray_bootstrap_key.pem) and stays there: whoever controls the head can "
            "use it wherever you can. A key of the cluster's own: ssh-keygen -t ed25519 -N '' -f ~/.ssh/wsss_cluster",
            refused=False,
        )


def _has_passphrase(key: str) -> bool:
    """Whether a private key is encrypted; OpenSSH's own format says so inside its base64."""
    if "ENCRYPTED" in key.partition("\n\n")[0]:
        return True
    body = "".join(line for line in key.splitlines() if not line.startswith("-----"))
    try:
        content = base64.b64decode(body)
    except ValueError:
        return False
    return content.startswith(_OPENSSH) and not content.startswith(_OPENSSH + b"\0\0\0\4none")


def _autoscaler(file: ClusterFile) -> Iterator[Finding]:
    starts = [command for command in file.commands("head_start_ray_commands") if "ray start" in command]
    if not any(re.search(r"RAY_enable_autoscaler_v2=0", command.partition("ray start")[0]) for command in starts):
        yield Finding(
            file.where("head_start_ray_commands"),
            "`ray up` selects the autoscaler v2, which counts the head as one of the workers and starts one machine "
            "too few. Put `export RAY_enable_autoscaler_v2=0;` before `ray start`",
        )
