"""The confusion matrix at 201 classes against a numpy loop over classes with masks and counts.

Images of 375 x 500 pixels as bytes, 255 ignored, both sides from memory. The rival masks truth and prediction of every
class and counts hits, truth and prediction, which is enough for IoU but does not give confused pairs. A better loop,
which masks only the truth and counts the values of the prediction there, gives the whole matrix and is timed too. The
script also measures the share of the matrix, and of boundary IoU, in all work of `evaluate` for an image: reading the
shards, decoding the masks, building the rows. One thread.
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
from shards.taxonomy import Taxonomy, ilsvrc_det_200
from shards.writer import write_shard
from wsss.contract.counts import Counts
from wsss.contract.stage import Instance
from wsss.ops.boundary_iou import boundary_counts
from wsss.ops.confusion import confusion_matrix
from wsss.stages.build_shards import BuildShards
from wsss.stages.evaluate import Evaluate
from wsss.stages.predict import Predict

T = TypeVar("T")
Pair = tuple[np.ndarray, np.ndarray]
NUM_IMAGES, SIZE, NUM_CLASSES, IGNORE = 16, (375, 500), 201, 255
RATIO_BAR, LOOP_BAR, SHARE_BAR, BOUNDARY_BAR = 10, 5, 0.25, 0.5


class Of201Classes(Instance):
    """Its data set is drawn here, so that no data set has to be on disk."""

    @property
    def taxonomy(self) -> Taxonomy:
        return ilsvrc_det_200()


def make_images() -> list[Pair]:
    """Truth and prediction of blobs: one to four classes in an image, outlines ignored, some pixels wrong."""
    random, made = torch.Generator().manual_seed(1), []
    for number in range(NUM_IMAGES):
        num_present = 1 + number % 4
        names = torch.cat([torch.zeros(1), torch.randint(1, NUM_CLASSES, (num_present,), generator=random)])
        fields = torch.rand(1, num_present + 1, 7, 9, generator=random)
        scores_KHW = torch.nn.functional.interpolate(fields, size=SIZE, mode="bilinear")[0]
        shifted_KHW = (
            scores_KHW
            + 0.1
            * torch.nn.functional.interpolate(
                torch.rand(1, num_present + 1, 40, 60, generator=random), size=SIZE, mode="bilinear"
            )[0]
        )
        truth, prediction = (names[scores.argmax(0)].to(torch.uint8) for scores in (scores_KHW, shifted_KHW))
        best = scores_KHW.topk(2, dim=0).values
        truth[best[0] - best[1] < 0.01] = IGNORE
        made.append((truth.numpy(), prediction.numpy()))
    return made


def ours(images: list[Pair]) -> np.ndarray:
    total = torch.zeros(NUM_CLASSES, NUM_CLASSES, dtype=torch.int64)
    for truth, prediction in images:
        total += confusion_matrix(
            torch.from_numpy(truth), torch.from_numpy(prediction), num_classes=NUM_CLASSES, ignore_index=IGNORE
        )
    return total.numpy()


def loop(images: list[Pair]) -> np.ndarray:
    total = np.zeros((NUM_CLASSES, NUM_CLASSES), np.int64)
    for truth, prediction in images:
        for class_id in range(NUM_CLASSES):
            total[class_id] += np.bincount(prediction[truth == class_id], minlength=NUM_CLASSES)
    return total


def plain_loop(images: list[Pair]) -> np.ndarray:
    """Hits, truth and prediction per class."""
    total = np.zeros((NUM_CLASSES, 3), np.int64)
    for truth, prediction in images:
        counted = truth != IGNORE
        for class_id in range(NUM_CLASSES):
            there, said = truth == class_id, (prediction == class_id) & counted
            total[class_id] += np.count_nonzero(there & said), np.count_nonzero(there), np.count_nonzero(said)
    return total


def boundaries(images: list[Pair]) -> None:
    for pair in images:
        truth, prediction = map(torch.from_numpy, pair)
        boundary_counts(truth, prediction, num_classes=NUM_CLASSES, ignore_index=IGNORE, width=0.02)


def timed(call: Callable[[], T]) -> tuple[float, T]:
    """CPU seconds of this thread, which does all the work: the wall time of an idle machine, also on a busy one."""
    start = time.thread_time()
    result = call()
    return time.thread_time() - start, result


def evaluation(folder: Path, images: list[Pair]) -> Callable[[], Counts]:
    """The work of an `evaluate` actor on a shard of these images."""
    random, grid = np.random.default_rng(1), np.zeros((94, 125), np.uint8)
    photo = encode_png(np.kron(random.integers(0, 256, (47, 63, 3)), np.ones((8, 8, 1))).astype(np.uint8)[:375, :500])
    samples = BuildShards(source="toy", splits=("val",))
    made: dict[str, Instance] = {}
    for name, stage, records in (
        (
            "samples",
            samples,
            [
                Sample(key=f"{n:03d}", encoded=photo, size=SIZE, classes=(), mask=truth, position=n)
                for n, (truth, _) in enumerate(images)
            ],
        ),
        (
            "records",
            Predict(),
            [Prediction(key=f"{n:03d}", mask=prediction, confidence=grid) for n, (_, prediction) in enumerate(images)],
        ),
    ):
        layer = Layer(folder / name, stage.record_kind)
        write_shard(layer, "val-000000", records)
        layer.complete(["val-000000"])
        inputs = dict(made)
        made[name] = Of201Classes(name=name, stage=stage, seed=0, inputs=inputs, fingerprint=name, path=layer.path)
    stage = Evaluate()
    whole = Of201Classes(
        name="evaluate", stage=stage, seed=0, inputs=made, fingerprint="evaluate", path=folder / "evaluate"
    )
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
        calls = {"ours": lambda: ours(images), "loop": lambda: loop(images), "plain": lambda: plain_loop(images)}
        calls |= {"boundary": lambda: boundaries(images), "evaluate": evaluation(Path(folder), images)}
        for repetition in range(repetitions + 1):
            found = {}
            for name, call in calls.items():
                taken, found[name] = timed(call)
                if repetition:  # the first one is a warm-up
                    seconds.setdefault(name, []).append(taken)
            matrix, counts = found["ours"], found["evaluate"]
            same &= np.array_equal(matrix, found["loop"])
            same &= np.array_equal(matrix, counts.sums["val.fold0"] + counts.sums["val.fold1"])
            sums = (matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0))
            same &= np.array_equal(np.stack(sums, axis=1), found["plain"])

    median = {name: statistics.median(values) for name, values in seconds.items()}
    print(", ".join(f"{name} {1000 * value / NUM_IMAGES:.2f} ms per image" for name, value in median.items()))
    ratio, better = median["plain"] / median["ours"], median["loop"] / median["ours"]
    share, boundary = median["ours"] / median["evaluate"], median["boundary"] / median["evaluate"]
    measured = {
        "loop that masks and counts / ours": (ratio, RATIO_BAR, ratio >= RATIO_BAR),
        "loop that masks the truth and counts values / ours": (better, LOOP_BAR, better >= LOOP_BAR),
        "the matrix / all that evaluate does with an image": (share, SHARE_BAR, share < SHARE_BAR),
        "boundary IoU / all that evaluate does with an image": (boundary, BOUNDARY_BAR, boundary < BOUNDARY_BAR),
    }
    result = {
        "name": "confusion",
        "ratio": ratio,
        "agreement": bool(same),
        "error": 0.0 if same else float("nan"),
        "seconds": median["ours"] / NUM_IMAGES,
        "checks": {what: {"value": value, "bar": bar, "ok": ok} for what, (value, bar, ok) in measured.items()},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
