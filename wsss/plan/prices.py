"""What a run costs on rented nodes, stage by stage, if nodes are rented only for the stages that use them.

A file of prices, per node and hour, in any currency:

    head = "small"          # the node that is rented for the whole run; optional

    [nodes.small]
    price = 0.10
    cores = 8

    [nodes.with_gpu]
    price = 1.20
    cores = 16
    gpus = 1

A stage that holds GPUs runs on nodes with GPUs, other stages on nodes without, if there is such a type. Of several
types the one that costs least for the stage is taken.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from wsss.contract.settings import settings
from wsss.pipeline.recipe_tables import unknown_name, unknown_setting
from wsss.pipeline.wrong_values import first_complaint
from wsss.plan.costs import PlanError
from wsss.plan.hardware import Usage

_SETTINGS = ["price", "cores", "gpus"]


@settings
class NodeType:
    """A type of node that can be rented."""

    price: Annotated[float, Field(ge=0)]
    """Price per hour."""
    cores: Annotated[int, Field(ge=1)]
    """Cores of a node."""
    gpus: Annotated[int, Field(ge=0)] = 0
    """GPUs of a node."""


@dataclass(frozen=True)
class Prices:
    """The content of a file of prices."""

    path: Path
    nodes: Mapping[str, NodeType]
    head: str = ""


@dataclass(frozen=True, kw_only=True)
class Bill:
    """What one stage costs."""

    hours: float
    node: str
    """The type of its nodes; empty if the stage's cost is not known."""
    num_nodes: int
    cost: float
    idle_gpu_nodes: int = 0
    """Nodes with GPUs that other stages need and this one does not."""
    idle_cost: float = 0.0
    """What these would cost during this stage, were they kept."""


def read_prices(path: Path) -> Prices:
    """Read a file of prices. Raises `PlanError`, naming the file and what is wrong."""
    try:
        tables = tomllib.loads(path.read_text())
    except OSError as error:
        raise PlanError(f"--prices {path}: it cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PlanError(f"--prices {path} is not valid TOML: {error}") from None
    nodes, head = tables.pop("nodes", None), tables.pop("head", "")
    if tables:
        raise PlanError(f"--prices {path}: " + unknown_setting(next(iter(tables)), ["head", "nodes"], what="entry"))
    if not isinstance(nodes, dict) or not nodes:
        raise PlanError(f"--prices {path}: it names no nodes; write tables [nodes.NAME] with price, cores and gpus")
    found = {name: _node_type(path, name, table) for name, table in nodes.items()}
    if head and head not in found:
        raise PlanError(f"--prices {path}: head: " + unknown_name("type of node", str(head), list(found)))
    return Prices(path, found, str(head))


def _node_type(path: Path, name: str, table: Any) -> NodeType:
    if not isinstance(table, dict):
        raise PlanError(f"--prices {path}: nodes.{name} is no table; write [nodes.{name}] with price, cores and gpus")
    for key in table:
        if key not in _SETTINGS:
            raise PlanError(f"--prices {path}: nodes.{name}.{key}: " + unknown_setting(key, _SETTINGS))
    try:
        return NodeType(**table)
    except ValidationError as error:
        raise PlanError(f"--prices {path}: {first_complaint(error, f'nodes.{name}')}") from None


def bills(prices: Prices, stages: Sequence[Usage | None]) -> list[Bill]:
    """What every stage costs; None: its usage is not known. Raises `PlanError` if no type of node fits a stage."""
    found = [_bill(prices, usage) for usage in stages]
    most = max((bill for bill in found if _gpus(prices, bill)), key=lambda bill: bill.num_nodes, default=None)
    if most is None:
        return found
    price = prices.nodes[most.node].price
    return [_with_idle(bill, most.num_nodes - (bill.num_nodes if _gpus(prices, bill) else 0), price) for bill in found]


def _gpus(prices: Prices, bill: Bill) -> int:
    return prices.nodes[bill.node].gpus if bill.node else 0


def _with_idle(bill: Bill, idle: int, price: float) -> Bill:
    return Bill(
        hours=bill.hours,
        node=bill.node,
        num_nodes=bill.num_nodes,
        cost=bill.cost,
        idle_gpu_nodes=idle if bill.node else 0,
        idle_cost=idle * price * bill.hours,
    )


def _bill(prices: Prices, usage: Usage | None) -> Bill:
    if usage is None:
        return Bill(hours=0.0, node="", num_nodes=0, cost=0.0)
    hours = usage.seconds / 3600
    fitting = {name: node for name, node in prices.nodes.items() if (node.gpus > 0) == (usage.gpus > 0)}
    if not fitting and not usage.gpus:
        fitting = dict(prices.nodes)
    if not fitting:
        raise PlanError(f"--prices {prices.path}: the plan needs GPUs, and no type of node has any; add one with gpus")
    numbers = {name: _num_nodes(node, usage) for name, node in fitting.items()}
    name = min(numbers, key=lambda one: numbers[one] * fitting[one].price)
    return Bill(hours=hours, node=name, num_nodes=numbers[name], cost=numbers[name] * fitting[name].price * hours)


def _num_nodes(node: NodeType, usage: Usage) -> int:
    """Nodes that a stage needs: for its GPUs, or for its cores if it uses none."""
    needed = usage.gpus / node.gpus if usage.gpus else usage.cores / node.cores
    return max(1, math.ceil(needed))


def head_cost(prices: Prices, found: Sequence[Bill]) -> float:
    """What the head node costs for the whole run."""
    return prices.nodes[prices.head].price * sum(bill.hours for bill in found) if prices.head else 0.0
