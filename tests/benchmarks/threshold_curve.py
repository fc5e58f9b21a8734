"""Mean IoU at 256 background thresholds from one pass, against 256 evaluations, one threshold each.

Images of 375 x 500 pixels, 21 classes, two of them scored in an image. Both sides start from the same score maps at
full size in memory: reading records and enlarging maps, which each evaluation would repeat, is not timed for the rival.
One evaluation takes the best score of a pixel, compares it with the threshold, and adds a confusion matrix, by the
operation that `evaluate` uses for label maps. One thread.
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
from torch import Tensor

from shards.records import Sample, ScoreRecord
from wsss.ops.bootstrap import mean_iou_interval
from wsss.ops.confusion import Scores, confusion_matrix
from wsss.ops.threshold_curve import NUM_BINS, confusion_at, curve, curve_counts
from wsss.stages.evaluation.counts import add_image, confusions_at, save_threshold_counts

T = TypeVar("T")
Image = tuple[Tensor, list[int], Tensor]
NUM_IMAGES, SIZE, NUM_CLASSES = 8, (375, 500), 21
RATIO_BAR, COST_BAR, TRIAL_BAR, INTERVAL_BAR = 128, 2.0, 0.1, 0.1
NUM_MEASURED = 1449
"""Images of VOC's validation set, for the cost of the bootstrap relative to the pass over them."""


def make_images() -> list[Image]:
    """Smooth scores, and a truth that is correlated with them."""
    random, made = torch.Generator().manual_seed(1), []
    for number in range(NUM_IMAGES):
        classes = [1 + number, 20 - number]
        small = torch.rand(1, 2, 12, 16, generator=random)
        scores_KHW = torch.nn.functional.interpolate(small, size=SIZE, mode="bilinear")[0]
        noise_HW = torch.rand(SIZE, generator=random) * 0.3
        best_HW, index_HW = (scores_KHW + noise_HW).max(0)
        truth_HW = torch.where(best_HW > 0.75, torch.tensor(classes)[index_HW], 0).to(torch.uint8)
        truth_HW[::90] = 255
        made.append((scores_KHW, classes, truth_HW))
    return made


def one_evaluation(images: list[Image], threshold: float) -> Tensor:
    total_CC = torch.zeros(NUM_CLASSES, NUM_CLASSES, dtype=torch.int64)
    for scores_KHW, classes, truth_HW in images:
        best_HW, index_HW = scores_KHW.max(0)
        label_HW = torch.where(best_HW >= threshold, torch.tensor(classes, dtype=torch.uint8)[index_HW], 0)
        total_CC += confusion_matrix(truth_HW, label_HW, num_classes=NUM_CLASSES, ignore_index=255)
    return total_CC


def all_evaluations(images: list[Image]) -> list[Tensor]:
    return [one_evaluation(images, i / NUM_BINS) for i in range(NUM_BINS)]


def one_pass(images: list[Image]) -> tuple[Tensor, Tensor]:
    """Counts and mean IoU at all thresholds."""
    counts_CCN = torch.zeros(NUM_CLASSES, NUM_CLASSES, NUM_BINS, dtype=torch.int64)
    for scores_KHW, classes, truth_HW in images:
        curve_counts(
            scores_KHW, classes=classes, truth_HW=truth_HW, num_classes=NUM_CLASSES, ignore_index=255, total=counts_CCN
        )
    return counts_CCN, curve(counts_CCN)


def timed(call: Callable[[], T]) -> tuple[float, T]:
    """CPU seconds of this thread, which does all the work: the wall time of an idle machine, also on a busy one."""
    start = time.thread_time()
    result = call()
    return time.thread_time() - start, result


def trial_seconds() -> float:
    """Seconds to read a threshold from counts of 201 classes with a twentieth of the cells filled, as in real
    images."""
    random = np.random.default_rng(1)
    folds = [np.where(random.random((201, 201, NUM_BINS)) < 0.05, 7, 0).astype(np.int64) for _ in range(2)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "counts.npz"
        save_threshold_counts(path, folds)

        def trial() -> float:
            return Scores.from_confusion(sum(confusions_at(path, threshold=0.25), torch.tensor(0))).mean_iou

        return statistics.median(timed(trial)[0] for _ in range(5))


def interval_share(images: list[Image]) -> float:
    """The bootstrap over 1,449 images ÷ the pass over them: enlarging stride-4 maps, counting, rows."""
    total = np.zeros((NUM_CLASSES, NUM_CLASSES, NUM_BINS), dtype=np.int64)
    work = []
    for number, (scores_KHW, classes, truth_HW) in enumerate(images):
        small = scores_KHW[:, ::4, ::4].half().numpy()
        record = ScoreRecord(key="", classes=np.array(classes, np.int16), scores=small, size=SIZE)
        sample = Sample(key="", encoded=b"", size=SIZE, classes=(), mask=truth_HW.numpy(), position=number)
        work.append((record, sample))
    add_image(total, *work[0])
    seconds, rows = timed(lambda: [torch.from_numpy(add_image(total, *one)) for one in work])
    repeated = []
    for number in range(NUM_MEASURED):
        copy = rows[number % len(rows)].clone()
        copy[:, 0] = number
        repeated.append(copy)
    folds = [torch.cat(repeated[fold::2]) for fold in range(2)]
    random = torch.Generator().manual_seed(0)
    drawing, _ = timed(
        lambda: mean_iou_interval(folds, num_classes=NUM_CLASSES, num_replicates=1000, level=0.95, generator=random)
    )
    return drawing / (seconds / len(images) * NUM_MEASURED)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5, help="alternating runs; 256 evaluations take about 10 s")
    repetitions = parser.parse_args().repetitions
    torch.set_num_threads(1)
    images = make_images()
    one_pass(images), one_evaluation(images, 0.5)

    ours, rivals, singles, same, error = [], [], [], True, 0.0
    for _ in range(repetitions):
        seconds, (counts_CCN, mean_iou_N) = timed(lambda: one_pass(images))
        ours.append(seconds)
        seconds, matrices = timed(lambda: all_evaluations(images))
        rivals.append(seconds)
        singles += [timed(lambda: one_evaluation(images, 0.5))[0] for _ in range(5)]
        same &= all(torch.equal(confusion_at(counts_CCN, threshold_bin=i), one) for i, one in enumerate(matrices))
        wanted = [Scores.from_confusion(matrix).mean_iou for matrix in matrices]
        error = max(error, (mean_iou_N - torch.tensor(wanted, dtype=torch.float64)).abs().max().item())

    pass_seconds = statistics.median(ours)
    ratio, cost = statistics.median(rivals) / pass_seconds, pass_seconds / statistics.median(singles)
    trial, share = trial_seconds(), interval_share(images)
    print(f"{NUM_IMAGES} images: one pass {pass_seconds:.4f} s, 256 evaluations {statistics.median(rivals):.2f} s")
    measured = {
        "256 evaluations / the curve": (ratio, RATIO_BAR, ratio >= RATIO_BAR),
        "the curve / one evaluation": (cost, COST_BAR, cost <= COST_BAR),
        "seconds to read a threshold off counts of 201 classes": (trial, TRIAL_BAR, trial < TRIAL_BAR),
        "bootstrap interval / pass, 1,449 images": (share, INTERVAL_BAR, share < INTERVAL_BAR),
    }
    result = {
        "name": "threshold_curve",
        "ratio": ratio,
        "agreement": same and error < 1e-12,
        "error": error,
        "seconds": pass_seconds,
        "checks": {what: {"value": value, "bar": bar, "ok": ok} for what, (value, bar, ok) in measured.items()},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
