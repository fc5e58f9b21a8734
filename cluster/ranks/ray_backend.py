"""Prepares Ray Train's workers before their process group is made: same code as the driver, and the right interface."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

from cluster.ranks.node_interface import NoInterfaceError, use_interface_of
from cluster.session.same_code import CodeIdentity, OtherCodeError, own_identity, require_same
from cluster.session.shared_folder import SharedFolder, sees
from cluster.training.fit_files import RankError
from shards.file_system_errors import FileSystemError
from shards.files import write_bytes
from wsss.contract.failure import Failure

_RANKS = "ranks.json"


@dataclass(frozen=True)
class RankProcess:
    """Where one rank runs."""

    host: str
    pid: int
    address: str
    """The address under which Ray knows its node."""


@dataclass
class NodeTorchConfig(TorchConfig):
    """Ray Train's configuration of torch, with what our preparation of its workers needs."""

    driver: CodeIdentity | None = None
    folder: str = ""
    """Where the started ranks are listed (`started_ranks`)."""
    instance: str = ""
    shared: SharedFolder | None = None
    """The folder that every rank must see."""

    @property
    def backend_cls(self) -> type[Any]:
        return _NodeBackend


class _NodeBackend(_TorchBackend):
    """Runs in Ray Train's controller. Errors raised here end the training: they would recur."""

    def on_start(self, worker_group: Any, backend_config: NodeTorchConfig) -> None:
        try:
            identities = worker_group.execute(own_identity)
        except ray.exceptions.RayTaskError as error:
            raise _refused(backend_config, 0, f"a rank cannot say what code it runs ({error.cause})") from error
        for rank, identity in enumerate(identities):
            try:
                require_same(identity, who=f"rank {rank}", driver=backend_config.driver)
            except OtherCodeError as error:
                raise _refused(backend_config, rank, str(error)) from error
        prepared = worker_group.execute(_prepare_rank, backend_config.shared)
        for rank, (process, fault) in enumerate(prepared):
            if fault:
                raise _refused(backend_config, rank, fault, process)
        super().on_start(worker_group, backend_config)
        with suppress(OSError, FileSystemError):
            ranks = [asdict(process) for process, _ in prepared]
            write_bytes(Path(backend_config.folder) / _RANKS, json.dumps(ranks).encode())

    def on_shutdown(self, worker_group: Any, backend_config: NodeTorchConfig) -> None:
        forget_ranks(Path(backend_config.folder))
        super().on_shutdown(worker_group, backend_config)


def _prepare_rank(shared: SharedFolder | None) -> tuple[RankProcess, str]:
    """Called in each rank's process. Returns where it runs, and what is wrong there, if anything."""
    address = ray.util.get_node_ip_address()
    process = RankProcess(socket.gethostname(), os.getpid(), address)
    try:
        use_interface_of(address)
    except NoInterfaceError as error:
        return process, str(error)
    return process, "" if shared is None or sees(str(shared.probe)) else shared.fault(process.host)


def _refused(config: NodeTorchConfig, rank: int, message: str, process: RankProcess | None = None) -> RankError:
    host, pid = (process.host, process.pid) if process else ("", 0)
    return RankError(Failure(message=message, who=f"rank {rank}", instance=config.instance, host=host, pid=pid))


def started_ranks(folder: Path) -> Sequence[RankProcess]:
    """The ranks that are at work, in order; empty while they are being started."""
    try:
        return [RankProcess(**one) for one in json.loads((folder / _RANKS).read_bytes())]
    except (OSError, ValueError, TypeError):
        return []


def forget_ranks(folder: Path) -> None:
    """Called when the ranks have ended."""
    with suppress(OSError):
        (folder / _RANKS).unlink(missing_ok=True)
