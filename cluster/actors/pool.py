"""A pool of Ray actors that works through named shards and cannot hang.

Rules:
- The shard of an actor that died goes back into the queue.
- An actor that works on one shard for too long is killed, and counts as one that died.
- After two deaths on a shard its records are processed one at a time; the one that ends the process is set aside and
  recorded as missing, and the shard is done without it. More than `MAX_SET_ASIDE` such records stop the run.
- A shard on which `MAX_ATTEMPTS` actors died stops the run. The death of a node is not counted.
- A slot whose actor died more than `MAX_RESTARTS` times gets no further actor.
- Near the end an idle actor starts the slowest shard again; the first result counts.
- The run ends immediately if an actor raises an exception (it would raise it again), if it runs other code than this
  process, or if no actor can be started.
- Every death is reported when it is detected, and what is waited for is part of the state that is reported.
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from cluster.actors.pool_work import MAX_ATTEMPTS, STUCK, Done, PoolRun, Publish, Slot, Submit, Task
from cluster.failures.crash_files import kernel_kills
from cluster.failures.death_cause import NODE_DIED, PREEMPTED, actor_death, raised_failure
from cluster.session.same_code import CodeIdentity, OtherCodeError, own_identity, require_same
from cluster.session.shared_folder import SharedFolder, sees
from wsss.contract.failure import Failure, OnRestart, WorkFailedError, ignore_restart
from wsss.contract.stopping import raise_if_stopped

MAX_RESTARTS = 4
POLL_SECONDS = 1.0
STUCK_GRACE = 2.0
"""Seconds beyond `shard_seconds` in which an actor can write its stacks before it is killed."""
END_SECONDS = 10.0
"""How long to wait for the end of actors whose results are not needed."""
SAID_AFTER = 5.0
"""Seconds after which a state of waiting is reported, and then again."""

MakeActor = Callable[[], Any]
OnState = Callable[[str], None]
"""Called with what is waited for, in words; "" if nothing."""


class PoolError(WorkFailedError):
    """The pool cannot finish its shards; the failure names the shard and the cause."""


class _StuckError(Exception):
    """An actor is alive, but has worked on one shard for too long."""


class ActorPool:
    """At most `size` actors, created when first needed and kept from one `run` to the next."""

    def __init__(
        self,
        make_actor: MakeActor,
        *,
        size: int,
        start_seconds: float,
        shard_seconds: float = 0.0,
        needs: Mapping[str, float] | None = None,
        shared: SharedFolder | None = None,
    ) -> None:
        """`make_actor` must create an actor without Ray's own restarts and retries.

        `start_seconds`: how long to wait for the first actor; on a cluster, a machine may have to be started for it.
        `shard_seconds`: how long an actor may work on one shard; 0 for no limit. `needs`: Ray's resources of one actor;
        while others use these, the first actor is waited for without limit. `shared`: the folder that every actor must
        see.
        """
        self._make_actor = make_actor
        self._size = size
        self._start_seconds = start_seconds
        self._shard_seconds = shard_seconds
        self._needs = needs or {}
        self._shared = shared
        self._slots: list[Slot] = []

    def run(
        self,
        shards: Iterable[str],
        *,
        submit: Submit,
        done: Done,
        folder: Path | None = None,
        on_restart: OnRestart = ignore_restart,
        on_state: OnState = lambda state: None,
        publish: Publish | None = None,
        may_set_aside: bool = False,
    ) -> None:
        """Work through all shards, in any order; the functions are called in this thread.

        `folder`: where actors write what they are working on (`cluster.failures.crash_files`). `publish`: needed if
        results are written by the actors. `may_set_aside`: single records may be left out.
        Raises `PoolError`, after killing the actors that are still working.
        """
        run = PoolRun(deque(shards), submit, done, folder, on_restart, publish, may_set_aside)
        for slot in self._slots:
            slot.restarts = 0
        while len(self._slots) < min(self._size, len(run.pending)):
            self._slots.append(self._start(self._free_number()))
        try:
            self._work_through(run, on_state)
        except BaseException:
            at_work = [slot for slot in self._slots if slot.task is not None]
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

    def _start(self, number: int, restarts: int = 0) -> Slot:
        actor, kills = self._make_actor(), kernel_kills()
        call = actor.__ray_call__.remote(_introduce, str(self._shared.probe) if self._shared else "")
        return Slot(number, actor, call, since=time.monotonic(), restarts=restarts, kernel_kills=kills)

    def _end(self, slots: Iterable[Slot]) -> None:
        ended = list(slots)
        for slot in ended:
            ray.kill(slot.actor, no_restart=True)
        self._slots = [slot for slot in self._slots if slot not in ended]

    def _work_through(self, run: PoolRun, on_state: OnState) -> None:
        last_ready = said = time.monotonic()
        while run.left:
            raise_if_stopped()
            self._give_work(run)
            waiting = {slot.waiting_for: slot for slot in self._slots if slot.waiting_for is not None}
            finished, _ = ray.wait(list(waiting), num_returns=1, timeout=POLL_SECONDS)
            for reference in finished:
                self._handle_result(waiting[reference], run)
            self._replace_stuck(run)
            if any(slot.ready and not slot.ended for slot in self._slots):
                last_ready = time.monotonic()
            elif time.monotonic() - last_ready > self._start_seconds and not self._others_use_what_it_needs():
                raise PoolError(
                    Failure(
                        message=f"none of {len(self._slots)} actors started within {self._start_seconds:.0f} s; free "
                        f"in the cluster: {ray.available_resources()}; in total: {ray.cluster_resources()}"
                    )
                )
            if time.monotonic() - said > SAID_AFTER:
                said = time.monotonic()
                on_state(self._awaited(run))
        ended = {slot.waiting_for: slot for slot in self._slots if slot.ended}
        if ended:
            ray.wait(list(ended), num_returns=len(ended), timeout=END_SECONDS)
        for slot in ended.values():
            self._forget(slot, run)

    def _give_work(self, run: PoolRun) -> None:
        """Give every idle actor a pending shard or, near the end, the slowest one."""
        # An actor that is still starting gets no shard, since it may never come up.
        for slot in [slot for slot in self._slots if slot.is_idle]:
            if run.pending:
                slot.task = run.next_task()
            elif (late := run.slowest(self._slots)) is not None:
                run.copied.add(late.shard)
                slot.task = Task(late.shard, "copy", late.task.set_aside if late.task else ())
            else:
                continue
            slot.since = time.monotonic()
            slot.waiting_for = run.submit(slot.actor, slot.task)

    def _handle_result(self, slot: Slot, run: PoolRun) -> None:
        """Process the result of a slot's pending call."""
        try:
            result = ray.get(slot.waiting_for)
        except RayTaskError as error:
            if slot.ended:
                self._forget(slot, run)
                return
            raise PoolError(raised_failure(error, shard=slot.shard, host=slot.host, pid=slot.pid)) from error
        except RayError as error:
            if slot.ended:
                self._forget(slot, run)
            else:
                self._replace(slot, run, error)
            return
        task, slot.task, slot.waiting_for = slot.task, None, None
        if task is None:
            self._introduced(slot, *result)
        elif task.mode == "probe":
            run.pending.appendleft(task.shard)
        elif slot.ended and task.shard in run.staged:
            # It finished before it could be ended: its own result stands, the copy's is dropped.
            run.staged.discard(task.shard)
            self._finish(task.shard, result, run)
            self._end([slot])
        elif slot.ended:
            self._end([slot])
        else:
            self._finished(slot, task, result, run)

    def _finished(self, slot: Slot, task: Task, result: Any, run: PoolRun) -> None:
        """The first result of a shard: end the other actor that works on it, if there is one."""
        run.seconds.append(time.monotonic() - slot.since)
        others = [other for other in self._slots if other.shard == task.shard and not other.ended]
        for other in others:
            other.ended = True
            ray.kill(other.actor, no_restart=True)
        if task.mode == "copy" and run.publish is not None:
            run.staged.add(task.shard)
            if not any(other.shard == task.shard for other in self._slots):
                self._publish(task.shard, run)
            return
        self._finish(task.shard, result, run)

    def _finish(self, shard: str, result: Any, run: PoolRun) -> None:
        run.left.discard(shard)
        run.done(shard, result)

    def _publish(self, shard: str, run: PoolRun) -> None:
        assert run.publish is not None
        run.staged.discard(shard)
        run.publish(shard)
        self._finish(shard, None, run)

    def _forget(self, slot: Slot, run: PoolRun) -> None:
        """The end of an actor whose result is not needed is confirmed: now nothing else writes its shard."""
        shard = slot.shard
        run.crash_of(slot)
        self._end([slot])
        if shard in run.staged:
            self._publish(shard, run)

    def _introduced(self, slot: Slot, host: str, pid: int, identity: CodeIdentity, sees_folder: bool) -> None:
        slot.host, slot.pid = host, pid
        try:
            require_same(identity, who=f"actor {slot.number}")
        except OtherCodeError as error:
            raise PoolError(Failure(message=str(error), who=f"actor {slot.number}", host=host, pid=pid)) from error
        if self._shared is not None and not sees_folder:
            fault = Failure(message=self._shared.fault(host), who=f"actor {slot.number}", host=host, pid=pid)
            raise PoolError(fault)
        slot.ready = True

    def _replace_stuck(self, run: PoolRun) -> None:
        """Replace the actors that have worked on one shard for too long."""
        if not self._shard_seconds:
            return
        for slot in [slot for slot in self._slots if slot.task is not None and not slot.ended]:
            if time.monotonic() - slot.since > self._shard_seconds + STUCK_GRACE:
                # It may have finished in the meantime.
                if ray.wait([slot.waiting_for], timeout=0)[0]:
                    continue
                stuck = f"{STUCK}worked on one shard for more than runtime.shard_seconds = {self._shard_seconds:g}"
                self._replace(slot, run, _StuckError(stuck))

    def _replace(self, slot: Slot, run: PoolRun, error: RayError | _StuckError) -> None:
        """Put a dead actor's shard back into the queue and start a new actor in its slot."""
        if isinstance(error, RayActorError) and error.actor_init_failed:
            raise PoolError(Failure(message=f"an actor cannot start: {error}", traceback=str(error))) from error
        # A lost connection or result looks like a dead actor: kill it, so that it cannot continue unseen.
        ray.kill(slot.actor, no_restart=True)
        cause = str(error) if isinstance(error, _StuckError) else ""
        failure = actor_death(
            error,
            cause=cause,
            crash=run.crash_of(slot),
            who=f"actor {slot.number}",
            shard=slot.shard,
            host=slot.host,
            pid=slot.pid,
            kernel_kills_before=slot.kernel_kills,
        )
        aside_before = run.num_aside
        if slot.task is not None:
            failure = self._requeue(slot, run, failure, error)
        run.deaths.append(failure)
        if run.num_aside > aside_before:  # the record is to blame for these deaths, not a machine
            for one in self._slots:
                one.restarts = max(0, one.restarts - MAX_ATTEMPTS + 1)
        blamed = failure.cause not in (PREEMPTED, NODE_DIED) and run.num_aside == aside_before
        restarts = slot.restarts + 1 if blamed else slot.restarts
        index = self._slots.index(slot)
        if restarts <= MAX_RESTARTS:
            self._slots[index] = self._start(slot.number, restarts)
        else:
            del self._slots[index]
        if not self._slots:
            summary = f"every actor died more than {MAX_RESTARTS} times; the last"
            raise PoolError(run.with_deaths(failure, summary)) from error
        at_work = sum(one.ready and not one.ended for one in self._slots)
        awaited = f"{at_work} of {len(self._slots)} actors are ready, the others are starting"
        if run.on_restart is not None:
            run.on_restart(replace(failure, awaited=awaited))

    def _requeue(self, slot: Slot, run: PoolRun, failure: Failure, error: Exception) -> Failure:
        """Put the shard back into the queue, unless another actor works on it too."""
        shard = slot.shard
        failure = run.count_death(slot, failure)
        if reason := run.stop_reason(slot):
            raise PoolError(run.with_deaths(failure, reason)) from error
        if any(one is not slot and one.shard == shard and not one.ended for one in self._slots):
            return replace(failure, redone=f"nothing: another actor works on shard {shard} too")
        run.copied.discard(shard)
        run.pending.appendleft(shard)
        return failure

    def _others_use_what_it_needs(self) -> bool:
        """True if the cluster is large enough for an actor, but what it needs is in use."""
        total, free = ray.cluster_resources(), ray.available_resources()
        fits = all(total.get(name, 0.0) >= amount for name, amount in self._needs.items())
        return bool(self._needs) and fits and any(free.get(n, 0.0) < amount for n, amount in self._needs.items())

    def _awaited(self, run: PoolRun) -> str:
        """What is waited for, in words; "" if all actors are at work."""
        now = time.monotonic()
        starting = [slot for slot in self._slots if not slot.ready and not slot.ended]
        longest = max((now - slot.since for slot in starting), default=0.0)
        if longest > SAID_AFTER:
            busy = " while others use the cluster" if self._others_use_what_it_needs() else ""
            return f"waiting for {len(starting)} of {len(self._slots)} actors to start, for {longest:.0f} s{busy}"
        ending = sorted(run.staged)
        return f"waiting for the end of the actor whose copy of shard {ending[0]} finished first" if ending else ""


def _introduce(actor: object, probe: str) -> tuple[str, int, CodeIdentity, bool]:
    """Called in an actor; returns when the actor is ready. `probe`: a file that it must see; empty for none."""
    return socket.gethostname(), os.getpid(), own_identity(), sees(probe)
