"""Why a Ray worker died, in words: from Ray's error, the worker's crash files, and this machine's kernel."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator

from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError

from cluster.failures.crash_files import KILLED, KILLED_FOR_MEMORY, CrashReport, kernel_kills
from cluster.failures.object_store import FULL, full_message
from wsss.contract.failure import Failure, carried_failure

NODE_DIED = "its node died"
PREEMPTED = "its node was preempted"
_RAY_FREED_MEMORY = "out of memory: killed by Ray, because its node was low on memory"


def death_cause(error: BaseException, *, crash: CrashReport, kernel_killed: bool) -> str:
    """A short phrase. `kernel_killed`: the kernel of its machine has recently killed a process for lack of memory."""
    if name := crash.signal_name() or crash.work.get("ended", ""):
        return name
    text = " ".join(str(one) for one in _chain(error))
    if any(isinstance(one, OutOfMemoryError) for one in _chain(error)) or re.search(
        r"low on memory|memory press", text
    ):
        return _RAY_FREED_MEMORY
    if any(isinstance(one, RayActorError) and one.preempted for one in _chain(error)):
        return PREEMPTED
    if re.search(r"\bnode (has )?died\b|node was (terminated|drained)|node is dead", text, re.IGNORECASE):
        return NODE_DIED
    if "SIGTERM" in text:
        return "terminated by SIGTERM"
    if found := re.search(r"exit code (\d+)", text):
        return f"exit code {found.group(1)}"
    if kernel_killed:
        return KILLED_FOR_MEMORY
    if "connection error code 2" in text:
        return KILLED
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def actor_death(
    error: BaseException,
    *,
    cause: str,
    crash: CrashReport,
    who: str,
    shard: str,
    host: str,
    pid: int,
    kernel_kills_before: int,
) -> Failure:
    """The failure for an actor that died or was killed; `cause`: why, if it is known."""
    is_local = host == socket.gethostname()
    cause = cause or death_cause(error, crash=crash, kernel_killed=is_local and kernel_kills() > kernel_kills_before)
    failure = Failure(
        message=cause,
        who=who,
        shard=shard,
        host=host,
        pid=pid,
        cause=cause,
        traceback=crash.stacks or str(error),
        final=False,
    )
    return failure.about(crash.work)


def raised_failure(error: RayTaskError, *, shard: str, host: str, pid: int) -> Failure:
    """The failure for an exception that an actor raised."""
    cause = error.cause
    if isinstance(cause, FULL):
        return Failure(message=full_message(cause), shard=shard, host=host, pid=pid, traceback=str(error))
    if isinstance(cause, Exception) and (carried := carried_failure(cause)) is not None:
        return carried
    # The exception as the actor raised it, without Ray's wrapper.
    message = f"{type(cause).__name__}: {cause}" if isinstance(cause, Exception) else str(error)
    return Failure(message=message, shard=shard, host=host, pid=pid, traceback=str(error))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and the errors that it wraps, including Ray Train's wrappers."""
    known: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in known:
        known.add(id(one))
        yield one
        one = getattr(one, "health_check_failure", None) or one.__cause__
