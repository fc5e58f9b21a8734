"""Connects to Ray: starts a session on this machine, joins a running cluster, or uses the open session."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any

import ray
from ray._raylet import Config  # type: ignore[attr-defined]
from ray.exceptions import AuthenticationError

from cluster.session.address import check_address
from cluster.session.join_failure import check_token, not_joined
from cluster.session.ray_start import quiet_start
from cluster.session.shadowing import check_working_folder
from cluster.session.socket_folders import ray_folder

# Defaults; the user's own values take precedence. Ray reads these at the start of a session or a training, and its
# workers inherit them.
_ENVIRONMENT = {
    # Without a token, a session would run code for anybody on the network.
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    # Ray Train would change the ranks' working folder, so that relative paths of the driver would not resolve.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # Without a limit, a rank that never reports would block the others forever; 60 s is too short to start a machine.
    "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": "1800",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "900",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
}
_STARTS = 3


def prepare_environment() -> None:
    """Set the environment variables of Ray that the user has not set."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Ray read the variables when it was imported; this makes it read them again.
    Config.initialize("")


def connect(address: str | None) -> bool:
    """Join the cluster at `address`, or start a session on this machine if it is None.

    `address`: `auto` (from a node of the cluster), HOST:PORT, `ray://HOST:PORT` (from outside). On a cluster, workers
    import this package from their own environment: install it there, as `ray_cluster.yaml` does. On this machine they
    import the same modules as the driver.

    Returns False if a session is open already: it is used as it is, and left open.
    Raises ValueError if `address` does not have one of these forms, if no cluster answers there, if it refuses this
    process (another token, another version, too busy to start a process for it), or if workers would import modules of
    the working folder instead of this package.
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
    except OSError as error:
        raise ValueError(_no_answer(address, error)) from error
    check_token(address)
    try:
        with quiet_start():
            ray.init(address=address, **quiet)
    except (OSError, RuntimeError, AuthenticationError) as error:
        if address == "auto" and isinstance(error, ConnectionError):
            raise ValueError(_no_answer(address, error)) from error
        raise not_joined(address, error) from error
    return True


def _no_answer(address: str, error: Exception) -> str:
    return (
        f"no Ray cluster answers at {address} ({error}); "
        "use auto on one of its nodes, HOST:PORT or ray://HOST:10001; --on ray uses this machine only"
    )


def _start_session(**options: Any) -> None:
    """Start a session on this machine. Try again on a timeout: a busy machine may need more than Ray's 30 s."""
    folder, message = ray_folder()
    if folder is not None:
        print(message, file=sys.stderr)
        options["_temp_dir"] = folder
    for left in reversed(range(_STARTS)):
        try:
            # "local": without an address, Ray would join a session of RAY_ADDRESS or of an earlier `ray start`.
            with quiet_start():
                ray.init(address="local", num_cpus=max(2, os.cpu_count() or 2), include_dashboard=False, **options)
            return
        except Exception as error:
            # Ray has no exception class for this timeout.
            if left == 0 or "timed out during startup" not in str(error):
                raise


def _check_reachable(address: str) -> None:
    """Raise OSError if nothing listens at HOST:PORT; Ray itself would retry for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def thread_environment(threads: int) -> dict[str, dict[str, str]]:
    """The runtime environment of a worker with this many threads.

    Ray itself sets one thread per reserved CPU. Without a runtime environment it can reuse a process that is
    already running.
    """
    return {} if threads == 1 else {"env_vars": {"OMP_NUM_THREADS": str(threads)}}
