"""Actors that only build shards never load torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.architecture.sources import ROOT

BUILD = """
import sys
from pathlib import Path
import cluster.actors.shard_actor
from cluster.shard_work import ShardExecutor
from wsss.stages.build_shards import BuildShards
from wsss.contract.stage import Instance
stage = BuildShards(source="toy", counts={"train": 2}, splits=("train",))
instance = Instance(name="a", stage=stage, seed=0, inputs={}, fingerprint="0" * 64, path=Path(sys.argv[1]))
ShardExecutor(threads=1).make_shard(instance, "train-000000")
sys.exit(f"loaded {heavy}" if (heavy := {"torch", "pandas", "webdataset"} & set(sys.modules)) else 0)
"""


def test_building_shards_loads_no_torch(tmp_path: Path) -> None:
    command = [sys.executable, "-c", BUILD, f"{tmp_path}/layer"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
