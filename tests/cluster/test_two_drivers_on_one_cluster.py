"""Two drivers that each take all CPUs of a cluster: the one that waits holds none of them."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
import ray
from rich.console import Console

from cluster.ray_runtime import RayRuntime
from tests.cluster.driver import OneInstance, start, wait_for
from tests.cluster.small_cluster import small_cluster
from tests.cluster.tiny import SHARDS, TinyMap, instance_of
from wsss.contract.runtime import RuntimeSettings
from wsss.pipeline.progress import Reporter
from wsss.pipeline.recipe import Recipe
from wsss.pipeline.run import RunSummary, run_instance

pytestmark = [pytest.mark.ray, pytest.mark.extended]
BLOCKED_SECONDS = 8.0


@pytest.fixture
def address() -> Iterator[str]:
    with small_cluster(2) as cluster:
        yield cluster.address


def test_a_driver_that_waits_for_another_releases_its_actors_and_says_for_whom(address: str, tmp_path: Path) -> None:
    printed = Console(file=(tmp_path / "printed").open("w"), width=1000)
    runtime = RayRuntime(RuntimeSettings(runs=tmp_path, num_actors=2), address=address)
    other = None
    try:
        first = instance_of(TinyMap(), tmp_path / "first")
        runtime.map(first, TinyMap(), lambda *_: None)  # its two actors are kept
        until = time.monotonic() + 60
        while ray.available_resources().get("CPU", 0.0) and time.monotonic() < until:
            time.sleep(0.2)
        assert not ray.available_resources().get("CPU", 0.0), "this driver holds all CPUs"
        other = start(tmp_path / "second", "map", place=address, stage={"wait_in": SHARDS[0]})
        wait_for(tmp_path / "second" / ".lock-holder.json", other)
        time.sleep(BLOCKED_SECONDS)
        assert not (tmp_path / "second" / "waits").exists(), "control: without a CPU the other driver cannot begin"
        (tmp_path / "second" / "go").touch()
        begun = time.monotonic()
        summary, recipe = RunSummary(), cast(Recipe, OneInstance(RuntimeSettings(runs=tmp_path)))
        second = instance_of(TinyMap(wait_in=SHARDS[0]), tmp_path / "second")
        run_instance(recipe, second, runtime=runtime, reporter=Reporter(printed), summary=summary)
        assert summary.reused == ["tiny"], "the other driver did it"
        assert time.monotonic() - begun < 60
        assert other.wait(timeout=60) == 0
    finally:
        runtime.close()
        if other is not None and other.poll() is None:
            other.kill()
            subprocess.Popen.communicate(other)
    text = (tmp_path / "printed").read_text()
    assert f"waiting for another process that is running it: process {other.pid} on " in text
    assert ", since " in text and "tests.cluster.driver" in text, "since when, and which command"
