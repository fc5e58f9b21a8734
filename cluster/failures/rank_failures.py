"""Failures of training ranks: which of several failures is the cause, and whether it would recur.

If one rank fails the others fail too: they wait for it, and lose their connection to it.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist

from cluster.failures.crash_files import CrashReport, exit_cause, kernel_kills, read_crash
from shards.file_system_errors import lasting_error
from wsss.contract.failure import Failure, OutOfGpuMemoryError, SmallerBatchError, failure_of


def rank_failure(error: Exception, *, rank: int) -> Failure:
    """The failure for an exception, created in the rank that raised it."""
    return failure_of(error, who=f"rank {rank}", final=is_final(error))


def is_final(error: Exception) -> bool:
    """False for errors that the death of another rank or a lost connection can cause: these are retried. So is a batch
    that did not fit into a GPU's memory, with smaller micro-batches.

    gloo raises plain RuntimeErrors if a peer is gone. A full disk and the like are final: they would recur.
    """
    if isinstance(error, OSError) and lasting_error(error, "") is not None:
        return True
    if isinstance(error, OutOfGpuMemoryError):
        return not isinstance(error, SmallerBatchError)
    transient = (OSError, dist.DistError, torch.AcceleratorError)
    return not isinstance(error, transient) and type(error) is not RuntimeError


def dead_rank(rank: int, *, code: int, pid: int, folder: Path, kernel_kills_before: int) -> Failure:
    """The failure for a rank on this machine whose process ended with an exit status and without an exception."""
    host = socket.gethostname()
    crash = read_crash(folder, host=host, pid=pid)
    cause = exit_cause(code, crash=crash, out_of_memory=kernel_kills() > kernel_kills_before)
    return died(rank, cause=cause, host=host, pid=pid, crash=crash)


def died(rank: int, *, cause: str, host: str, pid: int, crash: CrashReport) -> Failure:
    """The failure for a rank that ended without an exception; `cause` is a phrase."""
    failure = Failure(
        message=f"a rank ended: {cause}",
        who=f"rank {rank}",
        host=host,
        pid=pid,
        cause=cause,
        traceback=crash.stacks,
        final=False,
    )
    return failure.about(crash.work)


def cause_of(failures: Sequence[Failure], *, instance: str) -> Failure:
    """The failure that caused the others: a final one, else a death, else the first. Its report includes the others.
    If several ranks had final errors, its message names them all."""

    def order(failure: Failure) -> int:
        return 0 if failure.final else 1 if failure.cause != "exception" else 2

    first, *others = sorted(failures, key=order)
    also_final = [failure.message for failure in others if failure.final]
    message = "; ".join(dict.fromkeys([first.message, *also_final]))
    reports = [f"Another rank:\n{other.report()}" for other in others]
    return replace(first, instance=instance, message=message, traceback="\n".join([first.traceback, *reports]))
