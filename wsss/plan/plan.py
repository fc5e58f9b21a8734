"""A plan: the work of every instance of a recipe, what it takes on a cluster, and what would bind on larger ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from wsss.contract.stage import Instance
from wsss.pipeline.recipe import Recipe
from wsss.plan import fit_stages, shard_stages
from wsss.plan.context import Desk
from wsss.plan.costs import Costs, PlanError, load_costs
from wsss.plan.dataset_stats import Paper, paper_of, recipe_on_paper
from wsss.plan.hardware import Cluster, Limits, Taken, time_of
from wsss.plan.networks import Networks
from wsss.plan.work import Work

WORK: Mapping[str, Callable[[Instance, Desk], Work]] = {
    "build_shards": shard_stages.build_shards,
    "train_classifier": fit_stages.train_classifier,
    "make_cams": shard_stages.make_cams,
    "make_seeds": shard_stages.make_seeds,
    "train_affinity": fit_stages.train_affinity,
    "make_scores": shard_stages.make_scores,
    "make_pseudo_labels": shard_stages.make_pseudo_labels,
    "make_instance_labels": shard_stages.make_instance_labels,
    "train_ancillary": fit_stages.train_ancillary,
    "train_correction": fit_stages.train_correction,
    "train_segmenter": fit_stages.train_segmenter,
    "make_segmenter_maps": shard_stages.make_segmenter_maps,
    "predict": shard_stages.predict,
    "evaluate": shard_stages.evaluate,
    "submit": shard_stages.submit,
}
"""Kind of stage -> what an instance of it asks for; a test holds the kinds equal to the registry's."""
SCALES = (8, 64, 512)
"""GPUs that the bottleneck is looked for at."""
MANY_IMAGES = 100_000_000


@dataclass(frozen=True)
class Planned:
    """One instance on the cluster."""

    instance: Instance
    taken: Taken


@dataclass(frozen=True)
class Scaled:
    """The slowest stage of the whole recipe at one size."""

    gpus: int
    images: int
    seconds: float
    """All stages, one after the other."""
    slowest: Planned


@dataclass(frozen=True)
class Plan:
    """What `wsss plan` prints."""

    recipe: Recipe
    paper: Paper
    cluster: Cluster
    costs: Costs
    stages: tuple[Planned, ...]
    scaled: tuple[Scaled, ...]
    absent: str
    """Why the data were not looked at; empty where they are here."""


def make_plan(
    path: Path, overrides: list[str], *, cluster: Cluster, images: str | None, costs: Costs | None = None
) -> Plan:
    """Plan a recipe on a cluster; no image, shard or weight is read.

    Raises: `RecipeError`; `PlanError` where the number of images is not known, or a training has more ranks than there
    are places.
    """
    costs = costs or load_costs()
    recipe, absent = recipe_on_paper(path, overrides)
    papers = {
        instance.fingerprint: paper_of(recipe, instance, images=images, costs=costs)
        for instance in recipe.instances
        if instance.stage.kind == "build_shards"
    }
    if not papers:
        raise PlanError(f"{path} has no build_shards instance, so there are no images to plan for")
    _check_ranks(recipe, cluster)
    networks, limits = Networks(), _limits(recipe)
    stages = _planned(recipe, papers, networks, cluster=cluster, costs=costs, limits=limits)
    freed = replace(limits, num_actors=0, ranks_of_recipe=False)
    first = next(iter(papers.values()))
    scaled = []
    for count in sorted({first.images.get("train", 0), MANY_IMAGES}):
        grown = {name: replace(paper, images={**paper.images, "train": count}) for name, paper in papers.items()}
        for gpus in SCALES:
            larger = cluster.scaled_to(gpus)
            found = _planned(recipe, grown, networks, cluster=larger, costs=costs, limits=freed)
            slowest = max(found, key=lambda planned: planned.taken.seconds)
            scaled.append(Scaled(gpus, count, sum(planned.taken.seconds for planned in found), slowest))
    return Plan(recipe, first, cluster, costs, stages, tuple(scaled), absent)


def _planned(
    recipe: Recipe,
    papers: Mapping[str, Paper],
    networks: Networks,
    *,
    cluster: Cluster,
    costs: Costs,
    limits: Limits,
) -> tuple[Planned, ...]:
    found = []
    for instance in recipe.instances:
        desk = Desk(papers[instance.samples.fingerprint], costs, networks)
        found.append(Planned(instance, time_of(WORK[instance.stage.kind](instance, desk), cluster, costs, limits)))
    return tuple(found)


def _limits(recipe: Recipe) -> Limits:
    """An actor holds a GPU unless the recipe shares them out."""
    return Limits(actor_gpus=recipe.runtime.actor_gpus or 1.0, num_actors=recipe.runtime.num_actors)


def _check_ranks(recipe: Recipe, cluster: Cluster) -> None:
    """A training that asks for more ranks than there are places would wait for them for ever."""
    what = "GPUs" if cluster.gpus else "cores"
    for instance in recipe.instances:
        ranks = getattr(instance.stage, "num_ranks", 1)
        if ranks > cluster.places:
            raise PlanError(
                f"{instance.name}.num_ranks = {ranks}, but the cluster has {cluster.places} {what}; plan more nodes, "
                f"or give --set {instance.name}.num_ranks={cluster.places}"
            )
