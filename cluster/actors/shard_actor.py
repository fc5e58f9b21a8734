"""The actor that works on shards. It has its own file because every actor loads what this file imports."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, TypeVar

import ray

from cluster.actors.pool_work import Task
from cluster.shard_work import ShardExecutor
from wsss.contract.counts import Counts
from wsss.contract.failure import WorkFailedError, failure_of
from wsss.contract.stage import Instance

_Result = TypeVar("_Result")


class ShardActor(ShardExecutor):
    """Fetches an instance from Ray's object store once, not for every shard: it may list half a million keys.

    Ray would fetch a reference passed as an argument in every call, but does not resolve one inside a list.
    """

    _known: tuple[Any, Instance] | None = None

    def make(self, known: list[Any], task: Task) -> str:
        """Returns the host. Raises `WorkFailedError` for every exception."""
        instance, aside = self._instance_of(known[0]), dict(task.set_aside)
        self._with_failure(lambda: self.make_shard(instance, task.shard, mode=task.mode, set_aside=aside))
        return socket.gethostname()

    def count(self, known: list[Any], shard: str) -> Counts:
        """Raises `WorkFailedError` for every exception."""
        return self._with_failure(lambda: self.count_shard(self._instance_of(known[0]), shard))

    def _with_failure(self, work: Callable[[], _Result]) -> _Result:
        """Convert exceptions: the driver may not know their class, and their traceback is not sent."""
        try:
            return work()
        except Exception as error:
            failure = failure_of(error)
        raise WorkFailedError(failure)

    def _instance_of(self, reference: Any) -> Instance:
        if self._known is None or self._known[0] != reference:
            self._known = (reference, ray.get(reference))
        return self._known[1]
