"""A server from which a rank's loader processes are forked, with their modules already imported.

A spawned loader process would import torch and albumentations itself, which takes seconds of CPU time per process. A
process forked from the rank could inherit a lock held by one of the rank's threads. The server is one process per rank
without threads. It starts in parallel with the rank's own start-up, and ends after the last of its processes.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from multiprocessing import connection, forkserver

from cluster.session.socket_folders import use_short_folder_for_multiprocessing

START_METHOD = "forkserver"
_IMPORTED = (
    "torch.utils.data",
    "albumentations",
    "webdataset",
    "cluster.training.batches",
    "wsss.data.augmented_records",
)


def start_loader_server() -> None:
    """Start the server and return without waiting for it; a second call does nothing."""
    modules = [*_IMPORTED]
    if "ray" in sys.modules:  # a Ray worker's child processes run Ray's main module
        modules.append("ray")
    use_short_folder_for_multiprocessing()
    multiprocessing.set_forkserver_preload(modules)
    forkserver.ensure_running()


def end_with_rank(worker: int) -> None:
    """Called in a loader's process: exit when the rank ends for any reason.

    torch's own watchdog waits for the parent to change. Here the parent is the server, which outlives its children.
    """
    rank = multiprocessing.parent_process()
    assert rank is not None, "must be called in a process started by the loader"

    def watch() -> None:
        connection.wait([rank.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
