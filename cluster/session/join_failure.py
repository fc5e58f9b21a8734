"""Why this process cannot join a cluster that listens: another token, or what Ray says.

Ray itself repeats a refused request for 20 to 30 s, and then reports that it failed to connect.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import grpc
from ray._private.grpc_utils import init_grpc_channel
from ray._private.services import canonicalize_bootstrap_address
from ray.exceptions import AuthenticationError

_SECONDS = 5.0
_CLUSTER, _CLIENT = "/ray.rpc.NodeInfoGcsService/CheckAlive", "/ray.rpc.RayletDriver/ClusterInfo"
"""Harmless requests that need the token, to HOST:PORT and to ray://HOST:PORT."""


def check_token(address: str) -> None:
    """Raise ValueError if this process has no token, or one that the cluster at `address` refuses.

    Silent if that cannot be found out.
    """
    try:
        if not _refuses(address):
            return
    except AuthenticationError as error:
        raise ValueError(
            f"the Ray cluster at {address} needs a token, and this process has none: copy ~/.ray/auth_token of the "
            "machine that started the cluster to ~/.ray/auth_token here, and chmod 600 it"
        ) from error
    raise ValueError(
        f"the Ray cluster at {address} refuses {_own_token()}; compare it with that of the head "
        "(sha256sum ~/.ray/auth_token there), and copy the right one into ~/.ray/auth_token here"
    )


def not_joined(address: str, error: Exception) -> ValueError:
    """The error for a cluster that listens at `address`, but that this process could not join."""
    cause = " ".join(str(error).split()) or type(error).__name__
    advice = ""
    if address.startswith("ray://") and ("startup failed" in cause or "timeout" in cause or "timed out" in cause):
        advice = (
            "; the head starts a process for every caller at ray://, and may be too busy: try again, or submit a job "
            "(ray job submit), which needs no such process. Its log: ray_client_server*.err in session_latest/logs"
        )
    elif "ersion mismatch" in cause:
        advice = "; install the versions of constraints.txt here and on the cluster"
    return ValueError(f"the Ray cluster at {address} answers, but this process cannot join it: {cause}{advice}")


def _refuses(address: str) -> bool:
    is_client = address.startswith("ray://")
    try:
        target = canonicalize_bootstrap_address(address) if address == "auto" else address.removeprefix("ray://")
        channel = init_grpc_channel(str(target)) if target else None
    except Exception:
        return False  # no address, no token, no certificate: ray.init says which
    if channel is None:
        return False
    try:
        call = channel.unary_unary(_CLIENT if is_client else _CLUSTER, request_serializer=bytes)
        call(b"", timeout=_SECONDS)
    except grpc.RpcError as error:
        return error.code() is grpc.StatusCode.UNAUTHENTICATED
    finally:
        channel.close()
    return False


def _own_token() -> str:
    """In words: where the token of this process is from, and a digest, by which two tokens can be compared."""
    if (mode := os.environ.get("RAY_AUTH_MODE", "")).lower() != "token":
        return f"a caller without a token (RAY_AUTH_MODE = {mode!r}: set it to token)"
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        place = "RAY_AUTH_TOKEN"
    else:
        token, place = path.read_text().strip() if path.is_file() else "", str(path)
    return f"the token of {place} (SHA-256 {hashlib.sha256(token.encode()).hexdigest()[:12]}…)"
