"""What training ranks wait for while they are being started, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from shards.wording import counted


@dataclass(frozen=True)
class RankDemand:
    """The ranks of a training and what each of them needs."""

    ranks: int
    needs: Mapping[str, float]
    """Ray's resources of one rank, such as CPU and GPU."""
    placement: str

    def awaited(self) -> str:
        """What the ranks wait for now, from the nodes that Ray knows."""
        return self.awaited_of(ray.nodes(), free=ray.available_resources())

    def awaited_of(self, nodes: Sequence[Mapping[str, Any]], *, free: Mapping[str, float]) -> str:
        """`nodes`: as `ray.nodes()` returns them; `free`: what is not in use in the whole cluster."""
        alive = [node for node in nodes if node["Alive"]]
        lost = sorted({_name(node) for node in nodes if not node["Alive"]} - {_name(node) for node in alive})
        fitting = [node for node in alive if self._fitting(node)]
        each = " and ".join(f"{amount:g} {name}" for name, amount in self.needs.items() if amount)
        wanted = f"{counted(self.ranks, 'rank')} of {each} each"
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

    def _fitting(self, node: Mapping[str, Any]) -> int:
        """How many ranks a node has room for, if nothing else runs there."""
        total = node.get("Resources", {})
        needed = {name: amount for name, amount in self.needs.items() if amount}
        return min((int(total.get(name, 0.0) / amount + 1e-6) for name, amount in needed.items()), default=self.ranks)


def _name(node: Mapping[str, Any]) -> str:
    return str(node.get("NodeManagerHostname") or node.get("NodeManagerAddress") or node["NodeID"])
