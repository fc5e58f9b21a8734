"""The pool of actors: what it costs beyond the work itself.

    .venv/bin/python -m tests.benchmarks.pool

1. A worker that sleeps 50 ms a record: records per second with 32 actors ÷ one. Both have the same number of shards per
   actor, four of 64 records.
2. Real make_cams (MobileNetV2, drawn images of 375 x 500, three scales with mirror images), one thread, two actors:
   CPU seconds of the driver and of Ray's own processes ÷ those of the actors; the share of time in which an actor has
   no shard, between its first and its last; and the share in which it finishes a shard whose records are made: fsync,
   the hash and the manifest.

Actors start before the clock does. Agreement: shards that 32 actors and one both made have the same bytes, and every
record that was asked for is there.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from itertools import count, pairwise
from pathlib import Path

import psutil
import ray
import torch
from safetensors.torch import save_file

from cluster.ray_runtime import RayRuntime
from cluster.session.ray_session import prepare_environment
from shards.records import Sample
from tests.benchmarks.pool_stages import MarkedCams, Sleeping, read_marks
from tests.shards.sources.photographs import photograph
from tests.wsss.layers import instance_of, samples_of
from wsss.contract.fit import weights_path
from wsss.contract.runtime import RuntimeSettings
from wsss.contract.shard_times import read_times
from wsss.contract.stage import Instance, Map
from wsss.stages.train_classifier import TrainClassifier

SIZE, CLASSES = (375, 500), (1, 3)
MANY = 32
SHARDS_EACH = 4
RATIO_BAR = 30.0
DRIVER_BAR, IDLE_BAR, FINISHING_BAR = 0.05, 0.05, 0.03


def mapped(runtime: RayRuntime, instance: Instance) -> float:
    """Seconds of a stage."""
    assert isinstance(instance.stage, Map)
    start = time.perf_counter()
    runtime.map(instance, instance.stage, lambda *_: None)
    return time.perf_counter() - start


def records_per_second(folder: Path, num_actors: int) -> tuple[float, Instance]:
    """Sleeping records per second of a pool whose actors are running, and the instance that they made."""
    runtime = RayRuntime(RuntimeSettings(runs=folder, num_actors=num_actors), address=None)
    try:
        for attempt in count():  # until all actors have worked: the first ones finish while others start
            first = instance_of(
                Sleeping(num_shards=num_actors * 4, per_shard=1, pause=1.0), folder / f"first-{attempt}"
            )
            mapped(runtime, first)
            if read_times(first.path).workers == num_actors:
                break
        stage = Sleeping(num_shards=num_actors * SHARDS_EACH)
        timed = instance_of(stage, folder / "timed")
        return stage.num_shards * stage.per_shard / mapped(runtime, timed), timed
    finally:
        runtime.close()


def agree(one: Instance, many: Instance) -> bool:
    """Whether both layers are complete, and the shards that both have are the same."""
    shards = []
    for instance in (one, many):
        assert isinstance(instance.stage, Map)
        shards.append(set(instance.stage.shards(instance)))
    complete = all(
        len(instance.layer.manifest_entry(shard).entries) == Sleeping.per_shard
        for instance, names in zip((one, many), shards, strict=True)
        for shard in names
    )
    common = shards[0] & shards[1]
    return (
        complete
        and len(common) == SHARDS_EACH
        and all(one.layer.tar_path(shard).read_bytes() == many.layer.tar_path(shard).read_bytes() for shard in common)
    )


def cam_instance(folder: Path, *, num_shards: int, per_shard: int) -> Instance:
    """make_cams with a network of random weights, which cost the same."""
    pictures = [photograph(number) for number in range(8)]
    shards = {
        f"train-{shard:06d}": [
            Sample(
                key=f"{shard}-{number}",
                encoded=pictures[(shard + number) % len(pictures)],
                size=SIZE,
                classes=CLASSES,
                position=shard * per_shard + number,
            )
            for number in range(per_shard)
        ]
        for shard in range(num_shards)
    }
    samples = samples_of(folder, shards)
    stage = TrainClassifier(encoder="mobilenetv2_100", pretrained="none", output_stride=16, dilated=False)
    trained = instance_of(stage, folder, samples=samples)
    trained.path.mkdir()
    torch.manual_seed(0)
    save_file(stage.model(trained, pretrained=True).state_dict(), weights_path(trained))
    cams = MarkedCams(splits=("train",), scales=(1.0, 0.5, 1.5))
    return instance_of(cams, folder, samples=samples, classifier=trained)


def cpu_seconds(processes: list[psutil.Process]) -> dict[int, float]:
    found = {}
    for process in processes:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        found[process.pid] = times.user + times.system
    return found


def real_cams(folder: Path, *, num_shards: int, per_shard: int, num_actors: int) -> dict[str, float]:
    """The three shares of the docstring's second part."""
    this = psutil.Process()
    runtime = RayRuntime(RuntimeSettings(runs=folder, num_actors=num_actors), address=None)
    try:
        (folder / "first").mkdir()
        mapped(runtime, cam_instance(folder / "first", num_shards=num_actors * 2, per_shard=1))
        (folder / "timed").mkdir()
        instance = cam_instance(folder / "timed", num_shards=num_shards, per_shard=per_shard)
        before = cpu_seconds([this, *this.children(recursive=True)])
        mapped(runtime, instance)
        after = cpu_seconds([this, *this.children(recursive=True)])
    finally:
        runtime.close()
    marks = read_marks(instance.path)
    spent = {pid: seconds - before.get(pid, 0.0) for pid, seconds in after.items()}
    at_work = sum(seconds for pid, seconds in spent.items() if pid in marks)
    idle = finishing = span = 0.0
    for pid, of_process in marks.items():
        ends = _ends(instance.path, pid, of_process)
        begun = {shard: when for what, shard, when in of_process if what == "begun"}
        made = {shard: when for what, shard, when in of_process if what == "made"}
        order = sorted(begun, key=begun.__getitem__)
        span += ends[order[-1]] - begun[order[0]]
        idle += sum(begun[later] - ends[earlier] for earlier, later in pairwise(order))
        finishing += sum(ends[shard] - made[shard] for shard in order)
    return {
        "CPU seconds of driver and Ray / the actors'": (sum(spent.values()) - at_work) / at_work,
        "actors idle": idle / span,
        "fsync, hash and manifest": finishing / span,
    }


def _ends(folder: Path, pid: int, marks: list[tuple[str, str, float]]) -> dict[str, float]:
    """Shard -> when its actor had finished it: the time of its manifest entry, which is written last."""
    offset = time.time() - time.monotonic()
    shards = {shard for _, shard, _ in marks}
    return {shard: (folder / f"{shard}.json").stat().st_mtime - offset for shard in shards}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=10, help="shards of the real stage")
    parser.add_argument("--per-shard", type=int, default=16, help="images in each")
    arguments = parser.parse_args()
    os.environ.setdefault("RAY_worker_niceness", "0")  # actors of lower priority would be slowed by other processes
    prepare_environment()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ray.init(address="local", num_cpus=MANY + 1, include_dashboard=False, log_to_driver=False)
        try:
            pools = {number: records_per_second(folder / str(number), number) for number in (1, MANY)}
        finally:
            ray.shutdown()
        agreement = agree(pools[1][1], pools[MANY][1])
        (folder / "cams").mkdir()
        shares = real_cams(folder / "cams", num_shards=arguments.shards, per_shard=arguments.per_shard, num_actors=2)
    ratio = pools[MANY][0] / pools[1][0]
    bars = dict(zip(shares, (DRIVER_BAR, IDLE_BAR, FINISHING_BAR), strict=True))
    checks = {what: {"value": value, "bar": bars[what], "ok": value <= bars[what]} for what, value in shares.items()}
    what = f"records per second of {MANY} actors / one's"
    checks[what] = {"value": ratio, "bar": RATIO_BAR, "ok": ratio >= RATIO_BAR}
    report = {
        "name": "pool",
        "ratio": ratio,
        "agreement": agreement,
        "error": 0.0 if agreement else 1.0,
        "checks": checks,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
