"""A plan: the work of every instance of a recipe, its cost on a cluster, and the bottleneck on larger ones.

Each stage states its own cost (`wsss.contract.stage.Stage.cost`): nothing here depends on a concrete stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from wsss.contract.cost import FitWork, Work
from wsss.contract.fit import Fit
from wsss.contract.stage import DataStage, Instance
from wsss.pipeline.dry_recipe import dry_recipe
from wsss.pipeline.recipe import Recipe
from wsss.plan.context import Context
from wsss.plan.costs import Costs, PlanError, load_costs
from wsss.plan.dataset_stats import PlannedData, planned_data
from wsss.plan.hardware import Cluster, Limits, Usage, time_of
from wsss.plan.layers import TRAIN, stats_of
from wsss.plan.measured import MeasuredRun, read_run
from wsss.plan.networks import Networks

SCALES = (8, 64, 512)
"""Numbers of GPUs for which the bottleneck is determined."""
MANY_IMAGES = 100_000_000
NOT_STATED = "cost not stated"


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One instance on the cluster."""

    instance: Instance
    images: int
    """Images that it processes; for a training, over all epochs."""
    usage: Usage | None
    """None if the stage states no cost and no run measured it."""
    notes: tuple[str, ...] = ()
    """What the numbers do not include."""
    is_measured: bool = False
    """True if a run's seconds per image replace the tables."""
    lacking: str = ""
    """If a run was given: why it has no usable measurement."""


@dataclass(frozen=True)
class Scaled:
    """The slowest stage of the recipe for one number of GPUs and images."""

    gpus: int
    images: int
    seconds: float
    """All stages, one after the other."""
    slowest: Planned
    usage: Usage
    """Usage of the slowest stage."""


@dataclass(frozen=True)
class Plan:
    """What `wsss plan` prints."""

    recipe: Recipe
    data: PlannedData
    cluster: Cluster
    costs: Costs
    stages: tuple[Planned, ...]
    scaled: tuple[Scaled, ...]
    absent: str
    """Why the data are not used; empty if they are available."""
    run: MeasuredRun | None = None
    """The run whose seconds per image are used instead of the tables."""
    images: Mapping[str, int] = field(default_factory=dict)
    """Split -> images, of all data sets of the recipe."""

    @property
    def used(self) -> list[Usage]:
        """Usage of all stages whose cost is known."""
        return [planned.usage for planned in self.stages if planned.usage is not None]


@dataclass(frozen=True, kw_only=True)
class _Planner:
    """What is the same for all sizes of a cluster."""

    recipe: Recipe
    costs: Costs
    networks: Networks
    run: MeasuredRun | None

    def plan(self, data: Mapping[str, PlannedData], cluster: Cluster, *, freed: bool = False) -> tuple[Planned, ...]:
        """`freed`: as many ranks and actors as there are devices, whatever the recipe says."""
        return tuple(
            self._one(i, data[i.samples.fingerprint], cluster, self._limits(i, freed)) for i in self.recipe.instances
        )

    def _limits(self, instance: Instance, freed: bool) -> Limits:
        limits = _limits(self.recipe, instance)
        return replace(limits, num_actors=0, ranks_of_recipe=False) if freed else limits

    def _one(self, instance: Instance, data: PlannedData, cluster: Cluster, limits: Limits) -> Planned:
        context = Context(instance, stats_of(instance, data.stats), self.costs, self.networks)
        stated = instance.stage.cost(instance, context)
        measured = self.run.found.get(instance.name) if self.run else None
        lacking = self.run.lacking.get(instance.name, "") if self.run else ""
        images = _images(stated) if stated is not None else context.worked_images()
        work = stated
        if work is None and measured is not None:
            work = context.bare_work(has_network=measured.on_gpu)
        if work is None:
            return Planned(instance=instance, images=images, usage=None, lacking=lacking)
        has_network = isinstance(work, FitWork) or work.has_network
        if measured is not None and not measured.fits(has_network=has_network, plans_gpus=cluster.gpus > 0):
            ran, planned = ("GPUs", "cores") if measured.on_gpu else ("cores", "GPUs")
            measured, lacking = None, f"it ran on {ran}, and the planned cluster computes on {planned}"
            if stated is None:
                return Planned(instance=instance, images=images, usage=None, lacking=lacking)
        if measured is not None:
            fixed = getattr(instance.stage, "max_shards", None) or getattr(instance.stage, "images_per_class", 0)
            work = work if fixed else measured.of_as_many(work, train_images=data.stats.images.get(TRAIN, 0))
        usage = time_of(work, cluster, self.costs, limits, measured=measured, stated=stated is not None)
        return Planned(
            instance=instance,
            images=images,
            usage=usage,
            notes=work.notes,
            is_measured=measured is not None,
            lacking=lacking,
        )


def make_plan(
    path: Path,
    overrides: list[str],
    *,
    cluster: Cluster,
    images: str | None,
    costs: Costs | None = None,
    measured: Path | None = None,
) -> Plan:
    """Plan a recipe on a cluster; no image, shard or weight is read.

    `measured`: the folder of a small run, whose seconds per image are used instead of the tables. Raises:
    `RecipeError`; `PlanError` if the number of images is not known, a training has more ranks than the cluster has
    devices, or the folder holds no run.
    """
    costs = costs or load_costs()
    recipe, absent = dry_recipe(path, overrides)
    data = {
        instance.fingerprint: planned_data(recipe, instance, images=images, costs=costs)
        for instance in recipe.instances
        if isinstance(instance.stage, DataStage)
    }
    if not data:
        raise PlanError(f"{path} has no instance that makes samples, so there are no images to plan for")
    _check_ranks(recipe, cluster)
    run = read_run(measured, recipe.instances) if measured is not None else None
    planner = _Planner(recipe=recipe, costs=costs, networks=Networks(), run=run)
    stages = planner.plan(data, cluster)
    first = next(iter(data.values()))
    scaled = [
        found
        for count in sorted({first.stats.images.get(TRAIN, 0), MANY_IMAGES})
        for gpus in SCALES
        if (found := _scaled(planner, data, cluster, gpus=gpus, count=count)) is not None
    ]
    counts = {split: number for one in data.values() for split, number in one.stats.images.items()}
    return Plan(recipe, first, cluster, costs, stages, tuple(scaled), absent, run, counts)


def _scaled(
    planner: _Planner, data: Mapping[str, PlannedData], cluster: Cluster, *, gpus: int, count: int
) -> Scaled | None:
    """The whole recipe on a number of GPUs with a number of training images; None if no stage's cost is known."""
    grown = {
        name: replace(one, stats=replace(one.stats, images={**one.stats.images, TRAIN: count}))
        for name, one in data.items()
    }
    found = planner.plan(grown, cluster.scaled_to(gpus), freed=True)
    known = [(planned, planned.usage) for planned in found if planned.usage is not None]
    if not known:
        return None
    slowest, usage = max(known, key=lambda pair: pair[1].seconds)
    return Scaled(gpus, count, sum(used.seconds for _, used in known), slowest, usage)


def _images(work: Work) -> int:
    return work.examples * work.epochs if isinstance(work, FitWork) else work.images


def _limits(recipe: Recipe, instance: Instance) -> Limits:
    """An actor uses a whole GPU unless its actor_gpus is set."""
    given = recipe.runtime.resources_of(instance)
    return Limits(actor_gpus=given.actor_gpus or 1.0, actor_cpus=given.actor_cpus, num_actors=given.num_actors)


def _check_ranks(recipe: Recipe, cluster: Cluster) -> None:
    """A training with more ranks than the cluster has devices would wait forever."""
    what = "GPUs" if cluster.gpus else "cores"
    ranks = {one.name: one.stage.world_size for one in recipe.instances if isinstance(one.stage, Fit)}
    if too_many := {name: number for name, number in ranks.items() if number > cluster.places}:
        raise PlanError(
            f"{', '.join(f'{name}.world_size = {number}' for name, number in too_many.items())}, but the cluster has "
            f"{cluster.places} {what}; plan more nodes, or give "
            + " ".join(f"--set {name}.world_size={cluster.places}" for name in too_many)
        )
