"""Connecting to Ray: a session on this machine, a running cluster, or the session that is open already."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any

import ray
from ray._raylet import Config  # type: ignore[attr-defined]

from cluster.address import check_address
from cluster.ray_start import quiet_start
from cluster.shadowing import check_working_folder
from cluster.socket_folders import ray_folder

# What a user has set stands. Ray reads these when a session or a training starts, and its workers inherit them.
_ENVIRONMENT = {
    # A session whose workers do not ask for a token runs code for anybody on the network.
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    # Ray Train would move ranks into a folder of its own, and paths relative to the driver's would not resolve.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # Without a limit a rank that never reports stops the others for ever; 60 s are too few for a machine to come up.
    "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": "1800",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "900",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
}
_STARTS = 3


def prepare_environment() -> None:
    """Set Ray's variables where the user has not."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Ray read the variables when it was imported; this is how it takes in its own later changes of them.
    Config.initialize("")


def connect(address: str | None) -> bool:
    """Join the cluster at `address`, or start a session on this machine where there is none given.

    `address`: `auto` (from a node of the cluster), HOST:PORT, `ray://HOST:PORT` (from outside). On a cluster, workers
    import this package from their own environment: install it there, as `ray_cluster.yaml` does. On this machine they
    import what the driver imports.

    Returns False where a session is open already: it is used as it is, and left open.
    Raises ValueError where `address` is of no such form, where no cluster answers there, or where workers would import
    modules of the working folder in place of this package.
    """
    if ray.is_initialized():
        return False
    check_working_folder(Path.cwd())
    prepare_environment()
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        _start_session(**quiet)
        return True
    check_address(address)
    try:
        _check_reachable(address)
        with quiet_start():
            ray.init(address=address, **quiet)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"no Ray cluster answers at {address} ({error}); "
            "give auto on one of its nodes, HOST:PORT or ray://HOST:10001, or --on ray for this machine alone"
        ) from error
    return True


def _start_session(**options: Any) -> None:
    """A session on this machine. Ray gives its own processes 30 s to come up, which a busy machine may exceed."""
    folder, told = ray_folder()
    if folder is not None:
        print(told, file=sys.stderr)
        options["_temp_dir"] = folder
    for left in reversed(range(_STARTS)):
        try:
            # "local": without an address Ray joins whatever RAY_ADDRESS or an earlier `ray start` left behind.
            with quiet_start():
                ray.init(address="local", num_cpus=max(2, os.cpu_count() or 2), include_dashboard=False, **options)
            return
        except Exception as error:
            # Ray has no class of its own for it.
            if left == 0 or "timed out during startup" not in str(error):
                raise


def _check_reachable(address: str) -> None:
    """Raise OSError where nobody listens at HOST:PORT: Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def thread_environment(threads: int) -> dict[str, dict[str, str]]:
    """The runtime environment of a worker with so many threads.

    Ray sets one thread per reserved CPU by itself, and without an environment it takes a process that is there already.
    """
    return {} if threads == 1 else {"env_vars": {"OMP_NUM_THREADS": str(threads)}}
