"""`python -m tests.benchmarks.rehearsal.own_share RUNS INSTANCE FOLDER`: a stage that computes nothing."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from cluster.ray_runtime import RayRuntime
from cluster.session.ray_session import prepare_environment
from tests.benchmarks.rehearsal.ready_stages import ready
from tuning.tables.digests import shipped_recipe
from wsss.contract.runtime import RuntimeSettings
from wsss.contract.stage import Map
from wsss.pipeline.recipe import load_recipe


def main(runs: Path, name: str, folder: Path) -> int:
    recipe = load_recipe(shipped_recipe("rehearsal"), [f"runtime.runs={runs}"])
    whole = next(one for one in recipe.instances if one.name == name)
    instance = ready(whole, folder / name)
    shutil.rmtree(instance.path, ignore_errors=True)
    instance.path.mkdir(parents=True)
    prepare_environment()
    runtime = RayRuntime(RuntimeSettings(runs=folder), address=None)
    try:
        assert isinstance(instance.stage, Map)
        runtime.map(instance, instance.stage, lambda *_: None)
        instance.layer.complete(instance.stage.shards(instance))
    finally:
        runtime.close()
    shutil.rmtree(instance.path)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])))
