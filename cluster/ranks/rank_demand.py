"""What training ranks wait for while they are being started, in words."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util import placement_group_table

from shards.wording import counted


def placement_groups() -> dict[str, dict[str, Any]]:
    """The placement groups of the cluster by id."""
    found: dict[str, dict[str, Any]] = placement_group_table()
    return found


@dataclass(frozen=True)
class RankDemand:
    """The ranks of a training and what each of them needs."""

    ranks: int
    needs: Mapping[str, float]
    """Ray's resources of one rank, such as CPU and GPU."""
    placement: str

    def awaited(self, *, others: Collection[str]) -> str:
        """What the ranks wait for now, from the nodes that Ray knows. `others`: placement groups of other trainings."""
        own = [group for name, group in placement_groups().items() if name not in others]
        return self.awaited_of(ray.nodes(), free=ray.available_resources(), groups=own)

    def awaited_of(
        self,
        nodes: Sequence[Mapping[str, Any]],
        *,
        free: Mapping[str, float],
        groups: Sequence[Mapping[str, Any]] = (),
    ) -> str:
        """`nodes`: as `ray.nodes()` returns them; `free`: what is not in use in the whole cluster.

        `groups`: placement groups that may be those of the ranks, as Ray's table describes them.
        """
        if any(self._holds(group) for group in groups):  # then what they wait for is not free because they have it
            return f"starting {self._wanted()}"
        alive = [node for node in nodes if node["Alive"]]
        lost = sorted({_name(node) for node in nodes if not node["Alive"]} - {_name(node) for node in alive})
        fitting = [node for node in alive if self._fitting(node)]
        wanted = self._wanted()
        names = ", ".join(sorted(map(_name, fitting))) or "none"
        gone = f"; lost: {', '.join(lost)}" if lost else ""
        if self.placement == "STRICT_SPREAD" and len(fitting) < self.ranks:
            missing = counted(self.ranks - len(fitting), "more node")
            return (
                f"waiting for {missing}: {wanted}, each on a node of its own (runtime.placement = STRICT_SPREAD); "
                f"nodes that fit: {names}{gone}"
            )
        if (room := sum(self._fitting(node) for node in alive)) < self.ranks:
            return f"waiting for more nodes: {wanted}, and the nodes have room for {room} ({names}){gone}"
        if any(free.get(name, 0.0) < amount * self.ranks for name, amount in self.needs.items()):
            left = " and ".join(f"{free.get(name, 0.0):g} {name}" for name, amount in self.needs.items() if amount)
            return f"waiting for {wanted}: others use the cluster, {left} are free{gone}"
        return f"starting {wanted}{gone}"

    def _wanted(self) -> str:
        each = " and ".join(f"{amount:g} {name}" for name, amount in self.needs.items() if amount)
        return f"{counted(self.ranks, 'rank')} of {each} each"

    def _holds(self, group: Mapping[str, Any]) -> bool:
        """Whether a placement group has got what these ranks need."""
        bundles = list(group["bundles"].values())
        enough = all(bundle.get(name, 0.0) >= amount for bundle in bundles for name, amount in self.needs.items())
        return group["state"] == "CREATED" and len(bundles) == self.ranks and enough

    def _fitting(self, node: Mapping[str, Any]) -> int:
        """How many ranks a node has room for, if nothing else runs there."""
        total = node.get("Resources", {})
        needed = {name: amount for name, amount in self.needs.items() if amount}
        return min((int(total.get(name, 0.0) / amount + 1e-6) for name, amount in needed.items()), default=self.ranks)


def _name(node: Mapping[str, Any]) -> str:
    return str(node.get("NodeManagerHostname") or node.get("NodeManagerAddress") or node["NodeID"])
