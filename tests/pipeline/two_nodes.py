"""Run the tiny recipe on a cluster of two nodes of one CPU each: python -m tests.pipeline.two_nodes RUNS."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from cluster.session import ray_session
from tests.pipeline.chain import NoTracker, tiny
from wsss.pipeline.progress import Reporter
from wsss.pipeline.run import run_recipe

OVERRIDES = ("train_classifier.world_size=2", "train_classifier.norm=synchronised", "train_classifier.num_epochs=2")
PLACEMENT = ("runtime.placement=STRICT_SPREAD", "runtime.num_actors=2")


def main(runs: Path) -> None:
    ray_session.prepare_environment()
    from cluster.ray_runtime import RayRuntime

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    recipe = tiny(runs, *OVERRIDES, *PLACEMENT)
    runtime = RayRuntime(recipe.runtime, address=cluster.address)
    try:
        summary = run_recipe(recipe, runtime=runtime, tracker=NoTracker(), reporter=Reporter(quiet=True))
        print(json.dumps({"executed": summary.executed, "cpus": [node["Resources"]["CPU"] for node in ray.nodes()]}))
    finally:
        runtime.close()
        cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
