"""A pool of Ray actors that works through named shards and cannot hang.

Rules: the work of an actor that died goes back into the queue; a shard that loses `MAX_ATTEMPTS` actors stops the run;
a slot whose actor died more than `MAX_RESTARTS` times is given up; the run ends at once where an actor raises an
exception (it would raise it again) or where no actor can be had.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

MAX_ATTEMPTS = 3
MAX_RESTARTS = 4
POLL_SECONDS = 1.0

MakeActor = Callable[[], Any]
Submit = Callable[[Any, str], Any]
"""Called with (actor, shard): starts the work on one shard and returns Ray's reference to its result."""
Done = Callable[[str, Any], None]
"""Called with (shard, result) for every shard that is finished."""


class PoolError(RuntimeError):
    """The pool cannot finish its shards; the message says which, and why."""


@dataclass(eq=False)
class _Slot:
    """A place for one actor. It is starting, at work on a shard, or idle."""

    actor: Any
    waiting_for: Any
    """Ray's reference to what is under way: the start, then the work; None where the actor is idle."""
    shard: str | None = None
    ready: bool = False
    restarts: int = 0


class ActorPool:
    """At most `size` actors, made when first needed and kept from one `run` to the next."""

    def __init__(self, make_actor: MakeActor, *, size: int, start_seconds: float) -> None:
        """`make_actor` makes an actor without restarts or retries of its own.

        `start_seconds` is how long to wait for a first actor: on a cluster, the time in which a machine comes up.
        """
        self._make_actor = make_actor
        self._size = size
        self._start_seconds = start_seconds
        self._slots: list[_Slot] = []

    def run(self, shards: Iterable[str], *, submit: Submit, done: Done) -> None:
        """Work through all shards, in any order; `done` is called in this thread.

        Raises `PoolError`; what is under way then is cancelled by ending its actors.
        """
        run = _Run(deque(shards), submit, done)
        for slot in self._slots:
            slot.restarts = 0
        while len(self._slots) < min(self._size, len(run.pending)):
            self._slots.append(self._start())
        try:
            self._work_through(run)
        except BaseException:
            self._end(slot for slot in self._slots if slot.shard is not None)
            raise

    def close(self) -> None:
        """End all actors, and wait for nothing."""
        self._end(self._slots)

    def _start(self, restarts: int = 0) -> _Slot:
        actor = self._make_actor()
        return _Slot(actor, actor.__ray_ready__.remote(), restarts=restarts)

    def _end(self, slots: Iterable[_Slot]) -> None:
        ended = list(slots)
        for slot in ended:
            ray.kill(slot.actor, no_restart=True)
        self._slots = [slot for slot in self._slots if slot not in ended]

    def _work_through(self, run: _Run) -> None:
        last_ready = time.monotonic()
        while run.pending or any(slot.shard for slot in self._slots):
            # An actor that is still starting is given no work: it may never come up.
            for slot in self._slots:
                if slot.ready and slot.shard is None and run.pending:
                    slot.shard = run.pending.popleft()
                    slot.waiting_for = run.submit(slot.actor, slot.shard)
            waiting = {slot.waiting_for: slot for slot in self._slots if slot.waiting_for is not None}
            finished, _ = ray.wait(list(waiting), num_returns=1, timeout=POLL_SECONDS)
            for reference in finished:
                self._settle(waiting[reference], run)
            if any(slot.ready for slot in self._slots):
                last_ready = time.monotonic()
            elif time.monotonic() - last_ready > self._start_seconds:
                raise PoolError(
                    f"none of {len(self._slots)} actors started within {self._start_seconds:.0f} s; "
                    f"free in the cluster: {ray.available_resources()}; of: {ray.cluster_resources()}"
                )

    def _settle(self, slot: _Slot, run: _Run) -> None:
        """Take in what a slot was waiting for."""
        try:
            result = ray.get(slot.waiting_for)
        except RayTaskError as error:
            raise PoolError(f"{slot.shard}: {_own_words(error)}") from error
        except RayError as error:
            self._replace(slot, run, error)
            return
        shard, slot.shard, slot.waiting_for, slot.ready = slot.shard, None, None, True
        if shard is not None:
            run.done(shard, result)

    def _replace(self, slot: _Slot, run: _Run, error: RayError) -> None:
        """Put a dead actor's shard back and another actor in its place."""
        if isinstance(error, RayActorError) and getattr(error, "actor_init_failed", False):
            raise PoolError(f"an actor cannot start: {error}") from error
        if slot.shard is not None:
            run.attempts[slot.shard] += 1
            if run.attempts[slot.shard] >= MAX_ATTEMPTS:
                raise PoolError(
                    f"{slot.shard}: {MAX_ATTEMPTS} actors died at work on it, so it was given up; the last: {error}"
                ) from error
            run.pending.appendleft(slot.shard)
        # A lost connection or result looks the same as a dead actor: end it, so that it cannot work on unseen.
        place = self._slots.index(slot)
        ray.kill(slot.actor, no_restart=True)
        if slot.restarts < MAX_RESTARTS:
            self._slots[place] = self._start(slot.restarts + 1)
            return
        del self._slots[place]
        if not self._slots:
            raise PoolError(f"every actor died more than {MAX_RESTARTS} times; the last: {error}") from error


@dataclass
class _Run:
    """One list of shards on its way through the pool."""

    pending: deque[str]
    submit: Submit
    done: Done

    def __post_init__(self) -> None:
        self.attempts: Counter[str] = Counter()


def _own_words(error: RayTaskError) -> str:
    """The exception as the actor raised it, without Ray's frame around it."""
    cause = error.cause
    return f"{type(cause).__name__}: {cause}" if isinstance(cause, Exception) else str(error)
