"""make_scores and make_pseudo_labels end to end: seconds per image by part; images per second with one and two actors.

Drawn images of 375 x 500 pixels with two classes each; IRNet on ResNet-50, as in irn (random weights: they cost the
same), radius 5, beta 10, 2^8 steps; dense CRF with irn's settings. One thread per actor, Ray actors as in `wsss run`,
steady state: from the fifth shard to the third from last.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from safetensors.torch import save_file

from cluster.ray_runtime import RayRuntime
from shards.images import encode_png
from shards.records import CamRecord, Sample, ScoreRecord, grid_size
from tests.wsss.layers import instance_of, records_of, samples_of
from wsss.contract.fit import load_trained, weights_path
from wsss.contract.runtime import RuntimeSettings
from wsss.contract.stage import Instance, Map
from wsss.data.images import magnify_scores, to_tensor
from wsss.ops.random_walk import random_walk
from wsss.stages.affinity.walk import edge_probability
from wsss.stages.make_cams import MakeCams
from wsss.stages.make_pseudo_labels import MakePseudoLabels
from wsss.stages.make_scores import MakeScores
from wsss.stages.train_affinity import TrainAffinity

SIZE, CLASSES = (375, 500), (2, 4)
IMAGES_PER_SHARD = 2
RATIO_BAR = 1.8
SKIPPED_SHARDS, TAIL_SHARDS = 4, 2
NICENESS = "RAY_worker_niceness"


def picture(number: int) -> np.ndarray:
    """Smooth fields of colour with noise: a dense CRF's lattice is as large as for a photograph of this size."""
    random = np.random.default_rng(number)
    coarse = torch.from_numpy(random.random((1, 3, 12, 16), dtype=np.float32))
    smooth = torch.nn.functional.interpolate(coarse, size=SIZE, mode="bicubic", align_corners=False)[0]
    noise = torch.from_numpy(random.normal(0, 0.02, (3, *SIZE)).astype(np.float32))
    return (255 * (smooth + noise).clamp(0, 1)).byte().permute(1, 2, 0).contiguous().numpy()


def prepared(path: Path, num_shards: int) -> tuple[Instance, Instance]:
    """Layers of samples and maps, and a network; instances of the two stages that read them."""
    samples: dict[str, list[Any]] = {}
    cams: dict[str, list[Any]] = {}
    rows, columns = np.meshgrid(*(np.linspace(-1, 1, side) for side in grid_size(SIZE)), indexing="ij")
    for number in range(num_shards * IMAGES_PER_SHARD):
        shard, key = f"train-{number // IMAGES_PER_SHARD:06d}", f"k{number}"
        centres = np.random.default_rng(number).uniform(-0.6, 0.6, (2, 2))
        maps = [np.exp(-4 * ((rows - y) ** 2 + (columns - x) ** 2)) for y, x in centres]
        image = encode_png(picture(number))
        samples.setdefault(shard, []).append(
            Sample(key=key, encoded=image, size=SIZE, classes=CLASSES, position=number)
        )
        record = CamRecord(key=key, classes=np.array(CLASSES, np.int16), maps=np.float16(maps), size=SIZE)
        cams.setdefault(shard, []).append(record)
    made = samples_of(path, samples)
    mapped = records_of(MakeCams(), path, made, cams)
    stage = TrainAffinity(encoder="resnet50", pretrained="none", dilated=False)
    trained = instance_of(stage, path, samples=made)
    trained.path.mkdir()
    torch.manual_seed(0)
    save_file(stage.model(trained, pretrained=True).state_dict(), weights_path(trained))
    scores = instance_of(MakeScores(splits=("train",)), path, samples=made, cams=mapped, affinity=trained)
    labels = instance_of(MakePseudoLabels(splits=("train",)), path, samples=made, scores=scores)
    return scores, labels


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def parts(scores: Instance, labels: Instance) -> dict[str, float]:
    """Median seconds per image of each part, in this process, one thread."""
    trained, stage = scores.inputs["affinity"], labels.stage
    assert isinstance(trained.stage, TrainAffinity) and isinstance(stage, MakePseudoLabels)
    network = load_trained(trained)
    x = to_tensor(picture(0), mean=trained.stage.mean, std=trained.stage.std)[None]
    maps = torch.rand(2, *grid_size(SIZE), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        edge_hw = edge_probability(network, x)[0]
        walk = {"radius": 5, "beta": 10.0, "num_steps_log2": 8}
        record = ScoreRecord(key="k0", classes=np.array(CLASSES, np.int16), scores=maps.half().numpy(), size=SIZE)
        planes = magnify_scores(record.scores, SIZE, device=torch.device("cpu"))
        unary = -torch.log(torch.cat([torch.full((1, *SIZE), 0.25), planes]).clamp_min(1e-5))
        calls: dict[str, Callable[[], Any]] = {
            "boundary map, two views": lambda: edge_probability(network, x),
            "walk": lambda: random_walk(maps, edge_hw=edge_hw, **walk),  # type: ignore[arg-type]
            "dense CRF": lambda: stage.refine_energy(unary, picture(0)),
        }
        return {name: statistics.median(seconds(call) for _ in range(5)) for name, call in calls.items()}


def rate(instance: Instance, runtime: RayRuntime) -> float:
    """Images per second of a stage in steady state."""
    assert isinstance(instance.stage, Map)
    times: list[float] = []
    runtime.map(instance, instance.stage, lambda *_: times.append(time.perf_counter()))
    steady = times[1 + SKIPPED_SHARDS : -TAIL_SHARDS]  # the first call reports the start
    return IMAGES_PER_SHARD * (len(steady) - 1) / (steady[-1] - steady[0])


def layer_bytes(instance: Instance) -> list[bytes]:
    return [path.read_bytes() for path in sorted(instance.path.glob("*.tar"))]


def measure(path: Path, num_shards: int, num_actors: int) -> tuple[float, list[bytes]]:
    """Images per second through both stages, and the bytes of the labels."""
    path.mkdir()
    scores, labels = prepared(path, num_shards)
    runtime = RayRuntime(RuntimeSettings(runs=path, num_actors=num_actors), address=None)
    try:
        seconds_per_image = 0.0
        for instance in (scores, labels):
            seconds_per_image += 1 / rate(instance, runtime)
            assert isinstance(instance.stage, Map)
            instance.layer.complete(instance.stage.shards(instance))
    finally:
        runtime.close()
    return 1 / seconds_per_image, layer_bytes(labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=20, help="shards of two images in each run")
    parser.add_argument("--repetitions", type=int, default=2, help="alternating runs with one and two actors")
    arguments = parser.parse_args()
    os.environ.setdefault(NICENESS, "0")  # actors of lower priority would be slowed down by other processes
    torch.set_num_threads(1)
    rates: dict[int, list[float]] = {1: [], 2: []}
    labels: set[bytes] = set()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "parts").mkdir()
        of_parts = parts(*prepared(Path(folder) / "parts", 1))
        for repetition in range(arguments.repetitions):
            for num_actors, found in rates.items():
                path = Path(folder) / f"{repetition}-{num_actors}"
                images_per_second, made = measure(path, arguments.shards, num_actors)
                found.append(images_per_second)
                labels.add(b"".join(made))
    one, two = (statistics.median(found) for found in rates.values())
    assert not ray.is_initialized()
    report = {
        "name": "pseudo_labels",
        "ratio": two / one,
        "agreement": len(labels) == 1,
        "error": float(len(labels) - 1),
        "checks": {
            "two actors' images per second / one's": {
                "value": two / one,
                "bar": RATIO_BAR,
                "ok": two / one >= RATIO_BAR,
            }
        },
        "images_per_second": {"1 actor": one, "2 actors": two},
        "seconds_per_image": of_parts | {"all, with reading and writing": 1 / one},
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
