"""A Ray cluster of several raylets on this machine, for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from ray.cluster_utils import Cluster

from cluster.session.ray_session import prepare_environment

_T = TypeVar("_T")
_TRIES = 3


@contextmanager
def small_cluster(*cpus: int, **head: Any) -> Iterator[Cluster]:
    """A cluster with one node for each number of CPUs; `head`: more of Ray's options for the first."""
    prepare_environment()
    options = {"num_cpus": cpus[0], "include_dashboard": False, **head}
    made = patiently(lambda: Cluster(initialize_head=True, head_node_args=options))
    try:
        for number in cpus[1:]:
            patiently(lambda number=number: made.add_node(num_cpus=number))  # type: ignore[misc]
        made.wait_for_nodes()
        yield made
    finally:
        made.shutdown()


def patiently(start: Callable[[], _T]) -> _T:
    """Start a node, again if a busy machine needs more than the 30 s that Ray allows."""
    for left in reversed(range(_TRIES)):
        try:
            return start()
        except Exception as error:
            if left == 0 or "timed out during startup" not in str(error):
                raise
    raise AssertionError
