"""The confusion matrix at 920 classes (ImageNet-S with background) against all work of `evaluate` for an image.

Images of 375 x 500 pixels, masks of 16 bits, 65,535 ignored. `evaluate` reads the shards, decodes the masks, and counts
the matrix and boundary IoU. The matrix as `evaluate` counts it: from two label maps to the totals over images and the
rows for the bootstrap. For comparison, one bincount over all 920 x 920 cells for every image, without the rows: faster
here, but its time and memory grow with the square of the classes. CPU seconds of one thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from shards.images import encode_png
from shards.layer import Layer
from shards.records import Prediction, Sample
from shards.taxonomy import Taxonomy
from shards.writer import write_shard
from wsss.contract.counts import Counts
from wsss.contract.stage import Instance
from wsss.stages.build_shards import BuildShards
from wsss.stages.evaluate import Evaluate
from wsss.stages.evaluation.present_counts import add_labels
from wsss.stages.predict import Predict

T = TypeVar("T")
Pair = tuple[Sample, Prediction]
NUM_IMAGES, SIZE, NUM_CLASSES, IGNORE = 16, (375, 500), 920, 65_535
SHARE_BAR = 0.25


class Of919Classes(Instance):
    """Its data set is drawn here, so that no data set has to be on disk."""

    @property
    def taxonomy(self) -> Taxonomy:
        return Taxonomy(tuple(f"class {number}" for number in range(1, NUM_CLASSES)))


def make_images() -> list[Pair]:
    """Blobs: one to four classes in an image, outlines ignored, some pixels wrong."""
    random, made = torch.Generator().manual_seed(1), []
    drawn, grid = np.random.default_rng(1), np.zeros((94, 125), np.uint8)
    photo = encode_png(np.kron(drawn.integers(0, 256, (47, 63, 3)), np.ones((8, 8, 1))).astype(np.uint8)[:375, :500])
    for number in range(NUM_IMAGES):
        num_present = 1 + number % 4
        names = torch.cat([torch.zeros(1), torch.randint(1, NUM_CLASSES, (num_present,), generator=random)]).int()
        fields = torch.rand(1, num_present + 1, 7, 9, generator=random)
        noise = torch.rand(1, num_present + 1, 40, 60, generator=random)
        scores_KHW, noise_KHW = (
            torch.nn.functional.interpolate(field, size=SIZE, mode="bilinear")[0] for field in (fields, noise)
        )
        truth, prediction = (names[s.argmax(0)] for s in (scores_KHW, scores_KHW + 0.1 * noise_KHW))
        best = scores_KHW.topk(2, dim=0).values
        truth[best[0] - best[1] < 0.01] = IGNORE
        mask, label = (one.numpy().astype(np.uint16) for one in (truth, prediction))
        key = f"{number:03d}"
        sample = Sample(key=key, encoded=photo, size=SIZE, classes=(), mask=mask, position=number)
        made.append((sample, Prediction(key=key, mask=label, confidence=grid)))
    return made


def ours(images: list[Pair]) -> np.ndarray:
    total = np.zeros((NUM_CLASSES, NUM_CLASSES), np.int64)
    for sample, prediction in images:
        add_labels(total, prediction, sample)
    return total


def every_cell(images: list[Pair]) -> np.ndarray:
    """One bincount over all pairs of classes for every image."""
    total = np.zeros((NUM_CLASSES, NUM_CLASSES), np.int64)
    for sample, prediction in images:
        assert sample.mask is not None
        seen = sample.mask != IGNORE
        cells = sample.mask[seen].astype(np.int64) * NUM_CLASSES + prediction.mask[seen]
        total += np.bincount(cells, minlength=NUM_CLASSES**2).reshape(NUM_CLASSES, NUM_CLASSES)
    return total


def timed(call: Callable[[], T]) -> tuple[float, T]:
    """CPU seconds of this thread, which does all the work: the wall time of an idle machine, also on a busy one."""
    start = time.thread_time()
    result = call()
    return time.thread_time() - start, result


def evaluation(folder: Path, images: list[Pair]) -> Callable[[], Counts]:
    """The work of an `evaluate` actor on a shard of these images."""
    stages = {"samples": BuildShards(source="toy", splits=("val",)), "records": Predict()}
    made: dict[str, Instance] = {}
    for place, (name, stage) in enumerate(stages.items()):
        layer = Layer(folder / name, stage.record_kind)
        write_shard(layer, "val-000000", [pair[place] for pair in images])
        layer.complete(["val-000000"])
        inputs = dict(made)
        made[name] = Of919Classes(name=name, stage=stage, seed=0, inputs=inputs, fingerprint=name, path=layer.path)
    stage = Evaluate()
    path = folder / "evaluate"
    whole = Of919Classes(name="evaluate", stage=stage, seed=0, inputs=made, fingerprint="evaluate", path=path)
    count = stage.counter(whole)
    return lambda: count("val-000000")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=9, help="alternating runs; a round takes about a second")
    repetitions = parser.parse_args().repetitions
    torch.set_num_threads(1)
    images = make_images()
    seconds: dict[str, list[float]] = {}
    same = True
    with tempfile.TemporaryDirectory() as folder:
        calls: dict[str, Callable[[], object]] = {"ours": lambda: ours(images), "rival": lambda: every_cell(images)}
        calls["evaluate"] = evaluation(Path(folder), images)
        for repetition in range(repetitions + 1):
            found = {}
            for name, call in calls.items():
                taken, found[name] = timed(call)
                if repetition:  # the first one is a warm-up
                    seconds.setdefault(name, []).append(taken)
            counts = found["evaluate"]
            assert isinstance(counts, Counts) and isinstance(found["ours"], np.ndarray)
            same &= np.array_equal(found["ours"], found["rival"])
            same &= np.array_equal(found["ours"], counts.sums["val.fold0"] + counts.sums["val.fold1"])

    median = {name: statistics.median(values) for name, values in seconds.items()}
    print(", ".join(f"{name} {1000 * value / NUM_IMAGES:.2f} ms per image" for name, value in median.items()))
    ratio, share = median["rival"] / median["ours"], median["ours"] / median["evaluate"]
    measured = {
        "the matrix / all that evaluate does with an image": (share, SHARE_BAR, share < SHARE_BAR),
    }
    result = {
        "name": "many_classes",
        "ratio": ratio,
        "agreement": bool(same),
        "error": 0.0 if same else float("nan"),
        "seconds": median["ours"] / NUM_IMAGES,
        "checks": {what: {"value": value, "bar": bar, "ok": ok} for what, (value, bar, ok) in measured.items()},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
