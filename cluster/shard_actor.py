"""The actor that works on shards; in a file of its own, since what this imports every actor loads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import ray

from cluster.shard_work import ShardExecutor
from wsss.contract.counts import Counts
from wsss.contract.failure import WorkFailedError, failure_of
from wsss.contract.stage import Instance

_Result = TypeVar("_Result")


class ShardActor(ShardExecutor):
    """Takes an instance out of Ray's store once, not for every shard: a listing of half a million keys comes with it.

    Ray itself fetches a reference that is an argument, anew in every call; one inside a list it leaves alone.
    """

    _known: tuple[Any, Instance] | None = None

    def make(self, known: list[Any], shard: str) -> None:
        """Raises `WorkFailedError`, whatever went wrong."""
        self._explained(lambda: self.make_shard(self._instance_of(known[0]), shard))

    def count(self, known: list[Any], shard: str) -> Counts:
        """Raises `WorkFailedError`, whatever went wrong."""
        return self._explained(lambda: self.count_shard(self._instance_of(known[0]), shard))

    def _explained(self, work: Callable[[], _Result]) -> _Result:
        """An exception's class may not be known to the driver, and its traceback does not travel."""
        try:
            return work()
        except Exception as error:
            failure = failure_of(error)
        raise WorkFailedError(failure)

    def _instance_of(self, reference: Any) -> Instance:
        if self._known is None or self._known[0] != reference:
            self._known = (reference, ray.get(reference))
        return self._known[1]
