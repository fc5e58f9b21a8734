"""A plan that takes its seconds per image from the tiny recipe's own run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.pipeline.chain import TINY
from tests.pipeline.conftest import Finished
from wsss.__main__ import main
from wsss.contract.fit import Fit
from wsss.contract.shard_times import FOLDER
from wsss.plan.hardware import cluster_of
from wsss.plan.plan import Plan, make_plan

pytestmark = pytest.mark.slow


def planned(runs: Path, *, measured: Path, images: str | None = None) -> Plan:
    """On one core, as the run was."""
    alone = cluster_of(nodes=1, gpus_per_node=0, gpu=None, cores_per_node=1, network_gbps=100.0, storage_gbps=20.0)
    return make_plan(TINY, [f"runtime.runs={runs}"], cluster=alone, images=images, measured=measured)


def test_a_run_predicts_itself(finished: Finished, tmp_path: Path) -> None:
    plan = planned(tmp_path / "none", measured=finished.recipe.runtime.runs)
    records = finished.summary.records
    assert all(stage.is_measured for stage in plan.stages), [s.lacking for s in plan.stages]
    for stage in plan.stages:
        took = records[stage.instance.name].seconds
        assert stage.usage is not None
        assert 0.5 * took - 0.5 <= stage.usage.seconds <= 2 * took + 0.5, stage.instance.name


def test_ten_times_the_images_take_what_is_measured_ten_times(finished: Finished, tmp_path: Path) -> None:
    runs = finished.recipe.runtime.runs
    once = planned(tmp_path / "none", measured=runs)
    more = planned(tmp_path / "none", measured=runs, images="train=160,val=80")
    records = finished.summary.records
    for one, ten in zip(once.stages, more.stages, strict=True):
        work, name = records[one.instance.name].work, one.instance.name
        assert one.usage is not None and ten.usage is not None and ten.images == 10 * one.images, name
        if not isinstance(one.instance.stage, Fit):
            kept = "later_" if work["later_images"] else ""
            seconds = work[f"{kept}seconds"] / work[f"{kept}images"] * work["images"]
            assert ten.usage.core_seconds - one.usage.core_seconds >= 8.9 * seconds, name


def test_what_a_run_records_of_its_work(finished: Finished) -> None:
    works = {name: record.work for name, record in finished.summary.records.items()}
    assert works["make_cams"]["images"] == 24 and works["predict"]["images"] == 8
    assert works["evaluate_pseudo_labels"]["images"] == 24 and works["submit"]["images"] == 8
    assert works["make_cams"]["later_images"] == 20, "but for the first shard, of 4"
    assert {work["workers"] for work in works.values()} == {1.0}
    for name, record in finished.summary.records.items():
        assert 0 <= record.work.get("seconds", 0.0) + record.work["driver_seconds"] <= record.seconds + 0.01, name
    assert not list(finished.recipe.runtime.runs.glob(f"store/*/{FOLDER}")), "the notes went into the records"


def test_stages_that_the_run_lacks_are_named(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "small"
    for instance in finished.recipe.instances:
        if instance.name != "make_scores":
            target = run / "store" / instance.path.name / "run.json"
            target.parent.mkdir(parents=True)
            shutil.copy(instance.path / "run.json", target)
    command = ["plan", str(TINY), "--gpus-per-node", "0", "--cores-per-node", "1", "--measured", str(run)]
    assert main([*command, "--set", f"runtime.runs={tmp_path}/none", "--set", "make_seeds.crf_iterations=7"]) == 0
    printed = capsys.readouterr().out
    assert "  make_scores: from the tables; it is not in the run" in printed
    assert "settings that differ (run -> plan): make_seeds.crf_iterations 2 -> 7" in printed


def test_gpus_are_not_planned_from_cores(finished: Finished, tmp_path: Path) -> None:
    cluster = cluster_of(
        nodes=1, gpus_per_node=2, gpu="A100", cores_per_node=None, network_gbps=100.0, storage_gbps=20.0
    )
    runs = finished.recipe.runtime.runs
    plan = make_plan(TINY, [f"runtime.runs={tmp_path}/none"], cluster=cluster, images=None, measured=runs)
    stages = {stage.instance.name: stage for stage in plan.stages}
    assert not stages["make_cams"].is_measured
    assert stages["make_cams"].lacking == "it ran on cores, and the planned cluster computes on GPUs"
    assert stages["make_seeds"].is_measured
