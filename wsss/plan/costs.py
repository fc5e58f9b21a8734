"""The cost figures that a plan is based on: per-image costs, GPUs, and the source of each (`costs.toml`)."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal, get_args

from wsss.contract.cost import Units

Basis = Literal["measured", "counted", "published", "assumed"]
BASES: tuple[Basis, ...] = get_args(Basis)
"""From most to least reliable: a figure derived from several is as reliable as the least reliable of them."""


class PlanError(ValueError):
    """A plan that cannot be made; the message says what is missing and what is allowed."""


@dataclass(frozen=True)
class Cost:
    """One figure with its unit and basis."""

    value: float
    unit: str
    basis: Basis
    source: str
    """When, where and by which command it was measured; or the publication; or the reason for the assumption."""


@dataclass(frozen=True)
class Gpu:
    """Published peak performance of a GPU, and the fraction of it that is assumed to be reached."""

    name: str
    fp32: float
    """Peak for fp32 tensors as torch computes convolutions (TF32 if the GPU has it); floating point operations / s."""
    bf16: float | None
    """Peak with bf16 operands, without sparsity; None if the GPU has no bf16."""
    bandwidth: float
    """Memory bandwidth, bytes / s."""
    fp32_use: float
    bf16_use: float
    basis: Basis
    source: str
    use_source: str
    """Source of `fp32_use` and `bf16_use`."""

    def flops(self, precision: str) -> float:
        """Operations per second assumed to be reached; with fp32 if the GPU has no bf16."""
        if precision == "bf16" and self.bf16 is not None:
            return self.bf16 * self.bf16_use
        return self.fp32 * self.fp32_use


@dataclass(frozen=True)
class Costs:
    """All of `costs.toml`."""

    costs: Mapping[str, Cost]
    gpus: Mapping[str, Gpu]

    def __getitem__(self, name: str) -> float:
        return self.costs[name].value

    def gpu(self, name: str) -> Gpu:
        """The GPU with that name. Raises `PlanError`, listing the available names, if it is unknown."""
        if name not in self.gpus:
            near = difflib.get_close_matches(name.upper(), self.gpus, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise PlanError(
                f"--gpu {name}: its speed is not known; {hint}allowed are {', '.join(self.gpus)}. To add another, "
                "write a table [gpus.NAME] in wsss/plan/costs.toml"
            )
        return self.gpus[name]


def core_seconds(units: Units, costs: Costs) -> float:
    """Seconds of one core."""
    return sum(costs[name] * number for name, number in units.items())


def load_costs(text: str | None = None) -> Costs:
    """The figures of `costs.toml`, or of `text` in the same format.

    Raises: ValueError for a figure that is not positive, or has no basis or source.
    """
    if text is None:
        text = (resources.files("wsss.plan") / "costs.toml").read_text()
    tables = tomllib.loads(text)
    shared = tables.get("sources", {})
    costs = {name: _checked(name, _cost(table, shared)) for name, table in tables["costs"].items()}
    gpus = {name: _gpu(name, table, shared) for name, table in tables["gpus"].items()}
    return Costs(costs, gpus)


def _cost(table: dict[str, Any], shared: Mapping[str, str]) -> Cost:
    """One figure; a source shared by several figures is listed once in [sources] and referred to by name."""
    return Cost(**(table | {"source": shared.get(table["source"], table["source"])}))


def _checked(name: str, cost: Cost) -> Cost:
    if cost.value <= 0 or cost.basis not in BASES or not cost.source or not cost.unit:
        raise ValueError(
            f"costs.{name}: a positive value, a unit, a basis of {', '.join(BASES)} and a source are needed"
        )
    return cost


def _gpu(name: str, table: dict[str, Any], shared: Mapping[str, str]) -> Gpu:
    source = shared.get(table["use_source"], table["use_source"])
    gpu = Gpu(name=name, **({"bf16": None} | table | {"use_source": source}))
    shares = (gpu.fp32_use, gpu.bf16_use)
    if min(gpu.fp32, gpu.bandwidth) <= 0 or not all(0 < share <= 1 for share in shares) or gpu.basis not in BASES:
        raise ValueError(f"gpus.{name}: positive peaks, shares in (0, 1], a basis of {', '.join(BASES)} are needed")
    return gpu
