"""The folder of runs on nodes that do not share it: a raylet in a mount namespace of its own has another one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from cluster.actors.pool import PoolError
from cluster.ray_runtime import RayRuntime
from cluster.session.room import NoRoomError
from cluster.session.shared_folder import NotSharedError, SharedFolder, require_visible, sees
from shards.layer import Layer
from shards.records import SeedRecord
from shards.writer import write_shard
from tests.cluster.small_cluster import small_cluster
from tests.cluster.tiny import SHARDS, TinyFit, TinyMap, TorchMap, instance_of
from tests.conftest import NOT_RUN
from wsss.contract.runtime import RuntimeSettings


def test_the_probe_is_seen_in_one_folder_only_and_removed(tmp_path: Path) -> None:
    shared = SharedFolder(tmp_path)
    assert sees(str(shared.probe)) and sees("") and not sees(str(tmp_path / "own" / shared.probe.name))
    assert SharedFolder(tmp_path).probe != shared.probe
    shared.close()
    assert not sees(str(shared.probe))
    shared.close()


def test_a_finished_shard_that_the_driver_does_not_see_names_its_node(tmp_path: Path) -> None:
    layer = Layer(tmp_path / "store" / "seeds", SeedRecord.kind)
    require_visible(layer, {}, tmp_path, seconds=0)
    write_shard(layer, SHARDS[0], iter(()))
    require_visible(layer, {SHARDS[0]: "w1"}, tmp_path, seconds=0)
    made_on = {SHARDS[0]: "w1", SHARDS[1]: "w2"}
    with pytest.raises(NotSharedError) as caught:
        require_visible(layer, made_on, tmp_path, seconds=0)
    assert f"1 of 2 finished shards are not to be seen by the driver on {os.uname().nodename}" in str(caught.value)
    assert f"w2 has made {layer.tar_path(SHARDS[1])}, which is not there; runtime.runs = '{tmp_path}'" in str(
        caught.value
    )
    late = threading.Timer(0.3, lambda: write_shard(layer, SHARDS[1], iter(())))
    late.start()
    require_visible(layer, made_on, tmp_path, seconds=30)
    late.join()


@contextmanager
def node_without(folder: Path, cluster: Cluster) -> Iterator[None]:
    """A further node of a cluster on which the folder is another one, and empty."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip(f"{NOT_RUN}a mount namespace needs root and unshare")
    program = Path(sys.executable).with_name("ray")
    start = f"{program} start --address={cluster.address} --num-cpus=1 --block"
    command = ["unshare", "--mount", "sh", "-c", f"mount -t tmpfs none {folder} && exec {start}"]
    before = len(ray.nodes())
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        end = time.monotonic() + 60
        while len(ray.nodes()) == before:
            if process.poll() is not None and "unshare failed" in (printed := process.communicate()[0]):
                pytest.skip(f"{NOT_RUN}this machine allows no mount namespace: {printed}")
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.2)
        yield
    finally:
        process.terminate()
        process.wait(timeout=60)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.extended
def test_a_cluster_refuses_before_the_first_stage_what_cannot_run_on_it(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    stage, torch_stage, training = TinyMap(), TorchMap(), TinyFit(world_size=2)
    instance = instance_of(stage, runs / "store" / "tiny")
    instance.path.mkdir(parents=True)
    with small_cluster(1) as cluster:
        settings = RuntimeSettings(runs=runs, num_actors=2, actor_gpus=1)
        runtime = RayRuntime(settings, address=cluster.address)
        try:
            runtime.check([instance])
            assert len(list(runs.glob(".probe-*"))) == 1
            end = time.monotonic() + 30  # until Ray's monitor says that there is no autoscaler
            while time.monotonic() < end:
                try:
                    runtime.check([instance_of(torch_stage, instance.path)])
                except NoRoomError as error:
                    assert "no node has a GPU: the nodes that are up have 1 CPU" in str(error)
                    assert "set runtime.actor_gpus to 0" in str(error)
                    break
                time.sleep(0.5)
            else:
                pytest.fail("a GPU that no node has is not refused")
            runtime.check([instance_of(training, instance.path)])  # more nodes may be started by hand
            with node_without(runs, cluster):
                with pytest.raises(NotSharedError, match=rf"runtime.runs = '{runs}' is not one folder on all nodes: "):
                    runtime.check([instance])
                # As if the node had joined later.
                with pytest.raises(PoolError, match=rf"runtime.runs = '{runs}' is not one folder .* what the driver"):
                    runtime.map(instance, stage, lambda *_: None)
        finally:
            runtime.close()
    assert list(runs.glob(".probe-*")) == [], "the probe is removed"
