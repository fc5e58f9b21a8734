"""The project's cluster file with the addresses of the test's hosts; nothing else of it is changed but sizes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

OBJECT_STORE_BYTES = 200_000_000
"""Several hosts share this machine's memory."""


def filled_in(file: Path, *, head: str, workers: Sequence[str], options: str = "") -> str:
    """The file's text for these addresses. `options` are added to every `ray start`."""
    cluster: dict[str, Any] = yaml.safe_load(file.read_text())
    cluster["provider"] |= {"head_ip": head, "worker_ips": list(workers)}
    for bound in ("min_workers", "max_workers"):
        if bound in cluster:
            cluster[bound] = len(workers)
    cluster["auth"] = {"ssh_user": "root", "ssh_private_key": "~/.ssh/id_ed25519"}
    more = f"--object-store-memory={OBJECT_STORE_BYTES} {options}".strip()
    for name in ("head_start_ray_commands", "worker_start_ray_commands"):
        cluster[name] = [f"{line} {more}" if "ray start" in line else line for line in cluster[name]]
    return yaml.safe_dump(cluster, sort_keys=False, width=10_000)
