"""A pool of Ray actors that works through named shards and cannot hang.

Rules:
- The shard of an actor that died goes back into the queue.
- An actor that works on one shard for too long is killed, and counts as one that died.
- A shard on which `MAX_ATTEMPTS` actors died stops the run.
- A slot whose actor died more than `MAX_RESTARTS` times gets no further actor.
- The run ends immediately if an actor raises an exception (it would raise it again), if it runs other code than this
  process, or if no actor can be started.
- Every death is reported when it is detected.
"""

from __future__ import annotations

import os
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from cluster.crash_files import CrashReport, kernel_kills, read_crash
from cluster.death_cause import death_cause
from cluster.same_code import CodeIdentity, OtherCodeError, own_identity, require_same
from wsss.contract.failure import Failure, OnRestart, WorkFailedError, carried_failure, ignore_restart
from wsss.contract.stopping import raise_if_stopped

MAX_ATTEMPTS = 3
MAX_RESTARTS = 4
POLL_SECONDS = 1.0
STUCK_GRACE = 2.0
"""Seconds beyond `shard_seconds` in which an actor can write its stacks before it is killed."""

MakeActor = Callable[[], Any]
Submit = Callable[[Any, str], Any]
"""Called with (actor, shard): starts the work on one shard and returns Ray's reference to its result."""
Done = Callable[[str, Any], None]
"""Called with (shard, result) for every finished shard."""


class PoolError(WorkFailedError):
    """The pool cannot finish its shards; the failure names the shard and the cause."""


class _StuckError(Exception):
    """An actor is alive, but has worked on one shard for too long."""


@dataclass(eq=False)
class _Slot:
    """A slot for one actor, which is starting, working on a shard, or idle."""

    number: int
    actor: Any
    waiting_for: Any
    """Ray's reference to the pending call: the start, then the work on a shard; None if the actor is idle."""
    shard: str | None = None
    since: float = 0.0
    """When the work on the shard began (`time.monotonic`)."""
    ready: bool = False
    restarts: int = 0
    host: str = ""
    pid: int = 0
    kernel_kills: int = 0
    """How many processes this machine's kernel had killed for lack of memory when the actor started."""


class ActorPool:
    """At most `size` actors, created when first needed and kept from one `run` to the next."""

    def __init__(self, make_actor: MakeActor, *, size: int, start_seconds: float, shard_seconds: float = 0.0) -> None:
        """`make_actor` must create an actor without Ray's own restarts and retries.

        `start_seconds`: how long to wait for the first actor; on a cluster, a machine may have to be started for it.
        `shard_seconds`: how long an actor may work on one shard; 0 for no limit.
        """
        self._make_actor = make_actor
        self._size = size
        self._start_seconds = start_seconds
        self._shard_seconds = shard_seconds
        self._slots: list[_Slot] = []

    def run(
        self,
        shards: Iterable[str],
        *,
        submit: Submit,
        done: Done,
        folder: Path | None = None,
        on_restart: OnRestart = ignore_restart,
    ) -> None:
        """Work through all shards, in any order; `done` and `on_restart` are called in this thread.

        `folder`: where actors write what they are working on (`cluster.crash_files`).
        Raises `PoolError`, after killing the actors that are still working.
        """
        run = _Run(deque(shards), submit, done, folder, on_restart)
        for slot in self._slots:
            slot.restarts = 0
        while len(self._slots) < min(self._size, len(run.pending)):
            self._slots.append(self._start(self._free_number()))
        try:
            self._work_through(run)
        except BaseException:
            at_work = [slot for slot in self._slots if slot.shard is not None]
            self._end(at_work)
            for slot in at_work:
                run.crash_of(slot)  # removes its crash files
            raise

    def close(self) -> None:
        """Kill all actors without waiting."""
        self._end(self._slots)

    def _free_number(self) -> int:
        taken = {slot.number for slot in self._slots}
        return next(number for number in range(1, len(taken) + 2) if number not in taken)

    def _start(self, number: int, restarts: int = 0) -> _Slot:
        actor = self._make_actor()
        kills = kernel_kills()
        return _Slot(number, actor, actor.__ray_call__.remote(_introduce), restarts=restarts, kernel_kills=kills)

    def _end(self, slots: Iterable[_Slot]) -> None:
        ended = list(slots)
        for slot in ended:
            ray.kill(slot.actor, no_restart=True)
        self._slots = [slot for slot in self._slots if slot not in ended]

    def _work_through(self, run: _Run) -> None:
        last_ready = time.monotonic()
        while run.pending or any(slot.shard for slot in self._slots):
            raise_if_stopped()
            # An actor that is still starting gets no shard, since it may never come up.
            for slot in self._slots:
                if slot.ready and slot.shard is None and run.pending:
                    slot.shard, slot.since = run.pending.popleft(), time.monotonic()
                    slot.waiting_for = run.submit(slot.actor, slot.shard)
            waiting = {slot.waiting_for: slot for slot in self._slots if slot.waiting_for is not None}
            finished, _ = ray.wait(list(waiting), num_returns=1, timeout=POLL_SECONDS)
            for reference in finished:
                self._handle_result(waiting[reference], run)
            self._replace_stuck(run)
            if any(slot.ready for slot in self._slots):
                last_ready = time.monotonic()
            elif time.monotonic() - last_ready > self._start_seconds:
                raise PoolError(
                    Failure(
                        message=f"none of {len(self._slots)} actors started within {self._start_seconds:.0f} s; free "
                        f"in the cluster: {ray.available_resources()}; in total: {ray.cluster_resources()}"
                    )
                )

    def _handle_result(self, slot: _Slot, run: _Run) -> None:
        """Process the result of a slot's pending call."""
        try:
            result = ray.get(slot.waiting_for)
        except RayTaskError as error:
            raise PoolError(_raised(error, slot)) from error
        except RayError as error:
            self._replace(slot, run, error)
            return
        shard, slot.shard, slot.waiting_for = slot.shard, None, None
        if shard is not None:
            run.done(shard, result)
        elif not slot.ready:
            slot.host, slot.pid, identity = result
            try:
                require_same(identity, who=f"actor {slot.number}")
            except OtherCodeError as error:
                failure = Failure(message=str(error), who=f"actor {slot.number}", host=slot.host, pid=slot.pid)
                raise PoolError(failure) from error
            slot.ready = True

    def _replace_stuck(self, run: _Run) -> None:
        """Replace the actors that have worked on one shard for too long."""
        if not self._shard_seconds:
            return
        for slot in list(self._slots):
            if slot.shard is not None and time.monotonic() - slot.since > self._shard_seconds + STUCK_GRACE:
                # It may have finished in the meantime.
                if ray.wait([slot.waiting_for], timeout=0)[0]:
                    continue
                stuck = f"stuck: worked on one shard for more than runtime.shard_seconds = {self._shard_seconds:g}"
                self._replace(slot, run, _StuckError(stuck))

    def _replace(self, slot: _Slot, run: _Run, error: RayError | _StuckError) -> None:
        """Put a dead actor's shard back into the queue and start a new actor in its slot."""
        if isinstance(error, RayActorError) and error.actor_init_failed:
            raise PoolError(Failure(message=f"an actor cannot start: {error}", traceback=str(error))) from error
        # A lost connection or result looks like a dead actor: kill it, so that it cannot continue unseen.
        ray.kill(slot.actor, no_restart=True)
        failure = _died(slot, run.crash_of(slot), error)
        run.deaths.append(failure)
        if slot.shard is not None:
            run.attempts[slot.shard] += 1
            if run.attempts[slot.shard] >= MAX_ATTEMPTS:
                raise PoolError(
                    run.with_deaths(failure, f"{MAX_ATTEMPTS} actors died while working on it; the last")
                ) from error
            run.pending.appendleft(slot.shard)
        index = self._slots.index(slot)
        if slot.restarts < MAX_RESTARTS:
            run.on_restart(failure)
            self._slots[index] = self._start(slot.number, slot.restarts + 1)
            return
        del self._slots[index]
        if not self._slots:
            summary = f"every actor died more than {MAX_RESTARTS} times; the last"
            raise PoolError(run.with_deaths(failure, summary)) from error
        run.on_restart(failure)


@dataclass
class _Run:
    """The state of one call of `ActorPool.run`."""

    pending: deque[str]
    submit: Submit
    done: Done
    folder: Path | None
    on_restart: OnRestart
    attempts: Counter[str] = field(default_factory=Counter)
    deaths: list[Failure] = field(default_factory=list)

    def crash_of(self, slot: _Slot) -> CrashReport:
        """The crash files of the slot's actor, which are removed."""
        if self.folder is None or not slot.host:
            return CrashReport({}, "")
        return read_crash(self.folder, host=slot.host, pid=slot.pid)

    def with_deaths(self, last: Failure, summary: str) -> Failure:
        """The last death, with `summary` before its message and all earlier deaths in its report."""
        before = [f"An earlier death:\n{death.report()}" for death in self.deaths if death is not last]
        return replace(last, message=f"{summary}: {last.message}", traceback="\n".join([last.traceback, *before]))


def _introduce(actor: object) -> tuple[str, int, CodeIdentity]:
    """Called in an actor; returns when the actor is ready."""
    return socket.gethostname(), os.getpid(), own_identity()


def _raised(error: RayTaskError, slot: _Slot) -> Failure:
    """The failure for an exception that an actor raised."""
    cause = error.cause
    if isinstance(cause, Exception) and (carried := carried_failure(cause)) is not None:
        return carried
    # The exception as the actor raised it, without Ray's wrapper.
    message = f"{type(cause).__name__}: {cause}" if isinstance(cause, Exception) else str(error)
    return Failure(message=message, shard=slot.shard or "", host=slot.host, pid=slot.pid, traceback=str(error))


def _died(slot: _Slot, crash: CrashReport, error: RayError | _StuckError) -> Failure:
    """The failure for an actor that died or was killed."""
    is_local = slot.host == socket.gethostname()
    if isinstance(error, _StuckError):
        cause = str(error)
    else:
        cause = death_cause(error, crash=crash, kernel_killed=is_local and kernel_kills() > slot.kernel_kills)
    failure = Failure(
        message=cause,
        who=f"actor {slot.number}",
        shard=slot.shard or "",
        host=slot.host,
        pid=slot.pid,
        cause=cause,
        traceback=crash.stacks or str(error),
        final=False,
    )
    return failure.about(crash.work)
