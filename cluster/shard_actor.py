"""The actor that works on shards; in a file of its own, since what this imports every actor loads."""

from __future__ import annotations

from typing import Any

import ray

from cluster.shard_work import ShardBench
from wsss.contract.counts import Counts
from wsss.contract.stage import Instance


class ShardActor(ShardBench):
    """Takes an instance out of Ray's store once, not for every shard: a listing of half a million keys comes with it.

    Ray itself fetches a reference that is an argument, anew in every call; one inside a list it leaves alone.
    """

    _known: tuple[Any, Instance] | None = None

    def make(self, known: list[Any], shard: str) -> None:
        self.make_shard(self._instance_of(known[0]), shard)

    def count(self, known: list[Any], shard: str) -> Counts:
        return self.count_shard(self._instance_of(known[0]), shard)

    def _instance_of(self, reference: Any) -> Instance:
        if self._known is None or self._known[0] != reference:
            self._known = (reference, ray.get(reference))
        return self._known[1]
