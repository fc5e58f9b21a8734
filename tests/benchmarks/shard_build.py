"""Index and shards of a data set of ILSVRC DET's size on this machine's cores, against plain `tar` over the same files.

    .venv/bin/python -m tests.benchmarks.shard_build --folder FOLDER           # 456,567 images; FOLDER keeps the tree
    .venv/bin/python -m tests.benchmarks.shard_build --images 20000

The tree: JPEGs of 3 KB, annotations and lists in the archive's layout (tests/shards/sources/det_tree.py). The rival
copies all of it into one tar; ours lists it, reads labels, checks that every image decodes, hashes, and writes shards
by Ray actors as in `wsss run`, each flushed to disk. Ours is timed from the settings to the finished index, including
the start and end of Ray. Each runs after the files were read once. The bytes that it reads from the disk again are
reported with its seconds, because the ratio depends on them: `tar` of files in memory does very little work.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from cluster.ray_runtime import RayRuntime
from shards.balance import balance_factors
from shards.lanes import lane_share, num_batches
from shards.layer import Layer
from shards.reader import read_shard
from shards.records import Sample
from shards.taxonomy import ilsvrc_det_200
from tests.shards.sources.det_tree import FULL_SIZE, det_tree
from tests.wsss.layers import instance_of
from wsss.contract.runtime import RuntimeSettings
from wsss.data.joined_records import JoinedRecords
from wsss.stages.build_shards import BuildShards

NUM_RANKS, NUM_WORKERS, GLOBAL_BATCH = 64, 8, 384
RATIO_BAR, SECONDS_BAR, MEMORY_BAR = 0.5, 2.0, 1 << 30
TIMES = "seconds.json"
NICENESS = "RAY_worker_niceness"


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def disk_read() -> int:
    """Bytes that this machine has read from its disks."""
    return int(counters.read_bytes) if (counters := psutil.disk_io_counters()) else 0


def rival(tree: Path, file: Path) -> float:
    """Seconds of plain tar."""
    os.sync()
    command = ["tar", "-cf", str(file), "-C", str(tree.parent), tree.name]
    seconds, _ = timed(lambda: subprocess.run(command, check=True))
    file.unlink()
    return seconds


def build(tree: Path, folder: Path, shard_size: int) -> None:
    """The work of a driver, in a process of its own; writes the layer and the seconds of each part."""
    os.environ.setdefault(NICENESS, "0")  # actors of lower priority would be slowed down by other processes
    seconds: dict[str, float] = {}
    start = time.perf_counter()
    stage = BuildShards(source="ilsvrc_det", root=str(tree), splits=("train",), shard_size=shard_size)
    instance = instance_of(stage, folder)
    seconds["listing"], _ = timed(lambda: (stage.check(instance), stage.signature(), stage.shards(instance)))
    seconds["start of Ray"], runtime = timed(lambda: RayRuntime(RuntimeSettings(runs=folder), address=None))
    seconds["shards"], _ = timed(lambda: runtime.map(instance, stage, lambda *_: None))
    seconds["index"], _ = timed(lambda: instance.layer.complete(stage.shards(instance)))
    seconds["end of Ray"], _ = timed(runtime.close)
    seconds["all"] = time.perf_counter() - start
    (folder / TIMES).write_text(json.dumps(seconds))


class Memory:
    """Watches the memory of a process and the Ray actors that it started, in bytes; shared memory is counted once."""

    def __init__(self, pid: int) -> None:
        self._driver = psutil.Process(pid)
        self.peak, self.largest = 0, {"driver": 0, "worker": 0}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.5):
            total = self._look(self._driver, "driver")
            try:
                below = self._driver.children(recursive=True)
            except psutil.NoSuchProcess:
                return
            total += sum(self._look(process, "worker") for process in below)
            self.peak = max(self.peak, total)

    def _look(self, process: psutil.Process, what: str) -> int:
        try:
            if what == "worker" and not "".join(process.cmdline()).startswith("ray::ShardActor"):
                return 0
            info = process.memory_full_info()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return 0
        self.largest[what] = max(self.largest[what], info.rss)
        return int(info.pss)


def ours(tree: Path, folder: Path, shard_size: int) -> tuple[dict[str, float], Memory]:
    os.sync()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    process = multiprocessing.get_context("spawn").Process(target=build, args=(tree, folder, shard_size))
    process.start()
    assert process.pid is not None
    memory = Memory(process.pid)
    process.join()
    memory.stop()
    if process.exitcode != 0:
        raise RuntimeError(f"the build ended with exit code {process.exitcode}")
    return json.loads((folder / TIMES).read_text()), memory


def wrong_images(tree: Path, layer: Layer) -> int:
    """Images of the tree that are not in the layer exactly once with the file's bytes, and records without an image."""
    left = {path.relative_to(tree).as_posix() for path in (tree / "Data" / "DET" / "train").rglob("*.JPEG")}
    wrong = 0
    for shard in layer.shards():
        for record in read_shard(layer, shard):
            assert isinstance(record, Sample)
            if record.source not in left or (tree / record.source).read_bytes() != record.encoded:
                wrong += 1
            left.discard(record.source)
    return wrong + len(left)


def plan(records: JoinedRecords, classes: list[list[int]]) -> tuple[np.ndarray, list[list[np.ndarray]]]:
    """A balanced epoch: draws of every record, and what each worker of each rank reads, batch after batch."""
    factors = balance_factors(
        classes, num_classes=len(ilsvrc_det_200()), balance="down_up", threshold=0.001, limit=10.0
    )
    records.repeat(factors)
    order = records.order(0)
    return order, dealt(order)


def dealt(order: np.ndarray) -> list[list[np.ndarray]]:
    """Record numbers by rank and worker; torch's loader gives a rank's batches to its workers in turn."""
    read: list[list[np.ndarray]] = []
    for rank in range(NUM_RANKS):
        deal = {"global_batch": GLOBAL_BATCH, "rank": rank, "world_size": NUM_RANKS}
        shares = [
            order[slice(share.start, share.stop)]
            for batch in range(num_batches(len(order), global_batch=GLOBAL_BATCH))
            for share in (lane_share(len(order), batch=batch, **deal),)
        ]
        none = order[:0]  # with few images there are fewer batches than workers
        read.append([np.concatenate([none, *shares[worker::NUM_WORKERS]]) for worker in range(NUM_WORKERS)])
    return read


def wrong_draws(order: np.ndarray, read: list[list[np.ndarray]], times: np.ndarray) -> int:
    """Records that workers read more or less often than they are drawn."""
    counts = np.bincount(np.concatenate([part for of_rank in read for part in of_rank]), minlength=len(times))
    return int((counts != times).sum() + (np.bincount(order, minlength=len(times)) != times).sum())


def plans(layer: Layer) -> tuple[dict[str, float], int]:
    """Seconds to load the index and to plan an epoch, and draws that are wrong in a plain and in a balanced epoch."""

    def load() -> tuple[JoinedRecords, list[list[int]]]:
        records = JoinedRecords({"samples": layer}, split="train", seed=1, lanes=GLOBAL_BATCH)
        return records, records.classes()  # reads the manifest of every shard

    loading, (records, classes) = timed(load)
    plain = records.order(0)
    wrong = wrong_draws(plain, dealt(plain), np.ones(len(records), np.int64))
    planning, (order, read) = timed(lambda: plan(records, classes))
    wrong += wrong_draws(order, read, np.bincount(order, minlength=len(records)))
    return {"index loads, seconds": loading, "plan of 64 ranks x 8 workers, seconds": planning}, wrong


def report(pairs: list[tuple[float, float]], peak: int, seconds: dict[str, float], wrong: int) -> dict[str, Any]:
    ratio = statistics.median(theirs for theirs, _ in pairs) / statistics.median(mine for _, mine in pairs)
    checks = {"tar's time / ours": {"value": ratio, "bar": RATIO_BAR, "ok": ratio >= RATIO_BAR}}
    checks["bytes of the driver and the workers at their peak"] = {
        "value": peak,
        "bar": MEMORY_BAR,
        "ok": peak <= MEMORY_BAR,
    }
    for name, value in seconds.items():
        checks[name] = {"value": value, "bar": SECONDS_BAR, "ok": value <= SECONDS_BAR}
    return {"name": "shard_build", "ratio": ratio, "agreement": wrong == 0, "error": float(wrong), "checks": checks}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=FULL_SIZE, help="number of images in the tree")
    parser.add_argument("--folder", type=Path, help="where the tree is made, and kept for the next run")
    parser.add_argument("--shard-size", type=int, default=2048, help="images per shard")
    parser.add_argument("--repetitions", type=int, default=2, help="alternating runs of both sides")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        making, tree = timed(lambda: det_tree(options.folder or Path(name), options.images))
        out = Path(name) / "out"
        rival(tree, Path(name) / "rival.tar")  # reads every file once
        pairs: list[tuple[float, float]] = []
        peak, largest, parts = 0, {"driver": 0, "worker": 0}, []
        read: dict[str, list[int]] = {"tar": [], "ours": []}
        for _ in range(options.repetitions):
            before = disk_read()
            theirs = rival(tree, Path(name) / "rival.tar")
            between = disk_read()
            seconds, memory = ours(tree, out, options.shard_size)
            read["tar"].append(between - before)
            read["ours"].append(disk_read() - between)
            pairs.append((theirs, seconds["all"]))
            parts.append(seconds)
            peak = max(peak, memory.peak)
            largest = {what: max(size, memory.largest[what]) for what, size in largest.items()}
        layer = Layer(next(path.parent for path in out.glob("*/index.json")), Sample.kind)
        of_plans, wrong = plans(layer)
        result = report(pairs, peak, of_plans, wrong + wrong_images(tree, layer))
    result |= {"images": options.images, "seconds": {"tar": [theirs for theirs, _ in pairs], "ours": parts}}
    result |= {"bytes read from the disk": read}
    result |= {"largest process, resident bytes": largest, "seconds to make the tree": making}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
