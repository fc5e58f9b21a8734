"""The figures that a plan stands on: per-image costs, GPUs, and where each of them comes from (`costs.toml`)."""

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
"""From the firmest to the weakest: a figure made of several is as firm as the weakest of them."""


class PlanError(ValueError):
    """A plan that cannot be made; the message says what is missing and what is allowed."""


@dataclass(frozen=True)
class Cost:
    """One figure with its unit, and how it is known."""

    value: float
    unit: str
    basis: Basis
    source: str
    """When, where and by which command; or whose publication; or why it was assumed."""


@dataclass(frozen=True)
class Gpu:
    """What the vendor publishes of a GPU, and the share of it that is taken as reached."""

    name: str
    fp32: float
    """Peak of fp32 tensors as torch computes convolutions: TF32 where the GPU has it; floating point operations / s."""
    bf16: float | None
    """Peak with bf16 operands, without sparsity; None where the GPU has none."""
    bandwidth: float
    """Memory, bytes / s."""
    fp32_use: float
    bf16_use: float
    basis: Basis
    source: str
    use_source: str
    """Where the shares come from."""

    def flops(self, precision: str) -> float:
        """Operations per second that are taken as reached in a training or a pass; fp32 where there is no bf16."""
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
        """Raises `PlanError` with the names there are."""
        if name not in self.gpus:
            near = difflib.get_close_matches(name.upper(), self.gpus, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise PlanError(
                f"--gpu {name}: its speed is not known; {hint}allowed are {', '.join(self.gpus)}. Another one is a "
                "table [gpus.NAME] in wsss/plan/costs.toml"
            )
        return self.gpus[name]


def core_seconds(units: Units, costs: Costs) -> float:
    """Seconds of one core."""
    return sum(costs[name] * number for name, number in units.items())


def load_costs(text: str | None = None) -> Costs:
    """The figures of `costs.toml`, or of a text of that form.

    Raises: ValueError for a figure that is not positive, or does not say how it is known and from where.
    """
    if text is None:
        text = (resources.files("wsss.plan") / "costs.toml").read_text()
    tables = tomllib.loads(text)
    shared = tables.get("sources", {})
    costs = {name: _checked(name, _cost(table, shared)) for name, table in tables["costs"].items()}
    gpus = {name: _gpu(name, table, shared) for name, table in tables["gpus"].items()}
    return Costs(costs, gpus)


def _cost(table: dict[str, Any], shared: Mapping[str, str]) -> Cost:
    """A source that several figures have stands once, under its name."""
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
