"""Times stages of whatever version of the package stands first on the path; `stage_speed.py` starts one per version.

    python stage_worker.py RECIPE RUNS

Trains and fills what the timed stages read, prints `ready`, and then answers every line of its input, a timed part, by
a line with the CPU seconds of one pass over all images. Before its first pass of a part it saves what it computed, as
RUNS/PART.npz. It knows two layouts of the package: that of commit ee5a0ff, and the one since.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

PARTS = ("cams_mobilenet", "cams_resnet", "seeds", "boundaries")


class Silent:
    """Stands in for a reporter and for a tracker: accepts every call."""

    def __getattr__(self, name: str) -> Any:
        return lambda *positional, **named: None


def first_of(*names: str) -> Any:
    """The attribute that `module:attribute` names; of several, the first that there is."""
    for name in names:
        module, _, attribute = name.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError):
            continue
    raise ImportError(f"none of {', '.join(names)} is in this package")


def run_upstream(recipe: Any) -> None:
    run_recipe = first_of("wsss.pipeline.run:run_recipe", "wsss.pipeline:run_recipe")
    runtime = first_of("cluster.local:LocalRuntime")(recipe.runtime)
    try:
        run_recipe(recipe, runtime=runtime, tracker=Silent(), reporter=Silent(), last="train_affinity")
    finally:
        runtime.close()


def records_of(instance: Any) -> Callable[[], dict[str, np.ndarray]]:
    """One pass of a Map stage over all its shards, in this process; its maps or labels by key."""
    work = instance.stage.worker(instance)
    shards = [shard for shard in instance.inputs["samples"].layer.shards() if shard.startswith("train")]

    def run() -> dict[str, np.ndarray]:
        records = [record for shard in shards for record in work(shard)]
        name = "label" if instance.stage.kind == "make_seeds" else "maps"
        return {record.key: getattr(record, name) for record in records if hasattr(record, name)}

    return run


def boundaries_of(recipe: Any) -> Callable[[], dict[str, np.ndarray]]:
    """Boundary maps of all images; images are decoded and normalised before the clock is started."""
    import torch

    affinity = recipe.instance("train_affinity")
    edge_probability, load = (
        first_of(*(f"{module}:{name}" for module, name in places))
        for places in (
            (("wsss.stages.affinity.walk", "edge_probability"), ("wsss.stages.make_scores", "edge_probability")),
            (("wsss.stages.affinity.walk", "ready_network"), ("wsss.stages.fit", "load_trained")),
        )
    )
    to_tensor = first_of("wsss.data.images:to_tensor", "wsss.images:to_tensor")
    read_shard = first_of("shards.reader:read_shard")
    network, layer = load(affinity), recipe.instance("build_shards").layer
    samples = [one for shard in layer.shards()[:1] for one in read_shard(layer, shard) if hasattr(one, "encoded")]
    stage = affinity.stage
    images = {one.key: to_tensor(one.image, mean=stage.mean, std=stage.std)[None] for one in samples}

    def run() -> dict[str, np.ndarray]:
        with torch.inference_mode():
            return {key: edge_probability(network, image)[0].numpy() for key, image in images.items()}

    return run


def main(path: Path, runs: Path) -> None:
    import torch

    torch.set_num_threads(1)
    load_recipe = first_of("wsss.pipeline.recipe:load_recipe", "wsss.recipe:load_recipe")
    recipe = load_recipe(path, [f"runtime.runs={runs}"])
    run_upstream(recipe)
    ready: dict[str, Callable[[], dict[str, np.ndarray]]] = {}
    print("ready", flush=True)
    for line in sys.stdin:
        part = line.strip()
        if part not in ready:
            ready[part] = boundaries_of(recipe) if part == "boundaries" else records_of(recipe.instance(part))
            np.savez(runs / f"{part}.npz", **ready[part]())
        began = time.process_time()
        ready[part]()
        print(time.process_time() - began, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
