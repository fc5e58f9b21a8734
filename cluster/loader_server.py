"""The processes that read and augment for a rank: forked from a server that has imported what they need.

A loader's process of its own start imports torch and albumentations, some seconds of a core each; forked from the rank
itself it could inherit a lock that one of the rank's threads holds. The server is one process per rank without threads;
it starts while the rank is still busy with its own start, and ends after the last of its processes.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from multiprocessing import connection, forkserver

from cluster.socket_folders import use_short_folder_for_multiprocessing

START_METHOD = "forkserver"
_IMPORTED = ("torch.utils.data", "albumentations", "webdataset", "cluster.batches", "wsss.data.augmented_records")


def start_loader_server() -> None:
    """Start it, and return at once; a second call does nothing."""
    modules = [*_IMPORTED]
    if "ray" in sys.modules:  # a worker of Ray's starts its children with Ray's own main module
        modules.append("ray")
    use_short_folder_for_multiprocessing()
    multiprocessing.set_forkserver_preload(modules)
    forkserver.ensure_running()


def end_with_rank(worker: int) -> None:
    """In a loader's process: end when the rank ends, however that was.

    torch's own watch looks for another parent, but here the parent is the server, which lives as long as its children.
    """
    rank = multiprocessing.parent_process()
    assert rank is not None, "the loader starts this in a process of its own"

    def watch() -> None:
        connection.wait([rank.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
