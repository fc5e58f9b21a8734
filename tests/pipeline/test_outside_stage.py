"""A stage of another package: commands, recipes, plans and sweeps know it by its entry point, and no file here does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
STAGE = '''"""Maps that are highest in the middle of the image, for a test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, cast

import numpy as np
from pydantic import Field

from shards.records import CamRecord, Record, Sample, grid_size
from wsss.contract.cost import Load, PlanContext, ShardWork
from wsss.contract.settings import settings
from wsss.contract.shard_workers import work_per_record
from wsss.contract.slots import Records, Slot
from wsss.contract.stage import Instance, Map, ShardWorker


@settings
class MyMaps(Map):
    """One bell in the middle of the image for every class present."""

    kind: ClassVar[str] = "my_maps"
    record_kind: ClassVar[str] = CamRecord.kind
    uses_torch: ClassVar[bool] = False
    slots: ClassVar[dict[str, Slot]] = {"samples": Records((Sample,))}

    width: Annotated[float, Field(gt=0)] = 0.4
    """Standard deviation of the bell as a share of the image."""
    states_cost: bool = False
    """Tell `wsss plan` what an image costs."""

    def cost(self, instance: Instance, context: PlanContext) -> ShardWork | None:
        if not self.states_cost:
            return None
        return context.map_work(Load(core={"cam_maps": context.stats.meganodes}), has_network=False)

    def worker(self, instance: Instance) -> ShardWorker:
        def make(joined: Mapping[str, Record]) -> CamRecord:
            sample = cast(Sample, joined["samples"])
            height, width = grid_size(sample.size)
            rows, columns = (np.linspace(-1, 1, side) for side in (height, width))
            bell = np.exp(-(rows[:, None] ** 2 + columns[None] ** 2) / (2 * self.width**2))
            maps = np.repeat(bell[None], len(sample.classes), axis=0).astype(np.float16)
            classes = np.array(sample.classes, dtype=np.int16)
            return CamRecord(key=sample.key, classes=classes, maps=maps, size=sample.size)

        return work_per_record({"samples": instance.inputs["samples"].layer}, make)
'''
METADATA = "Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n"
RECIPE = """
[recipe]
name = "outside"

[stages.build_shards]
source = "toy"
counts = { train = 4, val = 4 }
size = 64
shard_size = 2

[stages.my_maps]

[stages.make_seeds]
refine = "none"

[stages.make_scores]
propagation = "none"

[stages.make_pseudo_labels]
refine = "none"

[stages.evaluate]
inputs = { records = "make_pseudo_labels" }
num_gallery_images = 0
"""
SWEEP = """
[sweep]
name = "widths"
recipe = "outside.toml"
metric = "evaluate"
method = "grid"

[space]
my_maps.width = { choices = [0.2, 0.6] }
"""


class Outside:
    """The command line in a process that finds the package by its path alone."""

    def __init__(self, folder: Path) -> None:
        package = folder / "packages"
        (package / "my_package").mkdir(parents=True)
        (package / "my_package" / "__init__.py").write_text('"""A package of somebody else."""\n')
        (package / "my_package" / "my_maps.py").write_text(STAGE)
        announced = package / "my_package-1.0.dist-info"
        announced.mkdir()
        (announced / "METADATA").write_text(METADATA)
        (announced / "entry_points.txt").write_text("[wsss.stages]\nmy_maps = my_package.my_maps:MyMaps\n")
        self.recipe, self.sweep, self.runs = folder / "outside.toml", folder / "widths.toml", folder / "runs"
        self.recipe.write_text(RECIPE)
        self.sweep.write_text(SWEEP)
        paths = [str(package), str(ROOT), os.environ.get("PYTHONPATH", "")]
        self._environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}

    def wsss(self, *words: str, file: Path | None = None) -> str:
        """What a command prints; it must succeed."""
        options = ["--set", f"runtime.runs={self.runs}"]
        command = [sys.executable, "-m", "wsss", words[0], str(file or self.recipe), *words[1:], *options]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=self.recipe.parent, env=self._environment, timeout=300
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def records(self) -> dict[str, dict[str, object]]:
        """Instance -> its run record."""
        found = [json.loads(path.read_bytes()) for path in self.runs.glob("store/*/run.json")]
        return {record["instance"]: record for record in found}


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Outside:
    return Outside(tmp_path_factory.mktemp("outside"))


def row(text: str, name: str) -> str:
    """The row of a table that begins with a name."""
    return next(line for line in text.splitlines() if line.strip("│┃| ").split()[:1] == [name])


def test_it_has_a_command_and_fills_a_slot_that_make_cams_fills(outside: Outside) -> None:
    outside.wsss("build-shards", "--on", "local")
    outside.wsss("my-maps", "--on", "local")
    assert set(outside.records()) == {"build_shards", "my_maps"}
    outside.wsss("run", "--on", "local")
    records = outside.records()
    assert set(records) == {
        "build_shards", "my_maps", "make_seeds", "make_scores", "make_pseudo_labels", "evaluate",
    }  # fmt: skip
    for reader in ("make_seeds", "make_scores"):
        upstream = records[reader]["upstream"]
        assert isinstance(upstream, dict)
        assert upstream["my_maps"] == records["my_maps"]["fingerprint"]
    shown = outside.wsss("show")
    assert "done in" in row(shown, "my_maps")
    assert "0.4" in row(shown, "my_maps.width")


def test_it_is_planned_by_what_it_states_or_by_a_run(outside: Outside) -> None:
    outside.wsss("run", "--on", "local")
    cores = ("--gpus-per-node", "0", "--images", "train=2000,val=100")
    silent = outside.wsss("plan", *cores)
    assert "cost not stated" in row(silent, "my_maps") and "2,100 images" in row(silent, "my_maps")
    assert "cost not stated, so not in the total: my_maps" in silent
    stated = outside.wsss("plan", *cores, "--set", "my_maps.states_cost=true")
    assert "measured" in row(stated, "my_maps") and "cost not stated" not in stated
    measured = outside.wsss("plan", *cores, "--measured", str(outside.runs))
    assert "own run" in row(measured, "my_maps") and "cost not stated" not in measured
    assert "over 8 images, 1 worker" in row(measured, "my_maps:")


@pytest.mark.ray
@pytest.mark.slow
def test_one_of_its_settings_is_swept(outside: Outside) -> None:
    printed = outside.wsss("sweep", "--on", "local", file=outside.sweep)
    assert "my_maps.width" in printed
    found = [json.loads(path.read_bytes()) for path in outside.runs.glob("store/my_maps-*/run.json")]
    assert {0.2, 0.6} <= {record["settings"]["my_maps.width"] for record in found}
