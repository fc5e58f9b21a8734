"""What the driver stores in Ray's object store, and what is said if the store is full."""

from __future__ import annotations

from typing import Any

import ray
from ray._common.utils import get_default_ray_temp_dir
from ray.exceptions import ObjectStoreFullError, OutOfDiskError

from shards.file_system_errors import disk_of
from wsss.contract.failure import Failure, WorkFailedError

FULL = (ObjectStoreFullError, OutOfDiskError)


def put(value: Any) -> Any:
    """Ray's reference to a stored value. Raises `WorkFailedError` if the store is full and cannot use the disk."""
    try:
        return ray.put(value)
    except FULL as error:
        raise WorkFailedError(Failure(message=full_message(error), traceback=str(error))) from error


def full_message(error: BaseException) -> str:
    """Which store is full, and what to do."""
    memory, spill = disk_of("/dev/shm").describe(), disk_of(get_default_ray_temp_dir()).describe()
    return (
        f"Ray's object store is full ({type(error).__name__}); its memory is {memory}, the disk to which it spills is "
        f"{spill}. This program stores little there: end other drivers of the cluster, free the disk, or start Ray "
        "with a larger --object-store-memory; the same command resumes from what is finished"
    )
