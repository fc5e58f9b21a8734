"""Error messages of Ray 2.60 are reduced to one phrase."""

from __future__ import annotations

import pytest
from ray.exceptions import OutOfMemoryError, RayActorError

from cluster.failures.crash_files import KILLED, KILLED_FOR_MEMORY, CrashReport, exit_cause
from cluster.failures.death_cause import PREEMPTED, death_cause

NOTHING = CrashReport({}, "")
CRASHED = CrashReport({}, "Fatal Python error: Bus error\n\nCurrent thread 0x1 (most recent call first):\n")
GONE = (
    "Worker exit type: SYSTEM_ERROR Worker exit detail: Worker unexpectedly exits with a connection error code 2. End "
    "of file. Some common causes include: (1) the process was killed by the OOM killer due to high memory usage"
)


def actor_error(words: str, *, preempted: bool = False) -> RayActorError:
    return RayActorError(error_msg=words, preempted=preempted)


@pytest.mark.parametrize(
    ("error", "crash", "kernel_killed", "cause"),
    [
        (actor_error(GONE), NOTHING, False, KILLED),
        (actor_error(GONE), NOTHING, True, KILLED_FOR_MEMORY),
        (actor_error(GONE), CRASHED, True, "bus error (SIGBUS)"),
        (actor_error("exits unexpectedly. Worker exits with an exit code 4."), NOTHING, False, "exit code 4"),
        (actor_error("with an exit code 1. The process receives a SIGTERM."), NOTHING, False, "terminated by SIGTERM"),
        (actor_error("The actor died because its node has died."), NOTHING, False, "its node died"),
        (actor_error("node has died", preempted=True), NOTHING, False, PREEMPTED),
        (actor_error("something\nelse"), NOTHING, False, "something"),
    ],
)
def test_cause(error: RayActorError, crash: CrashReport, kernel_killed: bool, cause: str) -> None:
    assert death_cause(error, crash=crash, kernel_killed=kernel_killed) == cause


def test_memory_that_ray_freed() -> None:
    cause = death_cause(OutOfMemoryError("x"), crash=NOTHING, kernel_killed=False)
    assert cause.startswith("out of memory: killed by Ray")


@pytest.mark.parametrize(
    ("code", "out_of_memory", "cause"),
    [
        (3, False, "exit code 3"),
        (-9, False, "killed by SIGKILL"),
        (-9, True, KILLED_FOR_MEMORY),
        (-15, False, "killed by SIGTERM"),
    ],
)
def test_exit_status(code: int, out_of_memory: bool, cause: str) -> None:
    assert exit_cause(code, crash=NOTHING, out_of_memory=out_of_memory) == cause
