"""A training of ILSVRC DET's size that resumes in the middle of an epoch: seconds until its first batch.

    .venv/bin/python -m tests.benchmarks.resume

456,567 samples of 500 x 375 pixels and 110 KB in 223 shards, balanced, crops of 352 pixels, batches of 16, step 10,000.
All tars are links to one file (different ones would take 50 GB); each shard has its own manifest entries, keys and
classes.
Timed in a fresh process, from the settings to the first batch after the step: opening the layer, the classes of all
samples, the plan of the epochs, the start of the loader's processes, by the code that training runs (train_classifier's
training set, cluster/training/batches.py). The start of Python, torch and DeepSpeed is reported separately; the
loader's server starts at the same time, as in a training. Nothing is read or decoded for the earlier steps: the
script counts the examples that are made until the first batch.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import psutil
import torch

from cluster.local import free_port
from cluster.training.batches import RankBatches
from cluster.training.loader_server import start_loader_server
from cluster.training.rank_process import RankPlace, prepare_process
from shards.files import write_bytes
from shards.manifest_entry import RecordEntries
from shards.records import Sample
from shards.writer import write_shard
from tests.shards.sources.det_tree import FULL_SIZE
from tests.shards.sources.photographs import photograph
from tests.wsss.layers import instance_of
from wsss.contract.fit import Draw
from wsss.contract.stage import Instance
from wsss.stages.build_shards import BuildShards
from wsss.stages.train_classifier import TrainClassifier

SHARD_SIZE, NUM_PICTURES, BATCH, STEP, CROP = 2048, 128, 16, 10_000, 352
SECONDS_BAR = 5.0


def samples_of_size(folder: Path, num_images: int) -> Instance:
    stage = BuildShards(source="toy", counts={"train": num_images}, splits=("train",), shard_size=SHARD_SIZE)
    return instance_of(stage, folder)


def make_samples(folder: Path, num_images: int) -> None:
    """A layer of this many samples, whose tars are links to one file."""
    instance = samples_of_size(folder, num_images)
    stage = cast(BuildShards, instance.stage)
    layer, (first, *others) = instance.layer, stage.shards(instance)
    pictures = [photograph(number) for number in range(NUM_PICTURES)]
    row = write_shard(
        layer,
        first,
        (
            Sample(key=f"{n:06d}", encoded=pictures[n % NUM_PICTURES], size=(375, 500), classes=(1,), position=n)
            for n in range(min(SHARD_SIZE, num_images))
        ),
    )
    entries = list(row.entries)
    for number, shard in enumerate([first, *others]):
        random = np.random.default_rng(number)
        own = [
            replace(
                entry,
                key=f"ILSVRC2013_train/n01503061/n01503061_{number:06d}_{entry.key}",
                metadata=entry.metadata | {"classes": sorted({int(c) for c in random.geometric(0.15, 2).clip(1, 5)})},
            )
            for entry in entries[: num_images - number * SHARD_SIZE]
        ]
        if number:
            os.link(layer.tar_path(first), layer.tar_path(shard))
        write_bytes(layer.manifest_path(shard), replace(row, shard=shard, entries=RecordEntries.of(own)).to_bytes())
    layer.complete([first, *others], classes=instance.taxonomy.names)


def trained_on(folder: Path, *, num_images: int, workers: int) -> Instance:
    stage = TrainClassifier(
        crop_size=CROP,
        batch_size=BATCH,
        num_epochs=10,
        balance="down_up",
        loader_workers=workers,
        validation_split="",
    )
    return instance_of(stage, folder, samples=samples_of_size(folder, num_images))


class Counted:
    """A training set that counts the examples it makes."""

    def __init__(self, examples: Any) -> None:
        self._examples, self.made = examples, 0

    def __len__(self) -> int:
        return len(self._examples)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._examples, name)

    def example(self, draw: Draw) -> dict[str, Any]:
        self.made += 1
        found: dict[str, Any] = self._examples.example(draw)
        return found


def rank(folder: Path, num_images: int, workers: int) -> dict[str, Any]:
    """The work of a rank from its settings to the first batch, in a process of its own."""
    instance = trained_on(folder, num_images=num_images, workers=workers)
    stage = instance.stage
    assert isinstance(stage, TrainClassifier)
    if stage.loader_workers:
        start_loader_server()
    prepare_process(RankPlace(0, 1, 0, threads=1, gpus=0, address=f"127.0.0.1:{free_port()}"))
    loading = time.time() - psutil.Process().create_time()
    started = time.perf_counter()
    examples = stage.training_set(instance)
    opened = time.perf_counter()
    counted = Counted(examples) if stage.loader_workers == 0 else examples
    batches = RankBatches(counted, stage, rank=0, world_size=1, device=torch.device("cpu"))
    planned = time.perf_counter()
    stream = batches.after(STEP)
    parts = next(stream)
    ended = time.perf_counter()
    order = examples.order(0)[STEP * BATCH : (STEP + 1) * BATCH]
    assert len(order) == BATCH, "the step is in the first epoch"
    expected = [examples.name_of(int(index)).partition(": ")[2] for index in order]
    found = {
        "loading Python, torch and DeepSpeed": loading,
        "layer and classes": opened - started,
        "plan": planned - opened,
        "first batch": ended - planned,
        "all": ended - started,
        "wrong": sum(a != b for a, b in zip(parts[0].batch["key"], expected, strict=True)),
        "examples made": counted.made if isinstance(counted, Counted) else None,
        "peak bytes": psutil.Process().memory_info().rss,
    }
    stream.close()  # type: ignore[attr-defined]
    return found


def measured(folder: Path, num_images: int, workers: int) -> dict[str, Any]:
    # A main module that imports little, as in a training: the loader's processes import it.
    result, call = folder / "result.json", "import sys; from tests.benchmarks.resume import write; write(*sys.argv[1:])"
    subprocess.run([sys.executable, "-c", call, folder, str(num_images), str(workers), result], check=True)
    found: dict[str, Any] = json.loads(result.read_text())
    return found


def write(folder: str, num_images: str, workers: str, result: str) -> None:
    Path(result).write_text(json.dumps(rank(Path(folder), int(num_images), int(workers))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=FULL_SIZE)
    parser.add_argument("--workers", type=int, default=2, help="the loader's processes")
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        make_samples(Path(name), options.images)
        runs = [measured(Path(name), options.images, options.workers) for _ in range(options.repetitions)]
        alone = measured(Path(name), options.images, 0)
    middle = sorted(runs, key=lambda run: run["all"])[len(runs) // 2]
    wrong, seconds = sum(run["wrong"] for run in [*runs, alone]), middle["all"]
    report = {
        "name": "resume",
        "ratio": SECONDS_BAR / seconds,
        "agreement": wrong == 0 and alone["examples made"] == BATCH,
        "error": float(wrong),
        "checks": {
            "seconds to the first batch": {"value": seconds, "bar": SECONDS_BAR, "ok": seconds <= SECONDS_BAR},
            "examples made until then": {
                "value": alone["examples made"],
                "bar": BATCH,
                "ok": alone["examples made"] == BATCH,
            },
        },
        "with the loader's processes": middle,
        "in the rank itself": alone,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
