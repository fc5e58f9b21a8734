"""Whether the workers of stages fit into the CPUs and GPUs that are there, or that an autoscaler could start. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shards.wording import counted
from wsss.contract.fit import Fit
from wsss.contract.stage import Instance

if TYPE_CHECKING:
    from wsss.contract.runtime import RuntimeSettings

CPU, GPU = "CPU", "GPU"
_ROUNDING = 1e-6


class NoRoomError(ValueError):
    """A stage asks for more than there is or will be; the message names both sides."""


@dataclass(frozen=True)
class NodeType:
    """A kind of node that the autoscaler can start."""

    name: str
    resources: Mapping[str, float]
    """Empty if it is known only once a node has started."""
    most: int
    """How many of them it starts at most."""


@dataclass(frozen=True)
class Demand:
    """The workers of one instance: ranks or actors."""

    instance: Instance
    worker: str
    number: int
    """0: as many actors as fit."""
    needs: Mapping[str, float]
    names: Mapping[str, str]
    """Resource -> the dotted name of its setting; `number` -> that of the number of workers."""
    spread: bool = False
    """Each on a node of its own."""

    def fitting(self, resources: Mapping[str, float]) -> int:
        """How many of the workers a node with these resources has room for."""
        needed = {name: amount for name, amount in self.needs.items() if amount}
        room = min((int(resources.get(name, 0.0) / amount + _ROUNDING) for name, amount in needed.items()), default=1)
        return min(room, 1) if self.spread else room

    def wanted(self) -> str:
        """What they hold, in words, with the names of the settings."""
        return " and ".join(f"{self.names[name]} = {amount:g}" for name, amount in self.needs.items() if amount)


def demand_of(instance: Instance, settings: RuntimeSettings) -> Demand:
    """What the workers of an instance hold, by the settings."""
    given, name = settings.resources_of(instance), lambda setting: settings.name_of(setting, instance)
    if isinstance(instance.stage, Fit):
        names = {CPU: name("rank_cpus"), GPU: name("rank_gpus"), "number": f"{instance.name}.world_size"}
        needs = {CPU: given.rank_cpus, GPU: float(given.rank_gpus)}
        spread = settings.placement == "STRICT_SPREAD"
        return Demand(instance, "rank", instance.stage.world_size, needs, names, spread)
    names = {CPU: name("actor_cpus"), GPU: name("actor_gpus"), "number": name("num_actors")}
    return Demand(instance, "actor", given.num_actors, {CPU: given.actor_cpus, GPU: given.actor_gpus}, names)


def require_room_here(demands: Sequence[Demand], total: Mapping[str, float]) -> None:
    """Raise `NoRoomError` if the workers of an instance need more than one machine has.

    Ranks may be more than its CPUs: they share them.
    """
    for demand in demands:
        one = demand.worker == "actor"
        for what in (GPU, CPU) if one else (GPU,):
            wanted, there = demand.needs[what], total.get(what, 0.0)
            setting = f"{demand.instance.name}: {demand.names[what]} = {wanted:g}"
            if wanted > there and (one or demand.number == 1):
                cure = "set it to 0 to work on CPUs" if what == GPU else "set it to at most that"
                raise NoRoomError(f"{setting}, but this machine has {there:.0f} {what}s; {cure}")
            if demand.number and wanted * demand.number > there + _ROUNDING:
                most = math.floor(there / wanted + _ROUNDING)
                number = demand.names["number"]
                cure = f"set {number} to at most {most}" if most else f"set {demand.names[what]} to 0 to work on CPUs"
                auto = ", or to 0 for as many as fit" if one and most else ""
                raise NoRoomError(
                    f"{setting} for {counted(demand.number, demand.worker)}, but this machine has {there:.0f} {what}s; "
                    f"{cure}{auto}"
                )


def out_of_place(demands: Sequence[Demand], nodes: Sequence[Mapping[str, float]]) -> list[Demand]:
    """Those of which the nodes that are up do not have room for all ranks, or for one actor."""
    return [one for one in demands if sum(map(one.fitting, nodes)) < (one.number if one.worker == "rank" else 1)]


def require_room_on(
    demands: Sequence[Demand], nodes: Sequence[Mapping[str, float]], types: Sequence[NodeType] | None
) -> list[str]:
    """Raise `NoRoomError` if the workers of an instance will never fit into a cluster; else return what is waited for.

    `nodes`: the resources of those that are up. `types`: what the autoscaler can start; empty if there is none, None
    if that is not known. Without an autoscaler, more nodes may still be started by hand: then only a resource that
    none of the nodes has is refused, and only once a node that computes is up.
    """
    waits = []
    for demand in out_of_place(demands, nodes):
        needed, one = demand.number if demand.worker == "rank" else 1, demand.instance.name
        workers = f"{counted(needed, demand.worker)} with {demand.wanted()}"
        there = f"the nodes that are up have {_shown(nodes)}"
        if types is None:
            waits.append(f"{one}: {workers} each; {there}; waiting for nodes")
        elif types:
            unknown = any(not kind.resources for kind in types)
            later = sum(demand.fitting(kind.resources) * kind.most for kind in types)
            kinds = ", ".join(f"{kind.name} ({_amounts(kind.resources)}, at most {kind.most})" for kind in types)
            if not unknown and later + sum(map(demand.fitting, nodes)) < needed:
                raise NoRoomError(
                    f"{one} needs {workers} each, more than there can be: {there}, and the autoscaler can start "
                    f"{kinds}; change these settings or {demand.names['number']}, or the cluster file"
                )
            waits.append(f"{one}: {workers} each; {there}; waiting for the autoscaler: {kinds}")
        else:
            offered = [node for node in nodes if node.get(CPU)]
            absent = [what for what, amount in demand.needs.items() if amount and not any(n.get(what) for n in nodes)]
            if offered and absent:
                raise NoRoomError(
                    f"{one} needs {workers} each, but no node has a {absent[0]}: {there}, and this cluster has no "
                    f"autoscaler; set {demand.names[absent[0]]} to 0, or start nodes that have one first"
                )
            waits.append(f"{one}: {workers} each; {there}; waiting for more nodes, which have to be started by hand")
    return waits


def _shown(nodes: Sequence[Mapping[str, float]]) -> str:
    return "; ".join(sorted(_amounts(node) for node in nodes)) or "nothing"


def _amounts(resources: Mapping[str, float]) -> str:
    shown = " and ".join(f"{resources[name]:g} {name}" for name in (CPU, GPU) if resources.get(name))
    return shown or ("no CPU" if resources else "resources of its machine")
