"""Measures the figures of `wsss/plan/costs.toml`: the cost of one image, one step and one record on a core.

    .venv/bin/python -m tests.benchmarks.costs [--photographs VOC2012]

Medians of the CPU seconds of the thread that does the work, so that other load changes them little. Without
photographs, images drawn in code are used; the costs in costs.toml were measured on photographs. The ratio in the JSON
line is the cost in the file / the measured cost (geometric mean): how well the file describes this machine.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from shards.images import decode_index_png, encode_png
from shards.layer import Layer, shard_name
from shards.reader import read_shard
from shards.records import CamRecord, PseudoLabel, Record, Sample, SeedRecord, grid_size
from shards.sources.toy import ToySource
from shards.writer import write_shard
from wsss.data.augment import Augmentation, augment, fill_colour
from wsss.data.images import resize_image, to_tensor
from wsss.data.joined_records import JoinedRecords
from wsss.losses.affinity_displacement import affinity_displacement_loss, affinity_displacement_sums
from wsss.models.classifier import Classifier
from wsss.models.encoder import EncoderSpec, build_encoder
from wsss.ops.cam import class_activation_map, normalise_per_class
from wsss.ops.dense_crf import BilateralKernel, GaussianKernel, dense_crf, unary_from_labels
from wsss.ops.instances import cut_instances, displacement_groups, group_walk
from wsss.ops.kept_draws import DrawKey
from wsss.ops.multi_scale import resize_bilinear
from wsss.ops.pixel_pairs import half_plane_offsets
from wsss.ops.random_walk import chebyshev_power, random_walk
from wsss.ops.seeds import two_threshold_seeds
from wsss.ops.stochastic_cam import stochastic_cam
from wsss.ops.tta import ViewLogits, merged_bands, softmax_of_classes
from wsss.plan.costs import load_costs
from wsss.stages.affinity.cost import WALK_TOLERANCE
from wsss.stages.evaluation.counts import add_image, count_boundary, empty_counts

NUM_IMAGES, REPETITIONS = 12, 5
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLASSES = [1, 7]
MEGA = 1e6
Found = dict[str, float]


def seconds(call: Callable[[], Any], *, repetitions: int = REPETITIONS) -> float:
    """Median CPU seconds of this thread, after one warm-up call."""
    call()
    found = []
    for _ in range(repetitions):
        start = time.thread_time()
        call()
        found.append(time.thread_time() - start)
    return statistics.median(found)


def photographs(root: Path) -> Iterator[Sample]:
    """Images with masks, of VOC's layout."""
    for path in sorted((root / "SegmentationClassAug").glob("*.png"))[:NUM_IMAGES]:
        mask = decode_index_png(path.read_bytes())
        mask = np.where(mask == 255, 255, np.minimum(mask, 20)).astype(np.uint8)
        classes = tuple(c for c in np.unique(mask).tolist() if c not in (0, 255))
        encoded = (root / "JPEGImages" / f"{path.stem}.jpg").read_bytes()
        yield Sample(key=path.stem, encoded=encoded, size=mask.shape, classes=classes, mask=mask)


def drawn() -> list[Sample]:
    source = ToySource(counts={"train": NUM_IMAGES}, seed=0, size=430)
    return [source.read(listed) for listed in source.list_split("train")]


def megapixels(samples: list[Sample]) -> float:
    return sum(sample.size[0] * sample.size[1] for sample in samples) / MEGA


def reading(samples: list[Sample]) -> Found:
    """Decoding samples from a shard, and the random augmentation of training images."""
    images = [sample.image for sample in samples]
    found = {"decode_image": seconds(lambda: [s.image for s in fresh(samples)]) / megapixels(samples)}
    for name, strong in (("augment_weak", False), ("augment_strong", True)):
        change = Augmentation(
            crop_size=352, resize_long=(256, 704), colour_jitter=0.2, fill=fill_colour(MEAN), strong=strong
        )
        compose = change.compose()

        def example(place: int, compose: Any = compose) -> torch.Tensor:
            mask = samples[place].mask
            image, _ = augment(compose, images[place], mask_HW=mask, seed=1, epoch=0, key=samples[place].key)
            return to_tensor(image, mean=MEAN, std=STD)

        spent = seconds(lambda example=example: [example(i) for i in range(len(images))])  # type: ignore[misc]
        found[name] = spent / (len(images) * 352**2 / MEGA)
    return found


def fresh(samples: list[Sample]) -> list[Sample]:
    """The same samples without their cached decoded pixels."""
    return [Sample(key=s.key, encoded=s.encoded, size=s.size, classes=s.classes, mask=s.mask) for s in samples]


def records_of(samples: list[Sample]) -> dict[str, list[Record]]:
    """A record of each kind for every sample, its label map the sample's mask."""
    generator = np.random.default_rng(0)
    made: dict[str, list[Record]] = {"sample": list(samples), "seed": [], "pseudo_label": [], "cam": []}
    for sample in samples:
        assert sample.mask is not None
        grid = grid_size(sample.size)
        coarse = torch.from_numpy(generator.random((1, len(CLASSES), 12, 16)))
        maps = torch.nn.functional.interpolate(coarse, size=grid, mode="bilinear")[0].half().numpy()
        made["seed"].append(SeedRecord(key=sample.key, label=sample.mask))
        made["pseudo_label"].append(
            PseudoLabel(key=sample.key, mask=sample.mask, confidence=(255 * maps[0]).astype(np.uint8))
        )
        made["cam"].append(
            CamRecord(
                key=sample.key, classes=np.array(CLASSES, np.int16), maps=maps, peak=None,
                probabilities=np.ones(2, np.float16), size=sample.size,
            )
        )  # fmt: skip
    return made


def writing(samples: list[Sample], folder: Path) -> Found:
    """Writing records to a shard and reading them, and their size in bytes."""
    pixels = megapixels(samples)
    found: Found = {"image_bytes": sum(len(s.encoded) for s in samples) / pixels}
    found["mask_bytes"] = sum(len(encode_png(s.mask)) for s in samples if s.mask is not None) / pixels
    shard = shard_name("train", 0)
    per = {"sample": float(len(samples)), "seed": pixels, "pseudo_label": pixels}
    per["cam"] = sum(math.prod(grid_size(s.size)) for s in samples) * len(CLASSES) / MEGA
    for kind, records in records_of(samples).items():
        layer = Layer(folder / kind, kind)
        wrote = seconds(lambda layer=layer, records=records: write_shard(layer, shard, records))  # type: ignore[misc]
        read = seconds(lambda layer=layer: list(read_shard(layer, shard)))  # type: ignore[misc]
        name = {"sample": "sample", "seed": "mask", "pseudo_label": "label", "cam": "maps"}[kind]
        found[f"write_{name}"], found[f"read_{name}"] = wrote / per[kind], read / per[kind]
    del found["read_label"], found["write_label"]  # little more than those of a mask
    return found


def index(folder: Path) -> Found:
    """The work of a rank and of the driver for every record of a layer, without opening a tar."""
    layer, shards, each = Layer(folder / "rows", "seed"), [shard_name("train", i) for i in range(16)], 128
    label = np.zeros((8, 8), np.uint8)
    for number, shard in enumerate(shards):
        write_shard(layer, shard, [SeedRecord(key=f"image_{number:05d}_{i:04d}", label=label) for i in range(each)])
    layer.complete(shards)

    def load() -> None:
        JoinedRecords({"samples": layer}, split="train", seed=1, lanes=16).order(0)

    rows = len(shards) * each
    return {
        "index_row": seconds(load) / rows,
        "driver_row": seconds(lambda: (layer.is_complete(shards), layer.complete(shards))) / rows,
    }


def crf(sample: Sample) -> Found:
    """The dense CRF on one photograph."""
    image, pixels = torch.from_numpy(sample.image.copy()), math.prod(sample.size) / MEGA
    labels = torch.from_numpy(np.where(sample.mask == 255, 0, sample.mask > 0).astype(np.int64))  # type: ignore[operator]

    def run(num_labels: int, num_iterations: int) -> float:
        unary = unary_from_labels(labels, num_labels=num_labels, gt_prob=0.7)
        kernels = {"gaussian": GaussianKernel(sxy=3, compat=3), "bilateral": BilateralKernel(sxy=50, srgb=5, compat=10)}
        return seconds(
            lambda: dense_crf(unary, image_HW3=image, num_iterations=num_iterations, **kernels), repetitions=3
        )

    few, many = run(3, 1), run(3, 10)
    per_label = (many - few) / 9 / 3
    return {"crf_lattice": (few - 3 * per_label) / pixels, "crf_step_label": per_label / pixels}


def walk(size: tuple[int, int]) -> Found:
    nodes = math.prod(grid_size(size)) / MEGA
    edge = torch.rand(grid_size(size), generator=torch.Generator().manual_seed(0)) ** 4

    def run(planes: int, log2: int) -> float:
        maps = torch.rand(planes, *grid_size(size), generator=torch.Generator().manual_seed(1))
        return seconds(lambda: random_walk(maps, edge_hw=edge, radius=5, beta=10.0, num_steps_log2=log2))

    terms = {log2: len(chebyshev_power(2**log2, tolerance=WALK_TOLERANCE)) for log2 in (2, 8)}
    short, long = run(2, 2), run(2, 8)
    step = (long - short) / (terms[8] - terms[2])
    return {"walk_setup": max(short - terms[2] * step, 0.0) / nodes, "walk_step": step / 2 / nodes}


def maps_of_views(size: tuple[int, int]) -> Found:
    """Class activation maps, stochastic maps, seeds and merged views of one image."""
    grid, pixels = grid_size(size), math.prod(size) / MEGA
    nodes = math.prod(grid) / MEGA
    generator = torch.Generator().manual_seed(0)
    features, weights = torch.rand(2048, 24, 32, generator=generator), torch.rand(20, 2048, generator=generator)

    def cam() -> None:
        maps = class_activation_map(features, weights_CD=weights, classes=CLASSES)
        normalise_per_class(resize_bilinear(maps[None], size=grid)[0])

    small, taps = torch.rand(512, 41, 41, generator=generator), torch.rand(20, 512, 9, 9, generator=generator)

    def stochastic(num_samples: int) -> float:
        draw = {"num_samples": num_samples, "drop_rate": 0.9, "key": DrawKey((0, 1))}
        return seconds(lambda: stochastic_cam(small, weights_CDss=taps, classes=CLASSES, **draw), repetitions=3)  # type: ignore[arg-type]

    maps = torch.rand(2, *size, generator=generator)
    rule = {"foreground_threshold": 0.3, "background_threshold": 0.05, "refine": None}
    view = ViewLogits(logits=torch.rand(21, 24, 32), extended=(384, 512), size=size, mirrored=True)

    def merge() -> None:
        for _, (band,) in merged_bands([view] * 4, subsets=[range(4)], merge="mean_logits", size=size):
            band.argmax(0)
            softmax_of_classes(band)

    x = torch.rand(1, 3, *size)
    return {
        "cam_maps": seconds(cam) / 2 / nodes,
        "stochastic_map": (stochastic(40) - stochastic(20)) / 20 / 2 / (41 * 41 * 81 / MEGA),
        "seeds": seconds(lambda: two_threshold_seeds(maps, classes=CLASSES, **rule)) / 2 / pixels,  # type: ignore[arg-type]
        "merge_view": seconds(merge) / 4 / 21 / pixels,
        "make_view": seconds(lambda: resize_image(x, size=(size[0] * 2, size[1] * 2))) / (4 * pixels),
    }


def evaluation(samples: list[Sample]) -> Found:
    """Counting one image against its mask: 21 classes."""
    of_kind, pixels = records_of(samples), megapixels(samples)

    def count(kind: str, boundary: bool) -> None:
        total = empty_counts(kind, 21)["fold0"]
        for sample, record in zip(samples, of_kind[kind], strict=True):
            add_image(total, record, sample)
            if boundary:
                count_boundary(record, sample, num_classes=21, width=0.02)

    return {
        "evaluate_labels": seconds(lambda: count("pseudo_label", False)) / pixels,
        "evaluate_boundary": (
            seconds(lambda: count("pseudo_label", True)) - seconds(lambda: count("pseudo_label", False))
        )
        / pixels,
        "evaluate_maps": seconds(lambda: count("cam", False), repetitions=3) / len(CLASSES) / pixels,
    }


def pairs(size: tuple[int, int]) -> Found:
    """IRNet's losses forward and backward, and instances from its displacement field."""
    generator = torch.Generator().manual_seed(0)
    edge = torch.randn(1, 1, 88, 88, generator=generator, requires_grad=True)
    field = torch.randn(1, 2, 88, 88, generator=generator, requires_grad=True)
    label = torch.randint(0, 3, (1, 88, 88), generator=generator)

    def loss() -> None:
        sums = affinity_displacement_sums(edge, displacement_B2hw=field, label_Bhw=label, radius=10, num_classes=2)
        affinity_displacement_loss(sums).backward()

    grid = grid_size(size)
    rows, columns = (torch.arange(float(side)) for side in grid)
    towards = torch.stack(torch.meshgrid(grid[0] / 2 - rows, grid[1] / 2 - columns, indexing="ij"))[None] / 300
    maps, edges = torch.rand(2, *grid, generator=generator), torch.rand(grid, generator=generator) ** 4

    @torch.no_grad()
    def instances() -> None:
        groups = displacement_groups(towards, centroid_threshold=2.5, num_steps=300)[0]
        walk = {"radius": 5, "beta": 10.0, "num_steps_log2": 8, "background_threshold": 0.25}
        found = group_walk(maps, groups_hw=groups, edge_hw=edges, size=size, **walk)  # type: ignore[arg-type]
        cut_instances(found.scores, classes_P=found.classes, size=size, background_threshold=0.25, min_area=100.0)

    return {
        "pair_loss": seconds(loss) / (88 * 88 * len(half_plane_offsets(10)) / MEGA),
        "instances": seconds(instances, repetitions=3) / (math.prod(grid) / MEGA),
    }


def networks() -> Found:
    """Floating point operations per second of one core: ResNet-50 at 256 px, forward and backward, as in training."""
    spec = EncoderSpec(name="resnet50", output_stride=16, dilated=True, pretrained="none")
    network = Classifier(build_encoder(spec), num_classes=20, head="linear").to(memory_format=torch.channels_last)
    image = torch.rand(2, 3, 256, 256).to(memory_format=torch.channels_last)
    with FlopCounterMode(display=False) as counter:
        network(image).sum().backward()
    return {"core_flops": counter.get_total_flops() / seconds(lambda: network(image).sum().backward(), repetitions=3)}


def starts() -> Found:
    """CPU seconds that a process needs before its first shard or step: its imports."""
    found = {}
    for name, modules in (
        ("start_actor", "ray, cluster.shard_work, wsss.stages.registry, timm, wsss.models.segmenter"),
        (
            "start_rank",
            "ray.train, cluster.training.engine, deepspeed, wsss.stages.registry, timm, wsss.models.segmenter",
        ),
    ):
        spent = []
        for _ in range(3):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, "-c", f"import {modules}"], check=True, capture_output=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        found[name] = statistics.median(spent)
    return found


def copying() -> Found:
    """Bytes per second that one core reads and writes when it adds two large tensors."""
    a, b = torch.rand(2**25), torch.rand(2**25)
    return {"core_bandwidth": 3 * 4 * 2**25 / seconds(lambda: torch.add(a, b, out=a))}


def measure(samples: list[Sample]) -> Found:
    size = (375, 500)
    with tempfile.TemporaryDirectory() as folder:
        found = reading(samples) | writing(samples, Path(folder)) | index(Path(folder))
    found |= crf(samples[0]) | walk(size) | maps_of_views(size) | evaluation(samples) | pairs(size)
    return found | networks() | copying() | starts()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photographs", type=Path, help="a folder of VOC's layout; without it, drawn images are used")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    samples = list(photographs(arguments.photographs)) if arguments.photographs else drawn()
    found, written = measure(samples), load_costs().costs
    ratios = {name: written[name].value / value for name, value in found.items() if name in written and value > 0}
    mine = [name for name, cost in written.items() if cost.basis == "measured" and "costs.py" in cost.source]
    unmeasured = [name for name in mine if name not in found]
    report = {
        "name": "costs",
        "ratio": math.exp(statistics.fmean(math.log(ratio) for ratio in ratios.values())) if ratios else 0.0,
        "agreement": not unmeasured and set(found) <= set(written),
        "error": float(len(unmeasured)),
        "checks": {},
        "costs": found,
        "written / measured": ratios,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
