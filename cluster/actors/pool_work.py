"""What an actor pool keeps about one run: its shards, who works on them, and the deaths of actors."""

from __future__ import annotations

import statistics
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from cluster.failures.crash_files import CrashReport, read_crash
from cluster.failures.death_cause import NODE_DIED, PREEMPTED
from shards.wording import counted
from wsss.contract.failure import Failure, OnRestart

MAX_ATTEMPTS = 3
MAX_SET_ASIDE = 10
"""Records of one stage that may be set aside because they end the process that works on them."""
STUCK = "stuck: "
"""How the cause of a death begins if the actor was killed because it took too long."""
COPY_AFTER = 10.0
COPY_FACTOR = 2.0
"""Near the end, an idle actor starts a shard again that has taken longer than this many seconds, and than this multiple
of the median so far."""


@dataclass(frozen=True)
class Task:
    """One attempt at a shard."""

    shard: str
    mode: Literal["final", "copy", "probe"] = "final"
    """`copy`: another actor works on the same shard, and only one of the results counts. `probe`: process one record at
    a time to find the one that ends the process; the result does not count."""
    set_aside: tuple[tuple[str, str], ...] = ()
    """Records to leave out: (key, reason)."""


Submit = Callable[[Any, Task], Any]
"""Called with (actor, task): starts the work and returns Ray's reference to its result."""
Done = Callable[[str, Any], None]
"""Called with (shard, result) for every finished shard."""
Publish = Callable[[str], None]
"""Called for a shard whose copy finished first: makes the copy's result the shard's."""


@dataclass(eq=False)
class Slot:
    """A slot for one actor, which is starting, working on a task, idle, or being ended."""

    number: int
    actor: Any
    waiting_for: Any
    """Ray's reference to the pending call: the start, then the work on a task; None if the actor is idle."""
    task: Task | None = None
    since: float = 0.0
    """When the pending call began (`time.monotonic`)."""
    ready: bool = False
    ended: bool = False
    """Its actor was killed because its result is not needed; the end is not confirmed yet."""
    restarts: int = 0
    host: str = ""
    pid: int = 0
    kernel_kills: int = 0
    """How many processes this machine's kernel had killed for lack of memory when the actor started."""

    @property
    def shard(self) -> str:
        return self.task.shard if self.task is not None else ""

    @property
    def is_idle(self) -> bool:
        return self.ready and not self.ended and self.task is None


@dataclass
class PoolRun:
    """The state of one call of `ActorPool.run`."""

    pending: deque[str]
    submit: Submit
    done: Done
    folder: Path | None = None
    on_restart: OnRestart | None = None
    publish: Publish | None = None
    may_set_aside: bool = False
    left: set[str] = field(default_factory=set)
    """Shards that are not finished."""
    copied: set[str] = field(default_factory=set)
    staged: set[str] = field(default_factory=set)
    """Shards whose copy has finished, while the end of the other actor is not confirmed."""
    attempts: Counter[str] = field(default_factory=Counter)
    aside: dict[str, dict[str, str]] = field(default_factory=dict)
    """Shard -> key -> why the record is left out."""
    deaths: list[Failure] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    """How long the finished shards took."""
    probed: set[str] = field(default_factory=set)
    """Shards whose records were processed one at a time since the last one was set aside."""

    def __post_init__(self) -> None:
        self.left = set(self.pending)

    def next_task(self) -> Task:
        """The next attempt at a pending shard. After two deaths the record that causes them is looked for."""
        shard = self.pending.popleft()
        probe = self.may_set_aside and self.attempts[shard] == MAX_ATTEMPTS - 1 and shard not in self.probed
        if probe:
            self.probed.add(shard)
        return Task(shard, "probe" if probe else "final", tuple(self.aside.get(shard, {}).items()))

    def slowest(self, slots: Iterable[Slot]) -> Slot | None:
        """The slot whose shard an idle actor should start too, or None."""
        if self.pending or not self.seconds:
            return None
        limit = max(COPY_AFTER, COPY_FACTOR * statistics.median(self.seconds))
        at_work = [s for s in slots if s.task and s.task.mode == "final" and not s.ended and not self.attempts[s.shard]]
        late = [s for s in at_work if s.shard not in self.copied and time.monotonic() - s.since > limit]
        return min(late, key=lambda slot: slot.since, default=None)

    def crash_of(self, slot: Slot) -> CrashReport:
        """The crash files of the slot's actor, which are removed."""
        if self.folder is None or not slot.host:
            return CrashReport({}, "")
        return read_crash(self.folder, host=slot.host, pid=slot.pid)

    def count_death(self, slot: Slot, failure: Failure) -> Failure:
        """Count the death of an actor that worked on a task; returns the failure with what is done about it."""
        assert slot.task is not None
        shard, key = slot.shard, failure.sample
        again = replace(failure, redone=f"shard {shard} is done again")
        if failure.cause in (PREEMPTED, NODE_DIED):  # the shard is not to blame
            self.probed.discard(shard)
            return again
        self.attempts[shard] += 1
        if failure.cause.startswith(STUCK):
            self.probed.add(shard)  # what is slow is not looked for: the limit may be too low
            return again
        if slot.task.mode != "probe" or not key:
            return again
        reasons = self.aside.setdefault(shard, {})
        reasons[key] = f"the process that works on it ends each time: {failure.cause}"
        self.attempts[shard] = 0
        self.probed.discard(shard)
        redone = f"record {key} is set aside as missing; shard {shard} is done without it"
        return replace(failure, redone=redone, set_aside=key)

    @property
    def num_aside(self) -> int:
        return sum(len(reasons) for reasons in self.aside.values())

    def stop_reason(self, slot: Slot) -> str:
        """Why the run must stop after the death of the slot's actor, or ""."""
        if self.num_aside > MAX_SET_ASIDE:
            return (
                f"{counted(self.num_aside, 'record')} of this stage end the process that works on them, more than "
                f"{MAX_SET_ASIDE}; this is not a matter of single records. The last"
            )
        if self.attempts[slot.shard] >= MAX_ATTEMPTS:
            return f"{MAX_ATTEMPTS} actors died while working on it; the last"
        return ""

    def with_deaths(self, last: Failure, summary: str) -> Failure:
        """The last death, with `summary` before its message and all earlier deaths in its report."""
        before = [f"An earlier death:\n{death.report()}" for death in self.deaths if death is not last]
        return replace(last, message=f"{summary}: {last.message}", traceback="\n".join([last.traceback, *before]))
