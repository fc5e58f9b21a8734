"""Asks nodes of a Ray cluster a question: one task on each, which needs no free CPU there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


def ask_nodes(
    nodes: Iterable[str], question: Callable[..., Any], *arguments: Any, seconds: float
) -> tuple[dict[str, Any], list[str]]:
    """Node id -> its answer, and the nodes that did not answer in time or whose task failed."""
    asked: dict[ray.ObjectRef, str] = {}
    for node in nodes:
        place = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
        task = ray.remote(question).options(num_cpus=0, max_retries=0, scheduling_strategy=place)
        asked[task.remote(*arguments)] = node
    if not asked:
        return {}, []
    ready, waiting = ray.wait(list(asked), num_returns=len(asked), timeout=seconds)
    answers: dict[str, Any] = {}
    silent = [asked[reference] for reference in waiting]
    for reference in ready:
        try:
            answers[asked[reference]] = ray.get(reference)
        except ray.exceptions.RayError:
            silent.append(asked[reference])
    return answers, silent


def node_name(node: Mapping[str, Any]) -> str:
    """Host and address of a node, as `ray.nodes()` describes it."""
    return f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
