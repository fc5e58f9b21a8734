"""CPUs and GPUs of the workers of a stage: of all stages, and of single kinds or instances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from wsss.contract.fit import Fit
from wsss.contract.settings import settings
from wsss.contract.stage import Map, Stage


def _whole_if_above_one(value: float) -> float:
    if value > 1 and value != int(value):
        raise ValueError("above 1 it must be a whole number: only a part of a single device can be shared")
    return value


Share = Annotated[float, Field(ge=0), AfterValidator(_whole_if_above_one)]
"""A setting: a part of a device, or a number of devices."""
PositiveShare = Annotated[float, Field(gt=0), AfterValidator(_whole_if_above_one)]


@settings
class StageResources:
    """The table `[runtime.KIND]` or `[runtime.INSTANCE]`: what the workers of these stages hold. What is not given is
    as in `[runtime]`; an instance's own table has priority over that of its kind."""

    of_ranks: ClassVar[tuple[str, ...]] = ("rank_cpus", "rank_gpus")
    of_actors: ClassVar[tuple[str, ...]] = ("num_actors", "actor_cpus", "actor_gpus")

    num_actors: Annotated[int, Field(ge=0)] | None = None
    """Number of actors that process shards; 0 uses as many as fit into the cluster."""
    actor_cpus: PositiveShare | None = None
    """CPUs that an actor holds."""
    actor_gpus: Share | None = None
    """GPUs that an actor holds."""
    rank_cpus: PositiveShare | None = None
    """CPUs that a training rank holds."""
    rank_gpus: Annotated[int, Field(ge=0, le=1)] | None = None
    """GPUs of a training rank: 0 or 1."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What the workers of one stage hold."""

    num_actors: int
    actor_cpus: float
    actor_gpus: float
    rank_cpus: float
    rank_gpus: int


def can_use_gpus(stage: type[Stage]) -> bool:
    """True if workers of this kind of stage compute on a GPU if they have one."""
    return issubclass(stage, Fit) or (issubclass(stage, Map) and stage.uses_torch)
